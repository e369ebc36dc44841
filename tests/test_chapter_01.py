"""What chapter 1 defines, against independent computations."""

import keras
import numpy as np
import pytest
from sklearn.metrics import pairwise_distances

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


def test_cross_entropy_is_that_of_keras():
    x, x_hat = rng.random((2, 50, 8, 8, 1), "float32")
    expected = float(keras.ops.mean(keras.losses.binary_crossentropy(x, x_hat)))
    assert take("cross_entropy")(x, x_hat) == pytest.approx(expected, rel=1e-5)
    assert take("cross_entropy")(x, x) < take("cross_entropy")(x, x_hat)


def test_area_of_a_class_is_that_of_its_90_percent_ellipse():
    z = rng.normal(size=(40_000, 2)) * (1.0, 3.0)
    labels = np.repeat([0, 1], 20_000)
    z[labels == 1] *= 2
    small, large = take("class_areas")(z, labels)
    assert large / small == pytest.approx(4, rel=0.05)
    inside = (z[labels == 0] ** 2 / (1.0, 9.0)).sum(axis=1) < small / (np.pi * 3)
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


def test_distance_from_normal_is_small_for_normal_points_alone():
    distance = take("distance_from_normal")
    z = rng.normal(size=(4000, 2))
    assert distance(z) < 0.03
    assert distance(z + [0, 1]) == pytest.approx(0.383, abs=0.03)  # 2 Φ(1/2) - 1
    assert distance(z + 100) == pytest.approx(1.0)


def test_nearest_distance_is_that_of_a_plain_search():
    images, real = (
        rng.random((5, 32, 32, 1), "float32"),
        rng.random((20, 32, 32, 1), "float32"),
    )
    pairs = pairwise_distances(images.reshape(5, -1), real.reshape(20, -1)) / 32
    assert np.allclose(
        take("nearest_distance")(images, real), pairs.min(axis=1), atol=1e-4
    )
    images[:] = real[:5]  # each is its own nearest, and that is left out
    left_out = take("nearest_distance")(images, real, leave_out_own=True)
    expected = pairwise_distances(images.reshape(5, -1), real.reshape(20, -1)) / 32
    expected[np.arange(5), np.arange(5)] = np.inf
    assert np.allclose(left_out, expected.min(axis=1), atol=1e-4)


def test_share_of_nothing_counts_samples_far_from_everything():
    real = rng.random((300, 1, 1, 1)) * np.ones((1, 32, 32, 1))
    limit = take("usual_distance")(real + 0.002, real)
    near, far = real[:60] + 0.001, real[:60] + 5.0
    assert take("share_of_nothing")(
        np.concatenate([near, far]), real, limit
    ) == pytest.approx(0.5, abs=0.05)
