"""The exact density of two moons, against computations that share nothing with it."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import chi2
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


# ------------------------------------------------------------------ by quadrature


def mean_by_arcs(f, noise):
    """E_p[f(x)] by another rule than the lattice: Gauss-Legendre over the angle,
    Gauss-Hermite over both coordinates of the noise.
    """
    truth = moons.TwoMoons(noise)
    angles, over_angle = np.polynomial.legendre.leggauss(100)
    draws, over_noise = np.polynomial.hermite_e.hermegauss(24)
    a = np.pi / 2 * (angles + 1)
    upper = np.stack([np.cos(a), np.sin(a)], axis=-1)
    lower = np.stack([1 - np.cos(a), 0.5 - np.sin(a)], axis=-1)
    around = noise * np.stack(np.meshgrid(draws, draws, indexing="ij"), axis=-1)
    raw = np.stack([upper, lower])[:, :, None, None] + around
    weights = np.einsum("a,i,j->aij", over_angle / 2, over_noise, over_noise) / (
        2 * np.pi
    )
    values = f(truth.standardise(raw.reshape(-1, 2))).reshape(2, *weights.shape)
    return float((values * weights).sum() / 2)


def test_kl_of_moons_of_another_noise_is_that_of_another_rule():
    other = moons.TwoMoons(0.06)
    expected = mean_by_arcs(lambda x: truth.log_prob(x) - other.log_prob(x), 0.05)
    kl = truth.integrate_kl(other.log_prob)
    assert kl.plane == pytest.approx(expected, abs=1e-6) and kl.trouble is None
    finer = truth.quadrature(per_deviation=8).kl(other.log_prob)
    assert kl.bulk == pytest.approx(finer.bulk, abs=1e-6)  # see the next but one, too


def normals(weights, means, deviations):
    """Log density of a mixture of round normals in the plane."""

    def log_prob(x):
        x = np.asarray(x, "float64")
        squared = ((x[:, None] - np.array(means)) ** 2).sum(axis=-1)
        s = np.array(deviations)
        terms = np.log(weights) - np.log(2 * np.pi * s**2) - squared / (2 * s**2)
        return logsumexp(terms, axis=1)

    return log_prob


def test_kl_of_two_mixtures_is_that_of_another_rule():
    """Gauss-Hermite around each component of the truth, which is not on a lattice."""
    weights, means, deviations = [0.3, 0.7], [[-1.0, 0.2], [0.8, -0.5]], [0.35, 0.5]
    p = normals(weights, means, deviations)
    q = normals([0.6, 0.4], [[-0.7, 0.0], [0.9, -0.2]], [0.5, 0.6])
    draws, over = np.polynomial.hermite_e.hermegauss(64)
    grid = np.stack(np.meshgrid(draws, draws, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = np.outer(over, over).ravel() / (2 * np.pi)
    expected = 0.0
    for weight, mean, deviation in zip(weights, means, deviations, strict=True):
        x = np.array(mean) + deviation * grid
        expected += weight * float((mass * (p(x) - q(x))).sum())
    x, area = checks.square(6, 600)
    kl = moons.Quadrature(p, x, area).kl(q)
    assert kl.plane == pytest.approx(expected, abs=1e-6)


def test_kl_of_two_normals_in_bulk_and_plane_is_that_of_the_formula():
    """For round normals of deviations 1 and s both have a closed form: with r² = |x|²
    it is 2 ln s − r²/2 (1 − 1/s²) in the mean, over a disc for the bulk.
    """
    s = 1.3
    p, q = normals([1.0], [[0, 0]], [1.0]), normals([1.0], [[0, 0]], [s])
    x, area = checks.square(9, 1_800)
    kl = moons.Quadrature(p, x, area).kl(q)
    edge = chi2.ppf(moons.BULK, 2)  # r² at the edge of the bulk
    for figure, mass, squared in (
        (kl.plane, 1.0, 2.0),
        (kl.bulk, moons.BULK, 2 * chi2.cdf(edge, 4)),
    ):
        expected = mass * 2 * np.log(s) - squared / 2 * (1 - 1 / s**2)
        assert figure == pytest.approx(expected, abs=1e-6)


def test_the_lattice_has_all_of_the_truth_and_its_entropy():
    for noise, tolerance in ((0.05, 1e-9), (0.1, 2e-6)):  # the other rule's error
        wide = moons.TwoMoons(noise)
        places = wide.quadrature()
        assert places.mass.sum() == pytest.approx(1, abs=1e-11)
        other = -mean_by_arcs(wide.log_prob, noise)
        assert wide.entropy() == pytest.approx(other, abs=tolerance)
        assert places.mass[places.bulk].sum() == pytest.approx(moons.BULK, abs=1e-6)
        assert places.log_p[~places.bulk].max() <= places.log_p[places.bulk].min()


def test_moons_of_little_noise_take_seconds():
    places = moons.TwoMoons(0.02).quadrature()
    assert places.mass.sum() == pytest.approx(1, abs=1e-11)
    assert len(places.x) < 500_000, "only places near an arc are looked at"


def test_what_draws_do_not_see_the_plane_does():
    """A model that is the truth but for a thread of 1e-9 of its mass, which it gives
    next to nothing.
    """
    rare = 1e-9

    def log_prob(x):
        log_p = truth.log_prob(x)
        return np.where(log_p < -16, log_p - 1 / rare, log_p)

    kl = truth.integrate_kl(log_prob)
    x, _ = truth.sample(10_000, seed=9)
    assert truth.kl(x, log_prob(x))[0] == 0 and abs(kl.bulk) < 1e-12
    places = truth.quadrature()
    missed = places.mass[places.log_p < -16].sum() / rare
    assert kl.plane == pytest.approx(missed, rel=1e-9) and kl.plane > 0.1


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_log_density_that_is_not_finite_is_an_infinite_kl_and_says_where(value):
    def far(x):
        return np.where(x[:, 0] > 2.15, value, truth.log_prob(x))

    kl = truth.integrate_kl(far)
    assert abs(kl.bulk) < 1e-9 and kl.plane == math.inf
    assert f"log q is {value} at" in kl.trouble
    places = truth.quadrature()
    likeliest = places.log_p[places.x[:, 0] > 2.15].max()
    assert kl.trouble.endswith(f"with log p = {likeliest:.1f}.")
    near = truth.integrate_kl(lambda x: np.where(x[:, 0] > 0, value, -3.0))
    assert near.bulk == near.plane == math.inf


def test_a_model_always_gets_batches_of_one_size_in_float32():
    seen = set()

    def log_prob(x):
        seen.add((x.shape, str(x.dtype)))
        return -(x**2).sum(axis=1)

    kl = truth.integrate_kl(log_prob, batch=7_000)
    assert seen == {((7_000, 2), "float32")}
    assert kl == truth.integrate_kl(lambda x: -(x**2).sum(axis=1))


def test_a_kl_below_zero_is_said_to_be_of_no_density():
    """A log-determinant forgotten: the density of raw points, at standardised ones."""
    factor = np.log(truth.std).sum()
    kl = truth.integrate_kl(lambda x: truth.log_prob(x) - factor)
    assert kl.plane == pytest.approx(factor, abs=1e-9) and "no density" in kl.trouble


def test_arguments_that_make_no_sense_are_one_line():
    with pytest.raises(ValueError, match="integrals over the plane need 0.005"):
        moons.TwoMoons(0.001).quadrature()
    with pytest.raises(ValueError, match="batch is 0"):
        truth.integrate_kl(truth.log_prob, batch=0)
    with pytest.raises(ValueError, match="moon is -1"):
        truth.log_prob(np.zeros((1, 2)), moon=-1)
    with pytest.raises(ValueError, match="noise is inf"):
        moons.TwoMoons(math.inf)


def test_a_model_that_gives_other_shapes_is_refused():
    with pytest.raises(ValueError, match="one value for each"):
        truth.integrate_kl(lambda x: x)


def test_the_floor_of_maps_of_constant_volume():
    """0.0412 with a scaling and 0.896 without, and by draws: the area where p exceeds
    p(x) is counted by uniform points.
    """
    assert truth.nice_floor() == pytest.approx(0.0412, abs=5e-5)
    assert truth.nice_floor(scaled=False) == pytest.approx(0.896, abs=5e-4)
    rng = np.random.default_rng(10)
    anywhere = rng.uniform(-3, 3, (400_000, 2))
    levels = np.sort(truth.log_prob(anywhere))
    x, _ = truth.sample(50_000, seed=11)
    below = np.searchsorted(levels, truth.log_prob(x))
    area = (1 - below / len(levels)).mean() * 36
    assert 1 + np.log(area) - truth.entropy() == pytest.approx(
        truth.nice_floor(), abs=0.01
    )
    assert np.log(2 * np.pi) + area / (2 * np.pi) - truth.entropy() == pytest.approx(
        truth.nice_floor(scaled=False), abs=0.01
    )


def test_a_normal_has_a_floor_of_zero():
    """Noise without arcs, nearly: then a map of constant volume is enough."""
    assert 0 < moons.TwoMoons(5.0).nice_floor() < 1e-4


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
