"""What chapter 6 defines: layers of image flows, each with its inverse and its
log-determinant.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

from benchmarks.rung_layers import BatchNorm, BatchNormFlow, build_rung
from utils import checks, training
from utils.chapters import definitions
from utils.course import CourseError

(
    ActNorm, ChannelCoupling, ClassScale, Convolution1x1, ImageFlow, LUConvolution,
    MaskedCoupling, Scale, Split, Squeeze, bits_of, build_glow, checkerboard,
    conv_network, decode, dequantise, draw_latents, encode, half_of_channels,
    halved, or_anything, quantise, set_by_classes, shaken, shares,
) = definitions(
    "06_glow", "ActNorm", "ChannelCoupling", "ClassScale", "Convolution1x1",
    "ImageFlow", "LUConvolution", "MaskedCoupling", "Scale", "Split", "Squeeze",
    "bits_of", "build_glow", "checkerboard", "conv_network", "decode", "dequantise",
    "draw_latents", "encode", "half_of_channels", "halved", "or_anything",
    "quantise", "set_by_classes", "shaken", "shares",
)  # fmt: skip
RUNGS = "NICE", "log-scales", "channels", "batch norm"
RUNGS += "ActNorm", "1×1", "no boards", "split"


@pytest.fixture
def rng():
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)


def with_averages(layer, rng):
    layer.initialise(rng.normal(1.0, 2.0, (9, 4, 4, 4)).astype("float32"))
    return layer


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
    "batch norm": lambda rng: with_averages(BatchNorm(4), rng),
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
    again.initialise(dequantise(255 - x, 0))
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
    flat = Scale((1,))
    flat.initialise(np.ones((5, 1), "float32"))
    deviation = np.exp(ops.convert_to_numpy(flat.log_deviation))
    assert np.allclose(deviation, 1e-4, rtol=1e-3), "a number that never varies"
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
    flow.initialise(dequantise(x, 0))
    flow.compile(
        keras.optimizers.Adam(3e-3), jit_compile=training.jit_compile("convolutions")
    )
    before = flow.evaluate(x, verbose=0)
    flow.fit(x, batch_size=32, epochs=12, verbose=0)
    after = flow.evaluate(x, verbose=0)
    assert np.ravel(after)[0] < np.ravel(before)[0] - 0.3


def test_the_curve_notes_the_mean_loss_between_two_notes():
    curve, losses = (
        training.Curve(batch=2, every=2),
        np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
    )
    for epoch in range(2):
        curve.on_epoch_begin(epoch)
        for batch in range(5):
            curve.on_train_batch_end(batch, {"loss": losses[: batch + 1].mean()})
    assert np.allclose(curve.bits, 2 * [1.5, 3.5])
    assert curve.images == [4, 8, 14, 18]


# ------------------------------------------------------------------ 256 levels


def test_a_density_that_knows_nothing_costs_eight_bits():
    """The loss and the figure of a test both count 256 levels."""
    flow = ImageFlow([], (4, 4, 1))
    assert float(flow.compute_loss(y_pred=ops.zeros(5))) == pytest.approx(8, abs=1e-6)
    known = build_glow((4, 4, 1), 1, 1, 4, classes=3)
    joint = ops.zeros((5, 3)) - np.log(3)
    loss = known.compute_loss(y=np.array([0, 1, 2, 0, 1]), y_pred=joint)
    assert float(loss) == pytest.approx(8, abs=1e-6)
    x = np.zeros((6, 4, 4, 1), "uint8")
    bits = bits_of(lambda y: ops.zeros(len(y)), x)
    assert bits.shape == (6,) and np.allclose(bits, 8)
    twice = bits_of(lambda y: ops.zeros(len(y)) + 16 * np.log(2), x)
    assert np.allclose(twice, 7, atol=1e-4), "one bit less for each of 16 pixels"


def test_bits_of_a_normal_density_by_hand(rng):
    """The loss in training and the figure of a test agree with the formula."""
    x = rng.integers(0, 256, (4, 4, 4, 1)).astype("uint8")
    flow = ImageFlow([], (4, 4, 1))
    y = ops.convert_to_numpy(dequantise(x, 0)).astype("float64")
    nats = -0.5 * (y**2 + np.log(2 * np.pi)).sum(axis=(1, 2, 3))
    expected = 8 - or_anything(nats) / 16 / np.log(2)
    assert np.allclose(bits_of(flow.log_prob, x), expected, atol=1e-4)
    assert np.allclose(
        float(flow.compute_loss(y_pred=flow.log_prob(dequantise(x, 0)))),
        (8 - nats / 16 / np.log(2)).mean(),
        atol=1e-4,
    )


def test_one_image_cannot_cost_more_than_the_escape():
    assert or_anything(np.array([-np.inf]))[0] == pytest.approx(np.log(1e-4))
    assert or_anything(np.array([0.0]))[0] == pytest.approx(0.0, abs=1e-12)
    assert or_anything(np.array([500.0]))[0] == pytest.approx(500 + np.log1p(-1e-4))


def test_each_piece_of_a_test_has_noise_of_its_own():
    seen = []

    def log_prob(y):
        seen.append(ops.convert_to_numpy(y))
        return ops.zeros(len(y))

    bits_of(log_prob, np.zeros((1_000, 2, 2, 1), "uint8"), seed=3)
    assert [len(y) for y in seen] == [500, 500]
    assert not np.allclose(seen[0], seen[1]) and seen[0].std() > 0


# ------------------------------------------------------------------ checkerboards


def test_checkerboards_take_turns_and_move_every_pixel(rng):
    even, odd = (checkerboard((4, 6, 2), k) for k in (0, 1))
    assert np.array_equal(even + odd, np.ones((4, 6, 2)))
    assert not np.array_equal(even, odd) and even[0, 0, 0] != even[0, 1, 0]
    assert even[0, 0, 0] != even[1, 0, 0] and even[0, 0, 0] == even[0, 0, 1]
    first, second = (half_of_channels((2, 2, 4), k) for k in (0, 1))
    assert first[0, 0].tolist() == [1, 1, 0, 0] and second[0, 0].tolist() == [
        0,
        0,
        1,
        1,
    ]


@pytest.mark.parametrize("name", RUNGS)
def test_every_rung_moves_every_number_and_is_a_density(name, rng):
    flow = shaken(build_rung(name, 4), rng, 0.1)
    couplings = [part for part in flow.chain if isinstance(part, MaskedCoupling)]
    assert len(couplings) == 8
    for before, after in zip(couplings, couplings[1:]):
        if before.mask.shape == after.mask.shape and name not in RUNGS[5:]:
            assert np.array_equal(before.mask + after.mask, np.ones(after.mask.shape))
    y = rng.uniform(-0.5, 0.5, (2, 14, 14, 1)).astype("float32")
    flow.initialise(y)
    latents, log_det = flow.inverse(y)
    assert sum(int(np.prod(z.shape[1:])) for z in latents) == 196
    back = ops.convert_to_numpy(flow.forward(latents))
    assert np.abs(back - y).max() < 1e-4
    if name in ("batch norm", "split"):  # each layer has a test of its own
        checks.log_det_error(
            lambda y: latents_in_a_row(flow, y),
            lambda y: flow.inverse(y)[1] + ops.zeros(len(y)),
            y,
            0.01,
        )


def test_rungs_change_one_thing_each():
    kinds = {
        name: [type(part).__name__ for part in build_rung(name, 4).chain]
        for name in RUNGS
    }
    without = {
        name: [k for k in kinds[name] if k not in ("BatchNorm", "ActNorm")]
        for name in RUNGS
    }
    assert kinds["NICE"] == kinds["log-scales"]
    assert without["batch norm"] == without["ActNorm"] == kinds["channels"]
    assert kinds["batch norm"].count("BatchNorm") == 8
    swapped = [k.replace("BatchNorm", "ActNorm") for k in kinds["batch norm"]]
    assert swapped == kinds["ActNorm"]
    mixed = [k for k in kinds["1×1"] if k != "LUConvolution"]
    assert mixed == kinds["ActNorm"] and kinds["1×1"].count("LUConvolution") == 4
    assert kinds["no boards"][0] == "Squeeze" == kinds["split"][0]
    assert [k for k in kinds["split"] if k != "Split"] == kinds["no boards"]
    nice = [part for part in build_rung("NICE", 4).chain if hasattr(part, "bound")]
    assert all(part.bound == 0 for part in nice)


# ------------------------------------------------------------------ batch norm


def test_batch_norm_uses_the_batch_in_training_and_averages_else(rng):
    layer = with_averages(BatchNorm(4), rng)
    mean = ops.convert_to_numpy(layer.mean)
    x = rng.normal(5.0, 3.0, (6, 4, 4, 4)).astype("float32")
    layer.inverse(x)
    assert np.array_equal(ops.convert_to_numpy(layer.mean), mean), "used, not trained"
    layer.training = True
    z, log_det = layer.inverse(x)
    of_batch, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = 0.9 * mean + 0.1 * of_batch
    assert np.allclose(ops.convert_to_numpy(layer.mean), expected, atol=1e-4)
    z = ops.convert_to_numpy(z)
    assert np.allclose(z, (x - of_batch) / np.sqrt(variance), atol=1e-3)
    assert float(log_det) == pytest.approx(-8 * np.log(variance).sum(), abs=1e-3)


def test_a_flow_with_batch_norm_tells_its_layers_whether_it_trains(rng):
    x = rng.integers(0, 256, (64, 14, 14, 1)).astype("uint8")
    flow = build_rung("batch norm", 4)
    assert isinstance(flow, BatchNormFlow)
    flow.compile(keras.optimizers.SGD(0.0))
    flow.fit(x, batch_size=32, epochs=1, verbose=0)
    norm = next(part for part in flow.chain if isinstance(part, BatchNorm))
    mean = ops.convert_to_numpy(norm.mean)
    flow.evaluate(255 - x, batch_size=32, verbose=0)
    assert np.array_equal(ops.convert_to_numpy(norm.mean), mean)
    flow.fit(255 - x, batch_size=32, epochs=1, verbose=0)
    assert not np.array_equal(ops.convert_to_numpy(norm.mean), mean)


# ------------------------------------------------------------------ classes


def test_a_prior_for_each_class_is_a_density_of_each(rng):
    prior = shaken(ClassScale((2, 2, 3), 4), rng, 0.5)
    x = rng.normal(size=(5, 2, 2, 3)).astype("float32")
    from scipy.stats import norm

    mean, scale = (
        ops.convert_to_numpy(prior.mean),
        ops.convert_to_numpy(prior.log_deviation),
    )
    expected = norm.logpdf(x[:, None], mean, np.exp(scale)).sum(axis=(2, 3, 4))
    assert np.allclose(ops.convert_to_numpy(prior.log_prob(x)), expected, atol=1e-4)
    share = shares(np.array([0, 3, 1, 2, 2]), 4)
    noise = prior.inverse(x, share)
    assert np.allclose(ops.convert_to_numpy(prior.forward(noise, share)), x, atol=1e-5)
    by_hand = (x[1] - mean[3]) * np.exp(-scale[3])
    assert np.allclose(ops.convert_to_numpy(noise)[1], by_hand, atol=1e-5)


def test_means_of_classes_are_set_by_their_images_once(rng):
    labels = np.arange(300) % 3
    x = rng.normal(labels[:, None, None, None], 2.0, (300, 1, 1, 2)).astype("float32")
    prior = ClassScale((1, 1, 2), 4)  # no image is of the fourth
    set_by_classes(prior, x, labels)
    mean = ops.convert_to_numpy(prior.mean)
    for k in range(3):
        assert np.allclose(mean[k], x[labels == k].mean(axis=0), atol=1e-4)
        deviation = np.exp(ops.convert_to_numpy(prior.log_deviation)[k])
        assert np.allclose(deviation, x[labels == k].std(axis=0), atol=1e-3)
    set_by_classes(prior, x + 5, labels)
    assert np.array_equal(ops.convert_to_numpy(prior.mean), mean), "set twice"


def test_the_density_is_the_sum_over_classes_and_decode_undoes_encode(rng):
    flow = shaken(build_glow((8, 8, 1), 2, 1, 4, classes=3), rng, 0.1)
    y = rng.uniform(-0.5, 0.5, (4, 8, 8, 1)).astype("float32")
    joint = ops.convert_to_numpy(flow.joint(y)).astype("float64")
    whole = ops.convert_to_numpy(flow.log_prob(y))
    assert np.allclose(whole, np.log(np.exp(joint).sum(axis=1)), atol=1e-3)
    share = shares(np.array([0, 1, 2, 2]), 3)
    noise = encode(flow, y, share)
    assert np.abs(decode(flow, noise, share) - y).max() < 1e-4
    # log q(y, k) is that of the noise for class k, and of the map to it
    flat = np.concatenate([z.reshape(4, -1) for z in noise], axis=1).astype("float64")
    base = -0.5 * (flat**2 + np.log(2 * np.pi)).sum(axis=1)
    _, log_det = flow.inverse(y)
    scale = ops.convert_to_numpy(flow.prior.log_deviation).reshape(3, -1).sum(axis=1)
    expected = base + ops.convert_to_numpy(log_det) - share @ scale - np.log(3)
    assert np.allclose((joint * share).sum(axis=1), expected, atol=1e-2)


def test_training_with_labels_lowers_the_bits_of_their_class(rng):
    labels = np.arange(128) % 2
    x = np.full((128, 8, 8, 1), 40) + 60 * labels[:, None, None, None]
    x = (x + rng.integers(0, 20, x.shape)).astype("uint8")
    flow = build_glow((8, 8, 1), 2, 1, 8, classes=2)
    flow.compile(keras.optimizers.Adam(3e-3))
    flow.fit(x, labels, batch_size=32, epochs=12, verbose=0)
    joint = ops.convert_to_numpy(flow.joint(dequantise(x, 1)))
    assert (joint.argmax(axis=1) == labels).mean() > 0.95
    drawn = draw_latents(flow, 40, rng)
    dark, light = (
        decode(flow, drawn, shares(np.full(40, k), 2)).mean() for k in (0, 1)
    )
    assert light > dark + 0.1


# ------------------------------------------------------------------ own images


def test_images_that_do_not_fit_are_one_line(rng):
    flow = build_glow((8, 8, 1), 2, 1, 4)
    flow.compile(keras.optimizers.Adam(1e-3))
    with pytest.raises(CourseError, match="7 × 7 pixels cannot be cut"):
        build_glow((28, 28, 1), 3, 1, 4)
    with pytest.raises(CourseError, match="5 × 8 pixels cannot be cut"):
        Squeeze().inverse(np.zeros((2, 5, 8, 1), "float32"))
    for x, line in (
        (rng.random((9, 8, 8, 1)), "give np.uint8"),
        (rng.integers(0, 256, (9, 8, 8)), "axis of channels"),
        (rng.integers(0, 256, (9, 8, 8, 3)), "8 × 8 pixels and 1 channel"),
        (rng.integers(0, 999, (9, 8, 8, 1)), "whole numbers from 0 to 255"),
    ):
        for model, y in ((flow, ()), (build_glow((8, 8, 1), 2, 1, 4, 3), ([0] * 9,))):
            with pytest.raises(CourseError, match=line) as info:
                model.fit(x, *y, verbose=0)
            assert "\n" not in str(info.value)
            assert not any(float(part.done) for part in model.chain if has_done(part))


def has_done(part):
    return hasattr(part, "done")


def test_labels_that_do_not_fit_are_found_before_anything_is_set(rng):
    flow = build_glow((8, 8, 1), 2, 1, 4, classes=3)
    flow.compile(keras.optimizers.Adam(1e-3))
    x = rng.integers(0, 256, (9, 8, 8, 1)).astype("uint8")
    with pytest.raises(CourseError, match="from 0 to 2, and there is 3"):
        flow.fit(x, np.arange(9) % 4, verbose=0)
    assert not any(float(part.done) for part in flow.chain if has_done(part))
    assert not float(flow.prior.done)


def test_colour_and_other_sizes_work(rng):
    x = rng.integers(0, 256, (16, 8, 12, 3)).astype("float64")
    flow = build_glow((8, 12, 3), 2, 1, 4)
    flow.compile(keras.optimizers.Adam(1e-3))
    flow.fit(x, batch_size=8, verbose=0)
    y = dequantise(x, 0)
    back = ops.convert_to_numpy(flow.forward(flow.inverse(y)[0]))
    assert np.abs(back - ops.convert_to_numpy(y)).max() < 1e-4
    assert bits_of(flow.log_prob, x).mean() < 10


def test_a_network_answers_values_that_it_never_saw_like_those_at_the_edge(rng):
    network = shaken(conv_network((4, 4, 2), 2, 8), rng)
    edge, far = (network(np.full((1, 4, 4, 2), v, "float32")) for v in (6.0, 1e6))
    assert np.array_equal(ops.convert_to_numpy(edge), ops.convert_to_numpy(far))


# ------------------------------------------------------------------ faults once planted


def test_noise_is_uniform_and_each_image_has_its_own():
    y = ops.convert_to_numpy(dequantise(np.zeros((40, 8, 8, 1), "uint8"), 0))
    u = 256 * (y + 0.5)
    assert u.min() < 0.02 and u.max() > 0.98 and not np.allclose(u[0], u[1])


def test_levels_stay_between_0_and_255():
    found = ops.convert_to_numpy(quantise(np.float32([-9, -0.5, 0.5, 9])))
    assert found.tolist() == [0, 0, 255, 255]


def test_three_scales_go_back(rng):
    flow = shaken(build_glow((8, 8, 1), 3, 1, 4), rng, 0.1)
    y = rng.uniform(-0.5, 0.5, (2, 8, 8, 1)).astype("float32")
    back = ops.convert_to_numpy(flow.forward(flow.inverse(y)[0]))
    assert np.abs(back - y).max() < 1e-4


def test_each_layer_is_set_by_what_comes_out_of_the_one_before(rng):
    flow = ImageFlow([ActNorm(1), ActNorm(1)], (2, 2, 1))
    flow.initialise(rng.normal(3, 2, (50, 2, 2, 1)).astype("float32"))
    shift, log_scale, _ = flow.chain[1].get_weights()
    assert np.allclose([shift, log_scale], 0, atol=1e-3)


def test_bits_of_colour_are_for_each_number():
    nats = 48 * np.log(2)
    x = np.zeros((2, 4, 4, 3), "uint8")
    bits = bits_of(lambda y: ops.zeros(len(y)) + nats, x)
    assert np.allclose(bits, 7, atol=1e-4)
    loss = ImageFlow([], (4, 4, 3)).compute_loss(y_pred=ops.zeros(2) + nats)
    assert float(loss) == pytest.approx(7, abs=1e-5)


def test_decode_of_many_is_that_of_each(rng):
    flow = build_glow((4, 4, 1), 1, 1, 4, classes=3)
    flow.prior.mean.assign(rng.normal(size=flow.prior.mean.shape))
    noise, share = draw_latents(flow, 600, rng), shares(np.repeat([0, 1, 2], 200), 3)
    every = decode(flow, noise, share)
    for k in (0, 250, 599):
        alone = decode(flow, [z[k : k + 1] for z in noise], share[k : k + 1])
        assert np.allclose(every[k], alone[0], atol=1e-5)
    half = flow.prior.forward(0 * noise[0][:1], np.float32([[0.5, 0.5, 0]]))
    mean = ops.convert_to_numpy(flow.prior.mean)
    assert np.allclose(ops.convert_to_numpy(half)[0], mean[:2].mean(axis=0), atol=1e-6)


def test_drawn_latents_are_standard_normal_and_differ(rng):
    for z in draw_latents(build_glow((8, 8, 1), 2, 1, 4), 300, rng):
        assert abs(z.std() - 1) < 0.03 and z.std(axis=0).min() > 0.8


def test_rungs_keep_width_bound_and_place():
    for name in RUNGS:
        chain = build_rung(name, 4).chain
        couplings = [part for part in chain if isinstance(part, MaskedCoupling)]
        bound = 0 if name == "NICE" else 2.0
        assert all(part.bound == bound for part in couplings)
        for part in couplings:
            convolutions = [p for p in part.network.layers if hasattr(p, "filters")]
            assert [p.filters for p in convolutions[:2]] == [4, 4]
        if name in RUNGS[5:]:
            small = [part for part in couplings if part.mask.shape[0] == 7]
            assert all(part.mask[0, 0, 0] == 1 for part in small)
        if name == "split":
            kinds = [type(part).__name__ for part in chain]
            assert kinds[: kinds.index("Split")].count("MaskedCoupling") == 4


def test_a_flow_of_classes_is_set_by_data_too(rng):
    x = rng.integers(0, 256, (90, 8, 8, 1)).astype("uint8")
    flow = build_glow((8, 8, 1), 1, 1, 4, classes=3)
    flow.compile(keras.optimizers.SGD(0.0))
    flow.fit(x, np.arange(90) % 3, batch_size=30, verbose=0)
    norm = next(part for part in flow.chain if isinstance(part, ActNorm))
    z = ops.convert_to_numpy(norm.inverse(Squeeze().inverse(dequantise(x, 0))[0])[0])
    assert np.allclose(z.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    assert not np.array_equal(
        ops.convert_to_numpy(flow(x[:2])), ops.convert_to_numpy(flow(x[:2]))
    ), "fresh noise in each step"


def test_a_class_of_one_image_and_a_set_of_one_leave_no_zero_deviation(rng):
    x = rng.normal(size=(20, 1, 1, 2)).astype("float32")
    prior = ClassScale((1, 1, 2), 3)
    set_by_classes(prior, x[:1], np.zeros(1, int))
    assert not float(prior.done), "one image has no deviation"
    labels = np.r_[np.zeros(19, int), 1]
    set_by_classes(prior, x, labels)
    deviations = np.exp(ops.convert_to_numpy(prior.log_deviation))
    assert deviations.min() > 0.3


def test_seeds_give_other_rotations():
    first, other = (build_glow((4, 4, 1), 1, 1, 4, seed=k).chain[2] for k in (0, 1))
    assert not np.allclose(
        ops.convert_to_numpy(first.matrix()), ops.convert_to_numpy(other.matrix())
    )


def test_halved_takes_the_mean_of_neighbours():
    x = np.zeros((1, 28, 28, 1), "uint8")
    x[0, 2:4, 4:6, 0] = [[10, 11], [12, 14]]
    small = halved(x)
    assert small[0, 1, 2, 0] == 12 and (small > 0).sum() == 1
