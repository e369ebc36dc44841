"""Training that is pleasant to watch and safe to stop: progress, a stop on a bad loss, weights kept and found again."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from utils import course
from utils.course import CourseError


def jit_compile(kind: str):
    """What `model.compile(jit_compile=…)` should be for a network of this kind: "convolutions" or "dense".

    XLA fuses many small operations into few. On a CPU that about halves the time of small dense networks, but its own
    convolutions are slower than the library (oneDNN) that TensorFlow calls without it. On a GPU, and on JAX, which
    always compiles, Keras decides.
    """
    if kind not in ("convolutions", "dense"):
        raise ValueError(f"kind is {kind!r}: it is 'convolutions' or 'dense'.")
    if course.backend() != "tensorflow" or course.has_gpu():
        return "auto"
    return kind == "dense"


def warmup_cosine(peak: float, steps: int, warmup: float = 0.1) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that climbs to `peak` over the first `warmup` share of `steps` and falls to 0 as a cosine.

    Source: Loshchilov and Hutter, SGDR (2017), equation 5, without restarts; warm-up as in Goyal et al. (2017).
    """
    rise = max(1, round(warmup * steps))
    return keras.optimizers.schedules.CosineDecay(
        peak / 100, decay_steps=max(1, steps - rise), warmup_target=peak, warmup_steps=rise
    )


# ------------------------------------------------------------------------------------------------ callbacks


class Progress(keras.callbacks.Callback):
    """One line that shows how far training is, how long it takes, and the last figures; the last state stays.

    After training, `seconds` holds the training seconds at the end of each epoch, validation left out.
    """

    REFRESH_SECONDS = 0.5

    def __init__(self, label: str = "training", unit: str = "epoch"):
        super().__init__()
        self.label, self.unit = label, unit
        self.seconds: list[float] = []

    def on_train_begin(self, logs=None):
        self.line = Line()
        self.spent = self.shown = 0.0
        self.resumed = time.perf_counter()
        self.figures = ""
        self.seconds.clear()
        self.first_epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.first_epoch = epoch if self.first_epoch is None else self.first_epoch
        self.resumed = time.perf_counter()
        self.validating = False

    def on_train_batch_end(self, batch, logs=None):
        if time.perf_counter() - self.shown > self.REFRESH_SECONDS:
            self._show(batch + 1, logs)

    def on_test_begin(self, logs=None):
        if hasattr(self, "validating") and not self.validating:
            self.spent += time.perf_counter() - self.resumed
            self.validating = True

    def on_epoch_end(self, epoch, logs=None):
        if not self.validating:
            self.spent += time.perf_counter() - self.resumed
        self.seconds.append(self.spent)
        self.figures = _figures(logs)
        if time.perf_counter() - self.shown > self.REFRESH_SECONDS:
            self._show(None, logs)

    def on_train_end(self, logs=None):
        trained = len(self.seconds)
        self.line.show(
            f"{self.label}: {trained} {self.unit}{'s' * (trained != 1)} in {clock(self.spent)}   {self.figures}"
        )

    def _show(self, batch, logs):
        self.shown = time.perf_counter()
        epochs, steps = self.params.get("epochs") or 1, self.params.get("steps")
        in_epoch = (batch / steps) if batch and steps else (1.0 if batch is None else 0.0)
        share = (self.epoch - self.first_epoch + in_epoch) / max(1, epochs - self.first_epoch)
        running = self.spent + (self.shown - self.resumed if batch else 0)
        left = f", about {clock(running / share - running)} left" if share > 0.02 else ""
        now = self.figures if batch is None else _figures(logs)
        self.line.show(
            f"{self.label}: {bar(share)} {self.unit} {self.epoch + 1} of {epochs}, {clock(running)}{left}   {now}"
        )


class StopOnBadLoss(keras.callbacks.Callback):
    """Stops training at once, with a CourseError that names the step, when the loss is not finite."""

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        _stop_unless_finite(float((logs or {}).get("loss", 0.0)), self.step)


def _stop_unless_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise CourseError(
            f"The loss is {loss} at step {step}, so training stopped: "
            "lower the learning rate, and look for values in the data that are not finite."
        )


class SampleImages(keras.callbacks.Callback):
    """After each epoch decodes the same points and saves the pictures as one PNG, `epoch-003.png`, in a folder.

    `points` is (count, latent_dim); the decoder gives images (count, height, width, 1 or 3) in [0, 1].
    """

    def __init__(self, decoder, points: np.ndarray, folder: Path, columns: int = 10):
        super().__init__()
        self.decoder, self.points, self.folder, self.columns = decoder, points, Path(folder), columns

    def on_epoch_end(self, epoch, logs=None):
        images = keras.ops.convert_to_numpy(self.decoder(self.points))
        lines = [np.concatenate(line, axis=1) for line in _in_lines(images, self.columns)]
        pixels = (255 * np.concatenate(lines)).round().astype("uint8")
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
            self.folder / f"epoch-{epoch + 1:03d}.png"
        )


