"""The images of the chapters: Fashion-MNIST and its stand-in, CelebA and the drawn
faces.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import socket
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, ImageOps

from utils import course
from utils.course import CourseError

FASHION_CLASSES = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
    "Bag", "Ankle boot",
)  # fmt: skip
DIGIT_CLASSES = tuple(f"Digit {digit}" for digit in range(10))

FASHION_ORIGIN = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
MNIST_FILE = FASHION_ORIGIN + "mnist.npz"
MNIST_HASH = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
FASHION_FILES = {  # the numbers that each holds, after its header
    "train-labels-idx1-ubyte.gz": 60_000,
    "train-images-idx3-ubyte.gz": 60_000 * 28 * 28,
    "t10k-labels-idx1-ubyte.gz": 10_000,
    "t10k-images-idx3-ubyte.gz": 10_000 * 28 * 28,
}
CONNECT_SECONDS = 15


@dataclass(frozen=True)
class Images:
    """A labelled set of grey images.

    x_train, x_test: uint8 `(count, 28, 28)`, 0 is black; y_train, y_test: int
    `(count,)`, an index of `class_names`. `name` is for people, `slug` for folders;
    `complete` is False for the stand-in.
    """

    name: str
    slug: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    complete: bool = True

    def __str__(self):
        train, test = len(self.x_train), len(self.x_test)
        return f"{self.name}: {train:,} training and {test:,} test images"


def fashion_mnist() -> Images:
    """Fashion-MNIST as Keras downloads and keeps it, or scikit-learn's digits.

    The variable COURSE_DATA chooses: `fashion-mnist` (an error where it cannot be had),
    `digits` (the stand-in), or unset (Fashion-MNIST, else the stand-in and a line that
    says so). Intact files are read wherever Keras keeps them, also in a folder that is
    read-only. A corrupt one is named, removed and fetched again once; CourseError if
    that fails.
    """
    wanted = os.environ.get("COURSE_DATA") or "auto"
    if wanted not in ("auto", "fashion-mnist", "digits"):
        raise CourseError(
            f"COURSE_DATA is {wanted!r}: set it to 'fashion-mnist' or 'digits', "
            "or unset it."
        )
    if wanted == "digits":
        return digits()
    try:
        content = {name: _fashion_file(name) for name in FASHION_FILES}
    except OSError as error:
        reason = f"Fashion-MNIST could not be downloaded ({error})"
        if wanted == "fashion-mnist":
            cure = "connect to the network or unset COURSE_DATA"
            raise CourseError(f"{reason}: {cure}.") from None
        print(
            f"{reason}. This run uses scikit-learn's handwritten digits instead; its "
            "figures differ from those in the text."
        )
        return digits()
    y_train, x_train, y_test, x_test = content.values()
    arrays = x_train.reshape(-1, 28, 28), y_train, x_test.reshape(-1, 28, 28), y_test
    return Images("Fashion-MNIST", "fashion-mnist", FASHION_CLASSES, *arrays)


# ------------------------------------------------------------------ MNIST


def _fashion_file(name: str) -> np.ndarray:
    """The numbers in a file of Fashion-MNIST, which Keras downloads if it is not there.

    OSError if it cannot be had, CourseError if it is corrupt and nothing helps.
    """
    corrupt = ""
    for place in _keras_homes():
        path = place / "datasets" / "fashion-mnist" / name
        if (content := _unpacked(path)) is not None:
            return content
        if path.exists():
            corrupt = f"{path} is truncated or corrupt. "
            print(f"{corrupt}It is removed and fetched again.")
            with contextlib.suppress(OSError):
                path.unlink()
    try:
        path = _download(name, FASHION_ORIGIN + name, "fashion-mnist")
    except Exception as error:  # Keras wraps what went wrong in a plain Exception
        reason = str(error).rsplit(" -- ", 1)[-1]
        if corrupt:
            raise CourseError(
                f"{corrupt}The download failed ({reason}): connect to the network and "
                "run again, or go on with digits by COURSE_DATA=digits."
            ) from None
        raise OSError(reason) from None
    if (content := _unpacked(path)) is not None:
        return content
    with contextlib.suppress(OSError):
        path.unlink()
    raise CourseError(
        f"{path} came corrupt from the download: run again behind another network, or "
        "go on with digits by COURSE_DATA=digits."
    )


def _download(name: str, origin: str, folder: str, file_hash=None) -> Path:
    """Fetches a file into a folder of Keras' datasets; a second process waits for the
    first.

    A network that swallows packets without an answer would hold it for minutes.
    """
    import keras

    home, elsewhere = _keras_homes()
    place = home if os.access(home, os.W_OK) else elsewhere  # the rule of get_file
    place.mkdir(parents=True, exist_ok=True)
    settings = {"origin": origin, "cache_subdir": os.path.join("datasets", folder)}
    settings |= {"file_hash": file_hash} if file_hash else {}
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        with FileLock(place / "fashion-mnist.lock"):
            return Path(keras.utils.get_file(name, **settings))
    finally:
        socket.setdefaulttimeout(before)


def _keras_homes() -> tuple[Path, Path]:
    """Where Keras' get_file keeps files, and where if that cannot be written."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    temporary = "/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()
    return home, Path(temporary, ".keras")


