"""What chapter 6 defines: layers of image flows, each with its inverse and its
log-determinant.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from utils import checks, training
from utils.chapters import definitions

(
    ActNorm, ChannelCoupling, Convolution1x1, Curve, LUConvolution, MaskedCoupling,
    Scale, Split, Squeeze, build_glow, checkerboard, dequantise, draw_latents,
    half_of_channels, quantise, shaken,
) = definitions(
    "06_glow", "ActNorm", "ChannelCoupling", "Convolution1x1", "Curve",
    "LUConvolution", "MaskedCoupling", "Scale", "Split", "Squeeze", "build_glow",
    "checkerboard", "dequantise", "draw_latents", "half_of_channels", "quantise",
    "shaken",
)  # fmt: skip


@pytest.fixture
def rng():
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)


LAYERS = {
    "squeeze": lambda rng: Squeeze(),
    "ActNorm": lambda rng: ActNorm(4),
    "scale": lambda rng: Scale((4, 4, 4)),
    "1x1": lambda rng: Convolution1x1(4, rng),
    "LU": lambda rng: LUConvolution(4, rng),
    "checkerboard": lambda rng: MaskedCoupling(checkerboard((4, 4, 4), 0), 8),
    "additive": lambda rng: MaskedCoupling(checkerboard((4, 4, 4), 1), 8, bound=0),
    "channels": lambda rng: MaskedCoupling(half_of_channels((4, 4, 4), 1), 8),
    "Glow's": lambda rng: ChannelCoupling((4, 4, 4), 8),
}


@pytest.mark.parametrize("name", LAYERS)
def test_inverse_and_log_det_of_each_layer(name, rng):
    layer = shaken(LAYERS[name](rng), rng, 0.2)
    x = rng.normal(size=(4, 4, 4, 4)).astype("float32")
    z = ops.convert_to_numpy(layer.inverse(x)[0])
    assert z.size == x.size and (z.shape != x.shape or np.abs(z - x).max() > 0.1), (
        "an identity proves nothing"
    )
    checks.inverse_error(lambda x: layer.inverse(x)[0], layer.forward, x, 1e-4)
    checks.log_det_error(
        lambda x: layer.inverse(x)[0],
        lambda x: layer.inverse(x)[1] + ops.zeros(len(x)),
        x,
        1e-3,
    )


def latents_in_a_row(flow, y):
    return ops.concatenate(
        [ops.reshape(z, (len(y), -1)) for z in flow.inverse(y)[0]], axis=1
    )


def test_whole_glow_with_its_split(rng):
    flow = shaken(build_glow((8, 8, 1), scales=2, steps=2, width=8), rng, 0.1)
    y = rng.uniform(-0.5, 0.5, (3, 8, 8, 1)).astype("float32")
    checks.log_det_error(
        lambda y: latents_in_a_row(flow, y), lambda y: flow.inverse(y)[1], y, 1e-3
    )
    back = ops.convert_to_numpy(flow.forward(flow.inverse(y)[0]))
    assert np.abs(back - y).max() < 1e-4
    z = ops.convert_to_numpy(latents_in_a_row(flow, y)).astype("float64")
    expected = -0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1) + ops.convert_to_numpy(
        flow.inverse(y)[1]
    )
    assert np.allclose(ops.convert_to_numpy(flow.log_prob(y)), expected, rtol=1e-4)


def test_latents_are_as_many_numbers_as_the_image(rng):
    flow = build_glow((8, 8, 1), scales=2, steps=1, width=8)
    latents = draw_latents(flow, 3, rng)
    assert [z.shape for z in latents] == [(3, 4, 4, 2), (3, 2, 2, 8)]
    assert flow.forward(latents).shape == (3, 8, 8, 1)


def test_zero_initialised_couplings_are_the_identity(rng):
    x = rng.normal(size=(2, 4, 4, 4)).astype("float32")
    for layer in (
        ChannelCoupling((4, 4, 4), 8),
        MaskedCoupling(checkerboard((4, 4, 4), 0), 8),
    ):
        z, log_det = layer.inverse(x)
        assert (
            np.array_equal(ops.convert_to_numpy(z), x)
            and not ops.convert_to_numpy(log_det).any()
        )


def test_masks_keep_what_they_say(rng):
    for mask in (checkerboard((4, 4, 2), 0), half_of_channels((4, 4, 2), 1)):
        x = rng.normal(size=(2, 4, 4, 2)).astype("float32")
        z = ops.convert_to_numpy(shaken(MaskedCoupling(mask, 8), rng).inverse(x)[0])
        assert (
            np.array_equal(z * mask, x * mask)
            and (np.abs(z - x)[:, mask == 0] > 0).mean() > 0.9
        )
        assert mask.mean() == 0.5


def test_dequantise_then_quantise_is_exact(rng):
    x = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)
    y = ops.convert_to_numpy(dequantise(x, 3))
    wrong = (
        ops.convert_to_numpy(quantise(y)) != x
    )  # noise a hair below 1 is rounded up by float32
    assert wrong.mean() < 0.01 and y.min() >= -0.5 and y.max() <= 0.5
    assert not np.array_equal(y, ops.convert_to_numpy(dequantise(x, 4)))


@pytest.mark.parametrize("batch", [1, 64])
def test_actnorm_is_set_once_also_under_fit_and_after_loading(batch, rng, tmp_path):
    x = rng.integers(0, 256, (batch, 8, 8, 1)).astype("uint8")
    flow = build_glow((8, 8, 1), scales=1, steps=1, width=8)
    flow.compile(keras.optimizers.SGD(0.0))
    flow.fit(x, batch_size=batch, epochs=1, verbose=0)
    norm = next(layer for layer in flow.chain if isinstance(layer, ActNorm))
    z = ops.convert_to_numpy(norm.inverse(Squeeze().inverse(dequantise(x, 0))[0])[0])
    assert np.allclose(z.mean(axis=(0, 1, 2)), 0, atol=1e-4) and np.allclose(
        z.std(axis=(0, 1, 2)), 1, atol=1e-3
    )
    before = norm.get_weights()
    flow.fit(255 - x, batch_size=batch, epochs=1, verbose=0)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, norm.get_weights(), strict=True)
    ), "set twice"
    training.save(flow, tmp_path / "glow")
    again = build_glow((8, 8, 1), scales=1, steps=1, width=8, seed=5)
    training.load(again, tmp_path / "glow")
    again.initialise(255 - x)
    y = dequantise(x, 1)
    assert np.allclose(
        ops.convert_to_numpy(again.log_prob(y)),
        ops.convert_to_numpy(flow.log_prob(y)),
        rtol=1e-5,
    )


def test_the_scale_at_the_end_is_set_by_the_first_batch_alone(rng):
    x = rng.normal(3, 1, (500, 2, 2, 2)).astype("float32") * np.float32([0.01, 2.0])
    scale = Scale((2, 2, 2))
    scale.initialise(x[:1])
    assert np.array_equal(ops.convert_to_numpy(scale.inverse(x)[0]), x), (
        "one image has no deviation"
    )
    scale.initialise(x)
    z = ops.convert_to_numpy(scale.inverse(x)[0])
    assert np.allclose(z.mean(axis=0), 0, atol=1e-3) and np.allclose(
        z.std(axis=0), 1, atol=1e-3
    )
    again = Scale((2, 2, 2))
    again.set_weights(scale.get_weights())
    again.initialise(5 * x)
    assert np.array_equal(ops.convert_to_numpy(again.inverse(x)[0]), z), "set twice"


def test_lu_and_plain_convolution_agree(rng):
    lu = shaken(LUConvolution(6, rng), rng, 0.1)
    plain = Convolution1x1(6, rng)
    plain.w.assign(lu.matrix())
    x = rng.normal(size=(2, 3, 3, 6)).astype("float32")
    (z, log_det), (z_plain, log_det_plain) = lu.inverse(x), plain.inverse(x)
    assert np.allclose(
        ops.convert_to_numpy(z), ops.convert_to_numpy(z_plain), atol=1e-5
    )
    assert float(log_det) == pytest.approx(float(log_det_plain), abs=1e-4)
    assert float(LUConvolution(6, rng).log_det()) == pytest.approx(0, abs=1e-5)


def test_the_weights_of_an_lu_convolution_are_the_whole_of_it():
    """Its permutation and its signs too, or a loaded model has another matrix."""
    first, other = (LUConvolution(6, np.random.default_rng(seed)) for seed in (0, 1))
    matrix = ops.convert_to_numpy(first.matrix())
    assert not np.array_equal(
        ops.convert_to_numpy(first.p), ops.convert_to_numpy(other.p)
    )
    other.set_weights(first.get_weights())
    assert np.allclose(ops.convert_to_numpy(other.matrix()), matrix, atol=1e-6)


def test_split_prior_is_a_density(rng):
    """With its own mean and deviation the split's numbers are standard normal."""
    split = shaken(Split((2, 2, 4), 8), rng, 0.3)
    kept = rng.normal(size=(5, 2, 2, 2)).astype("float32")
    epsilon = rng.normal(size=(5, 2, 2, 2)).astype("float32")
    kept_again, epsilon_again, log_det = split.inverse(split.forward(kept, epsilon))
    assert np.allclose(ops.convert_to_numpy(kept_again), kept)
    assert np.allclose(ops.convert_to_numpy(epsilon_again), epsilon, atol=1e-5)
    _, log_deviation = split.mean_and_log_deviation(kept)
    expected = -ops.convert_to_numpy(log_deviation).sum(axis=(1, 2, 3))
    assert np.allclose(ops.convert_to_numpy(log_det), expected, atol=1e-5)
    assert isinstance(split, layers.Layer)