def _in_lines(images: np.ndarray, columns: int) -> list[np.ndarray]:
    """Images in lines of `columns`, the last one filled up with black."""
    missing = -len(images) % columns
    filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    return np.split(filled, len(filled) // columns)


def checkpoint(folder: Path, resume: bool) -> keras.callbacks.Callback:
    """Keras' callback that keeps weights and optimizer after each epoch, and removes them when training is done.

    With `resume` an interrupted training goes on after its last whole epoch; without, what is left of one is removed.
    """
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return keras.callbacks.BackupAndRestore(str(folder), double_checkpoint=True, delete_checkpoint=True)


class Line:
    """A line of text that can be rewritten: in a notebook one output is updated, in a terminal the line."""

    def __init__(self):
        self.handle = None

    def show(self, text: str) -> None:
        if _in_notebook():
            from IPython.display import display

            content = {"text/plain": text}
            if self.handle is None:
                self.handle = display(content, raw=True, display_id=True)
            else:
                self.handle.update(content, raw=True)
        else:
            print(f"\r{text:<110}", end="", flush=True)


def bar(share: float, width: int = 20) -> str:
    """A bar of `width` characters of which `share` (0 to 1) is filled."""
    filled = round(width * min(1.0, max(0.0, share)))
    return "█" * filled + "░" * (width - filled)


def clock(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "2 min 05 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _figures(logs) -> str:
    return "  ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items() if name != "learning_rate")


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None


# ------------------------------------------------------------------------------------------------ whole epochs


def fit_density(
    model, x, *, optimizer, epochs, batch, validation=None, patience=None, variables=None, seed=0,
    kind="dense", label="training", each_epoch=None,
) -> dict[str, list[float]]:  # fmt: skip
    """Trains a density model by maximum likelihood, a whole epoch in one compiled graph.

    `model` has `log_prob(x)`, (count, …) to (count,) in nats, and `trainable_variables`, of Keras or of TensorFlow;
    where it does not list them all, give `variables`. `x` is (count, …) float32. Each epoch shuffles it, by `seed`,
    and cuts it into batches of `batch`; the few points left over wait for another epoch. `optimizer` is one of Keras'.
    The loss is the mean of −log_prob plus the penalties that a Keras model declares (`model.losses`).

    With `validation`, points like x, the NLL on them is measured after each epoch. With `patience`, training stops
    after that many epochs with no better one, and the weights of the best epoch are restored. `each_epoch(epoch)`, for
    pictures on the way, is called with 0 before the first epoch and with 1, 2, … after each. `kind` is that of
    `jit_compile`.

    Returns lists with a value an epoch: `loss` in nats, `val_loss` if there is validation, and `seconds` of training so
    far, compilation included, validation and `each_epoch` left out.

    Why a whole epoch: a step of a small flow takes less time than Python takes to start it. On TensorFlow the loop over
    the batches runs inside the graph. On another backend Keras' `fit` trains, and the model is one of Keras', whose
    `compute_loss` gives the same loss.

    Raises CourseError if there is nothing to train, and at the end of an epoch in which the loss was not finite.
    """
    variables = list(model.trainable_variables if variables is None else variables)
    if not variables:
        raise CourseError("The model has no trainable variables and would not learn: build it, and track its networks.")
    if len(x) < batch:
        raise CourseError(f"{len(x)} points do not make a batch of {batch}: lower the batch size.")
    if patience is not None and validation is None:
        raise CourseError("Without validation points nothing tells which epoch is the best: give validation=….")
    each_epoch = each_epoch or (lambda epoch: None)
    progress = Progress(label)
    if course.backend() != "tensorflow":
        if not isinstance(model, keras.Model):
            raise CourseError(f"{type(model).__name__} trains on TensorFlow alone: unset KERAS_BACKEND.")
        callbacks = [progress, StopOnBadLoss(), keras.callbacks.LambdaCallback(lambda e, logs: each_epoch(e + 1))]
        each_epoch(0)
        model.compile(optimizer, jit_compile=jit_compile(kind))
        return _fit_by_keras(model, x, epochs, batch, validation, patience, callbacks) | {"seconds": progress.seconds}

    run_epoch, measure = _compile_epoch(model, variables, x, optimizer, kind)
    rng = np.random.default_rng(seed)
    history = {"loss": []} | ({"val_loss": []} if validation is not None else {})
    best, best_epoch, best_values = math.inf, 0, []
    steps = len(x) // batch
    each_epoch(0)
    progress.set_params({"epochs": epochs, "steps": steps})
    progress.on_train_begin()
    for epoch in range(epochs):
        progress.on_epoch_begin(epoch)
        losses = run_epoch(rng.permutation(len(x))[: steps * batch].reshape(steps, batch)).numpy()
        for step in np.flatnonzero(~np.isfinite(losses))[:1]:
            _stop_unless_finite(float(losses[step]), epoch * steps + int(step) + 1)
        logs = {"loss": float(losses.mean())}
        progress.on_test_begin()
        if validation is not None:
            logs["val_loss"] = float(measure(validation))
        progress.on_epoch_end(epoch, logs)
        for name, value in logs.items():
            history[name].append(value)
        each_epoch(epoch + 1)
        if patience is not None:
            if logs["val_loss"] < best:
                best, best_epoch, best_values = logs["val_loss"], epoch, [v.numpy() for v in variables]
            if epoch - best_epoch >= patience:
                break
    for variable, value in zip(variables, best_values, strict=False):
        variable.assign(value)
    progress.on_train_end()
    return history | {"seconds": progress.seconds}


def _compile_epoch(model, variables, x, optimizer, kind):
    """Two compiled functions: one runs an epoch and gives the loss of each step, one gives the NLL of points."""
    import tensorflow as tf

    x = tf.constant(x)
    optimizer.build(variables)
    raw = [getattr(v, "value", v) if isinstance(v, keras.Variable) else v for v in variables]
    compiled = tf.function(jit_compile=bool(jit_compile(kind)))

    @compiled
    def run_epoch(order):  # (steps, batch): which points go into which step
        losses = tf.TensorArray(tf.float32, len(order))
        for step in tf.range(len(order)):
            points = tf.gather(x, order[step])
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(model.log_prob(points))
                loss += sum(getattr(model, "losses", []))
            optimizer.apply(tape.gradient(loss, raw), variables)
            losses = losses.write(step, loss)
        return losses.stack()

    @compiled
    def measure(points):
        return -tf.reduce_mean(model.log_prob(points))

    return run_epoch, measure


def _fit_by_keras(model, x, epochs, batch, validation, patience, callbacks):
    """Keras' own loop over steps, with the same early stopping, for a model that is compiled."""
    if patience is not None:
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True))
    watched = {} if validation is None else {"validation_data": (validation,), "validation_batch_size": len(validation)}
    fitted = model.fit(x, batch_size=batch, epochs=epochs, callbacks=callbacks, verbose=0, **watched)
    return {name: fitted.history[name] for name in ("loss", "val_loss") if name in fitted.history}


