"""Weights that ship, and the command that makes them."""

import json
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from tools import weights as making
from utils import weights
from utils.course import CourseError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    return tmp_path / "weights"


def small(units=3):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(units)])


def values(model):
    return [keras.ops.convert_to_numpy(v) for v in model.weights]


# ------------------------------------------------------------------ keeping


def test_what_was_kept_comes_back_in_half_precision(folder):
    model, other = small(), small()
    weights.save(model, "some", {"images": 5}, centre=np.arange(4.0))
    arrays = weights.load(other, "some")
    for a, b in zip(values(model), values(other), strict=True):
        assert np.array_equal(np.float16(a), b) and b.dtype == np.float32
    assert np.array_equal(arrays["centre"], np.arange(4.0)) and len(arrays) == 1
    assert arrays["centre"].dtype == np.float32
    assert weights.record("some") == {"images": 5}


def test_a_save_that_is_interrupted_leaves_the_older_record_whole(folder, monkeypatch):
    weights.save(small(), "some", {"images": 5})
    write = Path.write_text

    def half(self, text, *settings):
        write(self, text[:4], *settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        weights.save(small(), "some", {"images": 6})
    assert weights.record("some") == {"images": 5}


def test_the_order_holds_for_more_than_ten_variables(folder):
    def deep():
        layers = [keras.layers.Dense(2) for _ in range(7)]
        return keras.Sequential([keras.Input((2,)), *layers])

    model, other = deep(), deep()
    for number, variable in enumerate(model.weights):
        variable.assign(np.full(variable.shape, number))
    weights.save(model, "deep", {})
    weights.load(other, "deep")
    assert [value.flat[0] for value in values(other)] == list(range(14))


def test_weights_that_are_missing_cut_or_foreign_are_one_line(folder):
    model = small()
    with pytest.raises(CourseError, match="is missing: get it back by git checkout"):
        weights.load(model, "some")
    weights.save(model, "some", {})
    before = values(small(4))
    other = small(4)
    for variable, value in zip(other.weights, before, strict=True):
        variable.assign(value)
    with pytest.raises(CourseError, match="belongs to a model of other shapes"):
        weights.load(other, "some")
    path = folder / "some.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CourseError, match="cannot be read .*git checkout") as info:
        weights.load(model, "some")
    assert "\n" not in str(info.value)
    for a, b in zip(before, values(other), strict=True):
        assert np.array_equal(a, b), "the model is as it was"


# ------------------------------------------------------------------ making


def recipe(name="some", epochs=None, fit=None, measured=0.5):
    """A recipe that adds 1 to each weight for each epoch."""

    def add(model, epochs, seed):
        for variable in model.weights:
            variable.assign(variable + epochs)
        return 2.0

    def build():
        model = small()
        for variable in model.weights:
            variable.assign(np.zeros(variable.shape))
        return model

    return making.Recipe(
        name,
        build,
        fit or add,
        lambda model: ({"figure": measured}, {"centre": np.ones(2)}),
        data=lambda: None,
        images=100,
        epochs=epochs,
    )


def test_a_second_sitting_goes_on_from_what_is_kept(folder):
    making.sitting(recipe(), 3)
    record = making.sitting(recipe(), 4)
    model = small()
    weights.load(model, "some")
    assert all((value == 7).all() for value in values(model))
    assert [each["images"] for each in record["sittings"]] == [300, 400]
    assert record["images"] == 700 and record["figures"] == {"figure": 0.5}
    assert weights.record("some") == json.loads(json.dumps(record))
    assert {"seconds", "machine", "date"} <= record["sittings"][0].keys()


def test_each_sitting_shuffles_anew_and_tells_outputs_in_half_precision(folder):
    seeds = []

    def thirds(model, epochs, seed):
        seeds.append(seed)
        for variable in model.weights:
            variable.assign(variable + 1 / 3)

    some = recipe(fit=thirds)
    making.sitting(some, 1)
    making.sitting(some, 1)
    assert seeds == [0, 1]
    model = small()
    weights.load(model, "some")
    told = weights.record("some")["outputs"]
    assert np.abs(np.subtract(told, making.outputs(model))).max() < 1e-6


def test_outputs_are_told_of_every_network_and_head(folder):
    def two_heads():
        x = keras.Input((3,))
        heads = [keras.layers.Dense(2)(x), keras.layers.Dense(2)(x)]
        return keras.Model(x, heads)

    assert len(making.outputs(two_heads())) == 2


def test_a_sitting_that_is_interrupted_leaves_the_weights_of_the_one_before(folder):
    making.sitting(recipe(), 3)
    before = (folder / "some.npz").read_bytes()

    def stopped(model, epochs, seed):
        model.weights[0].assign(model.weights[0] + 9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        making.sitting(recipe(fit=stopped), 3)
    assert (folder / "some.npz").read_bytes() == before
    assert weights.record("some")["images"] == 300


def test_a_sitting_gives_all_models_as_many_images(folder, monkeypatch, capsys):
    recipes = [recipe("judge", epochs=5), recipe("one"), recipe("two")]

    module = types.ModuleType("recipes_of_a_chapter")
    module.recipes = lambda: recipes
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(making.MODULES, "03", module.__name__)
    monkeypatch.setattr(making.sys, "argv", ["weights", "03", "1"])
    for _ in range(2):
        assert making.main() == 0
    images = {r.name: weights.record(r.name)["images"] for r in recipes}
    assert images == {"judge": 500, "one": 3000, "two": 3000}, "15 epochs of 2 s each"
    assert "15 epochs of each" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["03"], ["03", "0"], ["03", "x"], ["99", "5"]])
