"""PART=images, fourth: chapter 2's variational autoencoders on Fashion-MNIST.

Large ones, of chapter 1's networks and trained as those of autoencoders.py, and what is
drawn from their latent spaces; small ones, on black-and-white images of 14 × 14, for
several weights β of the KL term. Figures are of all test images. What stops a small
model's training is the loss on 5,000 of the training images, held back.
"""

from __future__ import annotations

import numpy as np

from benchmarks.autoencoders import ALL, NETWORK, QUICK, QUICK_NETWORK, WAYS, clothes
from benchmarks.flows import KERAS
from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils.chapters import definitions

BETAS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
SMALL_DIM = 8
# Beyond this a sample is like none in chapter 1's own notebook, for the autoencoder
# with as many numbers.
LIMITS = {2: 0.088, 6: 0.113}


def large(settings, seed):
    """Chapter 2's VAE, 500 times the mean cross-entropy; its rate falls to 0."""
    import keras

    from utils import training

    build_vae, kl_by_dimension = definitions("02_vae", "build_vae", "kl_by_dimension")
    cross_entropy, rmse, distance_from_normal = definitions(
        "01_autoencoder", "cross_entropy", "rmse", "distance_from_normal"
    )
    keras.utils.set_random_seed(seed)
    x_train, y_train, x_test, y_test = clothes(settings)
    model = build_vae(settings["dim"], seed=seed)
    steps = settings["epochs"] * int(np.ceil(len(x_train) / settings["batch"]))
    rate = settings["peak"]
    if settings["falls"]:
        rate = keras.optimizers.schedules.CosineDecay(rate, decay_steps=steps)
    model.compile(keras.optimizers.Adam(rate))
    progress = training.Progress("images")
    fit = {"batch_size": settings["batch"], "epochs": settings["epochs"], "verbose": 0}
    model.fit(x_train, callbacks=[progress, training.StopOnBadLoss()], **fit)

    held = model.evaluate(x_test, batch_size=500, verbose=0, return_dict=True)
    found = {name: rounded(value) for name, value in held.items()}
    means, log_vars = model.encoder.predict(x_test, batch_size=500, verbose=0)
    by_dimension = np.asarray(kl_by_dimension(means, log_vars)).mean(axis=0)
    x_hat = model.decoder.predict(means, batch_size=500, verbose=0)
    found["kl_by_dimension"] = sorted(round(float(v), 3) for v in by_dimension)[::-1]
    found["cross_entropy"] = rounded(cross_entropy(x_test, x_hat))
    found["rmse"] = rounded(rmse(x_test, x_hat))
    codes = drawn_codes(model, x_train, seed)
    found["distance_from_normal"] = rounded(distance_from_normal(codes))
    found |= likeness(model.decoder, x_hat, codes, x_train, y_train, settings, seed)
    found["train_seconds"] = progress.seconds[-1]
    found["parameters"] = model.count_params()
    return found | {"versions": versions(*KERAS)}


def drawn_codes(model, x, seed):
    """One draw of z for each image: what the decoder sees in training."""
    means, log_vars = model.encoder.predict(x, batch_size=500, verbose=0)
    epsilon = np.random.default_rng(seed).normal(size=means.shape)
    return (means + np.exp(log_vars / 2) * epsilon).astype("float32")


def likeness(decoder, x_hat, codes, x_train, y_train, settings, seed):
    """Chapter 1's two questions of four ways to draw, by the limit that the model's own
    reconstructions set, and by that of chapter 1's autoencoder ("strict").
    """
    yardstick, judge, ways_to_draw = definitions(
        "01_autoencoder", "yardstick", "judge", "ways_to_draw"
    )
    real, names = x_train[:20_000], y_train[:20_000]
    limit, usual = yardstick(x_hat[:2_000], real, names)
    found = {"limit": rounded(limit)}
    drawn = ways_to_draw(codes, settings["mixtures"], seed)
    for short, way in WAYS.items():
        images = decoder.predict(drawn[way], batch_size=500, verbose=0)
        judged = judge(images, real, names, limit, usual)
        strict = judge(images, real, names, LIMITS[settings["dim"]], usual)
        found[f"none_{short}"] = rounded(judged["like none"])
        found[f"class_{short}"] = rounded(judged["wrong class"])
        found[f"strict_{short}"] = rounded(strict["like none"])
    return found


def small(settings, seed):
    """A small VAE with a weight β of the KL, until the held-back loss is flat."""
    import keras

    from utils import datasets
    from utils.course import CourseError

    silhouettes, build_small_vae, kl_by_dimension = definitions(
        "02_vae", "silhouettes", "build_small_vae", "kl_by_dimension"
    )
    distance_from_normal = definitions("01_autoencoder", "distance_from_normal")
    keras.utils.set_random_seed(seed)
    data = datasets.fashion_mnist()
    if data.name != "Fashion-MNIST":
        raise CourseError(f"these rows are of Fashion-MNIST, and there is {data.name}.")
    x = silhouettes(data.x_train[: settings["images"]])
    x, held_back = np.split(x, [-settings["held_back"]])
    x_test = silhouettes(data.x_test[: settings["test_images"]])
    beta = settings["beta"]
    model = build_small_vae(SMALL_DIM, beta, seed)
    model.compile(keras.optimizers.Adam(settings["rate"]))
    stop = keras.callbacks.EarlyStopping(
        "val_loss",
        min_delta=settings["flat"] / beta,  # the loss is divided by β
        patience=settings["patience"],
        restore_best_weights=True,
    )
    fit = {"batch_size": settings["batch"], "epochs": settings["epochs"], "verbose": 0}
    history = model.fit(
        x, validation_data=(held_back,), callbacks=[stop], **fit
    ).history

    held = model.evaluate(x_test, batch_size=500, verbose=0, return_dict=True)
    means, log_vars = model.encoder.predict(x_test, batch_size=500, verbose=0)
    by_dimension = np.asarray(kl_by_dimension(means, log_vars)).mean(axis=0)
    epsilon = np.random.default_rng(seed).normal(size=means.shape)
    draws = means + np.exp(log_vars / 2) * epsilon
    return {
        "reconstruction": rounded(held["reconstruction_loss"] * beta),
        "kl": rounded(held["kl_loss"]),
        "kl_by_dimension": sorted(round(float(v), 3) for v in by_dimension)[::-1],
        "distance_from_normal": rounded(distance_from_normal(draws)),
        "epochs": len(history["loss"]),
        "parameters": model.count_params(),
        "versions": versions(*KERAS),
    }


LARGE = NETWORK | {"falls": True}
QUICK_LARGE = QUICK_NETWORK
SMALL = {"rate": 2e-3, "batch": 500, "epochs": 200, "patience": 6, "flat": 0.1, **ALL}
SMALL |= {"held_back": 5_000}
QUICK_SMALL = {"epochs": 2, "batch": 100, "held_back": 280, **QUICK}
BOOK = {"epochs": 5, "batch": 100, "peak": 5e-4, "falls": False}
ROWS = [
    *(
        Row(f"VAE, {dim} numbers", large, {"dim": dim, **LARGE}, QUICK_LARGE)
        for dim in (2, 6)
    ),
    Row(
        "the book's VAE, 2 numbers",
        large,
        {"dim": 2, **LARGE, **BOOK},
        QUICK_LARGE,
        seeds=(0,),
    ),
    *(
        Row(f"small VAE, β = {beta:g}", small, {"beta": beta, **SMALL}, QUICK_SMALL)
        for beta in BETAS
    ),
]
