"""PART=images, sixth: what blurs chapter 3's faces, one cause at a time.

A base model, and others that differ from it in one setting each: σ, how many numbers a
code has, how long training is, the network's filters. All are trained on 16,000 drawn
faces; figures are of 2,000 others.
"""

from __future__ import annotations

import functools

import numpy as np

from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils.chapters import definitions


@functools.cache
def faces(count):
    """Drawn faces as bytes: those to train on, and those to judge by."""
    from utils import course
    from utils.datasets import read_faces
    from utils.faces import draw_set

    data = read_faces(draw_set(course.cache(f"faces-{count}"), count), "", "")
    return data.pixels(data.files("train")), data.pixels(data.files("test"))


def face_vae(settings, seed):
    """Chapter 3's VAE; its rate warms up and falls to 0."""
    import keras

    from utils import course, training

    build_face_vae, ours, the_books = definitions(
        "03_vae_faces", "build_face_vae", "FILTERS", "BOOK_FILTERS"
    )
    filters = {"ours": ours, "the book's": the_books}[settings["network"]]
    x, x_test = faces(settings["faces"])
    keras.utils.set_random_seed(seed)
    sigma = {"sigma": settings["sigma"]} if settings["sigma"] else {}
    model = build_face_vae(
        settings["dim"], not sigma, filters=filters, seed=seed, **sigma
    )
    steps = settings["epochs"] * int(np.ceil(len(x) / settings["batch"]))
    rate = training.warmup_cosine(settings["peak"], steps)
    compiled = training.jit_compile("convolutions")
    model.compile(keras.optimizers.Adam(rate), jit_compile=compiled)
    progress = training.Progress("faces")
    fit = {"batch_size": settings["batch"], "epochs": settings["epochs"], "verbose": 0}
    model.fit(x, callbacks=[progress, training.StopOnBadLoss()], **fit)
    figures = {name: rounded(v) for name, v in rebuilding(model, x_test).items()}
    figures["train_seconds"] = progress.seconds[-1]
    figures["parameters"] = model.count_params()
    machine = {"device": course.device()}
    return figures | machine | {"versions": versions("keras", course.backend())}


def rebuilding(model, x):
    """How a face VAE rebuilds faces that are new to it, (count, 64, 64, 3) bytes."""
    codes, decode, edges = definitions("03_vae_faces", "codes", "decode", "edges")
    kl_by_dimension = definitions("02_vae", "kl_by_dimension")
    z_mean, z_log_var = codes(model, x)
    rebuilt = decode(model, z_mean)
    kl = np.asarray(kl_by_dimension(z_mean, z_log_var)).sum(axis=1)
    return {
        "mean_squared_error": float(((x / 255 - rebuilt) ** 2).mean()),
        "sharpness": float(edges(rebuilt) / edges(x / 255)),
        "kl": float(kl.mean()),
        "sigma": float(model.sigma_squared) ** 0.5,
    }


BASE = {"sigma": None, "dim": 200, "epochs": 2, "network": "ours"}
BASE |= {"faces": 20_000, "batch": 64, "peak": 2e-3}
QUICK = {"faces": 200, "epochs": 1, "batch": 32}
CHANGES = {
    "faces, σ learned, 200 numbers, 2 epochs": {},
    "faces, σ = 1.75": {"sigma": 12288**0.5 / 4000**0.5},
    "faces, σ = 0.3": {"sigma": 0.3},
    "faces, 4 numbers": {"dim": 4},
    "faces, 16 numbers": {"dim": 16},
    "faces, 64 numbers": {"dim": 64},
    "faces, 5 epochs": {"epochs": 5},
    "faces, the book's filters": {"network": "the book's"},
}
ROWS = [Row(name, face_vae, BASE | change, QUICK) for name, change in CHANGES.items()]
