"""What chapter 4 defines, with random weights, against autodiff, TensorFlow Probability
and what must hold.
"""

import keras
import numpy as np
import pytest
from keras import ops

from utils import checks, training
from utils.chapters import definitions

rng = np.random.default_rng(0)


def take(*names):
    return definitions("04_realnvp", *names)


def shaken(flow):
    """A flow with random numbers in all its weights: one that starts as the identity
    passes any test.
    """
    for weight in flow.trainable_variables:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    return flow


def z_of(flow):
    return lambda x: flow.inverse(x)[0]


def log_det_of(flow):
    return lambda x: flow.inverse(x)[1]


@pytest.mark.parametrize("dim", [2, 5])
def test_inverse_and_log_det_with_random_weights(dim):
    flow = shaken(take("build_realnvp")(dim, couplings=4, width=16, depth=2))
    x = rng.normal(size=(50, dim)).astype("float32")
    assert not np.allclose(z_of(flow)(x), x, atol=0.1)
    checks.inverse_error(z_of(flow), flow.forward, x, 1e-4)
    checks.log_det_error(z_of(flow), log_det_of(flow), x, 1e-4)


def test_density_integrates_to_one_with_random_weights():
    flow = shaken(take("build_realnvp")(2, couplings=3, width=16, depth=1))
    checks.integral(flow.log_prob, limit=30.0, points=800, tolerance=3e-3)


@pytest.mark.parametrize("fault", ["sign", "half", "same_mask_inverse"])
def test_the_checks_find_a_broken_coupling(fault):
    Coupling, network = take("Coupling", "coupling_network")

    class Broken(Coupling):
        def inverse(self, x):
            z, log_det = super().inverse(x)
            return z, {"sign": -log_det, "half": 0.5 * log_det}.get(fault, log_det)

        def forward(self, z):
            return (
                super().forward(z[:, ::-1])[:, ::-1]
                if fault == "same_mask_inverse"
                else super().forward(z)
            )

    layer = shaken(Broken([1, 0], network(2, 16, 1)))
    x = rng.normal(size=(50, 2)).astype("float32")
    with pytest.raises(checks.CheckFailed):
        checks.inverse_error(z_of(layer), layer.forward, x, 1e-4)
        checks.log_det_error(z_of(layer), log_det_of(layer), x, 1e-4)


def test_jacobian_of_a_coupling_is_triangular_with_its_scales_on_the_diagonal():
    Coupling, network = take("Coupling", "coupling_network")
    layer = shaken(Coupling([1, 1, 0], network(3, 8, 1)))
    x = rng.normal(size=(20, 3)).astype("float32")
    J = checks.jacobian(z_of(layer), x)
    assert np.array_equal(J[:, :2], np.broadcast_to(np.eye(3)[:2], (20, 2, 3)))
    assert np.allclose(np.log(J[:, 2, 2]), layer.inverse(x)[1], atol=1e-5)


def test_log_scale_stays_within_its_bound():
    Coupling, network = take("Coupling", "coupling_network")
    layer = shaken(Coupling([1, 0], network(2, 8, 1), bound=2.0))
    s, t = layer.log_scale_and_shift(
        ops.convert_to_tensor(1e3 * rng.normal(size=(50, 2)).astype("float32"))
    )
    assert np.abs(s).max() <= 2.0 and np.abs(s).max() > 1.9
    assert not np.any(s[:, 0]) and not np.any(t[:, 0])


def test_density_is_that_of_tensorflow_probability():
    """A coupling with constant scale and shift is an affine map, so that p(x) is a
    Gaussian with known parameters.
    """
    tfd = pytest.importorskip("tensorflow_probability").distributions
    Coupling, RealNVP, network = take("Coupling", "RealNVP", "coupling_network")
    net = network(2, 4, 1)
    net.layers[-1].bias.assign(
        [0.3, 0.7, -1.0, 2.0]
    )  # u of both, t of both; the kernel is zero
    flow = RealNVP([Coupling([0, 1], net)])
    s = np.tanh(0.3)
    known = tfd.MultivariateNormalDiag([1.0 / np.exp(s), 0.0], [np.exp(-s), 1.0])
    x = rng.normal(size=(20, 2)).astype("float32")
    assert np.allclose(flow.log_prob(x), known.log_prob(x.astype("float32")), atol=1e-5)


