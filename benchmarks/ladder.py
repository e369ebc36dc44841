"""PART=ladders, third: from the book's RealNVP to chapter 4's, one change a rung, and
what an epoch costs by who runs the loop over its steps.

All rungs train for the same number of epochs, each epoch in one graph, so that they
differ by what their names say alone; appendix A2 tells the story.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.flows import KERAS
from benchmarks.measure import Clock, judged, versions
from benchmarks.rows import Row
from utils import moons
from utils.chapters import definitions


def built(settings):
    """A RealNVP of the book's form or of chapter 4's."""
    Coupling, BookCoupling = definitions("04_realnvp", "Coupling", "BookCoupling")
    RealNVP = definitions("04_realnvp", "RealNVP")
    coupling_network = definitions("04_realnvp", "coupling_network")
    two_networks = definitions("A2_faster", "two_networks")
    kind = BookCoupling if settings["form"] == "book" else Coupling
    couplings = []
    for k in range(settings["couplings"]):
        shape = 2, settings["width"], settings["depth"], settings["start"]
        make = two_networks if settings["networks"] == 2 else coupling_network
        couplings.append(kind([k % 2, 1 - k % 2], make(*shape), settings["bound"]))
    return RealNVP(couplings)


def rung(settings, seed):
    """A training whose last epoch counts, with the KL over the bulk after each."""
    import keras

    from utils import training

    clock, batch = Clock(settings["epochs"]), settings["batch"]
    rate = settings["rate"]
    if settings["schedule"]:
        steps = clock.epochs * (len(clock.data.x_train) // batch)
        rate = training.warmup_cosine(rate, steps)
    flow = built(settings)
    log_prob, log_q = training.compiled(flow.log_prob, flow), []
    history = training.fit_density(
        flow,
        clock.data.x_train,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=settings["clip"]),
        epochs=clock.epochs,
        batch=batch,
        seed=seed,
        each_epoch=lambda epoch: epoch and log_q.append(log_prob(clock.x)),
    )
    for seconds, values in zip(history["seconds"], log_q, strict=True):
        clock.lap(seconds, values)
    return {
        **judged(log_prob, clock.data),
        **clock.figures(),
        "parameters": flow.count_params(),
        "versions": versions(*KERAS),
    }


def loop(settings, seed):
    """Seconds of an epoch, and of the first one beyond that, by one kind of loop."""
    flow, x = built(settings), moons.load().x_train
    laps = LOOPS[settings["loop"]](flow, x, settings["batch"], settings["epochs"])
    epoch = float(np.median(np.diff(laps)))
    return {
        "epoch_seconds": epoch,
        "compile_seconds": max(0.0, laps[0] - epoch),
        "parameters": flow.count_params(),
        "versions": versions(*KERAS),
    }


def by_hand(flow, x, batch, epochs, compiled=True):
    """A loop over steps in Python; a step is one graph, or runs eagerly, which is so
    slow that a tenth of an epoch has to do.
    """
    import keras
    import tensorflow as tf

    adam = keras.optimizers.Adam(1e-4)
    weights = flow.trainable_variables
    adam.build(weights)

    def step(points):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(points))
        adam.apply(tape.gradient(loss, [v.value for v in weights]), weights)
        return loss

    run, fraction = (tf.function(step), 1) if compiled else (step, 10)
    steps, seconds = len(x) // batch // fraction, []
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(len(x))
        started = time.perf_counter()
        for number in range(steps):
            loss = run(tf.constant(x[order[number * batch : (number + 1) * batch]]))
        float(loss)  # waits for the last one
        seconds.append(fraction * (time.perf_counter() - started))
    return np.cumsum(seconds)


def by_fit(flow, x, batch, epochs, **how):
    """Keras' fit, compiled with `how`."""
    import keras

    from utils import training

    progress = training.Progress("fit")
    flow.compile(keras.optimizers.Adam(1e-4), **how)
    whole = x[: len(x) // batch * batch]
    fit = {"batch_size": batch, "epochs": epochs, "verbose": 0}
    flow.fit(whole, callbacks=[progress], **fit)
    return progress.seconds


def in_one_graph(flow, x, batch, epochs):
    import keras

    from utils import training

    adam = keras.optimizers.Adam(1e-4)
    return training.fit_density(flow, x, optimizer=adam, epochs=epochs, batch=batch)[
        "seconds"
    ]


LOOPS = {
    "Python, each operation by itself": lambda *a: by_hand(*a, compiled=False),
    "Python, a graph a step": by_hand,
    "fit": by_fit,
    "fit, XLA": lambda *a: by_fit(*a, jit_compile=True),
    "fit, XLA, 16 steps an execution": lambda *a: by_fit(
        *a, jit_compile=True, steps_per_execution=16
    ),
    "fit, XLA, 117 steps an execution": lambda *a: by_fit(
        *a, jit_compile=True, steps_per_execution=117
    ),
    "one graph": in_one_graph,
}

BOOK = {"form": "book", "networks": 2, "width": 256, "depth": 4, "couplings": 6}
BOOK |= {"start": "glorot_uniform", "bound": 1.0, "rate": 1e-4, "schedule": False}
BOOK |= {"clip": None, "batch": 256, "epochs": 30}
CHANGES = {  # each on top of those before
    "the book's": {},
    "multiply and add": {"form": "ours"},
    "networks 32 wide": {"width": 32},
    "one network of two layers": {"networks": 1, "depth": 2},
    "rate 0.005": {"rate": 5e-3},
    "rate rises and falls": {"schedule": True},
    "gradients cut": {"clip": 5.0},
    "start as the identity": {"start": "zeros"},
    "sixteen couplings": {"couplings": 16},
}
OURS = BOOK | {
    key: value for change in CHANGES.values() for key, value in change.items()
}
ASIDE = {  # each on top of all, or on the book's model
    "batches of 64": OURS | {"batch": 64},
    "batches of 1,024": OURS | {"batch": 1_024},
    "without the start as the identity": OURS | {"start": "glorot_uniform"},
    "without the rise and fall of the rate": OURS | {"schedule": False},
    "without cutting gradients": OURS | {"clip": None},
    "bound 5": OURS | {"bound": 5.0},
    "bound 5 with six couplings": OURS | {"bound": 5.0, "couplings": 6},
    "the book's networks, our optimizer": OURS
    | {"networks": 2, "width": 256, "depth": 4, "couplings": 6},
}
QUICK = {"epochs": 2, "width": 8, "couplings": 2}
SIZES = {"16 × 32 × 2": OURS, "6 × 2 × 256 × 4": BOOK}


def rungs():
    """The ladder's rows: settings after each change, then the ones aside."""
    settings, rows = dict(BOOK), []
    for number, (name, change) in enumerate(CHANGES.items()):
        settings = settings | change
        rows.append(Row(f"rung {number}: {name}", rung, settings, QUICK))
    aside = (Row(f"aside: {name}", rung, s, QUICK) for name, s in ASIDE.items())
    return [*rows, *aside]


ROWS = [
    *rungs(),
    *(
        Row(
            f"loop, {size}: {name}", loop, settings | {"loop": name, "epochs": 4}, QUICK
        )
        for size, settings in SIZES.items()
        for name in LOOPS
    ),
]
