"""Training that is pleasant to watch and safe to stop: whole epochs, kept weights."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import time
import weakref
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from utils import course, progress
from utils.checks import finite, float32
from utils.course import CourseError


def jit_compile(kind: str):
    """What `model.compile(jit_compile=…)` should be: "convolutions" or "dense".

    XLA fuses many small operations into few. On a CPU that about halves the time of
    small dense networks, but its own convolutions are slower than the library (oneDNN)
    that TensorFlow calls without it. The few steps of the quick profile take less time
    than compiling them would, so there is none in it. On a GPU, and on JAX, which
    always compiles, Keras decides.
    """
    if kind not in ("convolutions", "dense"):
        raise ValueError(f"kind is {kind!r}: it is 'convolutions' or 'dense'.")
    if course.backend() != "tensorflow" or course.has_gpu():
        return "auto"
    return kind == "dense" and course.profile() == "full"


def warmup_cosine(peak: float, steps: int, warmup: float = 0.1):
    """A learning rate that climbs to `peak` and then falls to 0 as a cosine.

    It climbs over the first `warmup` fraction of `steps`. Source: Loshchilov and
    Hutter, SGDR (2017), equation 5, without restarts; warm-up as in Goyal et al.
    (2017).
    """
    rise = max(1, round(warmup * steps))
    return keras.optimizers.schedules.CosineDecay(
        peak / 100,
        decay_steps=max(1, steps - rise),
        warmup_target=peak,
        warmup_steps=rise,
    )


# ------------------------------------------------------------------ callbacks


class Progress(keras.callbacks.Callback):
    """One line that shows how far training is, how long it takes, and its figures.

    `seconds` holds the seconds of training at the end of each epoch, validation left
    out.
    """

    def __init__(self, label: str = "training"):
        super().__init__()
        self.label, self.seconds = label, []

    def on_train_begin(self, logs=None):
        self.seconds.clear()
        self.bar, self.spent, self.since = None, 0.0, None

    def on_epoch_begin(self, epoch, logs=None):
        steps = self.params["steps"] or 1
        if self.bar is None:  # a resumed training does not begin with epoch 0
            total, done = steps * self.params["epochs"], steps * epoch
            self.bar = progress.bar(total, self.label, done=done)
        self.step, self.since = 0, time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update(batch + 1 - self.step)  # several with steps_per_execution
        self.step = batch + 1

    def on_test_begin(self, logs=None):
        self._pause()

    def on_epoch_end(self, epoch, logs=None):
        self._pause()
        self.seconds.append(self.spent)
        self.bar.set_postfix(_shown(logs or {}), refresh=False)

    def on_train_end(self, logs=None):
        if self.bar is not None:
            self.bar.close()

    def _pause(self):
        if getattr(self, "since", None) is not None:
            self.spent += time.perf_counter() - self.since
            self.since = None


def _shown(figures: dict) -> dict:
    return {k: f"{float(v):.4g}" for k, v in figures.items() if k != "learning_rate"}


class StopOnBadLoss(keras.callbacks.Callback):
    """Stops training, with one line, at the first figure that is not finite.

    A loss stops it at once and the line names the step; a figure of the validation
    stops it after the epoch.
    """

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        _stop_unless_finite((logs or {}).get("loss", 0.0), f"step {self.step}")

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            _stop_unless_finite(value, f"the end of epoch {epoch + 1}", name)


def _stop_unless_finite(value, where: str, name: str = "loss") -> None:
    if not math.isfinite(float(value)):
        data = "validation data" if name.startswith("val_") else "data"
        raise CourseError(
            f"The {name} is {float(value)} at {where}, so training stopped: look for "
            f"values in the {data} that are not finite, or lower the learning rate."
        )


class Curve(keras.callbacks.Callback):
    """Notes the loss of a training by Keras' `fit` more often than each epoch.

    After every `every` batches of `batch` images, `images` gets the number of images
    seen so far, and `bits` the mean loss since the last note, in the loss' own unit.
    """

    def __init__(self, batch: int, every: int = 20):
        super().__init__()
        self.batch, self.every = batch, every
        self.images, self.bits, self.seen = [], [], 0

    def on_epoch_begin(self, epoch, logs=None):
        self.total = 0.0

    def on_train_batch_end(self, step, logs):
        self.seen += self.batch
        if (step + 1) % self.every == 0:
            total = (step + 1) * logs[
                "loss"
            ]  # Keras gives the mean of the epoch so far
            self.images.append(self.seen)
            self.bits.append(float(total - self.total) / self.every)
            self.total = total


class SampleImages(keras.callbacks.Callback):
    """After each epoch decodes the same points into one PNG, `epoch-003.png`.

    `points` is (count, latent_dim); the decoder gives images (count, height, width, 1
    or 3) in [0, 1]; the pictures go into `folder`.
    """

    def __init__(self, decoder, points: np.ndarray, folder: Path, columns: int = 10):
        super().__init__()
        self.decoder, self.points = decoder, points
        self.folder, self.columns = Path(folder), columns

    def on_epoch_end(self, epoch, logs=None):
        images = keras.ops.convert_to_numpy(self.decoder(self.points))
        missing = -len(images) % self.columns  # the last row is filled with black
        images = np.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        rows = images.reshape(-1, self.columns, *images.shape[1:])
        sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
        pixels = (255 * sheet).round().astype("uint8")
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        with course.replacing(self.folder / f"epoch-{epoch + 1:03d}.png") as part:
            picture.save(part)


def read_tensorboard(folder: Path, name: str) -> list[float]:
    """One curve, such as "epoch_loss", of TensorBoard's files in a folder.

    Raises CourseError where there is no such curve.
    """
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    every = {event_accumulator.TENSORS: 0}  # 0: all of them
    events = event_accumulator.EventAccumulator(str(folder), every).Reload()
    curves = events.Tags()["tensors"]
    if name not in curves:
        raise CourseError(
            f"{folder} has no curve {name!r}, but {', '.join(curves) or 'none at all'}."
        )
    return [
        float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(name)
    ]


def checkpoint(folder: Path, resume: bool) -> keras.callbacks.Callback:
    """Keras' callback that keeps weights and optimizer after each epoch.

    With `resume` an interrupted training goes on after its last whole epoch; without,
    what is left of one is removed. A finished training leaves none.
    """
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    return keras.callbacks.BackupAndRestore(
        str(folder), double_checkpoint=True, delete_checkpoint=True
    )


# ------------------------------------------------------------------ whole epochs


def fit_density(
    model, x, *, optimizer, epochs, batch, validation=None, patience=None,
    variables=None, seed=0, kind="dense", label="training", each_epoch=None,
) -> dict[str, list[float]]:  # fmt: skip
    """Trains a density model by maximum likelihood, a whole epoch in one graph.

    `model` has `log_prob(x)`, (count, …) to (count,) in nats, and
    `trainable_variables`, of Keras or of TensorFlow; where it does not list them all,
    give `variables`. `x` is (count, …): an array, a list or a DataFrame of finite
    numbers, which become float32. Each epoch shuffles it, by `seed`, and cuts it into
    batches of `batch`; the few points left over wait for another epoch. `optimizer` is
    one of Keras'. The loss is the mean of −log_prob plus the penalties that a Keras
    model declares (`model.losses`).

    With `validation`, points like x, the NLL on them is measured after each epoch. With
    `patience`, training stops after that many epochs with no better one, and the
    weights of the best epoch are restored, also after an error or Ctrl-C.
    `each_epoch(epoch)`, for pictures on the way, is called with 0 before the first
    epoch and with 1, 2, … after each. `kind` is that of `jit_compile`.

    Returns lists with a value an epoch: `loss` in nats, `val_loss` if there is
    validation, and `seconds` of training so far, compilation included, validation and
    `each_epoch` left out.

    Why a whole epoch: a step of a small flow takes less time than Python takes to start
    it. On TensorFlow the loop over the batches runs inside the graph. Keras' own `fit`
    comes nearer to that with `compile(jit_compile=True, steps_per_execution=…)`: an
    epoch of chapter 4's flow, 117 steps, took it 0.43 s with 1, 0.30 s with 16 and
    0.29 s with 117, where the one graph took 0.11 s, and its first epoch 9 s in place
    of 4 (two cores of an Intel Xeon with AVX-512). On another backend `fit` trains, in
    its own order and all variables; the model is one of Keras', whose `compute_loss`
    gives the same loss, and the best weights come back where training ends by itself.

    Raises CourseError if there is nothing to train, if the model does not take such
    points or gives no single number for each, if the optimizer has trained another
    model, and when the loss or the validation's is not finite.
    """
    variables = list(model.trainable_variables if variables is None else variables)
    _refuse(variables, optimizer, epochs, batch, patience, validation)
    x = finite(x, "x")
    if validation is not None:
        validation = finite(validation, "validation")
        if validation.shape[1:] != x.shape[1:]:
            raise CourseError(
                f"validation has points of shape {validation.shape[1:]} and x of shape "
                f"{x.shape[1:]}: give the same."
            )
    if len(x) < batch:
        raise CourseError(f"{len(x)} points do not make a batch of {batch}: lower it.")
    settings = epochs, batch, validation, each_epoch or (lambda epoch: None), label
    if course.backend() != "tensorflow":
        if not isinstance(model, keras.Model):
            raise CourseError(
                f"{type(model).__name__} trains on TensorFlow alone: unset "
                "KERAS_BACKEND."
            )
        model.compile(optimizer, jit_compile=jit_compile(kind))
        return _fit_by_keras(model, x, patience, *settings)
    graphs = _compile_epoch(model, variables, x, optimizer, kind)
    best = _Best([*variables, *getattr(model, "variables", ())], patience)
    try:
        return _fit_by_graphs(graphs, x, best, seed, *settings)
    finally:
        best.restore()


def _refuse(variables, optimizer, epochs, batch, patience, validation) -> None:
    """CourseError for settings that make no sense."""
    counts = {"epochs": epochs, "batch": batch}
    counts |= {} if patience is None else {"patience": patience}
    for name, value in counts.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise CourseError(f"{name} is {value!r}: give a whole number from 1 on.")
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise CourseError(
            f"optimizer is {optimizer!r}: give one of Keras 3, such as "
            "keras.optimizers.Adam(1e-3)."
        )
    if not variables:
        raise CourseError(
            "The model has no trainable variables and would not learn: "
            "build it, and track its networks."
        )
    if patience is not None and validation is None:
        raise CourseError(
            "Without validation points nothing tells which epoch is the best: "
            "give validation=…."
        )


def _fit_by_graphs(graphs, x, best, seed, epochs, batch, validation, each_epoch, label):
    """Whole epochs, in one TensorFlow graph each."""
    run_epoch, measure = graphs
    rng, steps, spent = np.random.default_rng(seed), len(x) // batch, 0.0
    history = {"loss": [], "val_loss": [], "seconds": []}
    each_epoch(0)
    bar = progress.bar(epochs * steps, label)
    for epoch in range(epochs):
        started = time.perf_counter()
        order = rng.permutation(len(x))[: steps * batch].reshape(steps, batch)
        losses = run_epoch(order).numpy()
        spent += time.perf_counter() - started
        if not np.isfinite(losses).all():
            step = int(np.argmin(np.isfinite(losses)))
            _stop_unless_finite(losses[step], f"step {epoch * steps + step + 1}")
        figures = {"loss": float(losses.mean())}
        if validation is not None:
            value = figures["val_loss"] = float(measure(validation))
            _stop_unless_finite(value, f"the end of epoch {epoch + 1}", "val_loss")
        for name, value in {**figures, "seconds": spent}.items():
            history[name].append(value)
        bar.set_postfix(_shown(figures), refresh=False)
        bar.update(steps)
        each_epoch(epoch + 1)
        if best.enough(epoch, figures.get("val_loss")):
            break
    bar.close()
    return {name: values for name, values in history.items() if values}


def _fit_by_keras(model, x, patience, epochs, batch, validation, each_epoch, label):
    """Keras' own loop over steps, for a model that is compiled."""
    watch = Progress(label)
    after = keras.callbacks.LambdaCallback(lambda e, logs: each_epoch(e + 1))
    callbacks, settings = [watch, StopOnBadLoss(), after], {}
    if patience is not None:
        settings_of_stop = {"patience": patience, "restore_best_weights": True}
        callbacks.append(keras.callbacks.EarlyStopping("val_loss", **settings_of_stop))
    if validation is not None:
        settings["validation_data"] = (validation,)
        settings["validation_batch_size"] = len(validation)
    each_epoch(0)
    settings |= {"batch_size": batch, "epochs": epochs, "callbacks": callbacks}
    history = model.fit(x, verbose=0, **settings).history
    kept = {name: history[name] for name in ("loss", "val_loss") if name in history}
    return kept | {"seconds": watch.seconds}


