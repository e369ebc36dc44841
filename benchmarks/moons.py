"""PART=moons: every model of two moons that a chapter trains, with its settings there.

These rows are the leaderboard.
"""

from __future__ import annotations

import time

from benchmarks.flows import TFP, measured, speeds
from benchmarks.measure import POINTS, Clock, judged, versions
from benchmarks.rows import SEEDS, Row
from utils import moons
from utils.chapters import definitions
from utils.results import milliseconds

# ------------------------------------------------------------------ old models


def fitted(model, data, **more) -> dict:
    """The figures of one of scikit-learn's models."""
    started = time.perf_counter()
    model.fit(data.x_train.astype("float64"))
    seconds = time.perf_counter() - started
    return {
        **judged(model.score_samples, data),
        "compile_seconds": 0.0,
        "train_seconds": seconds,
        "density_ms": milliseconds(
            lambda: model.score_samples(data.x_test[:POINTS]), 3
        ),
        "versions": versions("scikit-learn"),
        **more,
    }


def gaussians(settings, seed):
    """A mixture of full-covariance Gaussians."""
    from sklearn.mixture import GaussianMixture

    count = settings["components"]
    model = GaussianMixture(count, random_state=seed)
    return fitted(model, moons.load(), parameters=6 * count - 1)


def kernel(settings, seed):
    """A Gaussian on each training point; its width is the best of some on validation
    points.
    """
    from sklearn.neighbors import KernelDensity

    data = moons.load()

    def score(width):
        model = KernelDensity(bandwidth=width, rtol=1e-4)
        return model.fit(data.x_train).score(data.x_validation[:1_000])

    started = time.perf_counter()
    width = max(settings["widths"], key=score)
    searched = time.perf_counter() - started
    found = fitted(KernelDensity(bandwidth=width, rtol=1e-4), data, width=width)
    return found | {"train_seconds": found["train_seconds"] + searched}


# ------------------------------------------------------------------ flows


def realnvp(settings, seed):
    """Chapter 4's flow."""
    build_realnvp = definitions("04_realnvp", "build_realnvp")
    shape = (settings[name] for name in ("couplings", "width", "depth", "bound"))
    return measured(build_realnvp(2, *shape), settings, seed)


def tfp_realnvp(settings, seed):
    """Chapter 5's affine couplings by TFP."""
    chain, affine_coupling = definitions("05_tfp_flows", "chain", "affine_coupling")
    return measured(chain(affine_coupling, settings["layers"]), settings, seed, TFP)


def nice(settings, seed):
    """Chapter 5's additive couplings, with one scaling at the end."""
    flow = definitions("05_tfp_flows", "nice")(settings["layers"])
    return measured(flow, settings, seed, TFP)


def maf(settings, seed):
    """Chapter 5's chain of masked autoregressive flows."""
    chain, masked_flow = definitions("05_tfp_flows", "chain", "masked_flow")
    flow = chain(lambda: masked_flow(2, settings["hidden"]), settings["layers"])
    return measured(flow, settings, seed, TFP)


def iaf(settings, seed):
    """Chapter 5's chain of inverse autoregressive flows, trained on data."""
    import tensorflow_probability as tfp

    chain, masked_flow = definitions("05_tfp_flows", "chain", "masked_flow")

    def layer():
        masked = masked_flow(2, settings["hidden"], unroll_loop=True)
        return tfp.bijectors.Invert(masked)

    return measured(chain(layer, settings["layers"]), settings, seed, TFP)


def spline(settings, seed):
    """Appendix A4's spline couplings by TFP."""
    chain, spline_coupling = definitions("A4_which", "chain", "spline_coupling")

    def layer():
        return spline_coupling(width=settings["width"], bins=settings["bins"])

    return measured(chain(layer, settings["layers"]), settings, seed, TFP)


def mintnet(settings, seed):
    """Chapter 7's MintNet on points."""
    flow = definitions("07_mintnet", "MintFlow")(
        2, settings["layers"], settings["width"]
    )
    return measured(flow, settings, seed)


def ffjord(settings, seed):
    """Chapter 8's FFJORD, trained with few steps of the solver and judged with four
    times as many.
    """
    from types import SimpleNamespace

    ContinuousFlow, velocity_network, Penalised = definitions(
        "08_ffjord", "ContinuousFlow", "velocity_network", "Penalised"
    )
    steps, finer = settings["steps"], settings["steps"] * 4
    network = velocity_network(2, settings["width"], settings["activation"])
    flow = ContinuousFlow(network, 2, steps)
    fine = SimpleNamespace(
        log_prob=lambda x: flow.log_prob(x, finer),
        forward=lambda z: flow.forward(z, finer),
        trainable_variables=flow.trainable_variables,
    )
    trained = Penalised(flow, settings["kinetic"])
    return measured(fine, settings, seed, TFP, trained)