def test_a_chapter_or_minutes_that_make_no_sense_are_one_line(words, monkeypatch):
    monkeypatch.setattr(making.sys, "argv", ["weights", *words])
    with pytest.raises(SystemExit, match="make weights CHAPTER=03 MINUTES=60"):
        making.main()


def test_lint_compares_outputs_shapes_and_size(folder, monkeypatch):
    some = recipe()
    assert making._of(some) == ["is not there"]
    making.sitting(some, 3)
    assert making._of(some) == []
    model, record = small(), weights.record("some")
    weights.load(model, "some")
    model.weights[0].assign(model.weights[0] + 0.01)
    weights.save(model, "some", record)
    assert "outputs differ from the record" in making._of(some)[0]
    weights.save(small(4), "some", record)
    assert "other shapes" in making._of(some)[0]
    monkeypatch.setattr(making, "LIMIT", 100)
    assert "MB, over" in making._of(some)[0]


def test_the_weights_that_ship_are_those_of_their_records():
    assert making.faults() == []


# ------------------------------------------------------------------ chapter 3's


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A hundred faces in place of thousands, and no training."""
    from tools import weights_faces

    monkeypatch.setenv("COURSE_OUTPUT", str(tmp_path))
    monkeypatch.setattr(weights_faces, "COUNT", 100)
    weights_faces.faces.cache_clear()
    yield weights_faces
    weights_faces.faces.cache_clear()


def test_the_weights_see_faces_of_their_own_with_their_labels(few):
    from utils.faces import DRAWN, attributes, nth_face

    assert few.SEED != 0, "the chapter draws with seed 0"
    x, y = few.faces()["train"]
    assert x.shape == (80, 64, 64, 3) and y.shape == (80, len(DRAWN))
    for row in (0, 4, 79):
        seen = attributes(nth_face(few.SEED, row + 1))
        assert list(y[row]) == [seen[name] for name in DRAWN]


class Watching:
    """A model that keeps what it is trained on."""

    def compile(self, *arguments, **more):
        pass

    def fit(self, x, y, callbacks, **more):
        self.x, self.y = x, y
        for step in range(4):
            callbacks[-1].on_train_batch_end(step, {})


def test_the_judge_learns_the_labels_of_its_pictures_half_of_them_softened(few):
    judge = Watching()
    few.fit_judge(judge, 2, seed=1)
    x, y = few.faces()["train"]
    order = np.random.default_rng(1).permutation(80)
    assert np.array_equal(judge.y, y[order])
    as_they_were = (judge.x == x[order]).all(axis=(1, 2, 3))
    assert np.array_equal(as_they_were, order % 2 == 1)
    near = np.abs(judge.x.astype(float) - x[order]).mean(axis=(1, 2, 3))
    assert near.max() < 20, "softened pictures are still those of their labels"


def test_the_gaussian_that_is_kept_is_that_of_draws_from_the_clouds(few, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(few, "LATENT_DIM", 3)
    means = {80: rng.normal(size=(80, 3)) @ np.diag([3, 1, 0.1]), 10: np.zeros((10, 3))}
    drawn = {}

    def definitions(chapter, *names):
        def codes(model, x):
            return means[len(x)], np.full((len(x), 3), 2 * np.log(0.5))

        def decode(model, z):
            return z

        def of_faces(network, images):
            return images

        def kernel_distance(a, b):
            drawn[len(drawn)] = a
            return 0.0

        from utils import chapters

        fitted = chapters.definitions("03_vae_faces", "fitted_gaussian")
        return codes, decode, fitted, of_faces, kernel_distance

    monkeypatch.setattr(few, "definitions", definitions)
    monkeypatch.setattr(few, "features_of_the_judge", lambda: None)
    monkeypatch.setattr(few, "rebuilding", lambda model, x: {})
    figures, arrays = few.measure(None)
    wanted = np.cov(means[80].T, bias=True) + 0.25 * np.eye(3)
    found = arrays["factor"] @ arrays["factor"].T
    assert np.abs(found - wanted).max() < 0.35 * np.abs(wanted).max()
    assert np.array_equal(drawn[0], means[10]) and drawn[1].shape == (10, 3)
    points = np.linalg.solve(arrays["factor"], (drawn[2] - arrays["centre"]).T)
    assert np.abs(points).max() < 4, "draws are centre + factor times normal points"
    assert len(figures) == 3


# ------------------------------------------------------------------ Glow


@pytest.fixture
def glow(monkeypatch):
    """Chapter 6's recipe with a small network and few images."""
    from tools import weights_glow
    from utils.datasets import Images

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 28, 28)).astype("uint8"), np.arange(60) % 10
    data = Images("Fashion-MNIST", "few", tuple("0123456789"), x, y, x[:20], y[:20])
    monkeypatch.setattr(weights_glow.datasets, "fashion_mnist", lambda: data)
    for name, value in {"STEPS": 1, "WIDTH": 4, "TRAINED": 40}.items():
        monkeypatch.setattr(weights_glow, name, value)
    return weights_glow