class _Best:
    """Keeps the variables of the epoch with the lowest validation figure."""

    def __init__(self, variables, patience):
        self.variables, self.patience = variables, patience
        self.figure, self.epoch, self.values = math.inf, 0, None

    def enough(self, epoch: int, figure: float | None) -> bool:
        """Whether `patience` epochs have passed without a better one."""
        if self.patience is None:
            return False
        if figure < self.figure:
            self.figure, self.epoch = figure, epoch
            self.values = [v.numpy() for v in self.variables]
        return epoch - self.epoch >= self.patience

    def restore(self):
        if self.values is not None:
            for variable, value in zip(self.variables, self.values, strict=True):
                variable.assign(value)


def _compile_epoch(model, variables, x, optimizer, kind):
    """Two graphs: one runs an epoch and gives its losses, one the NLL of points."""
    import tensorflow as tf

    x = tf.constant(x)
    raw = [v.value if isinstance(v, keras.Variable) else v for v in variables]
    update = _one_vector(optimizer, variables, raw)
    if update is None:
        optimizer.build(variables)

        def update(gradients):
            optimizer.apply(gradients, variables)

    def nll(points):
        log_prob = model.log_prob(points)
        if len(log_prob.shape) != 1:  # its mean would be a false likelihood
            raise ValueError(
                f"log_prob gives shape {tuple(log_prob.shape)}, and it is to be one "
                "number a point: sum over the last axis"
            )
        return -tf.reduce_mean(log_prob)

    compiled = tf.function(jit_compile=bool(jit_compile(kind)))

    @compiled
    def run_epoch(order):  # (steps, batch): which points go into which step
        losses = tf.TensorArray(tf.float32, len(order))
        for step in tf.range(len(order)):
            points = tf.gather(x, order[step])
            with tf.GradientTape() as tape:
                loss = nll(points)
                loss += sum(getattr(model, "losses", []))
            update(tape.gradient(loss, raw))
            losses = losses.write(step, loss)
        return losses.stack()

    @compiled
    def measure(points):
        return nll(points)

    shape = x.shape[1:]
    return _explained(run_epoch, model, shape), _explained(measure, model, shape)


