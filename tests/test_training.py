"""Progress, the stop on a bad loss, kept weights, and the schedule."""

import io
import os
import subprocess
import sys
import time

import keras
import numpy as np
import pandas as pd
import pytest

from utils import course, training
from utils.course import CourseError


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    network.compile(keras.optimizers.SGD(0.01), loss="mse")
    return network


x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
y = x.sum(axis=1, keepdims=True)


def test_progress_counts_training_seconds_without_validation(model, capsys):
    class SlowValidation(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            time.sleep(0.15)

    progress = training.Progress("fitting")
    model.fit(
        x, y, batch_size=16, epochs=1, verbose=0
    )  # builds the graphs, so that the seconds below are small
    model.evaluate(x, y, verbose=0)
    started = time.perf_counter()
    model.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        validation_data=(x, y),
        verbose=0,
        callbacks=[progress, SlowValidation()],
    )
    passed = time.perf_counter() - started
    assert len(progress.seconds) == 3 and progress.seconds == sorted(progress.seconds)
    assert progress.seconds[-1] < passed - 1.2, (
        "three validations slept for at least 1.2 s"
    )
    last = capsys.readouterr().out.split("\r")[-1]
    assert last.startswith("fitting: 100%") and "12/12" in last and "val_loss=" in last


def test_progress_of_a_resumed_training_begins_where_it_was(model, capsys):
    model.fit(
        x,
        y,
        batch_size=16,
        initial_epoch=2,
        epochs=3,
        verbose=0,
        callbacks=[training.Progress("again")],
    )
    shown = capsys.readouterr().out.split("\r")
    assert "8/12" in shown[1] and "12/12" in shown[-1]


def test_progress_counts_all_steps_of_one_execution(capsys):
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=4)
    progress = training.Progress("in fours")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[progress])
    assert f"{2 * len(x) // 8}/{2 * len(x) // 8}" in capsys.readouterr().out


def test_bad_loss_stops_at_once_and_names_the_step(model):
    bad = x.copy()
    bad[40] = np.nan  # the third batch of 16
    steps = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)

    with pytest.raises(
        CourseError, match="The loss is nan at step 3, so training stopped"
    ):
        model.fit(
            bad,
            y,
            batch_size=16,
            shuffle=False,
            verbose=0,
            callbacks=[Count(), training.StopOnBadLoss()],
        )
    assert len(steps) == 3


def test_a_validation_figure_that_is_not_finite_stops_too(model):
    bad = y.copy()
    bad[3] = np.nan
    with pytest.raises(
        CourseError,
        match="The val_loss is nan at the end of epoch 1, .*validation data",
    ):
        model.fit(
            x,
            y,
            validation_data=(x, bad),
            epochs=3,
            verbose=0,
            callbacks=[training.StopOnBadLoss()],
        )


def test_good_loss_does_not_stop(model):
    model.fit(x, y, epochs=2, verbose=0, callbacks=[training.StopOnBadLoss()])


def test_saved_weights_and_record_come_back(model, tmp_path):
    path = tmp_path / "deep" / "run"
    training.save(model, path, val_loss=[0.5, np.float32(0.25)], seconds=3)
    before = model.get_weights()
    model.set_weights([weights + 1 for weights in before])
    assert training.load(model, path) == {"val_loss": [0.5, 0.25], "seconds": 3}
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True)
    )


def test_a_module_of_tensorflow_comes_back_too(tmp_path):
    tf = pytest.importorskip("tensorflow")

    class Module(tf.Module):
        def __init__(self, width):
            self.a, self.b = (
                tf.Variable(tf.random.normal([2, width])),
                tf.Variable(tf.random.normal([width])),
            )

    kept, fresh = Module(3), Module(3)
    training.save(kept, tmp_path / "flow", seconds=[1.5])
    assert training.load(fresh, tmp_path / "flow") == {"seconds": [1.5]}
    assert np.array_equal(fresh.a, kept.a) and np.array_equal(fresh.b, kept.b)
    with pytest.raises(
        CourseError, match="does not fit .*: set LOAD = False and train again"
    ):
        training.load(Module(4), tmp_path / "flow")
    with pytest.raises(CourseError, match="No weights of an earlier run"):
        training.load(kept, tmp_path / "other")


def test_interrupted_save_leaves_the_older_one(model, tmp_path, monkeypatch):
    path = tmp_path / "run"
    training.save(model, path, epoch=1)

    def half_written(target, *_, **__):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", half_written)
    with pytest.raises(KeyboardInterrupt):
        training.save(model, path, epoch=2)
    assert training.load(model, path) == {"epoch": 1}


