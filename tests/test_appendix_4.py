"""What appendix A4 defines: splines, known densities, NICE, a base in pieces, a
condition, and the height of a pass.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from utils import checks
from utils.chapters import definitions
from utils.moons import TwoMoons


def take(*names):
    return definitions("A4_which", *names)


def shaken(flow, seed=0, scale=0.2):
    rng = np.random.default_rng(seed)
    for weight in flow.trainable_variables:
        weight.assign(weight + scale * rng.normal(size=weight.shape))
    return flow


X = np.random.default_rng(0).normal(size=(200, 2)).astype("float32")

# ------------------------------------------------------------------ splines


def knots(count=40, bins=8, limit=5.0, scale=1.5):
    u = np.random.default_rng(1).normal(0, scale, (count, 3 * bins - 1))
    return take("knots_of")(ops.convert_to_tensor(u.astype("float32")), bins, limit)


def test_bins_add_up_to_the_range():
    """The planted fault: a spline whose last knot is not where the identity begins."""
    for part in knots()[:2]:
        part = ops.convert_to_numpy(part)
        assert np.allclose(part[:, 0], -5, atol=1e-5)
        assert np.allclose(part[:, -1], 5, atol=1e-4)
        assert (np.diff(part, axis=1) > 0).all()


def test_tfps_bins_add_up_to_the_range():
    Spline = take("Spline")
    spline = Spline(kept=1, moved=1, width=8, bins=6)
    rng = np.random.default_rng(2)
    for weight in spline.trainable_variables:
        weight.assign_add(rng.normal(size=weight.shape).astype("float32"))
    bijector = spline(tf.constant(X[:, :1]), 1)
    for part in (bijector.bin_widths, bijector.bin_heights):
        assert np.allclose(tf.reduce_sum(part, axis=-1), 10, atol=1e-4)
    edge = tf.fill([len(X), 1], 5.0 - 1e-4)
    assert np.allclose(bijector.forward(edge), edge, atol=5e-3)


def test_a_spline_goes_through_its_knots_with_their_slopes():
    spline = take("spline")
    x, y, delta = (ops.convert_to_numpy(part) for part in knots(count=1, scale=0.7))
    inner = x[0, 1:-1].astype("float32")[:, None] + np.float32([[-1e-4, 1e-4]])
    rows = [np.repeat(part, inner.size, axis=0) for part in (x, y, delta)]
    found, log_slope = spline(inner.reshape(-1), rows, 5.0)
    found = ops.convert_to_numpy(found).reshape(inner.shape)
    slope = np.exp(ops.convert_to_numpy(log_slope)).reshape(inner.shape)
    assert np.allclose(found, y[0, 1:-1, None], atol=2e-3)
    assert np.allclose(slope, delta[0, 1:-1, None], rtol=0.02, atol=0.02)


def test_zeros_of_the_network_give_the_identity():
    numbers = np.zeros((13, 23), "float32")
    line = np.linspace(-6, 6, 13, dtype="float32")
    found = take("knots_of")(ops.convert_to_tensor(numbers), 8, 5.0)
    y, log_slope = take("spline")(line, found, 5.0)
    assert np.allclose(y, line, atol=1e-5) and np.allclose(log_slope, 0, atol=1e-5)


def test_a_spline_is_continuous_at_the_edge_and_undone():
    spline, spline_back = take("spline", "spline_back")
    some = knots(count=400, scale=0.7)
    near = np.linspace(4.98, 5.02, 400, dtype="float32")
    for line in (near, -near):
        y = ops.convert_to_numpy(spline(line, some, 5.0)[0])
        assert np.abs(y - line).max() < 0.25, "steeper than its slope at the edge"
    line = np.linspace(-6, 6, 400, dtype="float32")
    y, _ = spline(line, some, 5.0)
    assert np.allclose(spline_back(y, some, 5.0), line, atol=2e-3)
    # the point that the last bin ends at, and its neighbours
    last = np.full(400, 4.9999995, "float32")
    assert np.isfinite(ops.convert_to_numpy(spline(last, some, 5.0)[0])).all()


@pytest.mark.parametrize("dim", [2, 5])
def test_a_spline_flow_is_right_with_random_weights(dim):
    flow = shaken(take("build_spline_flow")(dim, 3, width=8, bins=6), scale=0.15)
    x = np.random.default_rng(3).normal(size=(100, dim)).astype("float32")
    assert np.abs(ops.convert_to_numpy(flow.inverse(x)[0]) - x).max() > 0.1
    checks.flow_errors(flow, x, tolerance=2e-3)


def test_a_spline_flow_integrates_to_one():
    flow = shaken(take("build_spline_flow")(2, 2, width=8, bins=6), scale=0.2)
    checks.integral(flow.log_prob, limit=7.0, points=700, tolerance=2e-3)


def test_the_spline_coupling_is_tfps():
    """The same numbers of the network give the same spline, slope and inverse."""
    SplineCoupling, Spline = take("SplineCoupling", "Spline")
    keras.utils.set_random_seed(0)
    x1 = keras.Input((1,))
    hidden = keras.layers.Dense(8, "tanh")(x1)
    small = keras.Model(x1, keras.layers.Dense(11)(hidden))
    x = keras.Input((2,))
    network = keras.Model(x, keras.layers.Concatenate()([small(x[:, :1])] * 2))
    coupling = SplineCoupling([1, 0], network, bins=4)
    points = np.random.default_rng(0).uniform(-6, 6, (500, 2)).astype("float32")
    z, log_det = (ops.convert_to_numpy(part) for part in coupling.inverse(points))
    spline = Spline(kept=1, moved=1, width=4, bins=4)
    spline.network = small
    bijector = spline(tf.constant(points[:, :1]), 1)
    assert np.array_equal(z[:, 0], points[:, 0])
    assert np.allclose(z[:, 1:], bijector.forward(points[:, 1:]), atol=1e-5)
    slope = bijector.forward_log_det_jacobian(points[:, 1:], event_ndims=1)
    assert np.allclose(log_det, slope, atol=1e-5) and np.abs(log_det).max() > 0.1
    outside = np.abs(points[:, 1]) > 5
    assert outside.any() and np.array_equal(z[outside], points[outside])
    checks.flow_errors(coupling, points[~outside])


# ------------------------------------------------------------------ known densities


def test_the_clusters_are_those_of_the_contest_in_every_run():
    Clusters = take("Clusters")
    means = np.random.default_rng(0).normal(size=(10, 8))
    assert np.allclose(Clusters(8).means, means) and len(Clusters(3, 4).means) == 4


@pytest.mark.parametrize("source", ["PairsOfMoons", "Clusters"])
def test_a_bent_density_integrates_to_one(source):
    Kind, Bent = take(source, "Bent")
    bent = Bent(Kind(2))
    checks.integral(bent.log_prob, limit=6.0, points=500)
    x = bent.sample(50_000, seed=1)
    assert np.allclose(x.mean(axis=0), 0, atol=0.02)
    assert np.allclose(x.std(axis=0), 1, atol=0.02)


@pytest.mark.parametrize("source", ["PairsOfMoons", "Clusters"])
def test_draws_are_of_the_density(source):
    """Unbent, they are the source's; a histogram of one coordinate has its mass."""
    Kind, Bent = take(source, "Bent")
    bent = Bent(Kind(4))
    x, u = bent.sample(20_000, seed=2), bent.source.sample(20_000, seed=2)
    assert np.allclose(bent.unbend(x)[0], u, atol=1e-8)
    plane = Bent(Kind(2))
    drawn = plane.sample(100_000, seed=3)
    right = (drawn[:, 0] > 0.5).mean()
    square, cell = checks.square(6.0, 500)
    mass = np.exp(plane.log_prob(square)) * cell
    assert right == pytest.approx(mass[square[:, 0] > 0.5].sum(), abs=0.01)


