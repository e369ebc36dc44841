"""What chapter 5 defines: MADE, MAF and IAF by hand and by TFP, chains of bijectors
whose networks are owned, and the training on a density without data.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from keras import ops

from utils import checks, training
from utils.chapters import definitions

(
    affine_coupling, additive_coupling, build_autoregressive, build_made, chain,
    dense_network, density, dependency, fit_to_density, forward_and_log_q, gaussian,
    log_det, log_posterior, made_degrees, made_masks, masked_flow, nice,
    posterior_flow, shaken, variables_of, IAF, MAF, MaskedShiftAndLogScale,
) = definitions(
    "05_tfp_flows", "affine_coupling", "additive_coupling", "build_autoregressive",
    "build_made", "chain", "dense_network", "density", "dependency", "fit_to_density",
    "forward_and_log_q", "gaussian", "log_det", "log_posterior", "made_degrees",
    "made_masks", "masked_flow", "nice", "posterior_flow", "shaken", "variables_of",
    "IAF", "MAF", "MaskedShiftAndLogScale",
)  # fmt: skip
tfb, tfd = tfp.bijectors, tfp.distributions
X = np.random.default_rng(0).normal(size=(300, 2)).astype("float32")
FLOWS = {
    "MAF": lambda: chain(lambda: masked_flow(2, (16, 16)), 3),
    "IAF": lambda: chain(
        lambda: tfb.Invert(masked_flow(2, (16, 16), unroll_loop=True)), 3
    ),
    "RealNVP": lambda: chain(lambda: affine_coupling(width=16), 3),
    "NICE": lambda: nice(3, width=16),
}

# ------------------------------------------------------------------ MADE, by hand


@pytest.mark.parametrize("output", [0, 1])
def test_a_slope_of_either_output_is_a_dependency(output):
    def network(x):  # of coordinate i, (mean, log-deviation); one is three times x
        pair = [tf.zeros_like(x), tf.zeros_like(x)]
        pair[output] = 3 * x
        return tf.stack(pair, axis=-1)

    assert np.allclose(dependency(network, X[:5]), 3 * np.eye(2))


def test_the_masks_for_four_coordinates_are_those_of_the_drawing():
    assert made_degrees(4, [6])[1].tolist() == [1, 1, 2, 2, 3, 3]
    first, last = made_masks(4, [6])
    assert first.tolist() == [
        [1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0],
    ]
    assert last.T.tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("dim", [2, 3, 7])
def test_degrees_are_spread_over_all_that_there_are(dim):
    hidden = made_degrees(dim, [3 * dim, 2])[1]
    assert set(hidden.tolist()) == set(range(1, dim))


def test_every_coordinate_sees_all_before_it_and_no_other():
    made = shaken(build_made(5, (20, 20)), np.random.default_rng(1))
    slopes = dependency(made, np.random.default_rng(2).normal(size=(100, 5)))
    assert not np.triu(slopes).any()
    assert (np.tril(slopes, -1)[np.tril_indices(5, -1)] > 0).all()


def test_both_numbers_of_a_coordinate_are_masked():
    """A slope of the second number, the log-scale, alone is seen, too."""

    def leaky(x):
        return ops.stack([0 * x, x], axis=-1)

    assert np.diag(dependency(leaky, X)).all()


# ------------------------------------------------------------------ MAF and IAF


@pytest.mark.parametrize("kind", [MAF, IAF])
@pytest.mark.parametrize("dim", [2, 5])
def test_a_stack_by_hand_is_right_with_random_weights(kind, dim):
    flow = shaken(
        build_autoregressive(kind, dim, 3, (16, 16)), np.random.default_rng(3), 0.2
    )
    x = np.random.default_rng(4).normal(size=(100, dim)).astype("float32")
    z, _ = flow.inverse(x)
    assert np.abs(ops.convert_to_numpy(z) - x[:, ::-1]).max() > 0.1
    checks.flow_errors(flow, x, tolerance=1e-4)


def test_the_order_is_turned_round_after_each_layer():
    """One layer alone makes the first coordinate a Gaussian; two do not."""
    for count, depends in ((1, False), (2, True)):
        flow = shaken(
            build_autoregressive(MAF, 3, count, (16, 16)), np.random.default_rng(5), 0.5
        )
        slopes = np.abs(checks.jacobian(flow.forward, X[:50, [0, 1, 0]])).max(axis=0)
        assert bool((slopes[0] > 1e-6).sum() > 1) == depends


def test_log_scales_stay_within_their_bound():
    layer = MAF(shaken(build_made(3, (8, 8)), np.random.default_rng(6), 20.0))
    _, alpha = layer.mu_and_alpha(10 * X[:, [0, 1, 0]])
    largest = np.abs(ops.convert_to_numpy(alpha)).max()
    assert 0.9 < largest <= 1.0


def test_passes_are_one_and_as_many_as_coordinates():
    class Counted:
        def __init__(self, made):
            self.made, self.passes = made, 0

        def __call__(self, x):
            self.passes += 1
            return self.made(x)

    found = {}
    for kind in (MAF, IAF):
        layer = kind(build_made(6, (8,)))
        layer.made = counted = Counted(layer.made)
        for way in ("inverse", "forward"):
            counted.passes = 0
            getattr(layer, way)(np.zeros((2, 6), "float32"))
            found[kind.__name__, way] = counted.passes
    assert found["MAF", "inverse"] == found["IAF", "forward"] == 1
    assert found["MAF", "forward"] == found["IAF", "inverse"] == 6


def test_by_hand_and_by_tfp_are_one_function():
    made = shaken(build_made(4, (16, 16)), np.random.default_rng(7))
    network = MaskedShiftAndLogScale(4, (16, 16))
    for target, weight in zip(network.made.trainable_variables, made.weights):
        target.assign(target.constraint(weight) if target.constraint else weight)
    x = np.random.default_rng(8).normal(size=(100, 4)).astype("float32")
    ours, theirs = MAF(made), tfb.MaskedAutoregressiveFlow(network)
    z, log_det_ours = ours.inverse(x)
    assert np.allclose(z, theirs.inverse(x), atol=1e-5)
    assert np.allclose(log_det_ours, theirs.inverse_log_det_jacobian(x, 1), atol=1e-5)
    assert np.allclose(ours.forward(x), theirs.forward(x), atol=1e-5)
    assert np.allclose(IAF(made).inverse(IAF(made).forward(x))[0], x, atol=1e-4)


# ------------------------------------------------------------------ chains of TFP


@pytest.mark.parametrize("name", FLOWS)
def test_flows_are_right_with_random_weights(name):
    flow = shaken(FLOWS[name](), np.random.default_rng(1), 0.2)
    bijector = flow.bijector
    assert np.abs(bijector.inverse(X) - X).max() > 0.1, (
        "the identity would pass every check"
    )
    checks.inverse_error(bijector.inverse, bijector.forward, X, 1e-4)
    checks.log_det_error(bijector.inverse, log_det(bijector), X, 1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_density_integrates_to_one_and_learns(monkeypatch, name):
    if name == "MAF":  # one of them compiled by XLA, as a reader's
        monkeypatch.setenv("COURSE_PROFILE", "full")
    keras.utils.set_random_seed(0)
    flow = FLOWS[name]()
    narrow = (X * [0.3, 0.7] + [0.0, 0.5]).astype("float32")
    before = -float(tf.reduce_mean(flow.log_prob(narrow)))
    settings = {
        "optimizer": keras.optimizers.Adam(1e-2, global_clipnorm=5.0),
        "epochs": 40,
        "batch": 300,
    }
    history = training.fit_density(flow, narrow, **settings)
    assert history["loss"][-1] < before - 0.3
    checks.integral(
        training.compiled(flow.log_prob, flow), limit=8.0, points=400, tolerance=5e-3
    )


def test_shared_or_unowned_networks_are_noticed():
    one = masked_flow(2, (8, 8))
    with pytest.raises(AssertionError, match="6 variables, expected 36"):
        variables_of(chain(lambda: one, 6), 36)
    network = dense_network(1, 2, 8)
    unowned = tfb.RealNVP(
        1, shift_and_log_scale_fn=lambda x, units: tf.split(network(x), 2, axis=-1)
    )
    with pytest.raises(AssertionError, match="0 variables"):
        variables_of(density(unowned), 6)
    assert variables_of(chain(lambda: masked_flow(2, (8, 8)), 2), 12) == 2 * (
        16 + 8 + 64 + 8 + 32 + 4
    )


def test_the_masks_hold_in_any_order_and_after_training():
    for order, sequence in (("left-to-right", [0, 1, 2]), ([2, 3, 1], [2, 0, 1])):
        module = MaskedShiftAndLogScale(3, (8, 8), input_order=order)
        flow = density(tfb.MaskedAutoregressiveFlow(module), 3)
        x = np.random.default_rng(2).normal(size=(200, 3)).astype("float32")
        training.fit_density(
            flow, x, optimizer=keras.optimizers.Adam(1e-2), epochs=5, batch=50
        )
        slopes = dependency(module.made, x)[np.ix_(sequence, sequence)]
        assert not np.triu(slopes).any() and np.tril(slopes, -1).any()


def test_a_dependency_that_should_not_be_is_seen():
    dense = dense_network(3, 6, 8)
    for weight in dense.trainable_variables:
        weight.assign_add(
            np.random.default_rng(3).normal(size=weight.shape).astype("float32")
        )
    assert np.triu(
        dependency(
            lambda x: tf.reshape(dense(x), [-1, 3, 2]), np.zeros((4, 3), "float32")
        )
    ).any()


def test_additive_couplings_keep_volume():
    bijector = shaken(
        chain(lambda: additive_coupling(width=8), 3), np.random.default_rng(5)
    ).bijector
    assert not log_det(bijector)(X).numpy().any()
    spread = log_det(shaken(nice(3, width=8), np.random.default_rng(6)).bijector)(X)
    assert len(np.unique(spread)) == 1


# ------------------------------------------------------------------ without data


def test_the_posterior_is_likelihood_times_prior():
    """By hand at one place, and the same for (w, v) and (-w, -v)."""
    from scipy.stats import norm

    t, y = np.float32([-1.0, 0.5]), np.float32([0.2, 0.4])
    theta = np.float32([[0.7, 1.3]])
    expected = norm.logpdf(y, 1.3 * np.tanh(0.7 * t), 0.2).sum()
    expected += norm.logpdf(theta, 0, 2).sum()
    prior = norm.logpdf(theta, 0, 2).sum() - 2 * norm.logpdf(0, 0, 2)
    assert float(log_posterior(theta, 0.0, t, y)[0]) == pytest.approx(prior, abs=1e-5)
    constant = norm.logpdf(0, 0, 0.2) * 2 + norm.logpdf(0, 0, 2) * 2
    found = float(log_posterior(theta, 1.0, t, y)[0])
    assert found == pytest.approx(expected - constant, abs=1e-4)
    assert float(log_posterior(-theta, 1.0, t, y)[0]) == pytest.approx(found, abs=1e-4)


def test_log_q_of_a_draw_is_the_flows_own_density():
    flow = shaken(posterior_flow(2), np.random.default_rng(9), 0.1)
    x, log_q = forward_and_log_q(flow, X)
    assert np.allclose(log_q, flow.log_prob(x + 0.0), atol=1e-3)


def test_a_gaussian_finds_a_gaussian_by_its_own_draws():
    """KL(q ‖ p) is least at the Gaussian itself, whatever the constant."""
    keras.utils.set_random_seed(0)
    scale = np.float32([[0.8, 0.0], [-0.5, 0.4]])
    target = tfd.MultivariateNormalTriL([1.0, -1.0], scale_tril=scale)
    flow = gaussian()
    variables_of(flow, 2)
    fit_to_density(flow, lambda x, beta: target.log_prob(x) + 7.0, steps=4_500)
    z = np.random.default_rng(0).normal(size=(9_000, 2)).astype("float32")
    x, _ = forward_and_log_q(flow, z)
    assert np.allclose(x.numpy().mean(axis=0), [1.0, -1.0], atol=0.06)
    assert np.allclose(np.cov(x.numpy().T), scale @ scale.T, atol=0.06)


def test_tempering_begins_with_a_power_and_ends_with_the_density():
    """With few steps at a small power the Gaussian stays wide; at the end it is not."""
    target = tfd.MultivariateNormalDiag([0.0, 0.0], [0.1, 0.1])
    seen = []

    def log_density(x, beta):
        seen.append(1)
        return beta * target.log_prob(x)

    flow = gaussian()
    fit_to_density(flow, log_density, steps=2_000, start=0.02)
    x, _ = forward_and_log_q(flow, X)
    assert len(seen) <= 2, "the step is traced once"
    assert 0.05 < x.numpy().std() < 0.2


def test_draws_are_fresh_in_each_step():
    """With one and the same z in all steps the mean would be that of these z."""
    target = tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0])
    means = []
    for seed in (0, 1):
        flow = gaussian()
        fit_to_density(
            flow, lambda x, beta: target.log_prob(x), steps=1_500, batch=8, seed=seed
        )
        shift = next(v for v in flow.trainable_variables if v.shape == (2,))
        means.append(np.abs(shift.numpy()).max())
    assert max(means) < 0.12


# ------------------------------------------------------------------ one by one


def largest_log_scale(kind, **bound):
    rng = np.random.default_rng(6)
    if kind == "by hand":
        layer = shaken(MAF(build_made(3, (8, 8)), **bound), rng, 20.0)
        return np.abs(layer.mu_and_alpha(10 * X[:, [0, 1, 0]])[1]).max()
    if kind == "masked":
        module = shaken(MaskedShiftAndLogScale(3, (8, 8), **bound), rng, 20.0)
        return np.abs(module(10 * X[:, [0, 1, 0]])[1]).max()
    Module = definitions("05_tfp_flows", "ShiftAndLogScale")
    module = shaken(Module(1, 1, 8, **bound), rng, 20.0)
    return np.abs(module(10 * X[:, :1], 1)[1]).max()


@pytest.mark.parametrize("bound", [0.5, 1.0, 5.0])
@pytest.mark.parametrize("kind", ["by hand", "masked", "coupling"])
def test_a_bound_is_reached_and_not_passed(kind, bound):
    largest = largest_log_scale(kind, bound=bound)
    assert 0.9 * bound < largest <= bound


@pytest.mark.parametrize("kind", ["by hand", "masked", "coupling"])
def test_a_log_scale_is_at_most_1_unless_asked(kind):
    assert 0.9 < largest_log_scale(kind) <= 1


@pytest.mark.parametrize("bound", [1.0, 5.0])
def test_the_bound_is_by_tanh_of_u_over_bound(bound):
    """bound * tanh(u / bound) is u near 0: bound * tanh(u) is not."""
    x = X[:, [0, 1, 0]]
    layer = shaken(MAF(build_made(3, (8,)), bound), np.random.default_rng(1))
    module = shaken(
        MaskedShiftAndLogScale(3, (8,), bound=bound), np.random.default_rng(1)
    )
    for made, found in ((layer.made, layer.mu_and_alpha(x)), (module.made, module(x))):
        mu, u = np.moveaxis(np.asarray(made(x)), -1, 0)
        assert np.allclose(found[0], mu, atol=1e-6)
        assert np.allclose(found[1], bound * np.tanh(u / bound), atol=1e-5)


def test_settings_of_a_masked_flow_arrive():
    flow = shaken(
        density(masked_flow(2, (8,), bound=5.0)), np.random.default_rng(6), 20.0
    )
    assert np.abs(log_det(flow.bijector)(10 * X)).max() > 2.5


def test_the_base_is_standard_normal():
    found = density(tfb.Identity()).log_prob([[0.0, 0.0], [1.0, 2.0]])
    assert np.allclose(found, [-np.log(2 * np.pi), -np.log(2 * np.pi) - 2.5], atol=1e-5)


def test_a_fresh_made_gives_zeros():
    assert not np.asarray(build_made(4, (8,))(X[:, [0, 1, 0, 1]])).any()


def test_affine_and_additive_couplings_keep_the_first_of_three():
    x = np.random.default_rng(2).normal(size=(50, 3)).astype("float32")
    for make in (affine_coupling, additive_coupling):
        for kept in (1, 2):
            b = shaken(make(3, kept=kept, width=8), np.random.default_rng(1), 0.3)
            z = b.inverse(x)
            assert np.array_equal(z[:, :kept], x[:, :kept])
            assert (np.abs(z - x)[:, kept:].max(axis=0) > 1e-3).all()
            checks.log_det_error(b.inverse, log_det(b), x, 1e-4)


def test_a_chain_turns_the_order_round():
    flow = shaken(chain(lambda: affine_coupling(width=8), 2), np.random.default_rng(1))
    assert (np.abs(checks.jacobian(flow.bijector.inverse, X)).max(axis=0) > 1e-6).all()


def test_a_negative_slope_is_a_dependency():
    assert np.diag(dependency(lambda x: ops.stack([0 * x, -x], axis=-1), X)).all()


def test_more_variables_than_expected_are_noticed():
    with pytest.raises(AssertionError, match="6 variables, expected 5"):
        variables_of(density(masked_flow(2, (8, 8))), 5)


def test_the_posteriors_flow_draws_in_one_pass():
    flow = posterior_flow(3)
    parts = [b for b in flow.bijector.bijectors if not isinstance(b, tfb.Permute)]
    assert len(parts) == 3 and all(b.name.startswith("invert") for b in parts)


def test_beta_rises_from_start_to_one():
    total, least, last = (tf.Variable(v) for v in (0.0, 9.0, 0.0))

    def log_density(x, beta):
        total.assign_add(beta)
        least.assign(tf.minimum(least, beta))
        last.assign(beta)
        return -0.5 * tf.reduce_sum(x**2, axis=1)

    fit_to_density(gaussian(), log_density, steps=100, start=0.01)
    expected = [min(1.0, 0.01 ** (1 - n / 80)) for n in range(100)]
    assert float(least) == pytest.approx(0.01) and float(last) == 1
    assert float(total) == pytest.approx(sum(expected), rel=1e-4)


def test_another_seed_draws_other_points():
    ends = []
    for seed in (0, 1):
        flow = gaussian()
        fit_to_density(
            flow, lambda x, beta: -0.5 * tf.reduce_sum(x**2, axis=1), 20, seed=seed
        )
        ends.append(
            np.concatenate([v.numpy().ravel() for v in flow.trainable_variables])
        )
    assert np.abs(ends[0] - ends[1]).max() > 1e-5


def test_the_rate_of_training_on_a_density_is_the_chapters():
    """Where the gradient stays the same, Adam moves by the rate in each step."""
    start = tf.Variable([0.0, 0.0])
    normal = tfd.MultivariateNormalDiag(tf.zeros(2))
    flow = tfd.TransformedDistribution(normal, tfb.Shift(start))
    fit_to_density(flow, lambda x, beta: tf.reduce_sum(x, axis=-1), steps=200)
    rate = training.warmup_cosine(3e-3, 200)
    way = sum(float(rate(number)) for number in range(200))
    assert np.allclose(start, way, rtol=0.02), (start.numpy(), way)
