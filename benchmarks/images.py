"""PART=images: likelihoods of images, with the settings of the chapters.

The figures of a training are its bits per dimension on all test images of
Fashion-MNIST, each 2 × 2 pixels averaged into one, so 14 × 14. The data set must be
there: the stand-in would give other figures, and is refused. Trials are judged by
training images that they leave out.
"""

from __future__ import annotations

import numpy as np

from benchmarks.flows import KERAS
from benchmarks.measure import versions
from benchmarks.rows import Row
from utils import datasets
from utils.chapters import definitions


def small_images(settings):
    """Training images and those to judge by, of 14 × 14, whole numbers from 0 to 255:
    test images, or the last `left_out` training images.
    """
    from utils.course import CourseError

    halved = definitions("06_glow", "halved")
    data = datasets.fashion_mnist()
    if data.name != "Fashion-MNIST":
        raise CourseError(f"these rows are of Fashion-MNIST, and there is {data.name}.")
    x_train, x_test = data.x_train, data.x_test[: settings["test_images"]]
    if left_out := settings.get("left_out"):
        x_train, x_test = x_train[:-left_out], x_train[-left_out:]
    return halved(x_train[: settings["images"]]), halved(x_test)


def bits_after_training(flow, settings, seed):
    """Trains for `epochs` and gives bits per dimension on the test images."""
    import keras

    from utils import checks, training

    dequantise, or_anything = definitions("06_glow", "dequantise", "or_anything")
    x_train, x_test = small_images(settings)
    steps, epochs = len(x_train) // settings["batch"], settings["epochs"]
    rate = training.warmup_cosine(settings["peak"], steps * epochs)
    adam = keras.optimizers.Adam(rate, global_clipnorm=5.0)
    flow.compile(adam, jit_compile=training.jit_compile("convolutions"))
    progress = training.Progress("images")
    watch = [progress, training.StopOnBadLoss()]
    fit = {"batch_size": settings["batch"], "epochs": epochs, "verbose": 0}
    flow.fit(x_train[: steps * settings["batch"]], callbacks=watch, **fit)
    log_prob = training.compiled(flow.log_prob, flow, kind="convolutions")
    pieces = (x_test[i : i + 500] for i in range(0, len(x_test), 500))
    nats = np.concatenate(
        [log_prob(dequantise(x, seed + i)) for i, x in enumerate(pieces)]
    )
    nats = or_anything(nats.astype("float64"))
    bits, bits_se = checks.bits_per_dim(lambda x: nats, x_test, levels=256)
    return {
        "bits_per_dim": bits,
        "bits_per_dim_se": bits_se,
        "train_seconds": progress.seconds[-1],  # Keras does not tell compiling apart
        "parameters": flow.count_params(),
        "versions": versions(*KERAS),
    }


def with_samples(flow, settings, seed):
    """The same and what 100 samples at temperature 0.8 cost, which must be found."""
    from utils import results, training

    figures = bits_after_training(flow, settings, seed)
    rng = np.random.default_rng(seed)
    z = 0.8 * rng.normal(size=(100, 7, 7, 4)).astype("float32")
    draw = training.compiled(lambda z: flow.forward([z]), flow, kind="convolutions")
    back = training.compiled(lambda y: flow.inverse(y)[0][0], flow, kind="convolutions")
    figures["sample_error"] = float(np.abs(back(draw(z)) - z).max())
    return figures | {"sample_ms": results.milliseconds(lambda: draw(z), 3)}


def glow(settings, seed):
    """Chapter 6's Glow with one scale."""
    build_glow = definitions("06_glow", "build_glow")
    shape = {"scales": 1, "steps": settings["steps"], "width": settings["width"]}
    flow = build_glow((14, 14, 1), **shape, seed=seed)
    return with_samples(flow, settings, seed)


def mintnet(settings, seed):
    """Chapter 7's MintNet of convolutions."""
    build_mintnet = definitions("07_mintnet", "build_mintnet")
    shape = {"pairs": settings["pairs"], "m": settings["units"]}
    return with_samples(build_mintnet((14, 14, 1), **shape, seed=seed), settings, seed)


TRIAL = {"images": 32_000, "left_out": 5_000, "test_images": 0, "epochs": 1}
SEEN = {"images": 60_000, "test_images": 10_000, "batch": 64, "epochs": 4}
GLOW = {"steps": 16, "width": 64, "peak": 1e-2, **SEEN}
MINTNET = {"pairs": 4, "units": 16, "peak": 4e-2, **SEEN}
QUICK = {"images": 1_280, "test_images": 500, "epochs": 1}
FLOWS = {"Glow, 14 × 14 (7)": (glow, GLOW), "MintNet, 14 × 14 (7)": (mintnet, MINTNET)}
PEAKS = {"Glow, 14 × 14 (7)": (2e-3, 5e-3, 1e-2, 2e-2)}
PEAKS |= {"MintNet, 14 × 14 (7)": (1e-2, 2e-2, 4e-2, 8e-2)}
ROWS = [
    *(
        Row(
            f"{name}, trial: peak {peak:g}",
            FLOWS[name][0],
            FLOWS[name][1] | TRIAL | {"peak": peak},
            {"images": 1_280, "left_out": 500},
            seeds=(3,),
            tuning=name,
        )
        for name, peaks in PEAKS.items()
        for peak in peaks
    ),
    *(Row(name, run, settings, QUICK) for name, (run, settings) in FLOWS.items()),
]
