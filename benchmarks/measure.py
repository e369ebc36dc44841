"""How `make bench` measures two moons: the same points, the same clock and the same
integrals for every library.

Needs no deep learning library, so that both environments can use it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable

import numpy as np

from utils import moons

MILESTONES = (0.2, 0.1, 0.05, 0.02, 0.01)  # KL over the bulk in nats
POINTS = 10_000  # how many densities and how many samples are timed at a time


class Clock:
    """Two moons, and the clock of one training on them: training counts, measuring does
    not.

    After each epoch the KL over the bulk is integrated, on a coarser set of places than
    the final figure: the two differ by at most some percent for networks with kinks,
    and by less than 1e-5 for smooth ones.
    """

    def __init__(self, epochs: int, compiles: bool = True):
        self.data = moons.load()
        coarse = self.data.truth.quadrature(per_deviation=2.0)
        self.x = coarse.x[coarse.bulk]
        self.mass, self.log_p = coarse.mass[coarse.bulk], coarse.log_p[coarse.bulk]
        self.epochs, self.compiles = epochs, compiles
        self.seconds: list[float] = []
        self.kl: list[float] = []

    def lap(self, seconds: float, log_q: np.ndarray) -> None:
        """Notes the seconds of training so far and the KL over the bulk of a model that
        gives `log_q` to the places `x`.
        """
        log_q = np.asarray(log_q, "float64")
        self.seconds.append(round(seconds, 3))
        self.kl.append(round(float((self.mass * (self.log_p - log_q)).sum()), 5))
        print(
            f"epoch {len(self.kl)} of {self.epochs}: {seconds:.1f} s, KL {self.kl[-1]}"
        )

    def figures(self) -> dict:
        """Seconds of compiling and of training, and the KL epoch by epoch.

        Compiling, where something `compiles`, is the time that the first epoch took
        beyond the median of the later ones.
        """
        later = np.diff(self.seconds) if len(self.seconds) > 1 else self.seconds
        epoch, total = float(np.median(later)), self.seconds[-1]
        compiling = max(0.0, self.seconds[0] - epoch) if self.compiles else 0.0
        finite = [kl if np.isfinite(kl) else None for kl in self.kl]
        return {
            "compile_seconds": round(compiling, 2),
            "train_seconds": round(total - compiling, 2),
            "epoch_seconds": round(epoch, 4),
            "by_epoch": {"seconds": self.seconds, "kl_bulk": finite},
        }


def judged(log_prob: Callable, data: moons.Data) -> dict:
    """The two KLs of a model, and its NLL on the validation points.

    `log_prob` takes (10000, 2) float32 and gives (10000,). An infinite KL is written
    "inf", and "trouble" says where. ValueError for a negative one: no density has it.
    """
    kl = data.truth.integrate_kl(log_prob, POINTS)
    if kl.plane < -moons.ROUNDING:
        raise ValueError(kl.trouble)
    validation = np.concatenate([data.x_validation] * 2)  # as many as elsewhere
    return {
        "kl_bulk": rounded(kl.bulk),
        "kl_plane": rounded(kl.plane),
        "validation_nll": rounded(-np.mean(np.asarray(log_prob(validation)))),
        **({"trouble": kl.trouble} if kl.trouble else {}),
    }


def rounded(value: float) -> float | str:
    """Six digits; "inf" for what JSON has no number for."""
    return float(f"{value:.6g}") if np.isfinite(value) else "inf"


def reached(run: dict, target: float, compilation: bool = True) -> float | None:
    """Seconds of training at the end of the first epoch whose KL over the bulk is at
    most `target`, or None.
    """
    by_epoch = run["by_epoch"]
    for seconds, kl in zip(by_epoch["seconds"], by_epoch["kl_bulk"], strict=True):
        if kl is not None and kl <= target:
            return seconds - (0 if compilation else run["compile_seconds"])
    return None


def versions(*packages: str) -> str:
    """ "zuko 1.6.0, torch 2.13.0": what a row of the table was measured with."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
