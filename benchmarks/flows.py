"""How the course's side of `make bench` trains and judges a flow on two moons."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from benchmarks.measure import POINTS, Clock, judged, versions
from utils.results import milliseconds

KERAS = ("keras", "tensorflow")
TFP = ("tensorflow-probability", *KERAS)


def measured(
    flow,
    settings: dict,
    seed: int,
    packages=KERAS,
    trained=None,
    x=None,
    each_epoch=None,
) -> dict:
    """Trains a flow as the chapters do, and gives its figures.

    `settings` has epochs, batch and peak, the highest rate. The rate climbs over the
    first tenth of the steps and falls to 0 as a cosine; gradients are cut to length 5;
    the weights of the epoch with the best validation NLL are kept. `trained` is what
    training sees in place of the flow (FFJORD has a penalty), without validation; `x`
    are its points where they are not the moons; `each_epoch(epoch)` is called before
    the first epoch and after each.
    """
    import keras

    from utils import training

    clock = Clock(settings["epochs"])
    data, batch = clock.data, settings["batch"]
    rate = training.warmup_cosine(
        settings["peak"], clock.epochs * (len(data.x_train) // batch)
    )
    log_prob = training.compiled(flow.log_prob, flow)
    log_q, best = [], {}

    def watch(epoch):
        if each_epoch:
            each_epoch(epoch)
        if epoch:
            log_q.append(log_prob(clock.x))

    if trained is None:
        best = {"validation": data.x_validation, "patience": clock.epochs}
    history = training.fit_density(
        trained or flow,
        data.x_train if x is None else x,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=clock.epochs,
        batch=batch,
        seed=seed,
        each_epoch=watch,
        **best,
    )
    for seconds, values in zip(history["seconds"], log_q, strict=True):
        clock.lap(seconds, values)
    return {
        **judged(log_prob, data),
        **clock.figures(),
        **speeds(flow, log_prob),
        "versions": versions(*packages),
    }


def speeds(flow, log_prob, dim: int = 2) -> dict:
    """Parameters, and milliseconds for 10,000 densities and 10,000 samples."""
    from utils import training

    forward = getattr(flow, "forward", None) or flow.bijector.forward
    sample = training.compiled(forward, flow)
    points = np.random.default_rng(0).normal(size=(POINTS, dim)).astype("float32")
    return {
        "parameters": int(sum(np.prod(v.shape) for v in flow.trainable_variables)),
        "density_ms": milliseconds(lambda: log_prob(points), 7),
        "sample_ms": milliseconds(lambda: sample(points), 7),
    }


def log_student(z, degrees: float = 4.0, dim: int = 2):
    """Log density of a Student's t distribution: (batch, dim) to (batch,).

    log t(z) = c − (ν + D)/2 · ln(1 + |z|²/ν), with ν degrees of freedom in D
    dimensions: it falls as a power of |z|, and not as the exponential of its square.
    """
    from keras import ops
    from scipy.special import gammaln

    nu = degrees
    constant = gammaln((nu + dim) / 2) - gammaln(nu / 2) - dim / 2 * np.log(nu * np.pi)
    squared = ops.sum(ops.convert_to_tensor(z) ** 2, axis=-1)
    return constant - (nu + dim) / 2 * ops.log1p(squared / nu)


def student(flow):
    """A Keras or continuous flow whose latent points have a Student's t density."""

    def log_prob(x):
        z, log_det, *_ = flow.inverse(x)
        return log_student(z) + log_det

    return SimpleNamespace(
        log_prob=log_prob,
        forward=flow.forward,
        trainable_variables=flow.trainable_variables,
        variables=getattr(flow, "variables", flow.trainable_variables),
    )