FULL_DISK = """
import resource, signal, sys
import keras, numpy as np
from pathlib import Path
from utils import training
folder = Path(sys.argv[1])
model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)])
training.save(model, folder / "run", epoch=1)
model.set_weights([w + 1 for w in model.get_weights()])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    training.save(model, folder / "run", epoch=2)
except training.CourseError as error:
    print(error)
class Decoder:
    def __call__(self, z): return np.random.default_rng(0).random((len(z), 200, 200, 3))
try:
    samples = training.SampleImages(Decoder(), np.zeros((4, 2)), folder / "samples")
    samples.on_epoch_end(0)
except training.CourseError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_one_line_and_leaves_the_older_weights(tmp_path):
    env = os.environ | {"PYTHONPATH": str(course.ROOT)}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    first, second = ended.stdout.splitlines()
    assert "run.npz cannot be written" in first and "What was there is whole" in first
    assert "epoch-001.png cannot be written" in second
    model = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)])
    assert training.load(model, tmp_path / "run") == {"epoch": 1}
    assert not any(p.name.startswith(".part") for p in tmp_path.rglob("*"))


def test_missing_or_foreign_weights_are_one_clear_line(model, tmp_path):
    with pytest.raises(
        CourseError, match="No weights of an earlier run in .*: set LOAD = False"
    ):
        training.load(model, tmp_path / "run")
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    training.save(other, tmp_path / "run")
    before = model.get_weights()
    with pytest.raises(
        CourseError, match="does not fit .*: set LOAD = False and train again"
    ):
        training.load(model, tmp_path / "run")
    (tmp_path / "run.npz").write_bytes(b"half a file")
    with pytest.raises(
        CourseError, match="does not fit .*: set LOAD = False and train again"
    ):
        training.load(model, tmp_path / "run")
    assert all(
        np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True)
    )


def test_schedule_rises_to_its_peak_and_falls_to_zero():
    schedule = training.warmup_cosine(0.01, steps=200, warmup=0.1)
    rates = [float(schedule(step)) for step in range(201)]
    assert np.argmax(rates) == 20 and rates[20] == pytest.approx(0.01)
    assert rates[110] == pytest.approx(0.005, rel=0.01), (
        "half-way down, a cosine stands at half"
    )
    assert rates[200] == pytest.approx(0, abs=1e-6) and rates[0] < 0.001


def test_compilation_is_chosen_by_device_and_kind(monkeypatch):
    monkeypatch.setattr(training.course, "backend", lambda: "tensorflow")
    monkeypatch.setattr(training.course, "has_gpu", lambda: False)
    for profile, worth_it in (("full", True), ("quick", False)):
        monkeypatch.setattr(training.course, "profile", lambda name=profile: name)
        assert training.jit_compile("dense") is worth_it
        assert training.jit_compile("convolutions") is False
    monkeypatch.setattr(training.course, "has_gpu", lambda: True)
    assert training.jit_compile("convolutions") == "auto"
    with pytest.raises(ValueError, match="'convolutions' or 'dense'"):
        training.jit_compile("images")


@pytest.mark.parametrize(
    "encoding, block", [("ascii", "#"), ("cp1252", "#"), ("utf-8", "█")]
)
def test_the_bar_shows_on_any_terminal(encoding, block):
    code = (
        "from utils import progress; b = progress.bar(2, 'x'); b.update(2); b.close()"
    )
    env = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(course.ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
    assert ended.returncode == 0 and block in ended.stdout.decode(encoding), (
        ended.stderr
    )


def test_a_bar_is_no_wider_than_an_output_of_a_notebook(capsys):
    from utils import progress

    bar = progress.bar(10, "training")
    bar.update(10)
    bar.close()
    lines = capsys.readouterr().out.replace("\n", "\r").split("\r")
    assert max(map(len, lines)) == 100


# ------------------------------------------------------------------ whole epochs


class Gaussian(keras.Model):
    """A density with a mean and a log standard deviation to learn."""

    def __init__(self):
        super().__init__()
        self.mean = self.add_weight(shape=(2,), initializer="zeros", name="mean")
        self.log_std = self.add_weight(shape=(2,), initializer="zeros", name="log_std")
        self.built = True

    def log_prob(self, x):
        z = (x - self.mean) * keras.ops.exp(-self.log_std)
        return keras.ops.sum(
            -0.5 * z**2 - self.log_std - 0.5 * np.log(2 * np.pi), axis=-1
        )

    def call(self, x):
        return self.log_prob(x)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return -keras.ops.mean(y_pred)


class Network(keras.Model):
    """A density with a small network: x2 given x1 and a constraint on one kernel."""

    def __init__(self, constraint=None):
        super().__init__()
        self.first = keras.layers.Dense(8, "tanh")
        self.middle = keras.layers.Dense(2)
        self.last = keras.layers.Dense(2, kernel_constraint=constraint)
        for layer, size in ((self.first, 2), (self.middle, 8), (self.last, 2)):
            layer.build((None, size))
        self.built = True

    def log_prob(self, x):
        shift = self.last(self.middle(self.first(keras.ops.reshape(x, (-1, 2)) / 3)))
        return keras.ops.sum(-0.5 * (x - shift) ** 2, axis=-1)


needs_tensorflow = pytest.mark.skipif(
    course.backend() != "tensorflow", reason="whole epochs are a graph of TensorFlow"
)
points = (
    np.random.default_rng(1).normal(size=(1000, 2)) * [0.5, 2.0] + [3.0, -1.0]
).astype("float32")


def fit(model, **changes):
    """Trains on the points; without XLA, whose compilation takes seconds."""
    settings = {
        "kind": "convolutions",
        "optimizer": keras.optimizers.Adam(0.05),
        "epochs": 30,
        "batch": 100,
    }
    return training.fit_density(model, points, **(settings | changes))


def test_whole_epochs_find_the_maximum_likelihood():
    model = Gaussian()
    history = fit(model, epochs=60)
    assert np.allclose(model.mean, points.mean(axis=0), atol=0.1)
    assert np.allclose(np.exp(model.log_std), points.std(axis=0), rtol=0.1)
    assert len(history["loss"]) == len(history["seconds"]) == 60 and history[
        "seconds"
    ] == sorted(history["seconds"])


@pytest.mark.parametrize("profile", course.PROFILES)  # with XLA, and without
def test_whole_epochs_do_the_steps_that_a_plain_loop_does(monkeypatch, profile):
    """SGD by hand in NumPy on the mean, with the batches that the documented shuffle
    gives.
    """
    monkeypatch.setenv("COURSE_PROFILE", profile)
    model = Gaussian()
    model.log_std.trainable = False
    fit(
        model,
        optimizer=keras.optimizers.SGD(0.1),
        epochs=3,
        batch=300,
        seed=7,
        kind="dense",
    )
    mean, rng = np.zeros(2), np.random.default_rng(7)
    for _ in range(3):
        for chosen in rng.permutation(1000)[:900].reshape(3, 300):
            mean += 0.1 * (points[chosen] - mean).mean(axis=0)
    assert np.allclose(model.mean, mean, atol=1e-4)


def test_the_best_epoch_is_restored():
    model, seen = Gaussian(), []
    history = fit(
        model,
        validation=points + 1.0,
        patience=3,
        each_epoch=lambda e: seen.append(keras.ops.convert_to_numpy(model.mean)),
    )
    best = int(np.argmin(history["val_loss"]))
    assert best < len(history["val_loss"]) - 1 < 29, (
        "the shifted points are best on the way, and training stops early"
    )
    assert len(history["val_loss"]) - 1 - best == 3
    assert len(seen) == len(history["loss"]) + 1 and np.allclose(seen[0], 0)
    assert np.array_equal(model.mean, seen[best + 1])


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step():
    with pytest.raises(CourseError, match=r"at step \d+, so training stopped"):
        fit(Gaussian(), optimizer=keras.optimizers.SGD(1e6))


def test_penalties_of_the_layers_are_part_of_the_loss():
    """The regulariser of the book's RealNVP had no effect, because its own training
    step left it out.
    """
    free, held = Gaussian(), Gaussian()
    held.mean.regularizer = keras.regularizers.L2(10.0)
    fit(free), fit(held)
    assert abs(float(held.mean[0])) < 0.2 * abs(float(free.mean[0]))


@needs_tensorflow
def test_one_long_vector_takes_the_steps_that_one_by_one_take(monkeypatch):
    """Adam with clipping, on a network: the same losses and weights up to rounding."""
    weights, losses = [], []
    for elementwise in (training.ELEMENTWISE, []):
        monkeypatch.setattr(training, "ELEMENTWISE", elementwise)
        course.seed(0)
        model = Network()
        optimizer = keras.optimizers.Adam(0.01, global_clipnorm=0.5)
        losses.append(fit(model, optimizer=optimizer, epochs=3, kind="dense")["loss"])
        weights.append(model.get_weights())
        assert int(optimizer.iterations) == 30
        vectors = [v for v in optimizer.variables if len(v.shape)]
        assert len(vectors) == (2 if elementwise else 12), "two moments"
    assert np.allclose(losses[0], losses[1], rtol=1e-5)
    for one, other in zip(*weights, strict=True):
        assert np.allclose(one, other, atol=1e-5)


@needs_tensorflow
@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.AdamW(0.01),
        keras.optimizers.Adam(0.01, clipnorm=0.1),
        keras.optimizers.Adam(0.01, use_ema=True),
        keras.optimizers.Lamb(0.01),
    ],
    ids=["AdamW", "clipnorm", "average", "Lamb"],
)
def test_optimizers_that_look_at_a_variable_as_a_whole_keep_them_apart(optimizer):
    model = Network()
    fit(model, optimizer=optimizer, epochs=1)
    assert optimizer not in training._vectors


@needs_tensorflow
@pytest.mark.parametrize("one_vector", [True, False])
def test_constraints_hold_after_every_step(monkeypatch, one_vector):
    """A MADE's masks are constraints: without them it would see the future."""
    if not one_vector:
        monkeypatch.setattr(training, "ELEMENTWISE", [])

    class Masked(keras.constraints.Constraint):
        def __call__(self, kernel):
            return kernel * np.float32([[1, 0], [0, 1]])

    model = Network(constraint=Masked())
    fit(model, epochs=2)
    kernel = model.last.kernel.numpy()
    assert (kernel[0, 1], kernel[1, 0]) == (0, 0) and (
        kernel[[0, 1], [0, 1]] != 0
    ).all()


