"""The exact density of two moons, against computations that share nothing with it."""

import numpy as np
import pytest
from scipy.integrate import quad
from sklearn.datasets import make_moons

from utils import checks, moons

truth = moons.TwoMoons()


def log_density_by_quad(x, noise):
    """The same density by adaptive quadrature over the angle, one point at a time, from
    make_moons' own formulas.
    """
    truth = moons.TwoMoons(noise)
    x1, x2 = truth.mean + truth.std * np.asarray(x)

    def gaussian(a, moon):
        y1, y2 = (
            (np.cos(a), np.sin(a))
            if moon == 0
            else (1 - np.cos(a), 1 - np.sin(a) - 0.5)
        )
        return np.exp(-((x1 - y1) ** 2 + (x2 - y2) ** 2) / (2 * noise**2)) / (
            2 * np.pi * noise**2
        )

    pieces = np.linspace(0, np.pi, 41)
    total = sum(
        quad(gaussian, a, b, args=(moon,), epsabs=0, epsrel=1e-10)[0]
        for moon in (0, 1)
        for a, b in zip(pieces[:-1], pieces[1:], strict=True)
    )
    return np.log(total / (2 * np.pi) * truth.std.prod())


@pytest.mark.parametrize("noise", [0.05, 0.1])
def test_density_is_that_of_an_independent_quadrature(noise):
    truth = moons.TwoMoons(noise)
    points = np.concatenate(
        [truth.sample(15, seed=3)[0], [[0, 0], [0.4, -0.3], [1.9, 1.2]]]
    )
    expected = [log_density_by_quad(x, noise) for x in points]
    assert np.allclose(truth.log_prob(points), expected, atol=1e-6)


def test_density_far_away_falls_like_its_nearest_gaussian_and_stays_finite():
    far = truth.log_prob([[8.0, 8.0], [-8.0, 0.0]])
    assert np.isfinite(far).all() and (far < -1000).all()


def test_density_integrates_to_one():
    assert checks.integral(truth.log_prob, tolerance=1e-6) == pytest.approx(1, abs=1e-6)


def test_one_moon_given_integrates_to_one_and_both_average_to_the_density():
    for moon in (0, 1):
        checks.integral(
            lambda x, moon=moon: truth.log_prob(x, moon=moon), tolerance=1e-6
        )
    x, moon = truth.sample(500, seed=4)
    given = np.exp([truth.log_prob(x, moon=0), truth.log_prob(x, moon=1)])
    assert np.allclose(given.mean(axis=0), np.exp(truth.log_prob(x)))
    assert (given.argmax(axis=0) == moon).mean() > 0.999


def test_density_is_that_of_the_points_of_make_moons():
    """Counts of a million points in coarse cells against the density's mass there."""
    raw, _ = make_moons(1_000_000, noise=0.1, random_state=1)
    wide = moons.TwoMoons(0.1)
    counts, *edges = np.histogram2d(
        *wide.standardise(raw).T, bins=12, range=[[-2.4, 2.4]] * 2
    )
    x, area = checks.square(2.4, 240)
    mass = (np.exp(wide.log_prob(x)) * area).reshape(12, 20, 12, 20).sum(
        axis=(1, 3)
    ).T * 1e6
    # Angles from a grid vary less than uniform ones, so these errors are at most those
    # of independent counts.
    assert (np.abs(counts - mass) < 5 * np.sqrt(mass) + 5).all()


@pytest.mark.parametrize(
    ("noise", "entropy"), [(0.05, 1.13122), (0.06, 1.31608), (0.10, 1.82964)]
)
def test_entropy_to_five_digits(noise, entropy):
    assert moons.TwoMoons(noise).entropy() == pytest.approx(entropy, abs=6e-6)


def test_entropy_is_the_mean_code_length_of_samples():
    x, _ = truth.sample(40_000, seed=5)
    nll = -truth.log_prob(x)
    assert nll.mean() == pytest.approx(truth.entropy(), abs=4 * nll.std() / 200)


def test_samples_are_standardised():
    x, moon = truth.sample(200_000, seed=6)
    assert x.dtype == np.float32
    assert np.allclose(x.mean(axis=0), 0, atol=0.01) and np.allclose(
        x.std(axis=0), 1, atol=0.01
    )
    assert moon.mean() == pytest.approx(0.5, abs=0.01)


def test_kl_of_a_gaussian_and_of_the_truth():
    """KL(truth || N(0, I)) = ln 2π + 1 − entropy for a density of zero mean and unit
    variances.
    """
    x, _ = truth.sample(50_000, seed=7)
    kl, error = truth.kl(x, -0.5 * (x**2).sum(axis=1) - np.log(2 * np.pi))
    assert kl == pytest.approx(np.log(2 * np.pi) + 1 - truth.entropy(), abs=5 * error)
    assert truth.kl(x, truth.log_prob(x)) == (0.0, 0.0)


def test_kl_refuses_what_is_not_finite_or_not_one_value_a_point():
    x, _ = truth.sample(5, seed=8)
    with pytest.raises(ValueError, match="1 of 5"):
        truth.kl(x, np.array([0, 0, np.nan, 0, 0]))
    with pytest.raises(ValueError, match="one value for each"):
        truth.kl(x, np.zeros((5, 1)))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="noise is 0"):
        moons.TwoMoons(0)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        truth.log_prob(np.zeros(3))


def test_every_chapter_gets_the_same_points():
    first, second = moons.load(), moons.load(train=1_000)
    assert (
        len(first.x_train) == 30_000
        and len(first.x_validation) == 5_000
        and len(first.x_test) == 10_000
    )
    assert np.array_equal(first.x_test, second.x_test) and np.array_equal(
        first.x_validation, second.x_validation
    )
    assert not {*map(tuple, first.x_test)} & {*map(tuple, first.x_validation)}