def test_glow_is_trained_on_the_images_that_are_not_left_out(glow):
    flow = Watching()
    flow.compile = lambda optimizer, loss, **more: setattr(flow, "by", optimizer)
    glow.fit(flow, 2, seed=1)
    order = np.random.default_rng(1).permutation(40)
    data = glow.clothes()
    assert np.array_equal(flow.x, data.x_train[:40, ..., None][order])
    assert np.array_equal(flow.y, data.y_train[:40][order])
    assert flow.by.use_ema and flow.by.ema_momentum == 0.999, "weights are averaged"


def test_a_sitting_of_glow_goes_on_and_its_outputs_come_out_again(glow, folder):
    recipe = next(r for r in glow.recipes() if r.name == "06_glow")
    small = making.Recipe(
        **{**vars(recipe), "measure": lambda flow: ({"bits": 1.0}, {}), "images": 40}
    )
    first = making.sitting(small, 1)
    second = making.sitting(small, 1)
    assert [each["images"] for each in second["sittings"]] == [40, 40]
    assert [len(each["losses"]) for each in second["sittings"]] == [1, 1]
    assert first["outputs"] != second["outputs"], "it was trained on"
    flow = small.build()
    weights.load(flow, "06_glow")
    assert np.allclose(glow.answers(flow), second["outputs"], rtol=1e-4)
    assert not making._of(small)
    flow.prior.mean.assign(flow.prior.mean + 0.05)
    weights.save(flow, "06_glow", second)
    assert "outputs differ" in making._of(small)[0]


def test_glow_is_not_trained_on_the_stand_in(glow, monkeypatch):
    from dataclasses import replace

    digits = replace(glow.clothes(), name="Digits (offline stand-in)")
    monkeypatch.setattr(glow.datasets, "fashion_mnist", lambda: digits)
    with pytest.raises(CourseError, match="of Fashion-MNIST; there is Digits"):
        glow.clothes()


def test_the_weights_of_glow_that_ship_are_those_of_their_record(monkeypatch):
    record = weights.record("06_glow")
    assert record["figures"]["bits_per_dim"] < 3.25
    assert record["figures"]["least_class"] >= 0.03
    assert all(len(each["losses"]) > 1 for each in record["sittings"])


def test_samples_are_drawn_at_the_temperature_and_of_the_classes(glow, monkeypatch):
    flow = glow.build()
    seen = {}

    def definitions(chapter, *names):
        from utils import chapters

        found = dict(zip(names, chapters.definitions(chapter, *names), strict=True))

        def decode(flow, noise, share):
            seen.update(noise=noise, share=share)
            return np.zeros((len(share), 28, 28, 1), "float32")

        return tuple({**found, "decode": decode}[name] for name in names)

    monkeypatch.setattr(glow, "definitions", definitions)
    x = glow.drawn(flow, np.arange(40) % 10, 0.5, np.random.default_rng(0))
    assert x.shape == (40, 28, 28, 1) and (x == 128).all()
    assert all(abs(z.std() - 0.5) < 0.02 for z in seen["noise"])
    assert np.array_equal(seen["share"].argmax(axis=1), np.arange(40) % 10)


def test_what_is_left_out_is_measured_and_was_not_trained_on(glow, monkeypatch):
    asked = []
    monkeypatch.setattr(glow, "bits", lambda flow, x: asked.append(x) or 3.0)
    monkeypatch.setattr(glow, "drawn", lambda *arguments: None)
    monkeypatch.setattr(glow, "of_samples", lambda x: {"kernel_distance": 0.1})
    figures, arrays = glow.measure(None)
    data = glow.clothes()
    assert figures.keys() >= {"bits_per_dim", "left_out_bits_per_dim"}
    left_out, test = sorted(asked, key=len)[0], sorted(asked, key=len)[-1]
    assert {len(left_out), len(test)} == {20}
    assert any(np.array_equal(x, data.x_train[40:, ..., None]) for x in asked)
    assert any(np.array_equal(x, data.x_test[..., None]) for x in asked)
