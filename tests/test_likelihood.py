"""What appendix A3 defines, against SciPy and against what must hold."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.stats import logistic

from utils.chapters import definitions

rng = np.random.default_rng(0)
raw = rng.integers(0, 256, (6, 28, 28)).astype("uint8")
raw[:, :3] = 0
raw[:, -2:] = 255


def take(*names):
    return definitions("A3_likelihood", *names)


def images():
    return definitions("01_autoencoder", "prepare")(raw)


@pytest.mark.parametrize(
    "middle, width", [(-30.0, 10.0), (0.0, 0.5), (127.3, 4.0), (255.0, 20.0)]
)
def test_discretised_logistic_is_a_distribution_and_that_of_scipy(middle, width):
    levels = np.arange(256, dtype="float32")
    log_width = np.float32(np.log(width))
    log_p = ops.convert_to_numpy(take("log_prob_of_levels")(levels, middle, log_width))
    assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-4)
    cuts = logistic.cdf(np.arange(255) + 0.5, middle, width)
    expected = np.diff(np.concatenate([[0], cuts, [1]]))
    assert np.allclose(np.exp(log_p), expected, atol=2e-4 * expected.max())


def test_far_from_the_middle_nothing_is_lost_in_rounding():
    log_p = take("log_prob_of_levels")(np.float32([250.0]), 0.0, np.float32(0.0))
    # S(b) - S(a) of two sigmoids that are 1 to float32: e^-a - e^-b
    expected = np.log(np.exp(-249.5) - np.exp(-250.5))
    assert float(log_p[0]) == pytest.approx(expected, abs=1e-2)


def test_the_likelihood_counts_the_files_own_pixels():
    """28 × 28 of them, without the frame: a window that is one pixel off would count
    other levels against other bells.
    """
    keras.utils.set_random_seed(0)
    model = take("build_logistic_vae")(2)
    outputs = rng.normal([0, 1.5], 0.4, (6, 32, 32, 2)).astype("float32")
    found = ops.convert_to_numpy(model.log_likelihood(images(), outputs))
    inner = outputs[:, 2:30, 2:30].astype(float)
    bells = logistic(255 / (1 + np.exp(-inner[..., 0])), np.exp(3 + inner[..., 1]))
    low = np.where(raw > 0, bells.cdf(raw - 0.5), 0)
    high = np.where(raw < 255, bells.cdf(raw + 0.5), 1)
    assert np.allclose(found, np.log(high - low).sum(axis=(1, 2)), rtol=1e-3)
    assert np.array_equal(model.reconstruction_loss(images(), outputs), -found)
    frame = outputs.copy()
    frame[:, :2] += 7
    assert np.array_equal(model.log_likelihood(images(), frame), found)


def test_every_level_is_found_again_in_the_prepared_image():
    """A narrow bell at each level of 0 to 255: were one level taken for its neighbour,
    it would cost many nats.
    """
    levels = np.resize(np.arange(256), (1, 28, 28)).astype("uint8")
    middle = np.clip(levels / 255, 1e-4, 1 - 1e-4)
    outputs = np.full((1, 32, 32, 2), -6.0, "float32")  # width e^-3
    outputs[0, 2:30, 2:30, 0] = np.log(middle / (1 - middle))[0]
    x = definitions("01_autoencoder", "prepare")(levels)
    model = take("build_logistic_vae")(2)
    assert float(model.log_likelihood(x, outputs)[0]) > -5


def test_widths_are_bounded_at_e_to_the_minus_3_and_e_to_the_6():
    model = take("build_logistic_vae")(2)

    def at(value):
        outputs = np.zeros((6, 32, 32, 2), "float32")
        outputs[..., 1] = value
        return ops.convert_to_numpy(model.log_likelihood(images(), outputs))

    assert np.array_equal(at(-50), at(-6)) and np.array_equal(at(50), at(3))
    assert not np.allclose(at(-5.9), at(-6), rtol=1e-3)
    assert not np.allclose(at(2.9), at(3), rtol=1e-4)


def test_the_decoder_ends_in_two_free_channels_on_the_features_of_chapter_1():
    keras.utils.set_random_seed(0)
    decoder = take("build_logistic_decoder")(3)
    z = rng.normal(size=(50, 3)).astype("float32") * 5
    outputs = ops.convert_to_numpy(decoder(z))
    assert outputs.shape == (50, 32, 32, 2) and outputs.min() < 0
    assert decoder.get_layer("middle_and_log_width").input.shape[-1] == 32
    assert take("build_logistic_vae")(2, seed=7).settings["seed"] == 7


def test_the_loss_is_minus_the_elbo():
    keras.utils.set_random_seed(0)
    model = take("build_logistic_vae")(3, seed=1)
    model.compile("adam")
    loss = model.evaluate(images(), verbose=0, return_dict=True)
    both = loss["reconstruction_loss"] + loss["kl_loss"]
    assert loss["loss"] == pytest.approx(both, rel=1e-5)
    log_w = definitions("02_vae", "log_weights")(model, images(), k=60, seed=3)
    assert log_w.mean() == pytest.approx(-loss["loss"], rel=0.01)


def test_bits_are_nats_by_pixels_and_log_2():
    assert take("bits_per_dimension")(784 * np.log(256)) == pytest.approx(8)
    assert take("bits_per_dimension")(np.log(4), pixels=2) == pytest.approx(1)


def test_histograms_give_the_entropy_of_what_they_counted():
    """Two places, one of two levels and one of four, in equal parts."""
    train = np.stack(
        [np.tile([0, 1], 20_000), np.tile([0, 64, 128, 255], 10_000)], axis=1
    ).astype("uint8")[:, None]
    bits = take("histogram_bits")(train, train[:400], same_for_all=False)
    assert bits == pytest.approx((1 + 2) / 2, abs=0.02)
    never = take("histogram_bits")(train, train[:1] + 9, same_for_all=False)
    assert never == pytest.approx(np.log2(40_000 + 256))  # counts are plus one
    pooled = take("histogram_bits")(train, train[:400], same_for_all=True)
    # levels 0, 1, 64, 128, 255 have 3/8, 1/4 and three times 1/8
    parts = np.array([3 / 8, 1 / 4, 1 / 8, 1 / 8, 1 / 8])
    assert pooled == pytest.approx(-(parts * np.log2(parts)).sum(), abs=0.02)
