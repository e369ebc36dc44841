"""Two moons whose density is known, so that a model of them can be measured against the
truth.

scikit-learn's `make_moons` draws a point on one of two half circles and adds Gaussian
noise. That is a density one can compute. Everything here is standardised: divided by
the standard deviations of the distribution itself, not of a sample.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp
from sklearn.datasets import make_moons

NOISE = 0.05
NAMES = ("upper moon", "lower moon")


@dataclass(frozen=True)
class TwoMoons:
    """The distribution that `make_moons(noise=noise)` draws from, with zero mean and
    unit variance in each dimension.

    `noise` is the standard deviation of the Gaussian noise before standardising, above
    0.
    """

    noise: float = NOISE

    def __post_init__(self):
        if not self.noise > 0:
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
        nodes = 40 + int(
            5 / self.noise
        )  # some five nodes for each width of the noise along the arc
        places, weights = np.polynomial.legendre.leggauss(nodes)
        angle = np.pi / 2 * (places + 1)
        arc = np.stack([np.cos(angle), np.sin(angle)])
        log_weights = np.log(weights / 2) - np.log(2 * np.pi * self.noise**2)
        result = np.empty(len(raw))
        for start in range(
            0, len(raw), 4096
        ):  # a piece at a time, so that memory stays small
            piece = slice(start, start + 4096)
            squared_distance = (
                (raw[piece] ** 2).sum(axis=1, keepdims=True) + 1 - 2 * raw[piece] @ arc
            )
            result[piece] = logsumexp(
                log_weights - squared_distance / (2 * self.noise**2), axis=1
            )
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

    def entropy(self) -> float:
        """The differential entropy −∫ p log p in nats, to five digits: no model has a
        lower expected NLL.
        """
        return _entropy(self)

    def kl(self, x: np.ndarray, log_prob: np.ndarray) -> tuple[float, float]:
        """How far a model is from the truth: KL(truth ‖ model) in nats and its standard
        error.

        `x` (count, 2) are points of the truth that the model was not trained on,
        `log_prob` (count,) what the model gives them. The estimate is paired: the mean
        of log p_true − log p_model over the same points, which varies much less than
        either. Raises ValueError if a value is not finite.
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


@functools.cache
def _entropy(truth: TwoMoons) -> float:
    """The trapezoidal rule on a grid of a third of the noise; for a function this
    smooth its error is tiny.
    """
    step, margin = truth.noise / 3, 9 * truth.noise
    axes = [
        np.arange(-1 - margin, 2 + margin, step),
        np.arange(-0.5 - margin, 1 + margin, step),
    ]
    raw = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log_p = truth.log_prob(truth.standardise(raw))
    return float(-(np.exp(log_p) * log_p).sum() * step**2 / np.prod(truth.std))
