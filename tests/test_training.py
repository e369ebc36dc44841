"""Progress, the stop on a bad loss, kept weights, and the schedule."""

import time

import keras
import numpy as np
import pytest

from utils import training
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
            time.sleep(0.4)

    progress = training.Progress("fitting")
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)  # builds the graphs, so that the seconds below are small
    model.evaluate(x, y, verbose=0)
    started = time.perf_counter()
    model.fit(x, y, batch_size=16, epochs=3, validation_data=(x, y), verbose=0, callbacks=[progress, SlowValidation()])
    passed = time.perf_counter() - started
    assert len(progress.seconds) == 3 and progress.seconds == sorted(progress.seconds)
    assert progress.seconds[-1] < passed - 1.2, "three validations slept for at least 1.2 s"
    last = capsys.readouterr().out.split("\r")[-1]
    assert last.startswith("fitting: 3 epochs in") and "val_loss" in last


def test_bad_loss_stops_at_once_and_names_the_step(model):
    bad = x.copy()
    bad[40] = np.nan  # the third batch of 16
    steps = []

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            steps.append(batch)

    with pytest.raises(CourseError, match="The loss is nan at step 3, so training stopped"):
        model.fit(bad, y, batch_size=16, shuffle=False, verbose=0, callbacks=[Count(), training.StopOnBadLoss()])
    assert len(steps) == 3


def test_good_loss_does_not_stop(model):
    model.fit(x, y, epochs=2, verbose=0, callbacks=[training.StopOnBadLoss()])


def test_saved_weights_and_record_come_back(model, tmp_path):
    path = tmp_path / "deep" / "run"
    training.save(model, path, val_loss=[0.5, np.float32(0.25)], seconds=3)
    before = model.get_weights()
    model.set_weights([weights + 1 for weights in before])
    assert training.load(model, path) == {"val_loss": [0.5, 0.25], "seconds": 3}
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_a_module_of_tensorflow_comes_back_too(tmp_path):
    tf = pytest.importorskip("tensorflow")

    class Module(tf.Module):
        def __init__(self, width):
            self.a, self.b = tf.Variable(tf.random.normal([2, width])), tf.Variable(tf.random.normal([width]))

    kept, fresh = Module(3), Module(3)
    training.save(kept, tmp_path / "flow", seconds=[1.5])
    assert training.load(fresh, tmp_path / "flow") == {"seconds": [1.5]}
    assert np.array_equal(fresh.a, kept.a) and np.array_equal(fresh.b, kept.b)
    with pytest.raises(CourseError, match="does not fit .*: set LOAD = False and train again"):
        training.load(Module(4), tmp_path / "flow")
    with pytest.raises(CourseError, match="No weights of an earlier run"):
        training.load(kept, tmp_path / "other")


def test_interrupted_save_leaves_the_older_one(model, tmp_path, monkeypatch):
    path = tmp_path / "run"
    training.save(model, path, epoch=1)

    def half_written(self, target, **_):
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "save_weights", half_written)
    with pytest.raises(KeyboardInterrupt):
        training.save(model, path, epoch=2)
    assert training.load(model, path) == {"epoch": 1}


def test_missing_or_foreign_weights_are_one_clear_line(model, tmp_path):
    with pytest.raises(CourseError, match="No weights of an earlier run in .*: set LOAD = False"):
        training.load(model, tmp_path / "run")
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)])
    training.save(other, tmp_path / "run")
    with pytest.raises(CourseError, match="does not fit .*: set LOAD = False and train again"):
        training.load(model, tmp_path / "run")


def test_schedule_rises_to_its_peak_and_falls_to_zero():
    schedule = training.warmup_cosine(0.01, steps=200, warmup=0.1)
    rates = [float(schedule(step)) for step in range(201)]
    assert np.argmax(rates) == 20 and rates[20] == pytest.approx(0.01)
    assert rates[110] == pytest.approx(0.005, rel=0.01), "half-way down, a cosine stands at half"
    assert rates[200] == pytest.approx(0, abs=1e-6) and rates[0] < 0.001