def _unpacked(path: Path) -> np.ndarray | None:
    """The bytes of a file after its header; None if it is not there or not intact.

    Unpacking to the end compares gzip's checksum. The packed files have no one hash
    that Keras' get_file could compare: distributions pack the same images anew.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None
    header = 16 if "images" in path.name else 8
    content = np.frombuffer(data, "uint8", offset=min(header, len(data)))
    return content if len(content) == FASHION_FILES[path.name] else None


# ------------------------------------------------------------------ in


def digits(copies: int = 14, seed: int = 0) -> Images:
    """Scikit-learn's 1,797 handwritten digits (8 x 8, real, part of the package) in
    Fashion-MNIST's shapes.

    Split into training and test images first, by class; each training image is then
    kept once and joined by `copies` variants, shifted by up to 2 pixels, turned by up
    to 12 degrees and scaled by up to 12 %. Enlarged to 20 x 20 by a cubic spline and
    set in a black frame of 4, as in MNIST.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = bunch.images.astype("float32") * (255 / 16)
    split = {"test_size": 360, "stratify": bunch.target, "random_state": seed}
    train, test, y_train, y_test = train_test_split(images, bunch.target, **split)
    rng = np.random.default_rng(seed)
    turn, scale = partial(rng.uniform, -12, 12), partial(rng.uniform, 0.88, 1.12)
    shift = partial(rng.uniform, -2, 2, 2)
    plain = [_warp(image) for image in train]
    variants = [
        _warp(image, np.radians(turn()), scale(), shift())
        for _ in range(copies - 1)
        for image in train
    ]
    order = rng.permutation(len(train) * copies)
    return Images(
        name="Digits (offline stand-in)",
        slug="digits",
        class_names=DIGIT_CLASSES,
        x_train=np.stack(plain + variants)[order],
        y_train=np.tile(y_train, copies)[order].astype("uint8"),
        x_test=np.stack([_warp(image) for image in test]),
        y_test=y_test.astype("uint8"),
        complete=False,
    )


# ------------------------------------------------------------------ other images


def strangers(data: Images) -> tuple[str, np.ndarray]:
    """Test images of another kind than `data`'s, and their name: uint8 (count, 28, 28).

    MNIST, as Keras downloads and keeps it, or scikit-learn's digits and a line that
    says so; beside the digits that stand in for Fashion-MNIST, smooth spots.
    """
    if not data.complete:
        return "smooth spots", _spots(360, np.random.default_rng(1))
    try:
        return "MNIST", _mnist()
    except Exception as error:  # Keras wraps what went wrong in a plain Exception
        reason = str(error).rsplit(" -- ", 1)[-1]
        print(
            f"MNIST could not be had ({reason}). Scikit-learn's digits are used; the "
            "figures differ from those in the text."
        )
    return "scikit-learn's digits", digits(copies=1).x_test


def _mnist() -> np.ndarray:
    """MNIST's test images, (10,000, 28, 28), wherever Keras keeps them."""
    kept = [home / "datasets" / "mnist.npz" for home in _keras_homes()]
    path = next((path for path in kept if path.exists()), None)
    path = path or _download("mnist.npz", MNIST_FILE, "", MNIST_HASH)
    with np.load(path) as file:
        return file["x_test"]


def _spots(count: int, rng: np.random.Generator) -> np.ndarray:
    """Three smooth spots in each image, uint8 (count, 28, 28)."""
    rows, columns = np.indices((28, 28))
    images = np.zeros((count, 28, 28))
    for _ in range(3):
        y, x = rng.uniform(8, 20, (2, count, 1, 1))
        size = rng.uniform(2, 5, (count, 1, 1))
        images += np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    return (255 * np.clip(images, 0, 1)).astype("uint8")


def _warp(image: np.ndarray, turn=0.0, scale=1.0, shift=(0.0, 0.0)) -> np.ndarray:
    """An 8 x 8 image enlarged to 20 x 20 within 28 x 28.

    Turned by `turn` (radians), scaled, and shifted by `shift` pixels of 28.
    """
    from scipy.ndimage import affine_transform

    cosine, sine = np.cos(turn), np.sin(turn)
    # affine_transform asks where in the source each pixel of the result comes from.
    source_per_target = np.array([[cosine, -sine], [sine, cosine]]) * (8 / 20) / scale
    offset = 3.5 - source_per_target @ (np.array([13.5, 13.5]) + shift)
    settings = {"output_shape": (28, 28), "order": 3, "mode": "grid-constant"}
    enlarged = affine_transform(image, source_per_target, offset, **settings)
    return np.clip(np.rint(enlarged), 0, 255).astype("uint8")