@needs_tensorflow
def test_a_second_training_with_the_same_optimizer_goes_on():
    model, optimizer = Gaussian(), keras.optimizers.Adam(0.05)
    fit(model, optimizer=optimizer, epochs=60)
    model.mean.assign([0.0, 0.0])  # what a reader changes in between counts
    fit(model, optimizer=optimizer, epochs=1)
    assert np.abs(model.mean).max() < 2.0 and int(optimizer.iterations) == 610


@needs_tensorflow
def test_variables_without_a_part_in_the_density_stay_as_they_are():
    model = Gaussian()
    extra = keras.Variable([7.0])
    fit(model, variables=[*model.trainable_variables, extra])
    assert float(extra[0]) == 7.0 and np.abs(model.mean).max() > 1
    with pytest.raises(CourseError, match="no variable has a part in log_prob"):
        fit(Gaussian(), variables=[extra])


# ------------------------------------------------------------------ readers' points


def integers(x):
    return np.rint(10 * x).astype(int)


@pytest.mark.parametrize(
    "kind", ["float64", "list", "DataFrame", "integers", "float16"]
)
def test_points_of_any_kind_of_number_train(kind):
    given = {
        "float64": points.astype("float64"),
        "list": points.tolist(),
        "DataFrame": pd.DataFrame(points.astype("float64"), columns=["a", "b"]),
        "integers": integers(points),
        "float16": points.astype("float16"),
    }[kind]
    model = Gaussian()
    settings = {"optimizer": keras.optimizers.Adam(0.05), "epochs": 2, "batch": 100}
    settings["kind"] = "convolutions"
    history = training.fit_density(model, given, validation=given, **settings)
    assert np.isfinite(history["loss"]).all() and np.isfinite(history["val_loss"]).all()
    log_prob = training.compiled(model.log_prob, model)
    if kind in ("float64", "DataFrame"):
        assert np.allclose(log_prob(given), log_prob(points), atol=1e-5)


