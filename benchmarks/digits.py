"""PART=images, second: densities in 64 dimensions, of scikit-learn's digits and of
Fashion-MNIST shrunk to 8 × 8.

Every contestant gets the same points and is chosen among its tries on the same
validation points; the figure is the mean log-likelihood of test points, in nats an
image, in the space of logits. The seed splits the data, draws the noise that makes
levels continuous, and starts every model.
"""

from __future__ import annotations

import itertools
import time

import numpy as np

from benchmarks.flows import KERAS
from benchmarks.measure import rounded, versions
from benchmarks.rows import Row
from utils.chapters import definitions


def points(settings, seed):
    """Training, validation and test points (count, 64) in float32, standardised by the
    training points, and the log of the product of their deviations.
    """
    rng = np.random.default_rng(seed)
    count, tops = settings["images"], settings["levels"]
    if settings["data"] == "digits":
        from sklearn.datasets import load_digits

        levels = rng.permutation(load_digits().data)
        parts = np.split(levels, [count, count + 250])
    else:
        parts = clothes(rng, count)

    def logits(levels):
        fraction = 0.01 + 0.98 * (levels + rng.random(levels.shape)) / tops
        return np.log(fraction / (1 - fraction))

    train = np.concatenate([logits(parts[0]) for _ in range(settings["copies"])])
    mean, std = train.mean(axis=0), train.std(axis=0)
    three = (train, logits(parts[1]), logits(parts[2]))
    three = [((x - mean) / std).astype("float32") for x in three]
    return *three, float(np.log(std).sum())


def clothes(rng, count):
    """Fashion-MNIST as means of 3 × 3 pixels: levels (count, 64) from 0 to 255."""
    from utils import datasets
    from utils.course import CourseError

    data = datasets.fashion_mnist()
    if data.name != "Fashion-MNIST":
        raise CourseError(f"these rows are of Fashion-MNIST, and there is {data.name}.")

    def shrunk(images):
        blocks = images[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3)
        return blocks.mean(axis=(2, 4)).round().reshape(-1, 64)

    order = rng.permutation(len(data.x_train))
    some = order[: count + 2_000]
    test = rng.permutation(len(data.x_test))[:2_000]
    train = shrunk(data.x_train[some])
    return train[:count], train[count:], shrunk(data.x_test[test])


def contest(settings, seed, tries):
    """The figures of the best of some tries, each (name, fit), where fit(train,
    validation) gives a function from points to log densities and a row of more figures.
    """
    train, validation, test, log_std = points(settings, seed)
    best, started = None, time.perf_counter()
    for name, fit in tries:
        log_prob = fit(train, validation)
        score = float(np.mean(log_prob(validation)))
        if best is None or score > best[0]:
            best = score, name, log_prob
    log_q = np.asarray(best[2](test), "float64") - log_std
    return {
        "nats": rounded(log_q.mean()),
        "nats_se": rounded(log_q.std() / len(log_q) ** 0.5),
        "validation_nats": rounded(best[0] - log_std),
        "chosen": best[1],
        "tries": len(tries),
        "seconds": round(time.perf_counter() - started, 1),
    }


def mixture(settings, seed):
    """Mixtures of Gaussians: sizes, kinds of covariance, and what is added to it."""
    from sklearn.mixture import GaussianMixture

    def fit_of(count, kind, added):
        def fit(train, validation):
            model = GaussianMixture(count, covariance_type=kind, reg_covar=added)
            model.set_params(tol=0.01, max_iter=50, random_state=seed)
            return model.fit(train).score_samples

        return fit

    shapes = [
        *itertools.product(settings["few"], ("full",), settings["added"]),
        *itertools.product(settings["many"][settings["data"]], ("full",), (0.1,)),
        *itertools.product(settings["other"], ("tied", "diag"), (0.01,)),
    ]
    tries = [
        (f"{count} {kind}, {added:g} added", fit_of(count, kind, added))
        for count, kind, added in shapes
        if count <= settings["images"]
    ]
    return contest(settings, seed, tries) | {"versions": versions("scikit-learn")}


def kernel(settings, seed):
    """A Gaussian on each training point; its width is what is tried."""
    from sklearn.neighbors import KernelDensity

    def fit_of(width):
        return lambda train, validation: (
            KernelDensity(bandwidth=width).fit(train).score_samples
        )

    tries = [(f"width {width}", fit_of(width)) for width in settings["widths"]]
    return contest(settings, seed, tries) | {"versions": versions("scikit-learn")}