def test_draws_of_other_seeds_are_others():
    PairsOfMoons, Clusters = take("PairsOfMoons", "Clusters")
    for kind in (PairsOfMoons, Clusters):
        source = kind(8)
        assert not np.isclose(source.sample(50, 1), source.sample(50, 2)).all(1).any()
    pairs = PairsOfMoons(8).sample(200, 1)
    assert not np.allclose(pairs[:, :2], pairs[:, 2:4]), "each pair for itself"


# ------------------------------------------------------------------ NICE


def test_nice_has_one_log_determinant_and_learns_its_scale():
    flow = shaken(take("build_nice")(3, couplings=3, width=8))
    x = np.random.default_rng(4).normal(size=(100, 3)).astype("float32")
    checks.flow_errors(flow, x, tolerance=1e-4)
    _, log_det = flow.inverse(x)
    log_det = ops.convert_to_numpy(log_det)
    assert np.ptp(log_det) < 1e-6
    scale = ops.convert_to_numpy(flow.scale.s).sum()
    assert log_det[0] == pytest.approx(scale, abs=1e-5) and abs(scale) > 0.01


# ------------------------------------------------------------------ topology


def test_a_base_in_two_pieces_is_a_density_and_draws_from_both():
    flow = take("build_two_pieces")(couplings=3, width=8)
    checks.integral(flow.log_prob, limit=9.0, points=400)
    shaken(flow)
    checks.integral(flow.log_prob, limit=20.0, points=900, tolerance=3e-3)
    fresh = take("build_two_pieces")(couplings=2, width=8)
    x = ops.convert_to_numpy(fresh.sample(4_000, seed=1))
    assert (x[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(x[:, 0]).mean() == pytest.approx(3, abs=0.1)


def test_a_condition_is_kept_and_seen():
    flow = shaken(take("build_given_moon")(couplings=4, width=8), scale=0.3)
    both = [np.c_[X, np.full(len(X), moon)].astype("float32") for moon in (0, 1)]
    z, log_det = flow.inverse(both[1])
    assert np.array_equal(ops.convert_to_numpy(z)[:, 2], both[1][:, 2])
    log_q = [ops.convert_to_numpy(flow.log_prob(points)) for points in both]
    assert np.abs(log_q[0] - log_q[1]).max() > 0.1, "the moon makes no difference"
    for moon in (0, 1):

        def given(x, moon=moon):
            return flow.log_prob(np.c_[x, np.full(len(x), moon)].astype("float32"))

        checks.integral(given, limit=20.0, points=700, tolerance=5e-3)
    mean = take("both_moons")(lambda x: ops.convert_to_numpy(flow.log_prob(x)))(X)
    expected = np.log(np.exp(log_q[0]) / 2 + np.exp(log_q[1]) / 2)
    assert np.allclose(mean, expected, atol=1e-4)
    drawn = ops.convert_to_numpy(flow.sample_given(both[0][:, 2:], seed=2))
    assert drawn.shape == X.shape


def test_the_pass_is_the_lowest_point_of_the_best_way():
    """Two Gaussians at the middles of the moons: the pass is half-way."""
    height_of_pass = take("height_of_pass")
    a, b = np.float32([[-0.58, 1.5], [0.58, -1.5]])

    def log_prob(x, deviation=0.5):
        squares = [((x - c) ** 2).sum(axis=1) / deviation**2 for c in (a, b)]
        return np.logaddexp(-0.5 * squares[0], -0.5 * squares[1])

    half = -0.5 * ((a - b) ** 2).sum() / 4 / 0.25 + np.log(2)
    assert height_of_pass(log_prob) == pytest.approx(half, abs=0.1)

    def with_a_bridge(x):
        return np.where(np.abs(x[:, 0]) < 0.7, np.maximum(log_prob(x), -1.0), -50)

    assert height_of_pass(with_a_bridge) == pytest.approx(-1.0, abs=1e-3)
    truth = TwoMoons()
    assert height_of_pass(truth.log_prob) == pytest.approx(-13.6, abs=0.3)


# ------------------------------------------------------------------ one by one


@pytest.mark.parametrize(
    "build",
    [
        lambda: take("build_spline_flow")(4, 2, width=8, bins=4),
        lambda: take("build_nice")(4, couplings=2, width=8),
        lambda: take("build_two_pieces")(couplings=2, width=8),
        lambda: take("build_given_moon")(couplings=2, width=8),
    ],
)
def test_couplings_take_turns(build):
    flow = shaken(build(), scale=0.3)
    dim = len(flow.couplings[0].mask)
    x = np.random.default_rng(5).normal(size=(100, dim)).astype("float32")
    slopes = np.abs(checks.jacobian(lambda x: flow.inverse(x)[0], x)).max(axis=0)
    assert slopes[0, 1] > 1e-6 and slopes[1, 0] > 1e-6


def test_no_pair_is_drawn_twice():
    source = take("PairsOfMoons")(8)
    drawn = [np.split(source.sample(50, seed), 4, axis=1) for seed in (0, 1, 2, 3)]
    assert len({pair.tobytes() for pairs in drawn for pair in pairs}) == 16


def test_all_pairs_count():
    source = take("PairsOfMoons")(6)
    u = source.sample(20, seed=1).astype("float64")
    for pair in range(3):
        moved = u.copy()
        moved[:, 2 * pair] += 0.05
        one = source.truth.log_prob(moved[:, 2 * pair : 2 * pair + 2])
        one -= source.truth.log_prob(u[:, 2 * pair : 2 * pair + 2])
        assert np.allclose(source.log_prob(moved) - source.log_prob(u), one, atol=1e-6)


def test_a_draw_given_a_moon_is_of_that_moon():
    flow = shaken(take("build_given_moon")(couplings=4, width=8), scale=0.3)
    for moon in (0.0, 1.0):
        c = np.full((50, 1), moon, "float32")
        x = ops.convert_to_numpy(flow.sample_given(c, seed=3))
        z = ops.convert_to_numpy(flow.inverse(np.c_[x, c])[0])[:, :2]
        assert np.allclose(z, keras.random.normal((50, 2), seed=3), atol=1e-3)


def test_draws_of_two_pieces_have_their_spread():
    flow = shaken(take("build_two_pieces")(couplings=2, width=8))
    z = ops.convert_to_numpy(flow.inverse(flow.sample(8_000, seed=1))[0])
    off = z - flow.CENTRES[(z[:, 0] > 0).astype(int)]
    assert np.allclose(off.std(axis=0), 1, atol=0.05)


def test_a_fresh_spline_flow_is_the_identity():
    flow = take("build_spline_flow")(4, 2, width=8, bins=4)
    x = np.random.default_rng(5).normal(size=(50, 4)).astype("float32")
    assert np.allclose(flow.inverse(x)[0], x, atol=1e-5)


def test_tfps_spline_coupling_for_three():
    coupling = take("spline_coupling")(dim=3, kept=1, width=8, bins=4)
    x = np.random.default_rng(5).normal(size=(50, 3)).astype("float32")
    assert np.allclose(coupling.forward(x), x, atol=1e-4)