def compiled(function, model, kind: str = "dense"):
    """A compiled form of `function`, which takes arrays and uses `model`'s weights as they are at each call.

    What it returns, a tensor or a tuple of them, comes as NumPy arrays. The first call with a new shape compiles.
    """
    if course.backend() == "tensorflow":
        import tensorflow as tf

        run = tf.function(function, jit_compile=bool(jit_compile(kind)))
    elif course.backend() == "jax":
        import jax

        def pure(values, *inputs):  # JAX would freeze weights that are not handed in
            with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
                return function(*inputs)

        jitted = jax.jit(pure)

        def run(*inputs):
            return jitted([v.value for v in model.variables], *inputs)
    else:
        run = function

    def call(*inputs):
        outputs = run(*[keras.ops.convert_to_tensor(x) for x in inputs])
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    return call


# ------------------------------------------------------------------------------------------------ kept weights


def save(model, path: Path, **record) -> None:
    """Keeps a model's weights beside `path` and a record (lists and numbers) in `<path>.json`.

    Of a Keras model they go into `<path>.weights.h5`; of a `tf.Module`, such as a flow of TFP, `model.variables` go
    into `<path>.weights.npz`. All files are written beside their place and moved there, so that an interrupted save
    leaves the older ones whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = _weights(model, path.with_name(path.name + ".half"))
    if isinstance(model, keras.Model):
        model.save_weights(half)
    else:
        np.savez(half, *[variable.numpy() for variable in model.variables])
    half.replace(_weights(model, path))
    half = path.with_name(path.name + ".half.json")
    half.write_text(json.dumps(record, default=float), "utf-8")
    half.replace(path.with_name(path.name + ".json"))


def load(model, path: Path) -> dict:
    """Loads what `save` kept into a model of the same architecture, and returns the record.

    Raises CourseError where there is nothing, or nothing that fits.
    """
    weights = _weights(model, path)
    if not weights.exists():
        raise CourseError(f"No weights of an earlier run in {weights}: set LOAD = False and run this cell.")
    try:
        if isinstance(model, keras.Model):
            model.load_weights(weights)
        else:
            with np.load(weights) as kept:
                for variable, name in zip(model.variables, kept.files, strict=True):
                    variable.assign(kept[name])
        return json.loads(path.with_name(path.name + ".json").read_text("utf-8"))
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CourseError(f"{weights} does not fit ({reason}): set LOAD = False and train again.") from None


def _weights(model, path: Path) -> Path:
    return path.with_name(path.name + (".weights.h5" if isinstance(model, keras.Model) else ".weights.npz"))