def test_compilation_is_chosen_by_device_and_kind(monkeypatch):
    monkeypatch.setattr(training.course, "backend", lambda: "tensorflow")
    monkeypatch.setattr(training.course, "has_gpu", lambda: False)
    assert training.jit_compile("dense") is True and training.jit_compile("convolutions") is False
    monkeypatch.setattr(training.course, "has_gpu", lambda: True)
    assert training.jit_compile("convolutions") == "auto"
    with pytest.raises(ValueError, match="'convolutions' or 'dense'"):
        training.jit_compile("images")


def test_clock_and_bar():
    assert training.clock(8.4) == "8 s" and training.clock(125) == "2 min 05 s"
    assert training.bar(0.25, 8) == "██░░░░░░" and training.bar(2.0, 4) == "████"


# ------------------------------------------------------------------------------------------------ whole epochs


class Gaussian(keras.Model):
    """A density with a mean and a log standard deviation to learn."""

    def __init__(self):
        super().__init__()
        self.mean = self.add_weight(shape=(2,), initializer="zeros", name="mean")
        self.log_std = self.add_weight(shape=(2,), initializer="zeros", name="log_std")
        self.built = True

    def log_prob(self, x):
        z = (x - self.mean) * keras.ops.exp(-self.log_std)
        return keras.ops.sum(-0.5 * z**2 - self.log_std - 0.5 * np.log(2 * np.pi), axis=-1)

    def call(self, x):
        return self.log_prob(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -keras.ops.mean(y_pred)


points = (np.random.default_rng(1).normal(size=(1000, 2)) * [0.5, 2.0] + [3.0, -1.0]).astype("float32")


def fit(model, **changes):
    settings = {"optimizer": keras.optimizers.Adam(0.05), "epochs": 30, "batch": 100}
    return training.fit_density(model, points, **(settings | changes))


def test_whole_epochs_find_the_maximum_likelihood():
    model = Gaussian()
    history = fit(model, epochs=60)
    assert np.allclose(model.mean, points.mean(axis=0), atol=0.1)
    assert np.allclose(np.exp(model.log_std), points.std(axis=0), rtol=0.1)
    assert len(history["loss"]) == len(history["seconds"]) == 60 and history["seconds"] == sorted(history["seconds"])


def test_whole_epochs_do_the_steps_that_a_plain_loop_does():
    """SGD by hand in NumPy on the mean, with the batches that the documented shuffle gives."""
    model = Gaussian()
    model.log_std.trainable = False
    fit(model, optimizer=keras.optimizers.SGD(0.1), epochs=3, batch=300, seed=7)
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
    assert best < len(history["val_loss"]) - 1 < 29, "the shifted points are best on the way, and training stops early"
    assert len(history["val_loss"]) - 1 - best == 3
    assert len(seen) == len(history["loss"]) + 1 and np.allclose(seen[0], 0)
    assert np.array_equal(model.mean, seen[best + 1])


def test_a_loss_that_is_not_finite_stops_training_and_names_the_step():
    with pytest.raises(CourseError, match=r"at step \d+, so training stopped"):
        fit(Gaussian(), optimizer=keras.optimizers.SGD(1e6))


def test_penalties_of_the_layers_are_part_of_the_loss():
    """The regulariser of the book's RealNVP had no effect, because its own training step left it out."""
    free, held = Gaussian(), Gaussian()
    held.mean.regularizer = keras.regularizers.L2(10.0)
    fit(free), fit(held)
    assert abs(float(held.mean[0])) < 0.2 * abs(float(free.mean[0]))


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
    assert set(history) == {"loss", "val_loss", "seconds"} and seen == list(range(len(history["loss"]) + 1))


def test_compiled_uses_the_weights_of_the_moment():
    model = Gaussian()
    log_prob = training.compiled(model.log_prob, model)
    before = log_prob(points)
    assert isinstance(before, np.ndarray) and np.allclose(before, model.log_prob(points), atol=1e-5)
    model.mean.assign([5.0, 5.0])
    assert np.allclose(log_prob(points), model.log_prob(points), atol=1e-4)
    assert not np.allclose(log_prob(points), before, atol=1.0)
