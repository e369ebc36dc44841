"""What chapter 1 defines, against independent computations."""

import keras
import numpy as np
import pytest

from utils.chapters import definitions

rng = np.random.default_rng(0)


def take(*names):
    return definitions("01_autoencoder", *names)


def test_prepare_scales_and_frames():
    images = rng.integers(0, 256, (3, 28, 28), "uint8")
    x = take("prepare")(images)
    assert x.shape == (3, 32, 32, 1) and x.dtype == np.float32
    assert np.array_equal(np.rint(x[:, 2:-2, 2:-2, 0] * 255).astype("uint8"), images)
    assert (
        x[:, :2].max()
        == x[:, -2:].max()
        == x[:, :, :2].max()
        == x[:, :, -2:].max()
        == 0
    )


def test_networks_have_the_books_size_and_shapes():
    encoder, decoder, autoencoder = take("build_autoencoder")(2)
    assert autoencoder.count_params() == 343_043
    x = rng.random((2, 32, 32, 1), "float32")
    z = encoder.predict(x, verbose=0)
    assert z.shape == (2, 2)
    assert np.allclose(
        autoencoder.predict(x, verbose=0), decoder.predict(z, verbose=0), atol=1e-6
    )


def test_layers_have_the_books_shapes_and_activations():
    encoder, decoder, _ = take("build_autoencoder")(2)

    def told(network):
        shown = [layer for layer in network.layers if hasattr(layer, "activation")]
        return [(layer.output.shape[1:], layer.activation.__name__) for layer in shown]

    assert told(encoder) == [
        ((16, 16, 32), "relu"),
        ((8, 8, 64), "relu"),
        ((4, 4, 128), "relu"),
        ((2,), "linear"),
    ]
    assert told(decoder) == [
        ((2048,), "linear"),
        ((8, 8, 128), "relu"),
        ((16, 16, 64), "relu"),
        ((32, 32, 32), "relu"),
        ((32, 32, 1), "sigmoid"),
    ]


def test_cross_entropy_is_that_of_keras():
    x, x_hat = rng.random((2, 50, 8, 8, 1), "float32")
    expected = float(keras.ops.mean(keras.losses.binary_crossentropy(x, x_hat)))
    assert take("cross_entropy")(x, x_hat) == pytest.approx(expected, rel=1e-5)
    assert take("cross_entropy")(x, x) < take("cross_entropy")(x, x_hat)
    ends = np.array([0.0, 1.0])
    assert take("cross_entropy")(ends, ends) == pytest.approx(0, abs=1e-6)
    assert take("cross_entropy")(ends, 1 - ends) > 10


def test_distance_from_normal_is_small_for_normal_points_alone():
    distance = take("distance_from_normal")
    z = rng.normal(size=(4000, 2))
    assert distance(z) < 0.03 and distance(z.tolist()) == distance(z)
    assert distance(z + [0, 1]) == pytest.approx(0.383, abs=0.03)  # 2 Φ(1/2) - 1
    assert distance(z + 100) == pytest.approx(1.0)


def test_decoded_pixels_lie_between_0_and_1_wherever_the_code_lies():
    _, decoder, _ = take("build_autoencoder")(2)
    for layer in decoder.layers:  # as large as training might make them
        layer.set_weights([20 * w for w in layer.get_weights()])
    pixels = decoder.predict(100 * rng.normal(size=(50, 2)), verbose=0)
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert pixels.min() < 0.01 and pixels.max() > 0.99


def test_rmse_is_the_root_of_a_mean():
    assert take("rmse")(np.zeros((2, 3, 3)), np.full((3, 3), -2.0)) == 2.0
    assert take("rmse")(np.zeros(2), np.array([1.0, 7.0])) == 5.0  # not 4, their mean


def patterns(count):
    return rng.random((count, 32, 32, 1), "float32")


def test_nearest_is_the_image_with_the_highest_correlation():
    images, real = patterns(5), patterns(20)
    index, distance = take("nearest")(images, real)
    rows = np.concatenate([images, real]).reshape(25, -1)
    correlation = np.corrcoef(rows)[:5, 5:]
    assert np.array_equal(index, correlation.argmax(axis=1))
    assert np.allclose(distance, 1 - correlation.max(axis=1), atol=1e-4)


