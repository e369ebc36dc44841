"""PART=moons, second: appendix A4's contest on four densities that are known, in 8 and
in 32 dimensions.

Everybody gets the same 20,000 points. The figure is KL(truth ‖ model) in nats by 10,000
draws, each with its exact log density. Every contestant has three trials on each
density, with a seed of their own; the settings of the row are those of the trial with
the best NLL on 5,000 validation points.
"""

from __future__ import annotations

import functools
import time

import numpy as np

from benchmarks.measure import rounded, versions
from benchmarks.rows import SEEDS, Row
from utils.chapters import definitions


@functools.cache
def points(source, dim):
    """Training, validation and test points, and the exact log densities of the last
    two.
    """
    PairsOfMoons, Clusters, Bent = definitions(
        "A4_which", "PairsOfMoons", "Clusters", "Bent"
    )
    kinds = {"moons": PairsOfMoons, "clusters": Clusters}
    bent = Bent(kinds[source](dim))
    drawn = [bent.sample(n, s) for n, s in ((20_000, 1), (5_000, 2), (10_000, 3))]
    exact = [bent.log_prob(x) for x in drawn[1:]]
    return [x.astype("float32") for x in drawn], exact


def judged(settings, log_prob, seconds) -> dict:
    """The KL by draws, its standard error, and the same on validation points."""
    source, dim = settings["source"], settings["dim"]
    (_, validation, test), (log_p_validation, log_p) = points(source, dim)
    difference = log_p - np.asarray(log_prob(test), "float64")
    held_out = log_p_validation - np.asarray(log_prob(validation), "float64")
    return {
        "kl": rounded(difference.mean()),
        "kl_se": rounded(difference.std() / len(difference) ** 0.5),
        "validation_kl": rounded(held_out.mean()),
        "train_seconds": round(seconds, 1),
    }


def mixture(settings, seed):
    """Gaussians with full covariance."""
    from sklearn.mixture import GaussianMixture

    (train, *_), _ = points(settings["source"], settings["dim"])
    started = time.perf_counter()
    model = GaussianMixture(settings["components"], random_state=seed)
    model.set_params(reg_covar=settings["added"], tol=0.01, max_iter=50)
    model.fit(train.astype("float64"))
    seconds = time.perf_counter() - started
    figures = judged(settings, model.score_samples, seconds)
    dim, count = settings["dim"], settings["components"]
    parameters = count * (1 + dim + dim * (dim + 1) // 2) - 1
    return figures | {"parameters": parameters, "versions": versions("scikit-learn")}


def build(settings):
    """A contestant that is a flow."""
    dim, layers, width = (settings[k] for k in ("dim", "layers", "width"))
    if settings["model"] in ("MAF", "IAF"):
        MAF, IAF, build_autoregressive = definitions(
            "05_tfp_flows", "MAF", "IAF", "build_autoregressive"
        )
        kind = MAF if settings["model"] == "MAF" else IAF
        return build_autoregressive(kind, dim, layers, (width, width))
    if settings["model"] == "spline flow":
        make = definitions("A4_which", "build_spline_flow")
        return make(dim, layers, width, settings["bins"])
    if settings["model"] == "NICE":
        return definitions("A4_which", "build_nice")(dim, layers, width)
    return definitions("04_realnvp", "build_realnvp")(dim, layers, width, depth=2)


def flow(settings, seed):
    """One of the flows, trained as in the chapters."""
    import keras

    from utils import course, training

    (train, validation, _), _ = points(settings["source"], settings["dim"])
    model = build(settings)
    epochs, batch = settings["epochs"], settings["batch"]
    rate = training.warmup_cosine(settings["peak"], epochs * (len(train) // batch))
    history = training.fit_density(
        model,
        train,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=epochs,
        batch=batch,
        validation=validation,
        patience=epochs,
        seed=seed,
    )
    log_prob = training.compiled(model.log_prob, model)
    figures = judged(settings, log_prob, history["seconds"][-1])
    more = {"device": course.device(), "versions": versions("keras", course.backend())}
    return figures | {"parameters": model.count_params()} | more


DENSITIES = {
    f"{dim}-D {source}": {"source": source, "dim": dim}
    for dim in (8, 32)
    for source in ("moons", "clusters")
}
FLOW = {"layers": 8, "width": 64, "epochs": 80, "batch": 1_000, "peak": 5e-3}
MASKED = FLOW | {"layers": 4, "width": 128}
CONTESTANTS = {  # with the settings that all trials share, and the trials
    "mixture": (
        mixture,
        {"components": 30, "added": 1e-3},
        [{}, {"components": 10}, {"components": 100}],
    ),
    "NICE": (flow, FLOW, [{}, {"width": 128}, {"peak": 2e-3}]),
    "RealNVP": (flow, FLOW, [{}, {"width": 128}, {"peak": 2e-3}]),
    "MAF": (flow, MASKED, [{}, {"width": 256}, {"peak": 2e-3}]),
    "IAF": (flow, MASKED, [{}, {"width": 256}, {"peak": 2e-3}]),
    "spline flow": (flow, FLOW | {"bins": 8}, [{}, {"width": 128}, {"peak": 2e-3}]),
}
CHOSEN = {  # which trial had the best NLL on validation points; else the first
    ("mixture", "8-D moons"): 2,
    ("mixture", "8-D clusters"): 2,
    ("mixture", "32-D moons"): 1,
    **{("NICE", density): 1 for density in DENSITIES},
    ("RealNVP", "8-D moons"): 1,
    ("RealNVP", "32-D moons"): 2,
    ("MAF", "8-D clusters"): 1,
    ("IAF", "8-D moons"): 1,
    ("IAF", "8-D clusters"): 1,
    ("spline flow", "8-D moons"): 2,
    ("spline flow", "32-D moons"): 2,
    ("spline flow", "32-D clusters"): 2,
}
QUICK = {"epochs": 2, "components": 3}


def rows_of_trials() -> list[Row]:
    """Every trial of every contestant on every density, with one seed."""
    rows = []
    for density, where in DENSITIES.items():
        for model, (run, settings, trials) in CONTESTANTS.items():
            for change in trials:
                words = ", ".join(f"{k} {v:g}" for k, v in change.items())
                name = f"{model}, {density}, trial: {words or 'no change'}"
                settings_here = {"model": model} | where | settings | change
                tuning = f"{model}, {density}"
                row = Row(name, run, settings_here, QUICK, seeds=(3,), tuning=tuning)
                rows.append(row)
    return rows


def rows_of_the_contest() -> list[Row]:
    """Every contestant on every density with its chosen settings."""
    return [
        Row(
            f"{model}, {density}",
            run,
            {"model": model}
            | where
            | settings
            | trials[CHOSEN.get((model, density), 0)],
            QUICK,
            SEEDS,
        )
        for density, where in DENSITIES.items()
        for model, (run, settings, trials) in CONTESTANTS.items()
    ]


ROWS = [*rows_of_trials(), *rows_of_the_contest()]