def test_training_lowers_the_bits(rng):
    x = (
        np.repeat(rng.integers(0, 60, (128, 1, 1, 1)), 64, axis=1)
        .reshape(128, 8, 8, 1)
        .astype("uint8")
    )
    flow = build_glow((8, 8, 1), scales=2, steps=2, width=8)
    flow.initialise(x)
    flow.compile(
        keras.optimizers.Adam(3e-3), jit_compile=training.jit_compile("convolutions")
    )
    before = flow.evaluate(x, verbose=0)
    flow.fit(x, batch_size=32, epochs=12, verbose=0)
    after = flow.evaluate(x, verbose=0)
    assert np.ravel(after)[0] < np.ravel(before)[0] - 0.3


def test_the_curve_notes_the_mean_loss_between_two_notes_and_the_rest_of_an_epoch():
    curve, losses = Curve(batch=2, images=4), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    curve.on_train_begin()
    for epoch in range(2):
        curve.on_epoch_begin(epoch)
        for batch in range(5):
            curve.on_train_batch_end(batch, {"loss": losses[: batch + 1].mean()})
        curve.on_epoch_end(epoch, {"loss": losses.mean()})
    assert np.allclose(curve.history["loss"], 2 * [1.5, 3.5, 5.0])
    assert (
        curve.history["images"] == [4, 8, 10, 14, 18, 20]
        and len(curve.history["seconds"]) == 6
    )
