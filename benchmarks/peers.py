"""PART=peers: spline flows of three PyTorch libraries, on the points, schedule and
clock of ours.

Every model is built with its library's own parts and trained by the loop that its
documentation shows, Adam, one step after the other. It gets what ours gets: a rate that
climbs and falls, gradients cut to length 5, the weights of the best validation NLL, and
as many trials of its settings. They run in an environment of their own,
.venv-benchmarks.
"""

from __future__ import annotations

import copy
import math
import time
from types import SimpleNamespace

from benchmarks.measure import POINTS, Clock, judged, versions
from benchmarks.rows import Row
from utils.results import milliseconds

# ------------------------------------------------------------------ the libraries


def with_zuko(flow):
    return SimpleNamespace(
        module=flow,
        log_prob=lambda x: flow().log_prob(x),
        sample=lambda count: flow().sample((count,)),
        versions=versions("zuko", "torch"),
    )


def with_normflows(couplings):
    import normflows

    base = normflows.distributions.DiagGaussian(2, trainable=False)
    flow = normflows.NormalizingFlow(base, couplings)
    return SimpleNamespace(
        module=flow,
        log_prob=flow.log_prob,
        sample=lambda count: flow.sample(count)[0],
        versions=versions("normflows", "torch"),
    )


def with_nflows(transforms):
    from nflows import distributions, flows
    from nflows.transforms import CompositeTransform

    flow = flows.Flow(CompositeTransform(transforms), distributions.StandardNormal([2]))
    return SimpleNamespace(
        module=flow,
        log_prob=flow.log_prob,
        sample=flow.sample,
        versions=versions("nflows", "torch"),
    )


# ------------------------------------------------------------------ training


def trained(model, settings: dict) -> dict:
    """Maximum likelihood on two moons by the library's own log_prob, and its figures.

    With `compile`, log_prob goes through `torch.compile`.
    """
    import torch

    clock, batch = (
        Clock(settings["epochs"], settings.get("compile", False)),
        settings["batch"],
    )
    x, places, validation = (
        torch.from_numpy(points)
        for points in (clock.data.x_train, clock.x, clock.data.x_validation)
    )
    log_prob = (
        torch.compile(model.log_prob) if settings.get("compile") else model.log_prob
    )
    weights = [p for p in model.module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=settings["peak"])
    steps = clock.epochs * (len(x) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: climb_and_fall(step, steps)
    )
    spent, best, kept = 0.0, math.inf, None
    for _ in range(clock.epochs):
        started = time.perf_counter()
        order = torch.randperm(len(x))
        for start in range(0, len(x) - batch + 1, batch):
            loss = -log_prob(x[order[start : start + batch]]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 5.0)
            optimizer.step()
            schedule.step()
        spent += time.perf_counter() - started
        with torch.no_grad():
            clock.lap(spent, model.log_prob(places).numpy())
            nll = float(-model.log_prob(validation).mean())
        if nll < best:
            best, kept = nll, copy.deepcopy(model.module.state_dict())
    model.module.load_state_dict(kept)

    @torch.no_grad()
    def density(points):
        return model.log_prob(torch.from_numpy(points)).numpy()

    points = clock.data.x_test[:POINTS]
    with torch.no_grad():
        sample_ms = milliseconds(lambda: model.sample(POINTS), 7)
    return {
        **judged(density, clock.data),
        **clock.figures(),
        "parameters": sum(p.numel() for p in weights),
        "density_ms": milliseconds(lambda: density(points), 7),
        "sample_ms": sample_ms,
        "versions": model.versions,
    }


def climb_and_fall(step: int, steps: int, warmup: float = 0.1) -> float:
    """The rate as a fraction of its peak: our `training.warmup_cosine`."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return 0.01 + 0.99 * step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def zuko(settings, seed):
    """zuko's neural spline flow."""
    import torch
    from zuko.flows import NSF

    torch.manual_seed(seed)
    width, bins = settings["width"], settings["bins"]
    flow = NSF(
        2, transforms=settings["layers"], bins=bins, hidden_features=(width,) * 2
    )
    return trained(with_zuko(flow), settings)


def normflows(settings, seed):
    """normflows' spline couplings, with a learned linear map between them."""
    import torch
    from normflows import flows

    torch.manual_seed(seed)
    layers, width, bins = (settings[name] for name in ("layers", "width", "bins"))
    parts = []
    for k in range(layers):
        spline = flows.CoupledRationalQuadraticSpline(
            2, 2, width, num_bins=bins, tail_bound=5, reverse_mask=bool(k % 2)
        )
        parts += [spline, flows.LULinearPermute(2)]
    return trained(with_normflows(parts), settings)


def nflows(settings, seed):
    """nflows' autoregressive splines."""
    import torch
    from nflows import transforms

    torch.manual_seed(seed)
    parts = []
    for _ in range(settings["layers"]):
        spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
            features=2,
            hidden_features=settings["width"],
            num_blocks=2,
            num_bins=settings["bins"],
            tails="linear",
            tail_bound=5,
        )
        parts += [transforms.ReversePermutation(2), spline]
    return trained(with_nflows(parts), settings)


BASE = {"width": 64, "bins": 8, "epochs": 40, "batch": 512, "peak": 3e-3}
LIBRARIES = {
    "zuko spline flow": (zuko, {"layers": 3, **BASE}),
    "normflows spline flow": (normflows, {"layers": 4, **BASE}),
    "nflows spline flow": (nflows, {"layers": 3, **BASE}),
}
TRIALS = [{}, {"peak": 1e-2}, {"width": 128}]
COMPILED = {"compile": True}
QUICK = {"epochs": 2, "batch": 4096}


def trial_of(name: str, change: dict) -> Row:
    run, settings = LIBRARIES[name]
    words = ", ".join(f"{k} {v}" for k, v in change.items()) or "no change"
    title, settings = f"{name}, trial: {words}", settings | change
    more = {"seeds": (3,), "tuning": name, "environment": "torch"}
    return Row(title, run, settings, QUICK, **more)


CHOSEN = {  # by the lowest validation NLL of the trials
    "zuko spline flow": {"width": 128},
    "normflows spline flow": {"peak": 0.01},
    "nflows spline flow": {"peak": 0.01},
}
ROWS = [
    *(trial_of(name, change) for name in LIBRARIES for change in [*TRIALS, COMPILED]),
    *(
        Row(name, run, settings | CHOSEN[name], QUICK, environment="torch")
        for name, (run, settings) in LIBRARIES.items()
    ),
]
