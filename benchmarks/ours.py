"""The course's side of `make bench`, with the book's model and TFP; it runs in .venv,
one task a process.

The models are those of the chapters. `python -m benchmarks.ours TASK NAME SEED PROFILE
FILE` writes the result into FILE.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import keras
import numpy as np

from benchmarks.measure import EQUAL, POINTS, Race, peak_memory, versions
from utils import course, training
from utils.chapters import definitions
from utils.results import milliseconds

Coupling, RealNVP, build_realnvp = definitions(
    "04_realnvp", "Coupling", "RealNVP", "build_realnvp"
)
KERAS = ("keras", "tensorflow")

# ------------------------------------------------------------------ races


def train_in_graphs(model, clock, batch, peak):
    """Our training: whole epochs in one graph, a rate that climbs and falls, gradients
    cut to length 5.
    """
    rate = training.warmup_cosine(peak, clock.epochs * (len(clock.x_train) // batch))
    log_prob = training.compiled(model.log_prob, model)
    log_q = []
    history = training.fit_density(
        model,
        clock.x_train,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=clock.epochs,
        batch=batch,
        label="training",
        each_epoch=lambda epoch: (
            log_q.append(log_prob(clock.points)) if epoch else None
        ),
    )
    for seconds, values in zip(history["seconds"], log_q, strict=True):
        clock.lap(seconds, values)


def race_realnvp(seed, quick):
    """Chapter 4's flow: 16 couplings of 2 x 32."""
    clock = Race(epochs=2 if quick else 120, compiles=True)
    model = build_realnvp(2, couplings=16, width=32, depth=2)
    train_in_graphs(model, clock, batch=256, peak=5e-3)
    return clock.result(parameters=model.count_params(), versions=versions(*KERAS))


def race_spline(seed, quick):
    """Chapter 5's flow: six spline couplings of 2 x 16 with 8 bins, by TFP."""
    chain, spline_coupling = definitions("05_tfp_flows", "chain", "spline_coupling")
    clock = Race(epochs=2 if quick else 100, compiles=True)
    model = chain(spline_coupling, 6)
    train_in_graphs(model, clock, batch=512, peak=1e-2)
    parameters = int(
        sum(np.prod(variable.shape) for variable in model.trainable_variables)
    )
    return clock.result(
        parameters=parameters, versions=versions("tensorflow-probability", *KERAS)
    )


class BookCoupling(Coupling):
    """The book's affine coupling: from data to noise it subtracts and divides, where
    ours multiplies and adds.

    The two families are not the same: t is here in units of x. A bound on |s| of 1 is
    the book's tanh.
    """

    def inverse(self, x):
        s, t = self.log_scale_and_shift(x)
        return (x - t) * keras.ops.exp(-s), -keras.ops.sum(s, axis=-1)

    def forward(self, z):
        s, t = self.log_scale_and_shift(z)
        return z * keras.ops.exp(s) + t


def book_realnvp():
    """The book's: six couplings, s and t by two networks of 4 x 256 each, a log-scale
    of at most 1.
    """

    def network():
        x = keras.Input((2,))
        outputs = []
        for _ in range(2):
            h = x
            for _ in range(4):
                h = keras.layers.Dense(256, activation="relu")(h)
            outputs.append(keras.layers.Dense(2)(h))
        return keras.Model(x, keras.layers.concatenate(outputs))

    return RealNVP(
        [BookCoupling([k % 2, 1 - k % 2], network(), bound=1.0) for k in range(6)]
    )


class Laps(keras.callbacks.Callback):
    """Notes the KL after each epoch of Keras' `fit`, and leaves the time that this
    takes out.
    """

    def __init__(self, clock, log_prob):
        super().__init__()
        self.clock, self.log_prob, self.spent = clock, log_prob, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.spent += time.perf_counter() - self.started
        self.clock.lap(self.spent, self.log_prob(self.clock.points))


def race_book(seed, quick):
    """The book's architecture and settings: Adam at 0.0001, batches of 256, 300 epochs
    of Keras' `fit`.
    """
    clock = Race(epochs=1 if quick else 300, compiles=True)
    model = book_realnvp()
    model.compile(keras.optimizers.Adam(1e-4))
    watch = [
        Laps(clock, training.compiled(model.log_prob, model)),
        training.StopOnBadLoss(),
    ]
    model.fit(
        clock.x_train, batch_size=256, epochs=clock.epochs, verbose=0, callbacks=watch
    )
    return clock.result(parameters=model.count_params(), versions=versions(*KERAS))


# ------------------------------------------------------------------ one architecture


def equal_ours(quick):
    """The shared architecture with chapter 4's classes; the step is that of an epoch in
    one graph.
    """
    model = build_realnvp(2, EQUAL["couplings"], EQUAL["width"], EQUAL["depth"])
    return {
        "parameters": model.count_params(),
        "versions": versions(*KERAS),
        **costs(model, 2, EQUAL["batch"], quick),
    }


