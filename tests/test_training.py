"""Progress, the stop on a bad loss, kept weights, and the schedule."""

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
            import time

            time.sleep(0.4)

    progress = training.Progress("fitting")
    model.fit(x, y, batch_size=16, epochs=1, verbose=0)  # builds the graphs, so that the seconds below are small
    model.evaluate(x, y, verbose=0)
    model.fit(x, y, batch_size=16, epochs=3, validation_data=(x, y), verbose=0, callbacks=[progress, SlowValidation()])
    assert len(progress.seconds) == 3 and progress.seconds == sorted(progress.seconds)
    assert progress.seconds[-1] < 1.0, "three validations slept for more than 1.2 s"
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