def test_nearest_does_not_mind_contrast_and_finds_nothing_like_a_blank():
    nearest, real = take("nearest"), patterns(20)
    index, distance = nearest(0.1 * real + 0.3, real)
    assert np.array_equal(index, np.arange(20)) and np.allclose(distance, 0, atol=1e-3)
    assert np.allclose(nearest(np.full((1, 32, 32, 1), 0.7), real)[1], 1, atol=1e-3)


def test_judge_counts_what_is_far_and_what_is_in_a_wrong_class():
    yardstick, judge = take("yardstick", "judge")
    real = patterns(30)
    names = np.repeat([0, 1, 2], 10)
    some = np.r_[0:10, 10:15, 10:15]  # ten of class 0, and five of class 1, twice
    assert np.allclose(yardstick(real[some], real, names)[1], [0.5, 0.5, 0])
    noise = np.linspace(0.05, 0.5, 30)[:, None, None, None] * rng.normal(
        size=real.shape
    )
    limit, usual = yardstick(real + noise, real, names)
    distances = take("nearest")(real + noise, real)[1]
    assert limit == pytest.approx(np.quantile(distances, 0.95))
    assert np.allclose(usual, 1 / 3)
    near, far = real[:10] + 0.1 * noise[:10], patterns(30)
    judged = judge(np.concatenate([near, far]), real, names, limit, usual)
    assert judged["like none"] == 0.75  # not 0.25, those that are near
    even = judge(real[:15], real, names, limit, np.full(3, 1 / 3))  # 2/3, 1/3, 0
    assert even["wrong class"] == pytest.approx(1 / 3)
    four = judge(real[:20], real, np.repeat([0, 1, 2, 3, 4], 6), limit, np.full(5, 0.2))
    assert four["wrong class"] == pytest.approx(0.3)  # .3 .3 .3 .1 0 for .2 each
    judged = judge(near, real, names, limit, usual)  # all of them of class 0
    assert judged["like none"] == 0 and judged["wrong class"] == pytest.approx(2 / 3)


def test_ways_to_draw_keep_place_size_and_shape_of_the_codes():
    ways = take("ways_to_draw")
    corners = np.array([[0, 0], [10, 0], [10, 4]])
    z = np.concatenate([c + 0.1 * rng.normal(size=(2_000, 2)) for c in corners])
    drawn = ways(rng.permutation(z).astype("float32"), (1, 3), seed=0)
    inside = {
        name: np.mean(np.abs(points[:, None] - corners).max(axis=2).min(axis=1) < 0.5)
        for name, points in drawn.items()
    }
    assert inside["a mixture"] > 0.99 and inside["one Gaussian"] < 0.5
    assert inside["evenly from the box"] < 0.2
    assert np.allclose(drawn["one Gaussian"].mean(axis=0), z.mean(axis=0), atol=0.5)
    found, wanted = np.cov(drawn["one Gaussian"].T), np.cov(z.T)
    assert np.allclose(found, wanted, atol=0.15 * np.abs(wanted).max())
    assert np.allclose(drawn["standard normal"].std(axis=0), 1, atol=0.1)
    assert np.allclose(drawn["standard normal"].mean(axis=0), 0, atol=0.2)
    box = drawn["evenly from the box"]
    assert np.allclose(box.min(axis=0), z.min(axis=0), atol=0.1)
    assert np.allclose(box.max(axis=0), z.max(axis=0), atol=0.1)
    assert len({tuple(x) for x in drawn["a mixture"]}) == 1_000
    thirds = np.split(drawn["a mixture"][:999, 0], 3)  # shuffled: not by component
    assert np.ptp([part.mean() for part in thirds]) < 1.5


def test_the_mixture_is_chosen_by_codes_held_back():
    fit_mixture = take("fit_mixture")
    z = np.concatenate([c + rng.normal(size=(300, 2)) for c in (0, 20)])
    rng.shuffle(z)
    assert fit_mixture(z[:400], z[400:], (1, 2), 0).n_components == 2
    assert fit_mixture(z[:100], z[400:], (2, 60), 0).n_components == 2  # not overfitted