def _another_model() -> CourseError:
    return CourseError(
        "This optimizer has trained another model, whose moments and step it keeps: "
        "make a new optimizer for this one."
    )


def _explained(graph, model, shape):
    """The graph, with one line where it cannot be compiled for points of this shape.

    A graph's own error speaks of symbolic tensors; the model's, called by itself, says
    which of its lines failed.
    """

    def call(points):
        try:
            return graph(points)
        except (TypeError, ValueError) as error:  # what compiling a graph raises
            last = [line for line in str(error).splitlines() if line.strip()][-1]
            if "Unknown variable" in str(error):
                raise _another_model() from None
            raise CourseError(
                f"{type(model).__name__} cannot be trained on points of shape "
                f"{tuple(shape)} ({type(error).__name__}: {last.strip()}). Build it "
                "for as many dimensions, or call log_prob on two points to see which "
                "line fails."
            ) from error

    return call


# Keras' optimizers that treat every number by itself: one step over all variables laid
# end to end is the same as a step for each.
ELEMENTWISE = "SGD RMSprop Adam Adadelta Adagrad Adamax Nadam Lion".split()
_vectors = weakref.WeakKeyDictionary()


def _one_vector(optimizer, variables, raw):
    """An update of all variables as one long vector, or None where that is another.

    Most of a compiled step's nodes are the optimizer's, variable by variable. Laid end
    to end they take one set of them, and the graph is traced and compiled in half of
    the time. Keras' optimizer is built on that vector, of which the variables are
    pieces. Constraints, such as a MADE's masks, hold for each piece: without them an
    autoregressive network would learn to see the future.
    """
    import tensorflow as tf

    elementwise = type(optimizer).__name__ in ELEMENTWISE
    other = optimizer.clipnorm, optimizer.weight_decay, optimizer.use_ema or None
    other += optimizer.gradient_accumulation_steps, optimizer.loss_scale_factor
    flat, owners = _vectors.get(optimizer, (None, []))
    pairs = itertools.zip_longest((owner() for owner in owners), raw)
    if flat is not None and any(owner is not variable for owner, variable in pairs):
        raise _another_model()
    sizes = [int(np.prod(v.shape)) for v in raw]
    known = flat is not None or not optimizer.built
    float32 = all(v.dtype == tf.float32 for v in raw)
    if not (elementwise and known and float32) or any(o is not None for o in other):
        return None

    def joined(tensors):
        return tf.concat([tf.reshape(t, [-1]) for t in tensors], axis=0)

    if flat is None:
        flat = keras.Variable(joined(raw), name="all_variables")
        optimizer.build([flat])
        # A second training of the same variables with it goes on.
        _vectors[optimizer] = flat, [weakref.ref(variable) for variable in raw]
    flat.assign(joined(raw))
    constraints = [getattr(v, "constraint", None) for v in variables]

    def update(gradients):
        if all(g is None for g in gradients):
            raise ValueError("no variable has a part in log_prob")
        pairs = zip(gradients, raw, strict=True)
        whole = [tf.zeros_like(v) if g is None else g for g, v in pairs]
        optimizer.apply([joined(whole)], [flat])
        pieces = tf.split(flat.value, sizes)
        for variable, piece, constraint in zip(raw, pieces, constraints, strict=True):
            value = tf.reshape(piece, variable.shape)
            variable.assign(value if constraint is None else constraint(value))
        if any(constraints):
            flat.assign(joined(raw))

    return update