# ------------------------------------------------------------------ faces

CELEBA_TERMS = (
    "CelebA is for non-commercial research. Its images belong to their owners, and the "
    "faces to people: see https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html for the "
    "terms."
)
PARTS = {0: "train", 1: "validation", 2: "test"}


@dataclass(frozen=True)
class Faces:
    """Pictures of faces in the files of CelebA, or in the same layout.

    `folder` holds the pictures. `attributes` is a table of bool, one row a file (its
    name is the index), one column an attribute. `partition` says of each file whether
    it is for "train", "validation" or "test".
    """

    name: str
    slug: str
    folder: Path
    attributes: pd.DataFrame
    partition: pd.Series

    def __str__(self):
        counts = self.partition.value_counts()
        parts = ", ".join(f"{counts.get(p, 0):,} for {p}" for p in PARTS.values())
        return f"{self.name}: {len(self.attributes):,} faces, {parts}"

    def files(self, part: str) -> list[str]:
        """The names of the files of one part, in order."""
        return list(self.partition.index[self.partition == part])

    def pixels(self, names: list[str], side: int = 64, progress=None) -> np.ndarray:
        """The pictures' middle squares, resized: uint8 `(count, side, side, 3)`.

        Of CelebA's 178 x 218 pixels that is the middle 178 x 178; pictures of any other
        size will do. `progress(done, total)` is called now and then. CourseError names
        a file that is not a picture.
        """
        result = np.empty((len(names), side, side, 3), "uint8")
        with ThreadPoolExecutor() as pool:
            pictures = pool.map(lambda n: _read_face(self.folder / n, side), names)
            for index, picture in enumerate(pictures):
                result[index] = picture
                if progress and (index % 200 == 0 or index == len(names) - 1):
                    progress(index + 1, len(names))
        return result


def faces(count: int | None = None, progress=None) -> Faces:
    """Faces to learn from: drawn ones, or CelebA where the reader asks for it.

    CELEBA_DIR names a folder that holds CelebA as Kaggle packs it, or other pictures in
    that layout. COURSE_FACES=celeba downloads it (1.4 GB) through kagglehub. Otherwise
    `count` faces are drawn (20,000 if None), once, into a cache folder;
    `progress(done, total)` is called while that happens. Of CelebA, `count` are taken
    evenly over the set, and a line says so. CourseError if a set is not complete enough
    to use.
    """
    wanted = os.environ.get("COURSE_FACES") or "drawn"
    if wanted not in ("drawn", "celeba"):
        raise CourseError(
            f"COURSE_FACES is {wanted!r}: set it to 'drawn' or 'celeba', or unset it "
            "for 'drawn'."
        )
    own = os.environ.get("CELEBA_DIR")
    if own or wanted == "celeba":
        root = Path(own).expanduser() if own else _download_celeba()
        return read_faces(root, "CelebA", "celeba", count)
    from utils.faces import draw_set

    count = count or 20_000
    folder = draw_set(course.cache(f"faces-{count}"), count=count, progress=progress)
    return read_faces(folder, "Drawn faces", "drawn-faces")


def read_faces(root: Path, name: str, slug: str, count: int | None = None) -> Faces:
    """Reads a folder in CelebA's layout; labels are joined to files by name.

    The pictures, jpg or png, lie in img_align_celeba, or in a folder of that name in
    it. The first column of each table, or the one called image_id, holds their names.
    Pictures that a table has no row for are left out, and a line says how many. Raises
    CourseError if something is missing or does not belong together.
    """
    outer = root / "img_align_celeba"
    folder = next((f for f in (outer / outer.name, outer) if _pictures(f)), None)
    if folder is None:
        raise CourseError(
            f"No jpg or png files in {outer}: CELEBA_DIR is to be the folder that "
            "holds it."
        )
    files = _pictures(folder)
    if count and count < len(files):  # evenly: CelebA's first 162,770 are for training
        print(f"Of {len(files):,} pictures, {count:,} are used, taken evenly.")
        places = np.linspace(0, len(files) - 1, count).astype(int)
        files = [files[index] for index in places]
    tables = [root / "list_attr_celeba.csv", root / "list_eval_partition.csv"]
    labels, parts = (_read_table(path, folder, files) for path in tables)
    both = [file for file in files if file in labels.index and file in parts.index]
    if len(both) < len(files):
        absent = next(file for file in files if file not in set(both))
        print(
            f"Left out, with no row in one of the tables: {len(files) - len(both)} of "
            f"{len(files):,} pictures, such as {absent}."
        )
    labels, parts = labels.loc[both], parts.loc[both]
    parts = parts["partition" if "partition" in parts else parts.columns[0]]
    if not parts.isin(PARTS).all():
        odd = parts[~parts.isin(PARTS)].iloc[0]
        raise CourseError(
            f"list_eval_partition.csv says {odd:g} of a picture: write 0 for training, "
            "1 for validation, 2 for test."
        )
    return Faces(name, slug, folder, labels > 0, parts.map(PARTS))


