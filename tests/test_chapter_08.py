"""What chapter 8 defines: solvers, a flow in continuous time, the same network in
`tfb.FFJORD`, the trace by a probe, the adjoint, and flow matching.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.linalg import expm
from scipy.stats import multivariate_normal

from utils import checks
from utils.chapters import definitions

(
    Adaptive, ContinuousFlow, OneProbe, Penalised, adjoint, by_jacobian, by_probe,
    flow_matching, log_normal, matching, rk4, shaken, signs, velocity_and_trace,
    velocity_network, with_time,
) = definitions(
    "08_ffjord", "Adaptive", "ContinuousFlow", "OneProbe", "Penalised", "adjoint",
    "by_jacobian", "by_probe", "flow_matching", "log_normal", "matching", "rk4",
    "shaken", "signs", "velocity_and_trace", "velocity_network", "with_time",
)  # fmt: skip
A = np.float32([[-0.5, 2.0], [-2.0, 0.3]])


@pytest.fixture
def rng():
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)


def linear_network():
    network = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, use_bias=False)]
    )
    network.set_weights([np.vstack([A.T, [[0, 0]]])])
    return network


def random_flow(rng, steps, dim=2):
    return ContinuousFlow(shaken(velocity_network(dim, 8), rng, 0.5), dim, steps)


def normal(rng, *shape):
    return rng.normal(size=shape).astype("float32")


def test_rk4_is_of_order_four():
    z = tf.constant([[1.0, 0.0]])
    exact = z.numpy() @ expm(A.astype("float64")).T
    errors = [
        np.abs(
            rk4(lambda t, s: (s[0] @ A.T,), (z,), 0.0, 1.0, n)[0].numpy() - exact
        ).max()
        for n in (4, 8)
    ]
    assert 11 < errors[0] / errors[1] < 24, "16 for order 4"


def test_rk4_uses_the_time():
    ends = rk4(
        lambda t, s: (tf.ones_like(s[0]) * 3 * t**2,), (tf.zeros([1, 1]),), 1.0, 2.0, 4
    )
    assert float(ends[0]) == pytest.approx(7.0, abs=1e-4)


def test_rk4_is_of_order_four_where_the_field_depends_on_place_and_time():
    def field(t, state):
        return (tf.cos(3 * t) * state[0],)

    exact = np.exp(np.sin(3.0) / 3)
    errors = [
        abs(float(rk4(field, (tf.ones([1, 1]),), 0.0, 1.0, n)[0]) - exact)
        for n in (2, 4)
    ]
    assert errors[0] / errors[1] > 10


def test_a_linear_field_has_its_closed_form(rng):
    x = normal(rng, 50, 2)
    expected = multivariate_normal(cov=expm(A) @ expm(A).T).logpdf(x)
    flow = ContinuousFlow(linear_network(), 2, 16)
    assert np.allclose(flow.log_prob(x), expected, atol=1e-3)
    assert np.allclose(Adaptive(linear_network(), 2).log_prob(x), expected, atol=1e-3)
    assert np.allclose(flow.forward(x), x @ expm(A).T, atol=1e-3)
    assert np.allclose(flow.inverse(x)[1], -np.trace(A), atol=1e-4)


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_the_trace_is_that_of_the_jacobian(rng, t):
    network, z = shaken(velocity_network(3, 8), rng, 0.5), normal(rng, 5, 3)
    jacobian = checks.jacobian(lambda z: network(with_time(z, t)), z)
    expected = np.trace(jacobian, axis1=1, axis2=2)
    for rates in (velocity_and_trace, by_jacobian):
        v, trace = rates(network, t, tf.constant(z))
        assert np.allclose(trace, expected, atol=1e-5)
        assert np.allclose(v, network(with_time(tf.constant(z), t)), atol=1e-6)
    with_t = with_time(tf.constant(z), t).numpy()
    assert np.allclose(with_t[:, 3], t) and np.array_equal(with_t[:, :3], z)


def test_the_network_has_three_hidden_layers():
    network = velocity_network(2, 8, "silu")
    assert [v.shape for v in network.trainable_variables] == [
        (3, 8), (8,), (8, 8), (8,), (8, 8), (8,), (8, 2), (2,),
    ]  # fmt: skip
    names = [layer.activation.__name__ for layer in network.layers]
    assert names == ["silu", "silu", "silu", "linear"]
    assert velocity_network(2, 8).layers[0].activation.__name__ == "tanh"


def test_training_sees_all_weights(rng):
    flow = random_flow(rng, 4)
    for model in (flow, Penalised(flow, 0.1), OneProbe(flow)):
        assert len(model.trainable_variables) == 8, type(model).__name__


def test_the_flow_depends_on_the_time(rng):
    network, z = (
        shaken(velocity_network(2, 8), rng, 0.5),
        tf.constant(normal(rng, 5, 2)),
    )
    assert np.abs(network(with_time(z, 0.1)) - network(with_time(z, 0.9))).max() > 0.1


def test_inverse_log_det_and_both_solvers_agree(rng):
    flow, x = random_flow(rng, 16), normal(rng, 30, 2)
    assert np.abs(flow.inverse(x)[0] - x).max() > 0.2
    checks.flow_errors(flow, x, 1e-3)
    adaptive = Adaptive(flow.network, 2)
    assert np.allclose(adaptive.log_prob(x), flow.log_prob(x), atol=1e-3)
    assert int(adaptive.evaluations) > 10


def test_steps_and_rates_are_those_that_are_asked_for(rng):
    flow, x = random_flow(rng, 1), normal(rng, 5, 2)
    fine = ContinuousFlow(flow.network, 2, 8)
    log_q = fine.log_prob(x)
    assert not np.allclose(flow.log_prob(x), log_q, atol=1e-4)
    assert np.allclose(flow.log_prob(x, 8), log_q, atol=1e-6)
    assert np.allclose(flow.forward(x, 8), fine.forward(x), atol=1e-6)

    def nothing(network, t, z):
        return velocity_and_trace(network, t, z)[0], tf.zeros(len(z))

    z, log_det, _ = flow.inverse(x, 8, nothing)
    assert np.allclose(log_det, 0) and np.allclose(z, fine.inverse(x)[0], atol=1e-6)
    assert np.allclose(flow.log_prob(x, 8, nothing), log_normal(z), atol=1e-6)


def test_the_base_is_a_standard_normal(rng):
    z = normal(rng, 20, 3)
    assert np.allclose(log_normal(z), multivariate_normal(np.zeros(3)).logpdf(z), 1e-5)


def test_a_solver_that_runs_out_of_steps_says_so(rng):
    network = shaken(velocity_network(2, 8), rng, 0.5)
    with pytest.raises(RuntimeError, match="ran out of steps"):
        Adaptive(network, 2, most=2).log_prob(np.zeros((3, 2), "float32"))


def test_a_tighter_tolerance_takes_more_evaluations_and_each_call_counts_anew(rng):
    flow, x = random_flow(rng, 64), normal(rng, 20, 2)
    by_steps, counts, errors = flow.log_prob(x), [], []
    for tolerance in (1e-2, 1e-6):
        adaptive = Adaptive(flow.network, 2, tolerance)
        for _ in range(2):
            log_q = adaptive.log_prob(x)
        counts.append(int(adaptive.evaluations))
        errors.append(np.abs(log_q - by_steps).max())
    assert counts[0] < counts[1] < 400 and errors[1] < 1e-3 < errors[0]


def test_the_energy_is_that_of_the_path_and_lowers_the_objective(rng):
    flow, x = random_flow(rng, 8), normal(rng, 10, 2)
    energy = flow.inverse(x)[2].numpy()
    objective = Penalised(flow, 0.1).log_prob(x).numpy()
    assert np.allclose(objective, flow.log_prob(x).numpy() - 0.1 * energy, atol=1e-4)
    still = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    still.set_weights([np.zeros((3, 2)), np.float32([3.0, 4.0])])
    assert np.allclose(ContinuousFlow(still, 2, 2).inverse(x)[2], 25.0, atol=1e-4)


def test_probes_are_signs_and_their_mean_is_the_trace(rng):
    network = shaken(velocity_network(3, 8), rng, 0.5)
    z = tf.constant(np.repeat(normal(rng, 1, 3), 40_000, axis=0))
    epsilon = signs(z)
    assert np.array_equal(np.unique(epsilon), [-1, 1])
    assert np.abs(np.mean(epsilon, axis=0)).max() < 0.03
    v, estimate = by_probe(epsilon)(network, 0.6, z)
    _, trace = velocity_and_trace(network, 0.6, z[:1])
    jacobian = checks.jacobian(lambda z: network(with_time(z, 0.6)), z[:1])[0]
    S = (jacobian + jacobian.T) / 2
    variance = 2 * ((S**2).sum() - (np.diag(S) ** 2).sum())
    error = (variance / len(z)) ** 0.5
    assert abs(np.mean(estimate) - float(trace[0])) < 5 * error
    assert np.var(estimate) == pytest.approx(variance, rel=0.05)
    assert np.allclose(v, network(with_time(z, 0.6)), atol=1e-6)


def test_one_probe_is_kept_through_the_solver_and_right_on_average(rng):
    flow = random_flow(rng, 4)
    x = np.repeat(normal(rng, 1, 2), 20_000, axis=0)
    noisy = OneProbe(flow).log_prob(x).numpy()
    exact = float(flow.log_prob(x[:1])[0])
    assert abs(noisy.mean() - exact) < 5 * noisy.std() / len(noisy) ** 0.5
    # Four probes of two numbers are all there are, and two of them are the others'
    # negatives: a probe that is kept leaves two values, and one that is not many.
    assert len(np.unique(noisy.round(3))) == 2


def test_the_adjoint_finds_the_gradients_through_the_solver(rng):
    flow, z = random_flow(rng, 32), tf.constant(normal(rng, 20, 2))

    def loss(end):
        return tf.reduce_mean((end - 1.0) ** 2)

    with tf.GradientTape() as tape:
        tape.watch(z)
        value = loss(flow.forward(z))
    by_z, *by_theta = tape.gradient(value, [z, *flow.trainable_variables])
    by_start, walked, start = adjoint(flow.network, z, loss, 32)
    for ours, right in zip([by_start, *walked], [by_z, *by_theta], strict=True):
        assert np.abs(right).max() > 1e-4, "a gradient of 0 proves nothing"
        assert np.allclose(ours, right, atol=1e-5)
    assert np.allclose(start, z, atol=1e-5)


def test_the_adjoint_walks_back_with_as_many_steps(rng):
    flow, z = random_flow(rng, 2), tf.constant(normal(rng, 20, 2))

    def velocity(t, state):
        return (flow.network(with_time(state[0], t)),)

    (expected,) = rk4(velocity, (flow.forward(z),), 1.0, 0.0, 2)
    _, _, start = adjoint(flow.network, z, tf.reduce_mean, 2)
    assert np.allclose(start, expected, atol=1e-6)
    assert np.abs(start - z).max() > 1e-4, "two steps do not find the way back exactly"


def test_batches_for_flow_matching_lie_on_lines_from_noise_to_data(rng):
    x = np.float32(normal(rng, 50, 2) + 5)
    inputs, targets = (
        np.concatenate(parts)
        for parts in zip(*matching(x, 200, 20).as_numpy_iterator())
    )
    place, t = inputs[:, :2], inputs[:, 2:]
    assert len(inputs) == 4_000 and 0 <= t.min() < 0.01 < 0.99 < t.max() <= 1
    z, end = place - t * targets, place + (1 - t) * targets
    distance = np.abs(end[:, None] - x).max(axis=2)
    assert distance.min(axis=1).max() < 1e-4, "each line ends in a point of the data"
    assert len(np.unique(distance.argmin(axis=1))) == len(x), "and all points are taken"
    assert abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.05
    assert abs((z**4).mean() - 3) < 0.4, "normal, not only of variance 1"
    assert len(np.unique(z.round(4))) > 7_000, "a draw for each point"
    assert (
        np.mean(t > 0.995) > 0.001
        and abs(t.mean() - 1 / 2) < 0.02
        and abs(t.var() - 1 / 12) < 0.01
    )
    assert abs(np.corrcoef(z[:, 0], end[:, 0])[0, 1]) < 0.06


def test_flow_matching_learns_the_mean_velocity_of_a_gaussian(rng):
    # From N(0, 1) to N(m, s²), z_t has the variance c = (1 − t)² + t² s², and
    # E[x − z | z_t = y] = m + (t s² − (1 − t)) (y − t m) / c.
    m, s = 1.0, 0.5
    x = np.float32(m + s * normal(rng, 4_000, 1))
    network = velocity_network(1, 32, "silu")
    rates = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: rates.append(float(network.optimizer.learning_rate))
    )
    history = flow_matching(network, x, 512, 1_500, 1e-2, 10, [note])
    assert len(history.history["loss"]) == 10 == len(rates)
    assert int(network.optimizer.iterations) == 1_500
    assert max(rates) == pytest.approx(1e-2, rel=0.02) and rates[-1] < 1e-5
    for t in (0.1, 0.5, 0.9):
        c = (1 - t) ** 2 + (t * s) ** 2
        y = t * m + c**0.5 * np.linspace(-1.5, 1.5, 20, dtype="float32")[:, None]
        right = m + (t * s**2 - (1 - t)) * (y - t * m) / c
        assert np.abs(network(with_time(tf.constant(y), t)) - right).max() < 0.25


def test_flow_matching_does_what_it_is_told(rng, monkeypatch):
    from utils import training

    seen, right = {}, training.warmup_cosine

    def schedule(*settings):
        seen["rate"] = settings
        return right(*settings)

    def batches(x, *settings):
        seen["batches"] = settings
        return matching(x, *settings)

    began = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: seen.update(began=True)
    )
    monkeypatch.setattr(training, "warmup_cosine", schedule)
    monkeypatch.setitem(flow_matching.__globals__, "matching", batches)
    network = velocity_network(2, 4, "silu")
    history = flow_matching(network, normal(rng, 50, 2), 32, 60, 2e-3, 3, [began])
    assert seen == {"rate": (2e-3, 60), "batches": (32, 60), "began": True}
    assert int(network.optimizer.iterations) == 60 and network.loss == "mse"
    assert len(history.history["loss"]) == 3


def test_the_adaptive_solver_has_steps_to_spare(rng):
    judge = Adaptive(shaken(velocity_network(2, 8), rng, 2.0), 2)
    judge.log_prob(normal(rng, 200, 2))
    assert int(judge.evaluations) > 200
