"""PART=ladders, fourth: what a family of flows cannot do, however long it trains.

NICE's floor: NICE with more couplings, wider networks and longer training. The thread
between the moons: chapter 4's flow with its base in one piece, in two, and told the
moon; `log_pass` is the height of the pass from moon to moon.
"""

from __future__ import annotations

import numpy as np

from benchmarks.measure import judged, versions
from benchmarks.moons import CHAPTER_4, QUICK
from benchmarks.rows import Row
from utils import moons
from utils.chapters import definitions


def trained(flow, settings, seed, told=False) -> dict:
    """The figures of a flow after training; if it is `told` the moon, of the mean over
    both.
    """
    import keras

    from utils import course, training

    height_of_pass, both_moons = definitions("A4_which", "height_of_pass", "both_moons")
    data, batch, epochs = moons.load(), settings["batch"], settings["epochs"]
    x, validation = data.x_train, data.x_validation
    if told:
        upper = data.truth.log_prob(validation, 0) > data.truth.log_prob(validation, 1)
        moon = np.where(upper, 0, 1)[:, None]
        x = np.concatenate([x, data.moon_train[:, None]], axis=1)
        validation = np.concatenate([validation, moon], axis=1)
    rate = training.warmup_cosine(settings["peak"], epochs * (len(x) // batch))
    history = training.fit_density(
        flow,
        x.astype("float32"),
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=epochs,
        batch=batch,
        validation=validation.astype("float32"),
        patience=epochs,
        seed=seed,
    )
    log_prob = training.compiled(flow.log_prob, flow)
    log_prob = both_moons(log_prob) if told else log_prob
    return {
        **judged(log_prob, data),
        "log_pass": height_of_pass(log_prob),
        "train_seconds": round(history["seconds"][-1], 1),
        "parameters": flow.count_params(),
        "device": course.device(),
        "versions": versions("keras", course.backend()),
    }


def nice(settings, seed):
    """Appendix A4's NICE."""
    build_nice = definitions("A4_which", "build_nice")
    flow = build_nice(2, settings["couplings"], settings["width"])
    return trained(flow, settings, seed)


def one_piece(settings, seed):
    """Chapter 4's flow as it is."""
    build_realnvp = definitions("04_realnvp", "build_realnvp")
    shape = (settings[name] for name in ("couplings", "width", "depth", "bound"))
    return trained(build_realnvp(2, *shape), settings, seed)


def two_pieces(settings, seed):
    """Chapter 4's flow with two Gaussians as its base."""
    build_two_pieces = definitions("A4_which", "build_two_pieces")
    flow = build_two_pieces(settings["couplings"], settings["width"])
    return trained(flow, settings, seed)


def given_moon(settings, seed):
    """Chapter 4's flow, told the moon."""
    build_given_moon = definitions("A4_which", "build_given_moon")
    flow = build_given_moon(settings["couplings"], settings["width"])
    return trained(flow, settings, seed, told=True)


NICE = {"couplings": 8, "width": 64, "epochs": 80, "batch": 512, "peak": 1e-2}
LONG = NICE | {"epochs": 320}
PUSHED = {
    "320 epochs": LONG,
    "16 couplings, 128 wide, 320 epochs": LONG | {"couplings": 16, "width": 128},
}
THREADS = {
    "one Gaussian": one_piece,
    "two Gaussians": two_pieces,
    "told the moon": given_moon,
}
ROWS = [
    *(
        Row(f"NICE, {words}", nice, settings, QUICK)
        for words, settings in PUSHED.items()
    ),
    *(Row(f"thread, {w}", run, CHAPTER_4, QUICK) for w, run in THREADS.items()),
]
