"""How `make bench` measures: the same points, the same milestones and the same clock
for every library.

Needs no deep learning library, so that the workers of either side can use it.
"""

from __future__ import annotations

import importlib.metadata
import resource
import sys

import numpy as np

from utils import moons

MILESTONES = (0.10, 0.05, 0.028, 0.02, 0.01)  # KL in nats
POINTS = 10_000  # how many densities and how many samples are timed at a time
EQUAL = {
    "couplings": 6,
    "width": 256,
    "depth": 4,
    "batch": 256,
}  # the architecture that all libraries share


class Race:
    """Two moons, and the clock of one training on them: training counts, measuring the
    KL does not.

    `points` (count, 2) are fresh draws from the truth, the same in every race; no
    chapter uses them.
    """

    def __init__(self, epochs: int, compiles: bool = False):
        data = moons.load()
        self.truth, self.x_train = data.truth, data.x_train
        self.epochs, self.compiles = epochs, compiles
        self.points, _ = self.truth.sample(POINTS, seed=1000)
        self.log_p = self.truth.log_prob(self.points)
        self.seconds: list[float] = []
        self.kl: list[float] = []

    def lap(self, seconds: float, log_q: np.ndarray) -> None:
        """Notes the training seconds so far and the KL of a model that gives the points
        `log_q`.
        """
        difference = self.log_p - np.asarray(log_q, "float64")
        self.seconds.append(seconds)
        self.kl.append(float(difference.mean()))
        self.standard_error = float(difference.std() / np.sqrt(len(difference)))
        print(
            f"epoch {len(self.kl)} of {self.epochs}: {seconds:.1f} s, KL "
            f"{self.kl[-1]:.4f}",
            file=sys.stderr,
        )

    def result(self, **more) -> dict:
        """What one training gave. Compiling, if it `compiles`, took the first epoch's
        time beyond a usual one's.
        """
        epoch = (
            float(np.median(np.diff(self.seconds)))
            if len(self.seconds) > 1
            else self.seconds[0]
        )
        return {
            "seconds": self.seconds,
            "kl": self.kl,
            "kl_se": self.standard_error,
            "epoch_seconds": epoch,
            "compile_seconds": max(0.0, self.seconds[0] - epoch)
            if self.compiles
            else 0.0,
            **more,
        }


def reached(result: dict, target: float, compilation: bool = True) -> float | None:
    """Training seconds at the end of the first epoch whose KL is at most `target`, or
    None.
    """
    for seconds, kl in zip(result["seconds"], result["kl"], strict=True):
        if kl <= target:
            return seconds - (0 if compilation else result["compile_seconds"])
    return None


def peak_memory() -> float:
    """The most memory that this process has held so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def versions(*packages: str) -> str:
    """ "zuko 1.6.0, torch 2.13.0": what a row of the table was measured with."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
