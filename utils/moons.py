"""Two moons whose density is known, so that a model of them can be measured against the
truth.

scikit-learn's `make_moons` draws a point on one of two half circles and adds Gaussian
noise. That is a density one can compute. Everything here is standardised: divided by
the standard deviations of the distribution itself, not of a sample.

A model is measured by an integral over the plane (`TwoMoons.integrate_kl`). Draws from
the truth (`TwoMoons.kl`) give the same figure with a standard error, and see nothing
of the places where the truth is rare.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.datasets import make_moons

NOISE = 0.05
NAMES = ("upper moon", "lower moon")
BULK = 0.9999  # the truth's mass in the region of highest density that "bulk" means
RARE = -30.0  # log p of places that no integral here needs
REACH = 8.0  # deviations of the noise: beyond, the truth has less than 1e-13
LEAST_NOISE = 0.005  # below, an integral needs more than a million places
ROUNDING = 1e-4  # nats: a KL over the plane that is further below 0 is of no density


class KL(NamedTuple):
    """How far a model is from the truth: KL(truth ‖ model) in nats, in two figures.

    `bulk` is the integral over the region of highest density that holds 99.99 % of the
    truth, `plane` that over the whole plane. Both are `inf` where the model's log
    density is not finite somewhere in the region, and `trouble` then says where; it
    also says so if the KL is below 0. Else it is None.
    """

    bulk: float
    plane: float
    trouble: str | None = None


class Quadrature:
    """The midpoint rule for integrals against a density p in the plane.

    `log_prob` maps points (count, 2) to log p, (count,), in nats; `x` (count, 2) are
    the middles of equal cells, each of area `area`. Places with log p below −30 are
    left out. For a density that is smooth over a cell or two the rule's error falls
    faster than any power of the cell's width (Trefethen and Weideman, 2014).
    """

    def __init__(self, log_prob: Callable, x: np.ndarray, area: float):
        log_p = np.asarray(log_prob(x), "float64")
        kept = log_p > RARE
        self.x, self.log_p, self.area = x[kept].astype("float32"), log_p[kept], area
        self.mass = np.exp(self.log_p) * area  # the truth in each cell
        falling = np.argsort(-self.log_p)
        self.bulk = np.zeros(len(self.x), bool)
        self.bulk[falling] = np.cumsum(self.mass[falling]) <= BULK
        self.level_area = np.empty(len(self.x))  # where p exceeds its value here
        self.level_area[falling] = area * (np.arange(len(self.x)) + 0.5)

    def entropy(self) -> float:
        """−∫ p log p in nats."""
        return float(-(self.mass * self.log_p).sum())

    def kl(self, log_prob: Callable, batch: int = 10_000) -> KL:
        """KL(p ‖ q) for a model q, any callable from (batch, 2) float32 to (batch,).

        It always gets `batch` places, so that a compiled function compiles once.
        """
        log_q = self.evaluate(log_prob, batch)
        bad = ~np.isfinite(log_q)
        terms = self.mass * (self.log_p - np.where(bad, 0.0, log_q))
        figures = [
            np.inf if bad[region].any() else float(terms[region].sum())
            for region in (self.bulk, slice(None))
        ]
        trouble = self._trouble(log_q, bad) if bad.any() else None
        if figures[1] < -ROUNDING:
            trouble = (
                f"the KL is {figures[1]:.4f} nats, below 0: this is no density of "
                "these points, its integral is above 1."
            )
        return KL(*figures, trouble)

    def evaluate(self, log_prob: Callable, batch: int = 10_000) -> np.ndarray:
        """A model's log density at all places, in float64. ValueError for a model that
        does not give one number a point.
        """
        if batch < 1:
            raise ValueError(f"batch is {batch}: give a whole number from 1 on.")
        missing = -len(self.x) % batch
        x = np.concatenate([self.x, np.repeat(self.x[-1:], missing, axis=0)])
        pieces = []
        for start in range(0, len(x), batch):
            piece = np.asarray(log_prob(x[start : start + batch]), "float64")
            if piece.shape != (batch,):
                raise ValueError(
                    f"log_prob gives shape {piece.shape} for {batch} points: it needs "
                    "one value for each."
                )
            pieces.append(piece)
        return np.concatenate(pieces)[: len(self.x)]

    def _trouble(self, log_q, bad) -> str:
        first = np.argmax(np.where(bad, self.log_p, -np.inf))
        (x1, x2), log_p = self.x[first], self.log_p[first]
        return (
            f"log q is {log_q[first]} at {bad.sum():,} of {len(bad):,} places, which "
            f"hold {self.mass[bad].sum():.1e} of the truth; the likeliest of them is "
            f"({x1:.2f}, {x2:.2f}), with log p = {log_p:.1f}."
        )


@dataclass(frozen=True)
class TwoMoons:
    """The distribution that `make_moons(noise=noise)` draws from, with zero mean and
    unit variance in each dimension.

    `noise` is the standard deviation of the Gaussian noise before standardising, above
    0.
    """

    noise: float = NOISE

    def __post_init__(self):
        if not 0 < self.noise < np.inf:
            raise ValueError(
                f"noise is {self.noise}: without noise, two moons have no density. "
                "Give a number above 0."
            )

    @property
    def mean(self) -> np.ndarray:
        """The mean before standardising, (2,): the arcs' centres of mass are (0, 2/π)
        and (1, 1/2 − 2/π).
        """
        return np.array([0.5, 0.25])

    @property
    def std(self) -> np.ndarray:
        """The standard deviations before standardising, (2,)."""
        return np.sqrt(np.array([0.75, 0.5625 - 1 / np.pi]) + self.noise**2)

    def log_prob(self, x: np.ndarray, moon: int | None = None) -> np.ndarray:
        """The exact log density in nats of standardised points: (count, 2) to (count,).

        With `moon` 0 or 1 it is the density given that the point comes from the upper
        or the lower moon.

        A point of a moon is a point of its arc plus noise, so that the density is the
        mean, over the angle, of a Gaussian that sits on the arc. The mean is an
        integral over one angle, done by Gauss-Legendre quadrature. Its logarithm is
        exact to 1e-7 for coordinates up to 4 standard deviations, and to 1e-3 up to 8.
        """
        if moon not in (None, 0, 1):
            raise ValueError(f"moon is {moon}: give 0, 1, or None for both.")
        x = np.asarray(x, "float64")
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"x has shape {x.shape}: give points as (count, 2).")
        raw = self.mean + self.std * x
        given_moon = [
            self._log_prob_of_arc(raw),
            self._log_prob_of_arc(_other_moon(raw)),
        ]
        log_prob = (
            given_moon[moon]
            if moon is not None
            else np.logaddexp(*given_moon) - np.log(2)
        )
        return log_prob + np.log(self.std).sum()

    def _log_prob_of_arc(self, raw: np.ndarray) -> np.ndarray:
        """Log density of the half circle (cos a, sin a), a uniform in [0, π], plus
        noise: (count, 2) to (count,).
        """
        # Some five nodes for each width of the noise along the arc.
        places, weights = np.polynomial.legendre.leggauss(40 + int(5 / self.noise))
        angle = np.pi / 2 * (places + 1)
        arc = np.stack([np.cos(angle), np.sin(angle)]) / self.noise**2
        log_weights = np.log(weights / 2) - np.log(2 * np.pi * self.noise**2)
        result = np.empty(len(raw))
        for start in range(0, len(raw), 1024):  # a piece at a time: memory stays small
            piece = raw[start : start + 1024]
            # log of each term but for −(|x|² + 1) / 2σ², which all nodes share
            terms = piece @ arc + log_weights
            largest = terms.max(axis=1, keepdims=True)
            total = np.exp(np.subtract(terms, largest, out=terms), out=terms).sum(
                axis=1
            )
            shared = ((piece**2).sum(axis=1) + 1) / (2 * self.noise**2)
            result[start : start + 1024] = np.log(total) + largest[:, 0] - shared
        return result

    def sample(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws standardised points (count, 2) in float32 and which moon each comes
        from (count,), 0 or 1.
        """
        rng = np.random.default_rng(seed)
        angle = rng.uniform(0, np.pi, count)
        moon = rng.integers(0, 2, count)
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        raw = np.where(moon[:, None] == 0, arc, _other_moon(arc)) + rng.normal(
            0, self.noise, (count, 2)
        )
        return self.standardise(raw).astype("float32"), moon

    def standardise(self, raw: np.ndarray) -> np.ndarray:
        """Points as `make_moons` gives them to standardised ones, (count, 2)."""
        return (raw - self.mean) / self.std

    def quadrature(self, per_deviation: float = 4.0) -> Quadrature:
        """Places for integrals over the plane: all within eight deviations of the noise
        from an arc, at least `per_deviation` of them for a deviation.

        Their coordinates are multiples of powers of two, so that float32 holds them
        exactly. A density with kinks, as of networks with ReLU, is integrated to some
        percent of its KL.
        """
        if self.noise < LEAST_NOISE:
            raise ValueError(
                f"noise is {self.noise}: integrals over the plane need "
                f"{LEAST_NOISE} at least."
            )
        return _quadrature(self, per_deviation)

    def entropy(self) -> float:
        """The differential entropy −∫ p log p in nats, to nine digits: no model has a
        lower expected NLL.
        """
        return self.quadrature().entropy()

    def integrate_kl(self, log_prob: Callable, batch: int = 10_000) -> KL:
        """KL(truth ‖ model) by an integral over the plane, without draws and their
        errors.

        `log_prob` is any callable from standardised points (batch, 2) in float32 to
        their log density, (batch,). The bulk's figure may be below 0 by 1e-4, since the
        model may have the rest of its mass there. Raises ValueError for another shape.
        """
        return self.quadrature().kl(log_prob, batch)

    def nice_floor(self, scaled: bool = True) -> float:
        """The least KL(truth ‖ q) in nats of any q that a map of constant Jacobian
        makes from N(0, I), such as NICE's.

        With A(x) the area where p exceeds p(x) and H the entropy it is 1 + ln E_p[A] −
        H; with `scaled` False, for additive layers without NICE's last scaling, it is
        ln 2π + E_p[A] / 2π − H. Why: a map that keeps areas does best if it sends the
        densest places nearest to 0, the region where p exceeds p(x) to a disc of the
        same area A = π|z|², and −log N(z) is ln 2π + |z|²/2. A scaling that multiplies
        areas by c gives ln 2π + c E_p[A] / 2π − ln c, least at c = 2π / E_p[A]. A
        continuous map can only come close to it.
        """
        places = self.quadrature()
        mean_area = float((places.mass * places.level_area).sum())
        if scaled:
            return 1 + np.log(mean_area) - self.entropy()
        return np.log(2 * np.pi) + mean_area / (2 * np.pi) - self.entropy()

    def kl(self, x: np.ndarray, log_prob: np.ndarray) -> tuple[float, float]:
        """KL(truth ‖ model) in nats estimated from draws, and its standard error.

        `x` (count, 2) are points of the truth that the model was not trained on,
        `log_prob` (count,) what the model gives them. The estimate is paired: the mean
        of log p_true − log p_model over the same points, which varies much less than
        either. It knows nothing of places that `x` does not visit; `integrate_kl` does.
        Raises ValueError if a value is not finite.
        """
        log_prob = np.asarray(log_prob, "float64")
        if log_prob.shape != (len(x),):
            raise ValueError(
                f"log_prob has shape {log_prob.shape}: it needs one value for each of "
                f"{len(x)} points."
            )
        if not np.isfinite(log_prob).all():
            count = (~np.isfinite(log_prob)).sum()
            raise ValueError(
                f"{count} of {len(x)} log densities are not finite: the model gives no "
                "KL."
            )
        difference = self.log_prob(x) - log_prob
        return float(difference.mean()), float(difference.std() / np.sqrt(len(x)))