def compiled(function, model, kind: str = "dense"):
    """A compiled form of `function`, which uses `model`'s weights of the moment.

    It takes arrays of finite numbers, or what becomes one, as float32 where they are
    not whole numbers. What it returns, a tensor or a tuple of them, comes as NumPy
    arrays. The first call with a new shape compiles.
    """
    if course.backend() == "tensorflow":
        import tensorflow as tf

        run = tf.function(function, jit_compile=bool(jit_compile(kind)))
    else:
        import jax

        def pure(values, *inputs):  # JAX would freeze weights that are not handed in
            state = list(zip(model.variables, values, strict=True))
            with keras.StatelessScope(state_mapping=state):
                return function(*inputs)

        jitted = jax.jit(pure)

        def run(*inputs):
            return jitted([v.value for v in model.variables], *inputs)

    def call(*inputs):
        outputs = run(*[keras.ops.convert_to_tensor(float32(x)) for x in inputs])
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    return call


# ------------------------------------------------------------------ kept weights


def save(model, path: Path, **record) -> None:
    """Keeps a model's variables and a record of lists and numbers in `<path>.npz`.

    The model is one of Keras or a `tf.Module`, such as a flow of TFP. An interrupted
    save leaves the older file whole; a full disk raises CourseError.
    """
    values = [keras.ops.convert_to_numpy(variable) for variable in _built(model)]
    text = json.dumps(record, default=lambda value: np.asarray(value).tolist())
    with course.replacing(_kept(path)) as part:
        np.savez(part, *values, record=text)


def load(model, path: Path) -> dict:
    """Loads what `save` kept into a model of the same architecture.

    Returns the record. Raises CourseError where there is nothing, or nothing that fits;
    the model's variables are then as they were.
    """
    variables = _built(model)
    if not _kept(path).exists():
        raise CourseError(
            f"No weights of an earlier run in {_kept(path)}: set LOAD = False and run "
            "this cell."
        )
    try:
        with np.load(_kept(path)) as file:
            values = [file[name] for name in file.files if name != "record"]
            record = json.loads(str(file["record"]))
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [value.shape for value in values]:
            raise ValueError(
                f"{len(values)} arrays, other shapes than the {len(shapes)} variables"
            )
    except Exception as error:  # a file that was cut or changed breaks in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CourseError(
            f"{_kept(path)} does not fit ({reason}): set LOAD = False and train again."
        ) from None
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return record


def _built(model) -> list:
    if not model.variables:
        raise CourseError(
            "The model has no variables yet: build it by calling it on one batch."
        )
    return list(model.variables)


def _kept(path: Path) -> Path:
    path = Path(path)
    return path.with_name(path.name + ".npz")