def test_samples_have_the_density():
    """With z = x · e^s + t constant, samples have mean -t e^-s and spread e^-s."""
    Coupling, RealNVP, network = take("Coupling", "RealNVP", "coupling_network")
    net = network(2, 4, 1)
    net.layers[-1].bias.assign([0.5, 0.0, -1.0, 0.0])
    x = ops.convert_to_numpy(RealNVP([Coupling([0, 1], net)]).sample(40_000, seed=1))
    s = np.tanh(0.5)
    assert x[:, 0].mean() == pytest.approx(np.exp(-s), abs=0.02)
    assert x[:, 0].std() == pytest.approx(np.exp(-s), rel=0.02) and x[
        :, 1
    ].std() == pytest.approx(1, rel=0.02)


def test_loss_is_the_same_in_training_and_validation_and_counts_penalties():
    flow = shaken(take("build_realnvp")(2, couplings=2, width=8, depth=1))
    x = rng.normal(size=(70, 2)).astype("float32")
    flow.compile(keras.optimizers.SGD(0.0))
    nll = -float(ops.mean(flow.log_prob(x)))
    assert flow.evaluate(x, batch_size=32, verbose=0) == pytest.approx(nll, rel=1e-4)
    assert flow.fit(x, batch_size=35, verbose=0).history["loss"][0] == pytest.approx(
        nll, rel=1e-4
    )
    flow.couplings[0].network.layers[1].kernel.regularizer = keras.regularizers.L2(1.0)
    flow.compile(keras.optimizers.SGD(0.0))
    assert flow.evaluate(x, batch_size=70, verbose=0) > nll + 0.1


def test_training_lowers_the_kl(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "full")  # compiled by XLA, as a reader's
    from utils import moons

    data = moons.load(train=4_000)
    keras.utils.set_random_seed(0)
    flow = take("build_realnvp")(2, couplings=4, width=16, depth=1)
    before, _ = data.truth.kl(
        data.x_test, ops.convert_to_numpy(flow.log_prob(data.x_test))
    )
    training.fit_density(
        flow, data.x_train, optimizer=keras.optimizers.Adam(5e-3), epochs=3, batch=100
    )
    after, error = data.truth.kl(
        data.x_test, training.compiled(flow.log_prob, flow)(data.x_test)
    )
    assert before == pytest.approx(1.707, abs=0.05) and 3 * error < after < before - 0.4


def test_saved_and_loaded_weights_give_the_same(tmp_path):
    build = take("build_realnvp")
    flow, other = (build(3, couplings=3, width=8, depth=2) for _ in range(2))
    x = rng.normal(size=(9, 3)).astype("float32")
    shaken(flow).save_weights(tmp_path / "flow.weights.h5")
    assert not np.allclose(other.log_prob(x), flow.log_prob(x), atol=0.1)
    other.load_weights(tmp_path / "flow.weights.h5")
    assert np.array_equal(other.log_prob(x), flow.log_prob(x))


@pytest.mark.parametrize("dim", [2, 3])
def test_masks_alternate_so_that_two_couplings_change_every_coordinate(dim):
    flow = take("build_realnvp")(dim, couplings=4, width=8, depth=1)
    masks = np.array([coupling.mask for coupling in flow.couplings])
    assert np.array_equal(masks[0] + masks[1], np.ones(dim))
    assert np.array_equal(masks[2:], masks[:2])


def test_every_coupling_has_a_network_of_its_own():
    flow = take("build_realnvp")(2, couplings=3, width=8, depth=1)
    kernels = {id(c.network.layers[1].kernel) for c in flow.couplings}
    assert len(kernels) == 3