def matching(settings, seed):
    """Chapter 8's flow matching, judged with as many steps of the solver as FFJORD."""
    import keras

    from utils import training

    ContinuousFlow, velocity_network, flow_matching = definitions(
        "08_ffjord", "ContinuousFlow", "velocity_network", "flow_matching"
    )
    clock, rounds = Clock(settings["epochs"]), settings["epochs"]
    network = velocity_network(2, settings["width"], settings["activation"])
    flow = ContinuousFlow(network, 2, settings["steps"])
    log_prob, log_q = training.compiled(flow.log_prob, flow), []
    progress = training.Progress()
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: log_q.append(log_prob(clock.x))
    )
    plan = settings["batch"], settings["updates"], settings["peak"], rounds
    # Progress comes first, so its watch stands still while the note is taken.
    flow_matching(network, clock.data.x_train, *plan, [progress, note])
    for seconds, values in zip(progress.seconds, log_q, strict=True):
        clock.lap(seconds, values)
    return {
        **judged(log_prob, clock.data),
        **clock.figures(),
        **speeds(flow, log_prob),
        "versions": versions(*TFP),
    }


QUICK = {"epochs": 2}
CHAPTER_5 = {"epochs": 80, "batch": 512, "peak": 1e-2}
CHAPTER_4 = {"couplings": 16, "width": 32, "depth": 2, "bound": 1.0}
CHAPTER_4 |= {"epochs": 120, "batch": 256, "peak": 5e-3}
SPLINE = {"layers": 6, "width": 16, "bins": 8, **CHAPTER_5}
MAF = {"layers": 6, "hidden": (64, 64), **CHAPTER_5}
MINTNET = {"layers": 8, "width": 16, "epochs": 100, "batch": 256, "peak": 3e-3}
FFJORD = {"width": 64, "activation": "tanh", "steps": 12, "kinetic": 0.01}
FFJORD |= {"epochs": 30, "batch": 256, "peak": 4e-3}
MATCHING = {"width": 64, "activation": "silu", "steps": 48}
MATCHING |= {"epochs": 30, "updates": 15_000, "batch": 1_024, "peak": 3e-2}
TRIALS = {  # of what, with which settings changed
    "RealNVP (4)": [{}, {"peak": 1e-2}, {"couplings": 8, "width": 64}],
    "spline flow (A4)": [{}, {"layers": 4, "width": 32}, {"layers": 3, "width": 64}],
    "FFJORD (8)": [{}, {"activation": "silu"}, {"peak": 6e-3}],
    "flow matching (8)": [{}, {"peak": 1e-2}, {"activation": "tanh", "peak": 1e-2}],
}
FLOWS = {"RealNVP (4)": (realnvp, CHAPTER_4), "spline flow (A4)": (spline, SPLINE)}
FLOWS |= {"FFJORD (8)": (ffjord, FFJORD), "flow matching (8)": (matching, MATCHING)}


def trial_of(name: str, settings: dict, change: dict) -> Row:
    """A training with one seed that helps to choose the settings of a row."""
    run, words = FLOWS[name][0], ", ".join(f"{k} {v}" for k, v in change.items())
    title = f"{name}, trial: {words or 'no change'}"
    quick = QUICK | ({"updates": 40} if "updates" in settings else {})
    return Row(title, run, settings | change, quick, seeds=(3,), tuning=name)


ROWS = [
    *(
        trial_of(n, FLOWS[n][1], change)
        for n, some in TRIALS.items()
        for change in some
    ),
    Row("Gaussian (4)", gaussians, {"components": 1}, seeds=(0,)),
    Row("30 Gaussians (4)", gaussians, {"components": 30}, {"components": 3}),
    Row("kernel (4)", kernel, {"widths": (0.01, 0.02, 0.03)}, seeds=(0,)),
    Row("RealNVP (4)", realnvp, CHAPTER_4, QUICK | {"couplings": 3}, SEEDS),
    Row("NICE (5)", nice, {"layers": 8, **CHAPTER_5}, QUICK),
    Row("RealNVP (5)", tfp_realnvp, {"layers": 8, **CHAPTER_5}, QUICK),
    Row("MAF (5)", maf, MAF, QUICK),
    Row("IAF (5)", iaf, MAF, QUICK),
    Row("spline flow (A4)", spline, SPLINE, QUICK),
    Row("MintNet (7)", mintnet, MINTNET, QUICK),
    Row("FFJORD (8)", ffjord, FFJORD, QUICK),
    Row("FFJORD with SiLU (8)", ffjord, FFJORD | {"activation": "silu"}, QUICK),
    Row("flow matching (8)", matching, MATCHING, {"epochs": 2, "updates": 40}),
]