@pytest.mark.parametrize("name", ["x", "validation"])
def test_points_that_are_not_finite_are_found_before_training(name):
    bad = points.astype("float64")
    bad[17, 1], bad[40, 0] = np.nan, np.inf
    model, seen = Gaussian(), []
    given = {"x": points, "validation": points} | {name: bad}
    settings = {
        "optimizer": keras.optimizers.Adam(),
        "epochs": 1,
        "batch": 100,
        "each_epoch": seen.append,
    }
    with pytest.raises(
        CourseError,
        match=f"{name} has values that are not finite in 2 of 1000 rows, .*row 17",
    ):
        training.fit_density(
            model, given["x"], validation=given["validation"], **settings
        )
    assert not seen and not np.any(model.mean)


def test_points_that_are_not_numbers_or_no_table_are_one_line():
    settings = {"optimizer": keras.optimizers.Adam(), "epochs": 1, "batch": 1}
    words = pd.DataFrame({"a": [1.0, 2.0], "b": ["one", "two"]})
    with pytest.raises(CourseError, match="x is not made of numbers .*one"):
        training.fit_density(Gaussian(), words, **settings)
    with pytest.raises(CourseError, match=r"x has shape \(5,\): .*one point a row"):
        training.fit_density(Gaussian(), np.arange(5), **settings)


