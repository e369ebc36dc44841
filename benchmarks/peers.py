"""The PyTorch libraries' side of `make bench`; it runs in .venv-benchmarks, one task a
process.

Every model is built with its library's own parts and trained by the loop that its
documentation shows: Adam, one step after the other. `python -m benchmarks.peers TASK
SEED PROFILE FILE` writes the result into FILE.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.measure import EQUAL, POINTS, Race, versions
from utils.results import milliseconds

# ------------------------------------------------------------------ the libraries


def with_zuko(flow):
    return SimpleNamespace(
        parameters=list(flow.parameters()),
        log_prob=lambda x: flow().log_prob(x),
        sample=lambda count: flow().sample((count,)),
        versions=versions("zuko", "torch"),
    )


def with_normflows(couplings):
    import normflows

    flow = normflows.NormalizingFlow(
        normflows.distributions.DiagGaussian(2, trainable=False), couplings
    )
    return SimpleNamespace(
        parameters=[p for p in flow.parameters() if p.requires_grad],
        log_prob=flow.log_prob,
        sample=lambda count: flow.sample(count)[0],
        versions=versions("normflows", "torch"),
    )


def with_nflows(transforms):
    from nflows import distributions, flows
    from nflows.transforms import CompositeTransform

    flow = flows.Flow(CompositeTransform(transforms), distributions.StandardNormal([2]))
    return SimpleNamespace(
        parameters=list(flow.parameters()),
        log_prob=flow.log_prob,
        sample=flow.sample,
        versions=versions("nflows", "torch"),
    )


# ------------------------------------------------------------------ one architecture


def equal_zuko():
    from zuko.flows import NICE  # zuko's name for couplings that shift and scale

    return with_zuko(
        NICE(
            2,
            transforms=EQUAL["couplings"],
            hidden_features=[EQUAL["width"]] * EQUAL["depth"],
        )
    )


def equal_normflows():
    from normflows import flows, nets

    hidden = [EQUAL["width"]] * EQUAL["depth"]
    layers = []
    for _ in range(EQUAL["couplings"]):
        layers += [
            flows.AffineCouplingBlock(nets.MLP([1, *hidden, 2])),
            flows.Permute(2, mode="swap"),
        ]
    return with_normflows(layers)


def equal_nflows():
    from nflows.nn import nets
    from nflows.transforms import AffineCouplingTransform

    class MLP(nets.MLP):
        def forward(
            self, x, context=None
        ):  # couplings hand a context on, which nflows' MLP does not take
            return super().forward(x)

    def network(inputs, outputs):
        hidden = [EQUAL["width"]] * EQUAL["depth"]
        return MLP([inputs], [outputs], hidden, activation=torch.relu)

    masks = [[(k % 2), 1 - (k % 2)] for k in range(EQUAL["couplings"])]
    return with_nflows(
        [AffineCouplingTransform(torch.tensor(mask), network) for mask in masks]
    )


# ------------------------------------------------------------------ each at its best


def spline_zuko(transforms=3, width=64, bins=8):
    from zuko.flows import NSF

    return with_zuko(
        NSF(2, transforms=transforms, bins=bins, hidden_features=(width, width))
    )


def spline_zuko_large():
    return spline_zuko(transforms=5, width=128, bins=16)


def spline_normflows():
    from normflows import flows

    layers = []
    for _ in range(4):
        spline = flows.CoupledRationalQuadraticSpline(
            2, 2, 64, num_bins=8, tail_bound=5
        )
        layers += [spline, flows.LULinearPermute(2)]
    return with_normflows(layers)


def spline_nflows():
    from nflows.transforms import (
        MaskedPiecewiseRationalQuadraticAutoregressiveTransform,
        ReversePermutation,
    )

    def transform():
        return MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            features=2,
            hidden_features=64,
            num_blocks=2,
            num_bins=8,
            tails="linear",
            tail_bound=5,
        )

    return with_nflows(
        [layer for _ in range(3) for layer in (ReversePermutation(2), transform())]
    )


RACES = {
    "zuko spline, small": (spline_zuko, {"epochs": 40, "batch": 512}),
    "zuko spline, large": (spline_zuko_large, {"epochs": 40, "batch": 512}),
    "normflows spline": (spline_normflows, {"epochs": 40, "batch": 512}),
    "nflows spline": (spline_nflows, {"epochs": 40, "batch": 512}),
}
PEAK_LEARNING_RATE = 3e-3
EQUALS = {"zuko": equal_zuko, "normflows": equal_normflows, "nflows": equal_nflows}


# ------------------------------------------------------------------ tasks


def race(name, seed, quick):
    """Maximum likelihood on two moons, with the KL after each epoch."""
    build, settings = RACES[name]
    epochs, batch = (2 if quick else settings["epochs"]), settings["batch"]
    clock = Race(epochs)
    x, points = torch.from_numpy(clock.x_train), torch.from_numpy(clock.points)
    torch.manual_seed(seed)
    model = build()
    optimizer = torch.optim.Adam(model.parameters, lr=PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, epochs * (len(x) // batch)
    )
    spent = 0.0
    for _ in range(epochs):
        started = time.perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            loss = -model.log_prob(x[order[start : start + batch]]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        spent += time.perf_counter() - started
        with torch.no_grad():
            clock.lap(spent, model.log_prob(points).numpy())
    return clock.result(parameters=count(model), versions=model.versions)


def equal(name, seed, quick):
    """Milliseconds of a training step, of 10,000 densities and of 10,000 samples at the
    shared architecture.
    """
    torch.manual_seed(seed)
    model = EQUALS[name]()
    optimizer = torch.optim.Adam(model.parameters, lr=1e-4)
    clock = Race(1)
    x, points = (
        torch.from_numpy(clock.x_train[: EQUAL["batch"]]),
        torch.from_numpy(clock.points),
    )

    def step():
        optimizer.zero_grad()
        (-model.log_prob(x).mean()).backward()
        optimizer.step()

    repeats = 5 if quick else 100
    step_ms = milliseconds(step, repeats)
    with torch.no_grad():
        density_ms = milliseconds(lambda: model.log_prob(points), max(3, repeats // 5))
        sample_ms = milliseconds(lambda: model.sample(POINTS), max(3, repeats // 5))
    return {
        "step_ms": step_ms,
        "density_ms": density_ms,
        "sample_ms": sample_ms,
        "parameters": count(model),
        "versions": model.versions,
    }


def count(model) -> int:
    return int(np.sum([p.numel() for p in model.parameters]))


TASKS = {"race": race, "equal": equal}

if __name__ == "__main__":
    kind, name, seed, profile, path = sys.argv[1:]
    result = TASKS[kind](name, int(seed), profile == "quick")
    Path(path).write_text(json.dumps(result), "utf-8")
