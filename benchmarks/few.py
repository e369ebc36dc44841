"""PART=ladders, fifth: chapter 5's chain of six large MAFs on 800 points, as its
article has it, and what cures it: the best epoch on validation points, and a bound on
the log-scale.
"""

from __future__ import annotations

import numpy as np

from benchmarks.flows import TFP
from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils import moons
from utils.chapters import definitions


def chain_on_few(settings, seed):
    """The chain, trained on all 800 points in each step; its last or its best epoch."""
    import keras

    from utils import training

    chain, masked_flow = definitions("05_tfp_flows", "chain", "masked_flow")
    truth = moons.TwoMoons()
    points = np.random.default_rng(seed).permutation(moons.load(1_000).x_train)
    shape, bound = settings["hidden"], settings["bound"]
    flow = chain(lambda: masked_flow(2, shape, bound=bound), settings["layers"])
    epochs, best = settings["epochs"], settings["epoch"] == "best"
    history = training.fit_density(
        flow,
        points[:800],
        optimizer=keras.optimizers.Adam(1e-3, global_clipnorm=5.0),
        epochs=epochs,
        batch=800,
        validation=points[800:],
        seed=seed,
        **({"patience": epochs} if best else {}),
    )
    kl = truth.integrate_kl(training.compiled(flow.log_prob, flow))
    return {
        "kl_bulk": rounded(kl.bulk),
        "kl_plane": rounded(kl.plane),
        "training_nll": rounded(history["loss"][-1]),
        "validation_nll": rounded(history["val_loss"][-1]),
        "best_validation_nll": rounded(min(history["val_loss"])),
        "train_seconds": round(history["seconds"][-1], 1),
        "versions": versions(*TFP),
    }


CHAIN = {"layers": 6, "hidden": (256, 256), "epochs": 600}
ROWS = [
    Row(
        f"800 points, bound {bound}, {epoch} epoch",
        chain_on_few,
        CHAIN | {"bound": float(bound), "epoch": epoch},
        {"epochs": 3},
    )
    for bound in (5, 1)
    for epoch in ("last", "best")
]