@needs_tensorflow
def test_points_of_another_dimension_are_one_line():
    three = np.random.default_rng(0).normal(size=(300, 3))
    model = Network()
    with pytest.raises(
        CourseError,
        match=r"Network cannot be trained on points of shape \(3,\) .*Build it for",
    ):
        training.fit_density(
            model, three, optimizer=keras.optimizers.Adam(), epochs=1, batch=100
        )
    with pytest.raises(
        CourseError,
        match=r"validation has points of shape \(3,\) and x of shape \(2,\)",
    ):
        fit(Network(), validation=three)


class Cliff(Gaussian):
    """Its density beyond 40, where one validation point lies, becomes 0 later on."""

    def log_prob(self, x):
        nothing = (self.mean[0] > 1.5) & (x[:, 0] > 40)
        return super().log_prob(x) - keras.ops.where(nothing, np.inf, 0.0)


@needs_tensorflow
def test_a_validation_that_turns_infinite_stops_and_keeps_the_best_weights():
    model, seen, far = Cliff(), [], points.copy()
    far[0, 0] = 50.0
    with pytest.raises(CourseError, match=r"val_loss is inf at the end of epoch \d+"):
        fit(
            model,
            validation=far,
            patience=99,
            each_epoch=lambda e: seen.append(np.array(model.mean)),
        )
    assert len(seen) > 2 and any(np.array_equal(model.mean, mean) for mean in seen)


@needs_tensorflow
@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_a_stop_on_the_way_keeps_the_best_weights(stop):
    model, seen = Gaussian(), []

    def each_epoch(epoch):
        seen.append(np.array(model.mean))
        if epoch == 5:
            model.mean.assign([99.0, 99.0])
            raise stop

    with pytest.raises(stop):
        fit(model, validation=points, patience=9, each_epoch=each_epoch)
    assert np.array_equal(model.mean, seen[4])  # epoch 5 raised before it was judged


@needs_tensorflow
@pytest.mark.parametrize("axis", [None, 1])
def test_a_log_prob_that_is_not_one_number_a_point_is_refused(axis):
    """Without its sum over the axis a density has half the NLL: a false record."""

    class Wrong(Gaussian):
        def log_prob(self, x):
            z = (x - self.mean) * keras.ops.exp(-self.log_std)
            values = -0.5 * z**2 - self.log_std
            return values if axis is None else values[:, :1]

    with pytest.raises(CourseError, match="log_prob gives shape .*sum over the last"):
        fit(Wrong())


@needs_tensorflow
@pytest.mark.parametrize("elementwise", [True, False])
def test_an_optimizer_that_has_trained_another_model_is_refused(elementwise):
    kind = keras.optimizers.Adam if elementwise else keras.optimizers.AdamW
    optimizer = kind(0.05)
    fit(Gaussian(), optimizer=optimizer, epochs=1)
    with pytest.raises(CourseError, match="has trained another model.*new optimizer"):
        fit(Gaussian(), optimizer=optimizer, epochs=1)


def test_settings_that_make_no_sense_are_one_line():
    for name, value in (("epochs", 0), ("batch", 64.0), ("patience", 0), ("batch", 0)):
        with pytest.raises(
            CourseError, match=f"{name} is {value}: give a whole number"
        ):
            fit(Gaussian(), validation=points, **{name: value})
    for optimizer in ("adam", keras.optimizers.Adam):
        with pytest.raises(CourseError, match="give one of Keras 3"):
            fit(Gaussian(), optimizer=optimizer)
    with pytest.raises(CourseError, match=r"validation has shape \(0, 2\)"):
        fit(Gaussian(), validation=points[:0])


@needs_tensorflow
def test_the_best_epoch_has_its_averages_too():
    """Batch normalisation's averages are variables that no gradient trains."""

    class Averages(Gaussian):
        def __init__(self):
            super().__init__()
            self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def log_prob(self, x):
            self.seen.assign_add(1.0)
            return super().log_prob(x)

    model, seen = Averages(), []
    history = fit(
        model,
        validation=points + 1.0,
        patience=2,
        each_epoch=lambda e: seen.append(float(model.seen)),
    )
    best = int(np.argmin(history["val_loss"]))
    assert best < len(seen) - 2 and float(model.seen) == seen[best + 1]


