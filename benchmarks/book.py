"""PART=book: the book's RealNVP, at its own settings and at constant rates for the
epochs that a reader has time for.
"""

from __future__ import annotations

import time

from benchmarks.flows import KERAS
from benchmarks.measure import Clock, judged, versions
from benchmarks.rows import Row
from utils.chapters import definitions


def book_realnvp(width=256, depth=4, couplings=6):
    """The book's: six couplings of its form, s and t by two networks of 4 x 256 each, a
    log-scale of at most 1 by its tanh.
    """
    BookCoupling, RealNVP = definitions("04_realnvp", "BookCoupling", "RealNVP")
    two_networks = definitions("A2_faster", "two_networks")
    masks = ([k % 2, 1 - k % 2] for k in range(couplings))
    return RealNVP([BookCoupling(m, two_networks(2, width, depth)) for m in masks])


def book(settings, seed):
    """Adam at a constant rate, by Keras' `fit`, as in the book."""
    import keras

    from utils import training

    clock = Clock(settings["epochs"])
    flow = book_realnvp(settings["width"])
    flow.compile(keras.optimizers.Adam(settings["rate"]))
    log_prob = training.compiled(flow.log_prob, flow)

    class Laps(keras.callbacks.Callback):
        """Notes the KL after each epoch, and leaves the time that this takes out."""

        spent = 0.0

        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.spent += time.perf_counter() - self.started
            clock.lap(self.spent, log_prob(clock.x))

    fit = {"batch_size": settings["batch"], "epochs": clock.epochs, "verbose": 0}
    flow.fit(clock.data.x_train, callbacks=[Laps(), training.StopOnBadLoss()], **fit)
    return {
        **judged(log_prob, clock.data),
        **clock.figures(),
        "parameters": flow.count_params(),
        "versions": versions(*KERAS),
    }


BOOK = {"width": 256, "rate": 1e-4, "batch": 256, "epochs": 300}
QUICK = {"width": 32, "epochs": 2}
ROWS = [
    *(
        Row(
            f"the book's RealNVP, rate {rate:g}, 60 epochs",
            book,
            BOOK | {"rate": rate, "epochs": 60},
            QUICK,
            seeds=(0,),
        )
        for rate in (1e-4, 1e-3, 5e-3)
    ),
    Row("the book's RealNVP, its settings", book, BOOK, QUICK, seeds=(0,)),
]