def realnvp(settings, seed):
    """Chapter 4's flow; the best epoch on the validation points is kept."""
    import keras

    from utils import training

    build_realnvp = definitions("04_realnvp", "build_realnvp")

    def fit_of(couplings, width, depth, peak):
        def fit(train, validation):
            keras.utils.set_random_seed(seed)
            flow = build_realnvp(64, couplings, width, depth)
            batch = min(256, len(train) // 4)
            steps = len(train) // batch
            epochs = max(settings["least_epochs"], settings["steps"] // steps)
            rate = training.warmup_cosine(peak, epochs * steps)
            training.fit_density(
                flow,
                train,
                optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
                epochs=epochs,
                batch=batch,
                validation=validation,
                patience=epochs,
                seed=seed,
            )
            return training.compiled(flow.log_prob, flow)

        return fit

    tries = []
    for couplings, width, depth, peak in settings["shapes"]:
        name = f"{couplings} × {width} × {depth}, peak {peak:g}"
        tries.append((name, fit_of(couplings, width, depth, peak)))
    return contest(settings, seed, tries) | {"versions": versions(*KERAS)}


def judged_exactly(flow, steps):
    """The log density of a continuous flow, with the exact trace, compiled."""
    from utils import training

    by_jacobian = definitions("08_ffjord", "by_jacobian")
    return training.compiled(lambda x: flow.log_prob(x, steps, by_jacobian), flow)


def ffjord(settings, seed):
    """Chapter 8's FFJORD: one probe in training, the exact trace in judging."""
    import keras

    from utils import training

    ContinuousFlow, velocity_network, OneProbe = definitions(
        "08_ffjord", "ContinuousFlow", "velocity_network", "OneProbe"
    )
    solver = settings["solver_steps"]

    def fit_of(width, peak):
        def fit(train, validation):
            keras.utils.set_random_seed(seed)
            flow = ContinuousFlow(velocity_network(64, width), 64, solver)
            batch = min(256, len(train) // 4)
            epochs = settings["epochs"]
            rate = training.warmup_cosine(peak, epochs * (len(train) // batch))
            training.fit_density(
                OneProbe(flow),
                train,
                optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
                epochs=epochs,
                batch=batch,
                validation=validation,
                patience=epochs,
                seed=seed,
            )
            return judged_exactly(flow, 4 * solver)

        return fit

    tries = [(f"{w}, peak {peak:g}", fit_of(w, peak)) for w, peak in settings["shapes"]]
    return contest(settings, seed, tries) | {"versions": versions(*KERAS)}


def matching(settings, seed):
    """Chapter 8's flow matching; the last weights are kept."""
    import keras

    ContinuousFlow, velocity_network, flow_matching = definitions(
        "08_ffjord", "ContinuousFlow", "velocity_network", "flow_matching"
    )

    def fit_of(width, updates, peak):
        def fit(train, validation):
            keras.utils.set_random_seed(seed)
            network = velocity_network(64, width, "silu")
            flow_matching(network, train, 256, updates, peak)
            flow = ContinuousFlow(network, 64, settings["solver_steps"])
            return judged_exactly(flow, settings["solver_steps"])

        return fit

    tries = [
        (f"{width}, {updates:,} updates, peak {peak:g}", fit_of(width, updates, peak))
        for width, updates, peak in settings["shapes"]
    ]
    return contest(settings, seed, tries) | {"versions": versions(*KERAS)}


MIXTURE = {"few": (5, 10, 15, 20, 30), "added": (0.003, 0.01, 0.03, 0.1)}
MIXTURE |= {"many": {"digits": (100, 300), "clothes": (100,)}}
MIXTURE |= {"other": (10, 30, 100, 300)}
KERNEL = {"widths": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)}
SHAPES = ((8, 64, 1, 1e-3), (8, 128, 2, 1e-3), (16, 128, 2, 1e-3))
FLOW = {"shapes": SHAPES, "steps": 2_000, "least_epochs": 10}
NONE = {"many": {"digits": (), "clothes": ()}, "other": ()}
CONTESTANTS = {
    "kernel": (kernel, KERNEL, {"widths": (0.5,)}),
    "mixture": (mixture, MIXTURE, {"few": (3,), "added": (0.1,)} | NONE),
    "RealNVP": (realnvp, FLOW, {"shapes": ((2, 16, 1, 1e-3),), "steps": 20}),
}
CONTINUOUS = {
    "FFJORD": (
        ffjord,
        {"shapes": ((64, 8e-3), (128, 4e-3), (256, 4e-3)), "epochs": 40}
        | {"solver_steps": 8},
        {"shapes": ((16, 4e-3),), "epochs": 1, "solver_steps": 2},
    ),
    "flow matching": (
        matching,
        {"shapes": ((128, 3_000, 1e-2), (128, 6_000, 1e-2), (256, 6_000, 2e-3))}
        | {"solver_steps": 32},
        {"shapes": ((16, 60, 1e-2),), "solver_steps": 4},
    ),
}
SIZES = (300, 1_000, 3_000)
DIGITS = {"data": "digits", "images": 1_297, "levels": 17, "copies": 4}
CLOTHES = {"data": "clothes", "levels": 256, "copies": 1}
LARGE = {"images": 10_000, **CLOTHES}  # with fewer tries: those that were best before
LARGE_MIXTURE = {"few": (10, 15, 20, 30), "added": (0.003, 0.01)}
LARGE_MIXTURE |= {"many": {"clothes": (100,)}, "other": (100,)}
LARGE_FLOW = FLOW | {"shapes": SHAPES[1:]}
FEW = {"images": 300}
ROWS = [
    *(
        Row(f"{name}, digits", run, settings | DIGITS, quick)
        for name, (run, settings, quick) in (CONTESTANTS | CONTINUOUS).items()
    ),
    *(
        Row(
            f"{name}, {size:,} clothes",
            run,
            settings | CLOTHES | {"images": size},
            quick | FEW,
        )
        for size in SIZES
        for name, (run, settings, quick) in CONTESTANTS.items()
    ),
    *(
        Row(
            f"{name}, 10,000 clothes",
            run,
            settings | LARGE,
            CONTESTANTS[name][2] | FEW,
            seeds=(0,),  # which takes minutes
        )
        for name, run, settings in (
            ("mixture", mixture, LARGE_MIXTURE),
            ("RealNVP", realnvp, LARGE_FLOW),
        )
    ),
]