def test_a_model_that_is_not_built_is_neither_saved_nor_loaded(tmp_path):
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    for call in (training.save, training.load):
        with pytest.raises(CourseError, match="no variables yet: build it"):
            call(unbuilt, tmp_path / "run")


def test_a_file_of_weights_that_was_cut_is_one_line(model, tmp_path):
    training.save(model, tmp_path / "run")
    whole = (tmp_path / "run.npz").read_bytes()
    for part in (b"", whole[: len(whole) // 2], whole[10:]):
        (tmp_path / "run.npz").write_bytes(part)
        with pytest.raises(CourseError, match="does not fit .*train again"):
            training.load(model, tmp_path / "run")


def test_a_model_with_nothing_to_train_is_refused():
    class Fixed:
        trainable_variables = ()

    with pytest.raises(CourseError, match="no trainable variables"):
        fit(Fixed())
    with pytest.raises(CourseError, match="batch of 2000"):
        fit(Gaussian(), batch=2000)
    with pytest.raises(CourseError, match="validation"):
        fit(Gaussian(), patience=2)


def test_variables_of_tensorflow_are_trained_too():
    tf = pytest.importorskip("tensorflow")

    class Shift(tf.Module):
        def __init__(self):
            super().__init__()
            self.mean = tf.Variable([0.0, 0.0])

        def log_prob(self, x):
            return -tf.reduce_sum((x - self.mean) ** 2, axis=-1)

    model = Shift()
    fit(model)
    assert np.allclose(model.mean, points.mean(axis=0), atol=0.1)


def test_keras_fit_does_the_work_on_another_backend(monkeypatch):
    monkeypatch.setattr(training.course, "backend", lambda: "jax")
    model, seen = Gaussian(), []
    history = fit(model, validation=points, patience=5, each_epoch=seen.append)
    assert np.allclose(model.mean, points.mean(axis=0), atol=0.15)
    assert set(history) == {"loss", "val_loss", "seconds"} and seen == list(
        range(len(history["loss"]) + 1)
    )


def test_compiled_uses_the_weights_of_the_moment():
    model = Gaussian()
    log_prob = training.compiled(model.log_prob, model)
    before = log_prob(points)
    assert isinstance(before, np.ndarray) and np.allclose(
        before, model.log_prob(points), atol=1e-5
    )
    model.mean.assign([5.0, 5.0])
    assert np.allclose(log_prob(points), model.log_prob(points), atol=1e-4)
    assert not np.allclose(log_prob(points), before, atol=1.0)


def test_a_curve_is_read_from_tensorboards_files(tmp_path):
    pytest.importorskip("tensorboard")
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    network.compile("sgd", "mse")
    x = np.linspace(0, 1, 20, dtype="float32")[:, None]
    data = {"validation_data": (x[:5], 2 * x[:5]), "epochs": 3, "verbose": 0}
    watch = [keras.callbacks.TensorBoard(str(tmp_path))]
    history = network.fit(x, 2 * x, callbacks=watch, **data).history
    train = training.read_tensorboard(tmp_path / "train", "epoch_loss")
    held = training.read_tensorboard(tmp_path / "validation", "epoch_loss")
    assert np.allclose(train, history["loss"]) and np.allclose(
        held, history["val_loss"]
    )
    assert not np.allclose(train, held)
    with pytest.raises(course.CourseError, match="no curve 'loss', but .*epoch_loss"):
        training.read_tensorboard(tmp_path / "train", "loss")


def test_a_line_that_is_rewritten_shows_at_once(monkeypatch):
    """Without a flush, a terminal shows it when the work is done."""
    from utils.progress import Line

    seen = []

    class Terminal(io.StringIO):
        def flush(self):
            seen.append(self.getvalue())

    monkeypatch.setattr("sys.stdout", Terminal())
    Line().show("first, and longer")
    Line().show("second")
    assert seen[0].startswith("\rfirst") and seen[1].endswith(f"\r{'second':<110}")


def test_what_follows_a_rewritten_line_stands_below_it(capsys):
    from utils.progress import Line

    line = Line()
    line.end()
    assert capsys.readouterr().out == "", "nothing was shown, so nothing is ended"
    line.show("all")
    line.end()
    assert capsys.readouterr().out == f"\r{'all':<110}\n"
