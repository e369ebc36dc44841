"""What chapter 8 defines: solvers, a flow in continuous time, and the same network in
`tfb.FFJORD`.
"""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from scipy.linalg import expm
from scipy.stats import multivariate_normal

from utils import checks
from utils.chapters import definitions

(
    Adaptive, ContinuousFlow, Penalised, rk4,
    shaken, velocity_and_trace, velocity_network, with_time,
) = definitions(
    "08_ffjord", "Adaptive", "ContinuousFlow", "Penalised", "rk4", "shaken",
    "velocity_and_trace", "velocity_network", "with_time",
)  # fmt: skip
A = np.float32([[-0.5, 2.0], [-2.0, 0.3]])


@pytest.fixture
def rng():
    tf_keras.utils.set_random_seed(0)
    return np.random.default_rng(0)


def linear_network():
    network = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.Dense(2, use_bias=False)]
    )
    network.layers[-1].kernel.assign(np.vstack([A.T, [[0, 0]]]))
    return network


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


def test_a_linear_field_has_its_closed_form(rng):
    x = rng.normal(size=(50, 2)).astype("float32")
    expected = multivariate_normal(cov=expm(A) @ expm(A).T).logpdf(x)
    assert np.allclose(
        ContinuousFlow(linear_network(), 2, 16).log_prob(x), expected, atol=1e-3
    )
    assert np.allclose(Adaptive(linear_network(), 2).log_prob(x), expected, atol=1e-3)


def test_the_trace_is_that_of_the_jacobian(rng):
    network, z = (
        shaken(velocity_network(3, 8), rng, 0.5),
        rng.normal(size=(5, 3)).astype("float32"),
    )
    v, trace = velocity_and_trace(network, 0.3, tf.constant(z))
    jacobian = checks.jacobian(lambda z: network(with_time(z, 0.3)), z)
    assert np.allclose(
        trace, np.trace(jacobian, axis1=1, axis2=2), atol=1e-5
    ) and v.shape == (5, 3)
    assert np.allclose(with_time(tf.constant(z), 0.3).numpy()[:, 3], 0.3)


def test_inverse_log_det_and_both_solvers_agree(rng):
    flow = ContinuousFlow(shaken(velocity_network(2, 8), rng, 0.5), 2, steps=32)
    x = rng.normal(size=(30, 2)).astype("float32")
    assert np.abs(flow.inverse(x)[0] - x).max() > 0.2
    checks.inverse_error(lambda x: flow.inverse(x)[0], flow.forward, x, 1e-3)
    checks.log_det_error(
        lambda x: flow.inverse(x)[0], lambda x: flow.inverse(x)[1], x, 1e-3
    )
    adaptive = Adaptive(flow.network, 2)
    assert np.allclose(adaptive.log_prob(x), flow.log_prob(x), atol=1e-3)
    assert int(adaptive.evaluations) > 10


def test_a_solver_that_runs_out_of_steps_says_so(rng):
    network = shaken(velocity_network(2, 8), rng, 0.5)
    with pytest.raises(RuntimeError, match="ran out of steps"):
        Adaptive(network, 2, most=2).log_prob(np.zeros((3, 2), "float32"))


def test_the_energy_is_positive_and_lowers_the_objective(rng):
    flow = ContinuousFlow(shaken(velocity_network(2, 8), rng, 0.5), 2, steps=8)
    x = rng.normal(size=(10, 2)).astype("float32")
    energy = flow.inverse(x)[2].numpy()
    assert (energy > 0).all()
    objective = Penalised(flow, 0.1).log_prob(x).numpy()
    assert np.allclose(objective, flow.log_prob(x).numpy() - 0.1 * energy, atol=1e-4)