def the_books_call(couplings, x, training):
    """The way of chapter 6 of the book: one method for both directions."""
    direction = -1 if training else 1
    gate = (direction - 1) / 2
    log_det = 0.0
    for coupling in couplings[::direction]:
        kept = x * coupling.mask
        s, t = coupling.log_scale_and_shift(kept)
        moved = x * ops.exp(direction * s) + direction * t * ops.exp(gate * s)
        x = kept + (1 - coupling.mask) * moved
        log_det = log_det + gate * ops.sum(s, axis=-1)
    return x, log_det


def test_a_stack_of_the_books_couplings_is_the_books_model():
    Book, RealNVP, network = take("BookCoupling", "RealNVP", "coupling_network")
    couplings = [Book([k % 2, 1 - k % 2], network(2, 16, 1)) for k in range(4)]
    flow = shaken(RealNVP(couplings[::-1]))  # the book goes from the last to the first
    x = rng.normal(size=(50, 2)).astype("float32")
    z, log_det = the_books_call(couplings, x, training=True)
    assert not np.allclose(z, x, atol=0.1)
    assert np.allclose(z, flow.inverse(x)[0], atol=1e-5)
    assert np.allclose(log_det, flow.inverse(x)[1], atol=1e-5)
    back, _ = the_books_call(couplings, z, training=False)
    assert np.allclose(back, flow.forward(z), atol=1e-5)
    checks.flow_errors(flow, x, 1e-4)


def test_two_networks_see_the_same_and_share_nothing():
    two_networks = definitions("A2_faster", "two_networks")
    network = two_networks(2, width=8, depth=3)
    dense = [layer for layer in network.layers if isinstance(layer, keras.layers.Dense)]
    assert len(dense) == 8 and network.output_shape == (None, 4)
    x = rng.normal(size=(5, 2)).astype("float32")
    before = ops.convert_to_numpy(network(x))
    dense[0].kernel.assign(0 * dense[0].kernel)  # of the first network alone
    after = ops.convert_to_numpy(network(x))
    changed = np.abs(after - before).max(axis=0) > 0
    assert changed.tolist() in ([True, True, False, False], [False, False, True, True])


def test_shape_bound_and_dimension_are_those_that_were_asked_for():
    flow = take("build_realnvp")(5, couplings=3, width=8, depth=2, bound=2.5)
    assert {coupling.bound for coupling in flow.couplings} == {2.5}
    shapes = [w.shape for w in flow.couplings[0].network.weights[::2]]
    assert shapes == [(5, 8), (8, 8), (8, 10)]
    x = flow.sample(7, seed=1)
    assert x.shape == (7, 5) and flow.dim == 5
    assert np.array_equal(x, flow.sample(7, seed=1))
    assert not np.array_equal(x, flow.sample(7, seed=2))


@pytest.mark.parametrize("bound", [0.5, 4.0])
def test_a_small_output_of_the_network_is_the_log_scale_whatever_the_bound(bound):
    Coupling, network = take("Coupling", "coupling_network")
    net = network(2, 4, 1)
    net.layers[-1].bias.assign([0.0, 0.01, 0.0, 0.0])
    s, _ = Coupling([1, 0], net, bound).log_scale_and_shift(np.ones((1, 2), "float32"))
    assert float(s[0, 1]) == pytest.approx(0.01, rel=1e-3)


def test_two_networks_bend_and_start_as_told():
    two_networks = definitions("A2_faster", "two_networks")
    keras.utils.set_random_seed(0)
    x = np.float32([[-1, -1], [0, 0], [1, 1]])
    left, middle, right = ops.convert_to_numpy(two_networks(2, 16, 2)(x))
    assert not np.allclose(left - middle, middle - right, atol=1e-3)  # no line
    assert not np.any(two_networks(2, 16, 2, start="zeros")(x))