@dataclass(frozen=True)
class Data:
    """The points that every chapter uses, standardised, in float32, each (count, 2),
    and the density they come from.
    """

    truth: TwoMoons
    x_train: np.ndarray
    x_validation: np.ndarray
    x_test: np.ndarray
    moon_train: np.ndarray
    moon_test: np.ndarray
    name: str = "two moons"


def load(train: int = 30_000, noise: float = NOISE) -> Data:
    """`train` training points by scikit-learn's `make_moons`, 5,000 validation and
    10,000 test points.

    The last two are drawn by the density's own sampler, independently of `train`; they
    are the same in every chapter. `make_moons` takes its angles from a grid and adds
    noise, which no one can tell from uniform angles here.
    """
    truth = TwoMoons(noise)
    raw, moon_train = make_moons(train, noise=noise, random_state=0)
    x_validation, _ = truth.sample(5_000, seed=1)
    x_test, moon_test = truth.sample(10_000, seed=2)
    return Data(
        truth,
        truth.standardise(raw).astype("float32"),
        x_validation,
        x_test,
        moon_train,
        moon_test,
    )


def _other_moon(raw: np.ndarray) -> np.ndarray:
    """The half turn about (1/2, 1/4) that carries each moon onto the other."""
    return np.array([1.0, 0.5]) - raw


def _distance_to_arc(raw: np.ndarray) -> np.ndarray:
    """How far points (count, 2) are from the upper half circle, (count,)."""
    radius = np.hypot(*raw.T)
    to_ends = np.hypot(np.abs(raw[:, 0]) - 1, raw[:, 1])
    return np.where(raw[:, 1] >= 0, np.abs(radius - 1), to_ends)


@functools.cache
def _quadrature(truth: TwoMoons, per_deviation: float) -> Quadrature:
    reach = REACH * truth.noise
    step = 2.0 ** np.floor(np.log2(truth.noise / truth.std / per_deviation))
    low = truth.standardise(np.array([-1.0, -0.5]) - reach)
    high = truth.standardise(np.array([2.0, 1.0]) + reach)
    axes = [
        s * (np.arange(np.floor(a / s), np.ceil(b / s)) + 0.5)
        for a, b, s in zip(low, high, step, strict=True)
    ]
    x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    raw = truth.mean + truth.std * x
    distance = np.minimum(_distance_to_arc(raw), _distance_to_arc(_other_moon(raw)))
    return Quadrature(truth.log_prob, x[distance < reach], float(np.prod(step)))