def _pictures(folder: Path) -> list[str]:
    """The names of the pictures in a folder, in order; none if there is no folder."""
    endings = (".jpg", ".jpeg", ".png")
    found = folder.iterdir() if folder.is_dir() else ()
    names = [path.name for path in found if path.suffix.lower() in endings]
    return sorted(name for name in names if not name.startswith("."))


def _read_table(path: Path, folder: Path, files: list[str]) -> pd.DataFrame:
    """A table of numbers, its rows those of `files` that it has, in their order;
    000001.JPG is 000001.jpg. CourseError where it has none of them, or one twice.
    """
    if not path.exists():
        raise CourseError(
            f"{path} is missing: it is part of the data set and belongs beside the "
            "folder img_align_celeba."
        )
    try:
        first = path.read_text("utf-8-sig").partition("\n")[0]
        separator = ";" if ";" in first else ","  # as some spreadsheets write it
        table = pd.read_csv(path, skipinitialspace=True, sep=separator)
        named = "image_id" if "image_id" in table else table.columns[0]
        table = table.set_index(named).astype("float64")
        if not len(table.columns):
            raise ValueError("it has one column")
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise CourseError(
            f"{path} is not a table of file names and numbers ({reason}): separate "
            "columns by commas, and write 1 and -1 for labels."
        ) from None
    table.index = table.index.astype(str).str.strip().str.lower()
    there = [file for file in files if file.lower() in table.index]
    if not there:
        raise CourseError(
            f"{path.name} has no row for any of {len(files)} pictures in {folder}, "
            f"such as {files[0]}: use the csv that belongs to them."
        )
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise CourseError(
            f"{path.name} has two rows for {twice}: use the csv that belongs to them."
        )
    table = table.loc[[file.lower() for file in there]].set_axis(there)
    if table.isna().any(axis=None):
        raise CourseError(
            f"{path.name} has no value for {table.index[table.isna().any(axis=1)][0]} "
            "in some column: fill it in."
        )
    return table


def _read_face(path: Path, side: int) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits of grey
                picture = Image.fromarray((np.asarray(picture) // 256).astype("uint8"))
            crop = min(picture.size)
            left, top = (picture.width - crop) // 2, (picture.height - crop) // 2
            box = (left, top, left + crop, top + crop)
            bilinear, size = Image.Resampling.BILINEAR, (side, side)
            small = picture.convert("RGB").resize(size, bilinear, box, reducing_gap=2)
            return np.asarray(small)
    except Exception as error:  # Pillow's errors are of many kinds
        raise CourseError(
            f"{path} is not a picture that can be read ({error}): remove or replace it."
        ) from None


def _download_celeba() -> Path:
    course.require("kagglehub")
    import kagglehub

    print(CELEBA_TERMS)
    try:
        return Path(kagglehub.dataset_download("jessicali9530/celeba-dataset"))
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CourseError(
            f"CelebA could not be downloaded ({reason}): connect to the network, give "
            "a folder that has it by CELEBA_DIR, or unset COURSE_FACES for drawn faces."
        ) from None


# ------------------------------------------------------------------ a reader's table

LEAST_ROWS = 50


def table(path: Path | str) -> pd.DataFrame:
    """A CSV file as a density model needs it: columns of numbers, rows without gaps.

    Says in a line what it leaves out: columns that are no numbers or the same in every
    row, and rows with a missing or infinite value. Raises CourseError where there is no
    such file, or where fewer than two columns or 50 rows are left.
    """
    try:
        whole = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise CourseError(f"{path} cannot be read as a CSV file ({reason}).") from None
    numbers = whole.select_dtypes("number").replace([np.inf, -np.inf], np.nan)
    rows = numbers.dropna()
    kept = rows.loc[:, rows.nunique() > 1]
    left_out = [str(name) for name in whole.columns if name not in kept.columns]
    if left_out:
        print(f"Left out, no numbers or all the same: {', '.join(left_out)}.")
    if len(kept) < len(whole):
        print(f"Left out, with a missing value: {len(whole) - len(kept)} rows.")
    if kept.shape[1] < 2 or len(kept) < LEAST_ROWS:
        raise CourseError(
            f"{path} has {kept.shape[1]} columns of numbers that differ and "
            f"{len(kept)} rows without gaps: a density needs at least 2 columns and "
            f"{LEAST_ROWS} rows."
        )
    return kept.reset_index(drop=True)
