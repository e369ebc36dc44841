"""What chapter 5 defines: bijectors of TFP with networks that are owned, and chains of
them.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from utils import checks, training
from utils.chapters import definitions

(
    affine_coupling, additive_coupling, chain, dense_network, density, dependency,
    log_det, masked_flow, nice, shaken, spline_coupling, variables_of,
    MaskedShiftAndLogScale, Spline,
) = definitions(
    "05_tfp_flows", "affine_coupling", "additive_coupling", "chain", "dense_network",
    "density", "dependency", "log_det", "masked_flow", "nice", "shaken",
    "spline_coupling", "variables_of", "MaskedShiftAndLogScale", "Spline",
)  # fmt: skip
tfb = tfp.bijectors
X = np.random.default_rng(0).normal(size=(300, 2)).astype("float32")
FLOWS = {
    "MAF": lambda: chain(lambda: masked_flow(2, (16, 16)), 3),
    "IAF": lambda: chain(
        lambda: tfb.Invert(masked_flow(2, (16, 16), unroll_loop=True)), 3
    ),
    "RealNVP": lambda: chain(lambda: affine_coupling(width=16), 3),
    "NICE": lambda: nice(3, width=16),
    "spline": lambda: chain(spline_coupling, 3),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows_are_right_with_random_weights(name):
    # Shaken by 0.3, a spline gets slopes so steep that float32 alone is off by up to
    # 6e-3; by 0.1, by 3e-6.
    flow = shaken(
        FLOWS[name](),
        np.random.default_rng(1),
        0.3 if name in ("RealNVP", "NICE") else 0.1,
    )
    bijector = flow.bijector
    assert np.abs(bijector.inverse(X) - X).max() > 0.1, (
        "the identity would pass every check"
    )
    checks.inverse_error(bijector.inverse, bijector.forward, X, 1e-4)
    checks.log_det_error(bijector.inverse, log_det(bijector), X, 1e-4)


@pytest.mark.parametrize("name", FLOWS)
def test_a_density_integrates_to_one_and_learns(name):
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


def test_a_spline_starts_as_the_identity_and_stays_increasing():
    keras.utils.set_random_seed(0)
    z = np.linspace(-7, 7, 200, dtype="float32")[:, None]
    kept = np.ones((200, 1), "float32")
    spline = Spline(1, 1, width=8, bins=8)
    assert np.allclose(spline(kept, 1).forward(z), z, atol=1e-5)
    bent = (
        shaken(spline, np.random.default_rng(4), 0.8)(kept, 1)
        .forward(z)
        .numpy()
        .ravel()
    )
    assert (np.diff(bent) > 0).all() and np.abs(bent - z.ravel()).max() > 0.1
    outside = np.abs(z.ravel()) > 5.1
    assert np.allclose(bent[outside], z.ravel()[outside])


def test_additive_couplings_keep_volume():
    bijector = shaken(
        chain(lambda: additive_coupling(width=8), 3), np.random.default_rng(5)
    ).bijector
    assert not log_det(bijector)(X).numpy().any()
    assert (
        len(
            np.unique(
                log_det(shaken(nice(3, width=8), np.random.default_rng(6)).bijector)(X)
            )
        )
        == 1
    )
