"""Fashion-MNIST and its stand-in, and what happens when a download goes wrong. No test
needs a network.
"""

import gzip
import struct
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from utils import datasets
from utils.course import CourseError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Keras cache, and no network."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("COURSE_DATA", raising=False)
    # Keras reads KERAS_HOME once, when it is imported, which another test may have done
    # before.
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    folder = tmp_path / "datasets" / "fashion-mnist"
    folder.mkdir(parents=True)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", no_network)
    return folder


def no_network(*_, **__):
    from urllib.error import URLError

    raise URLError("no network")


def packed(name):
    """A file of Fashion-MNIST with random content, as bytes."""
    rng = np.random.default_rng(0)
    count = 60_000 if name.startswith("train") else 10_000
    if "labels" in name:
        return gzip.compress(
            struct.pack(">ii", 2049, count)
            + rng.integers(0, 10, count, "uint8").tobytes(),
            1,
        )
    return gzip.compress(
        struct.pack(">iiii", 2051, count, 28, 28) + bytes(count * 28 * 28), 1
    )


def write_all(folder):
    for name in datasets.FASHION_FILES:
        (folder / name).write_bytes(packed(name))


def test_cached_files_are_used_without_network(cache):
    write_all(cache)
    data = datasets.fashion_mnist()
    assert data.name == "Fashion-MNIST" and data.complete
    assert data.x_train.shape == (60_000, 28, 28) and data.x_train.dtype == np.uint8
    assert data.y_test.shape == (10_000,) and len(data.class_names) == 10


def test_without_network_the_digits_stand_in_and_a_line_says_so(cache, capsys):
    data = datasets.fashion_mnist()
    assert data.slug == "digits" and not data.complete
    printed = capsys.readouterr().out
    assert (
        "could not be downloaded" in printed
        and "no network" in printed
        and "digits" in printed
    )


