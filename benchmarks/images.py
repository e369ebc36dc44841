"""PART=images: likelihoods of images, with the settings of the chapters.

The figures of a training are its bits per dimension on all test images of
Fashion-MNIST, each 2 × 2 pixels averaged into one, so 14 × 14. The data set must be
there: the stand-in would give other figures, and is refused.
"""

from __future__ import annotations

import numpy as np

from benchmarks.flows import KERAS
from benchmarks.measure import versions
from benchmarks.rows import Row
from utils import datasets
from utils.chapters import definitions


def small_images(settings):
    """Training and test images of 14 × 14, whole numbers from 0 to 255."""
    from utils.course import CourseError

    halved = definitions("06_glow", "halved")
    data = datasets.fashion_mnist()
    if data.name != "Fashion-MNIST":
        raise CourseError(f"these rows are of Fashion-MNIST, and there is {data.name}.")
    count = settings["images"]
    return halved(data.x_train[:count]), halved(data.x_test[: settings["test_images"]])


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


def glow(settings, seed):
    """Chapter 6's Glow with one scale."""
    build_glow = definitions("06_glow", "build_glow")
    shape = {"scales": 1, "steps": settings["steps"], "width": settings["width"]}
    return bits_after_training(build_glow((14, 14, 1), **shape), settings, seed)


def mintnet(settings, seed):
    """Chapter 7's MintNet of convolutions."""
    ActNorm, Squeeze, Scale, ImageFlow = definitions(
        "06_glow", "ActNorm", "Squeeze", "Scale", "ImageFlow"
    )
    MintConvolution = definitions("07_mintnet", "MintConvolution")
    chain, shape = [Squeeze()], (7, 7, 4)
    for _ in range(settings["pairs"]):
        for upper in (False, True):
            chain += [ActNorm(4), MintConvolution(shape, settings["width"], upper)]
    flow = ImageFlow([*chain, Scale(shape)], (14, 14, 1))
    return bits_after_training(flow, settings, seed)


SEEN = {"images": 40_000, "test_images": 10_000, "batch": 64, "epochs": 1}
GLOW = {"steps": 8, "width": 64, "peak": 2e-3, **SEEN}
MINTNET = {"pairs": 4, "width": 16, "peak": 1e-2, **SEEN}
QUICK = {"images": 1_280, "test_images": 500}
ROWS = [
    Row("Glow, 14 × 14 (7)", glow, GLOW, QUICK),
    Row("MintNet, 14 × 14 (7)", mintnet, MINTNET, QUICK),
]
