"""PART=peers, second: one architecture in every library, what a step, a density and a
sample cost. The PyTorch libraries run as their documentation shows.
"""

from __future__ import annotations

import numpy as np

from benchmarks.flows import KERAS, speeds
from benchmarks.measure import POINTS, versions
from benchmarks.peers import with_nflows, with_normflows, with_zuko
from benchmarks.rows import Row
from utils import moons
from utils.chapters import definitions
from utils.results import milliseconds

# ------------------------------------------------------------------ this side


def ours(settings, seed):
    """Chapter 4's classes; the step is that of an epoch in one graph."""
    build_realnvp = definitions("04_realnvp", "build_realnvp")
    shape = (settings[name] for name in ("couplings", "width", "depth"))
    return step_and_speeds(build_realnvp(2, *shape), settings, 2)


def step_and_speeds(flow, settings, dim) -> dict:
    """Milliseconds of a step, of densities and of samples of one of our models."""
    import keras

    from utils import training

    steps, batch = settings["steps"], settings["batch"]
    x = np.random.default_rng(0).normal(size=(steps * batch, dim)).astype("float32")
    adam = keras.optimizers.Adam(1e-4)
    history = training.fit_density(flow, x, optimizer=adam, epochs=5, batch=batch)
    seconds = np.diff(history["seconds"])
    return {
        "step_ms": 1000 * float(np.median(seconds)) / steps,
        "compile_seconds": history["seconds"][0] - float(np.median(seconds)),
        **speeds(flow, training.compiled(flow.log_prob, flow), dim),
        "versions": versions(*KERAS),
    }


def tfp(settings, seed):
    """TFP's bijectors, a compiled step at a time as its documentation has it."""
    import time

    import tensorflow as tf
    import tensorflow_probability as tfp
    import tf_keras

    tfb, tfd = tfp.bijectors, tfp.distributions

    def coupling():
        hidden = [
            tf_keras.layers.Dense(settings["width"], activation="relu")
            for _ in range(settings["depth"])
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

    pairs = [coupling() for _ in range(settings["couplings"])]
    parts = [part for bijector, _ in pairs for part in (bijector, tfb.Permute([1, 0]))]
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    flow = tfd.TransformedDistribution(base, tfb.Chain(parts))
    weights = [weight for _, network in pairs for weight in network.trainable_variables]
    optimizer = tf_keras.optimizers.Adam(1e-4)
    optimizer.build(weights)
    data = moons.load()
    x, points = (
        tf.constant(data.x_train[: settings["batch"]]),
        tf.constant(data.x_test[:POINTS]),
    )

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
    started = time.perf_counter()
    step().numpy()
    first = time.perf_counter() - started
    step_ms = milliseconds(lambda: step().numpy(), settings["steps"])
    return {
        "step_ms": step_ms,
        "compile_seconds": first - step_ms / 1000,
        "density_ms": milliseconds(lambda: log_prob(points).numpy(), 7),
        "sample_ms": milliseconds(lambda: sample().numpy(), 7),
        "parameters": int(np.sum([np.prod(weight.shape) for weight in weights])),
        "versions": versions("tensorflow-probability", "tensorflow"),
    }


# ------------------------------------------------------------------ the libraries


def stepped(model, settings) -> dict:
    """Milliseconds of a step, of densities and of samples of a library's model."""
    import torch

    weights = [p for p in model.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-4)
    data = moons.load()
    x = torch.from_numpy(data.x_train[: settings["batch"]])
    points = torch.from_numpy(data.x_test[:POINTS])

    def step():
        optimizer.zero_grad()
        (-model.log_prob(x).mean()).backward()
        optimizer.step()

    step_ms = milliseconds(step, settings["steps"])
    with torch.no_grad():
        density_ms = milliseconds(lambda: model.log_prob(points), 7)
        sample_ms = milliseconds(lambda: model.sample(POINTS), 7)
    return {
        "step_ms": step_ms,
        "compile_seconds": 0.0,
        "density_ms": density_ms,
        "sample_ms": sample_ms,
        "parameters": sum(p.numel() for p in weights),
        "versions": model.versions,
    }


def zuko(settings, seed):
    from zuko.flows import NICE  # zuko's name for couplings that shift and scale

    hidden = [settings["width"]] * settings["depth"]
    flow = NICE(2, transforms=settings["couplings"], hidden_features=hidden)
    return stepped(with_zuko(flow), settings)


def normflows(settings, seed):
    from normflows import flows, nets

    hidden = [settings["width"]] * settings["depth"]
    parts = []
    for _ in range(settings["couplings"]):
        parts.append(flows.AffineCouplingBlock(nets.MLP([1, *hidden, 2])))
        parts.append(flows.Permute(2, mode="swap"))
    return stepped(with_normflows(parts), settings)


def nflows(settings, seed):
    import torch
    from nflows.nn import nets
    from nflows.transforms import AffineCouplingTransform

    class MLP(nets.MLP):
        def forward(self, x, context=None):  # which couplings hand on, and MLP refuses
            return super().forward(x)

    def network(inputs, outputs):
        hidden = [settings["width"]] * settings["depth"]
        return MLP([inputs], [outputs], hidden, activation=torch.relu)

    masks = [[k % 2, 1 - k % 2] for k in range(settings["couplings"])]
    parts = [AffineCouplingTransform(torch.tensor(mask), network) for mask in masks]
    return stepped(with_nflows(parts), settings)


SHAPE = {"couplings": 6, "width": 256, "depth": 4, "batch": 256, "steps": 117}
QUICK, ONE = {"steps": 5}, {"seeds": (0,)}
TORCH = {"environment": "torch", **ONE}
ROWS = [
    Row("equal: ours", ours, SHAPE, QUICK, **ONE),
    Row("equal: TFP", tfp, SHAPE, QUICK, **ONE),
    Row("equal: zuko", zuko, SHAPE, QUICK, **TORCH),
    Row("equal: normflows", normflows, SHAPE, QUICK, **TORCH),
    Row("equal: nflows", nflows, SHAPE, QUICK, **TORCH),
]