@pytest.mark.parametrize("damage", ["truncated", "garbage", "short"])
def test_corrupt_file_is_named_removed_and_fetched_again(
    cache, capsys, monkeypatch, damage
):
    write_all(cache)
    victim = cache / "t10k-images-idx3-ubyte.gz"
    whole = victim.read_bytes()
    short = gzip.compress(
        struct.pack(">iiii", 2051, 9_000, 28, 28) + bytes(9_000 * 28 * 28)
    )
    victim.write_bytes(
        {"truncated": whole[: len(whole) // 2], "garbage": b"<html>", "short": short}[
            damage
        ]
    )
    fetched = []

    def network(origin, target, *_):
        fetched.append(origin.rsplit("/", 1)[-1])
        with open(target, "wb") as file:
            file.write(whole)

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", network)
    assert datasets.fashion_mnist().complete
    assert fetched == [victim.name]
    assert f"{victim} is truncated or corrupt" in capsys.readouterr().out


def test_intact_files_in_a_folder_that_is_read_only_are_used(
    cache, monkeypatch, capsys
):
    """A cluster's shared home: not ours to write, no network, and all is there."""
    write_all(cache)
    monkeypatch.setattr(
        "os.access", lambda path, mode: False
    )  # root may write anywhere
    assert datasets.fashion_mnist().complete
    assert capsys.readouterr().out == ""


def test_a_corrupt_file_in_a_folder_that_is_read_only_is_fetched_elsewhere(
    cache, monkeypatch, tmp_path
):
    write_all(cache)
    victim = cache / "t10k-labels-idx1-ubyte.gz"
    victim.write_bytes(b"half")
    elsewhere = tmp_path / "elsewhere"

    def cannot(*_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.unlink", cannot)
    monkeypatch.setattr("os.access", lambda path, mode: str(elsewhere) in str(path))
    monkeypatch.setattr(datasets, "_keras_homes", lambda: (tmp_path, elsewhere))

    def download(name, origin, cache_subdir):
        path = elsewhere / cache_subdir / name
        path.parent.mkdir(parents=True)
        path.write_bytes(packed(name))
        return str(path)

    monkeypatch.setattr("keras.utils.get_file", download)
    assert datasets.fashion_mnist().complete
    assert victim.read_bytes() == b"half", "nothing of a reader's is lost"


def test_corrupt_file_without_network_is_a_clear_error(cache):
    write_all(cache)
    victim = cache / "train-labels-idx1-ubyte.gz"
    victim.write_bytes(b"")
    with pytest.raises(
        CourseError, match=f"{victim.name} is truncated or corrupt.*COURSE_DATA=digits"
    ):
        datasets.fashion_mnist()
    assert not victim.exists()


def test_download_that_is_corrupt_again_is_a_clear_error(cache, monkeypatch):
    def bad_network(origin, target, *_):
        with open(target, "wb") as file:
            file.write(b"<html>a captive portal</html>")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", bad_network)
    with pytest.raises(CourseError, match="came corrupt from the download"):
        datasets.fashion_mnist()
    assert not list(cache.iterdir()), "nothing that is broken is kept"


def test_choice_of_data(cache, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "fashion-mnist")
    with pytest.raises(CourseError, match="connect to the network"):
        datasets.fashion_mnist()
    monkeypatch.setenv("COURSE_DATA", "cats")
    with pytest.raises(CourseError, match="COURSE_DATA is 'cats'"):
        datasets.fashion_mnist()


def test_digits_have_the_shapes_of_fashion_mnist_and_are_split_first():
    data = datasets.digits(copies=3)
    assert data.x_train.shape == (1437 * 3, 28, 28) and data.x_test.shape == (
        360,
        28,
        28,
    )
    assert data.x_train.dtype == data.x_test.dtype == data.y_train.dtype == np.uint8
    assert (
        set(data.y_train) == set(data.y_test) == set(range(10))
        and len(data.class_names) == 10
    )
    train = {image.tobytes() for image in data.x_train}
    assert len(train) > 0.99 * len(data.x_train), (
        "variants should differ from one another"
    )
    leaked = sum(image.tobytes() in train for image in data.x_test)
    assert leaked == 0, "no test image may be among the training images"
    assert np.array_equal(data.x_train, datasets.digits(copies=3).x_train)


def test_digits_can_be_told_apart_by_their_labels():
    """Labels belong to their images: a simple classifier learns them. It would not if
    the order were lost.
    """
    from sklearn.linear_model import LogisticRegression

    data = datasets.digits(copies=2)
    small = [
        images[:, 2:26:2, 2:26:2].reshape(len(images), -1) / 255
        for images in (data.x_train, data.x_test)
    ]
    classifier = LogisticRegression(max_iter=200).fit(small[0], data.y_train)
    assert classifier.score(small[1], data.y_test) > 0.85


def test_warp_moves_as_it_says():
    image = np.zeros((8, 8), "float32")
    image[3:5, 3:5] = 255
    centre = np.array(np.nonzero(datasets._warp(image) > 100)).mean(axis=1)
    assert np.allclose(centre, 13.5)
    moved = np.array(np.nonzero(datasets._warp(image, shift=(2, -3)) > 100)).mean(
        axis=1
    )
    assert np.allclose(moved - centre, (2, -3))
    size = [
        (datasets._warp(image, scale=scale) > 100).sum() for scale in (0.8, 1.0, 1.25)
    ]
    assert size[0] < size[1] < size[2]


@pytest.fixture
def csv(tmp_path):
    rng = np.random.default_rng(0)
    whole = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    whole["name"], whole["same"], whole["count"] = "x", 3.0, range(60)
    whole.loc[7, "a"], whole.loc[9, "b"] = np.nan, np.inf
    path = tmp_path / "own.csv"
    whole.to_csv(path, index=False)
    return path, whole


def test_a_table_keeps_numbers_without_gaps_and_says_what_it_leaves_out(csv, capsys):
    path, whole = csv
    kept = datasets.table(path)
    assert list(kept.columns) == ["a", "b", "count"] and len(kept) == 58
    assert np.allclose(kept["a"], whole["a"].drop([7, 9]))
    said = capsys.readouterr().out
    assert "no numbers or all the same: name, same." in said
    assert "missing value: 2 rows" in said


@pytest.mark.parametrize("fault", ["few rows", "one column", "no file", "empty"])
def test_a_table_that_is_no_density_is_one_line(csv, fault, tmp_path):
    path, whole = csv
    if fault == "few rows":
        whole.head(40).to_csv(path, index=False)
    if fault == "one column":
        whole[["a", "name"]].to_csv(path, index=False)
    if fault == "empty":
        path.write_text("")
    if fault == "no file":
        path = tmp_path / "not_there.csv"
    words = "cannot be read" if fault in ("no file", "empty") else "at least 2 columns"
    with pytest.raises(CourseError, match=words) as caught:
        datasets.table(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


# ------------------------------------------------------------------ strangers


def test_strangers_are_mnist_where_keras_keeps_it(cache, monkeypatch):
    home = cache.parent.parent
    x = np.arange(2 * 784).reshape(2, 28, 28).astype("uint8")
    (home / "datasets").mkdir(parents=True, exist_ok=True)
    np.savez(home / "datasets" / "mnist.npz", x_test=x)
    clothes = replace(datasets.digits(copies=1), complete=True)
    name, found = datasets.strangers(clothes)
    assert name == "MNIST" and np.array_equal(found, x)


def test_without_mnist_digits_are_the_strangers_and_a_line_says_so(
    cache, monkeypatch, capsys
):
    def no_network(*arguments, **more):
        raise OSError("no network")

    monkeypatch.setattr("keras.utils.get_file", no_network)
    clothes = replace(datasets.digits(copies=1), complete=True)
    name, found = datasets.strangers(clothes)
    assert name == "scikit-learn's digits" and found.shape == (360, 28, 28)
    assert capsys.readouterr().out.count("\n") == 1


def test_the_strangers_of_digits_are_no_digits():
    name, found = datasets.strangers(datasets.digits(copies=1))
    assert name == "smooth spots" and found.dtype == np.uint8
    assert found.shape == (360, 28, 28) and 20 < found.mean() < 120