def costs(model, dim, batch, quick):
    """Milliseconds of a step, of 10,000 densities and of 10,000 samples of one of our
    models.
    """
    steps = 8 if quick else 117  # 117 batches of 256 make an epoch of two moons
    x = np.random.default_rng(0).normal(size=(steps * batch, dim)).astype("float32")
    settings = {
        "optimizer": keras.optimizers.Adam(1e-4),
        "epochs": 2 if quick else 4,
        "batch": batch,
    }
    epochs = np.diff(
        training.fit_density(model, x, label="steps", **settings)["seconds"]
    )
    points = np.random.default_rng(1).normal(size=(POINTS, dim)).astype("float32")
    log_prob = training.compiled(model.log_prob, model)
    forward = training.compiled(lambda z: model.forward(z), model)
    rng = np.random.default_rng(2)
    repeats = 3 if quick else 20
    return {
        "step_ms": 1000 * float(np.median(epochs)) / steps,
        "density_ms": milliseconds(lambda: log_prob(points), repeats),
        "sample_ms": milliseconds(
            lambda: forward(rng.normal(size=points.shape).astype("float32")), repeats
        ),
    }


def equal_tfp(quick):
    """The shared architecture with TFP's bijectors, a compiled step at a time as its
    documentation has it.
    """
    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras

    tfb, tfd = tfp.bijectors, tfp.distributions

    def coupling():
        hidden = [
            tf_keras.layers.Dense(EQUAL["width"], activation="relu")
            for _ in range(EQUAL["depth"])
        ]
        network = tf_keras.Sequential(
            [tf_keras.Input((1,)), *hidden, tf_keras.layers.Dense(2)]
        )
        return tfb.RealNVP(
            1,
            shift_and_log_scale_fn=lambda x, units, **_: tf.split(
                network(x), 2, axis=-1
            ),
        ), network

    pairs = [coupling() for _ in range(EQUAL["couplings"])]
    parts = [part for bijector, _ in pairs for part in (bijector, tfb.Permute([1, 0]))]
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    flow = tfd.TransformedDistribution(base, tfb.Chain(parts))
    weights = [weight for _, network in pairs for weight in network.trainable_variables]
    optimizer = tf_keras.optimizers.Adam(1e-4)
    optimizer.build(weights)
    clock = Race(1)
    x, points = tf.constant(clock.x_train[: EQUAL["batch"]]), tf.constant(clock.points)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return loss

    log_prob = tf.function(flow.log_prob, jit_compile=True)
    sample = tf.function(lambda: flow.sample(POINTS), jit_compile=True)
    repeats = 5 if quick else 100
    return {
        "step_ms": milliseconds(lambda: step().numpy(), repeats),
        "density_ms": milliseconds(
            lambda: log_prob(points).numpy(), max(3, repeats // 5)
        ),
        "sample_ms": milliseconds(lambda: sample().numpy(), max(3, repeats // 5)),
        "parameters": int(np.sum([np.prod(weight.shape) for weight in weights])),
        "versions": versions("tensorflow-probability", "tensorflow"),
    }


# ------------------------------------------------------------------ what size costs

USUAL = {"dimension": 2, "couplings": 8, "batch": 256}
SIZES = {
    "dimension": (2, 4, 8, 16, 32, 64),
    "couplings": (2, 4, 8, 16),
    "batch": (64, 256, 1024, 4096),
}


def scale(axis, quick):
    """The costs of couplings of 2 x 64 along one axis, smallest first, so that the peak
    memory is that of the last.
    """
    rows = []
    for size in SIZES[axis][:2] if quick else SIZES[axis]:
        chosen = USUAL | {axis: size}
        model = build_realnvp(
            chosen["dimension"], chosen["couplings"], width=64, depth=2
        )
        measured = costs(model, chosen["dimension"], chosen["batch"], quick)
        rows.append(
            {
                **chosen,
                **measured,
                "parameters": model.count_params(),
                "memory_mb": peak_memory(),
            }
        )
    return {"rows": rows, "versions": versions(*KERAS)}


RACES = {
    "the book's RealNVP": race_book,
    "our RealNVP": race_realnvp,
    "our spline flow": race_spline,
}
EQUALS = {"ours": equal_ours, "TFP": equal_tfp}
TASKS = {
    "race": lambda name, seed, quick: RACES[name](seed, quick),
    "equal": lambda name, seed, quick: EQUALS[name](quick),
    "scale": lambda name, seed, quick: scale(name, quick),
}

if __name__ == "__main__":
    kind, name, seed, profile, path = sys.argv[1:]
    course.seed(int(seed))
    result = TASKS[kind](name, int(seed), profile == "quick")
    Path(path).write_text(json.dumps(result), "utf-8")
