"""What chapter 2 defines, against TensorFlow Probability and against what must hold."""

import keras
import numpy as np
import pytest
from keras import ops
from sklearn.metrics import pairwise_distances

from utils.chapters import definitions

rng = np.random.default_rng(0)


def take(*names):
    return definitions("02_vae", *names)


def small_vae(**settings):
    VAE, encoder, build_decoder = take(
        "VAE", "build_variational_encoder", "build_decoder"
    )
    keras.utils.set_random_seed(0)
    return VAE(encoder(2), build_decoder(2), **settings)


images = rng.random((150, 32, 32, 1), "float32")


def test_kl_is_that_of_tensorflow_probability():
    tfd = pytest.importorskip("tensorflow_probability").distributions
    mean, log_var = rng.normal(size=(2, 5, 3)).astype("float32")
    q = tfd.MultivariateNormalDiag(mean, np.exp(log_var / 2))
    p = tfd.MultivariateNormalDiag(np.zeros((5, 3), "float32"))
    expected = tfd.kl_divergence(q, p).numpy()
    assert np.allclose(
        take("kl_to_standard_normal")(mean, log_var), expected, rtol=1e-5
    )


def test_sampling_has_the_mean_and_variance_it_is_given():
    mean, log_var = np.float32([[2.0, -1.0]]), np.log(np.float32([[4.0, 0.25]]))
    z = ops.convert_to_numpy(
        take("Sampling")(seed=1)(
            np.repeat(mean, 20_000, 0), np.repeat(log_var, 20_000, 0)
        )
    )
    assert np.allclose(z.mean(axis=0), mean, atol=0.06)
    assert np.allclose(z.var(axis=0), [4.0, 0.25], rtol=0.05)


def test_losses_add_up_and_are_means_over_all_images():
    """150 images in batches of 100: the mean of two batch means would weigh the last 50
    images double.
    """
    model = small_vae(seed=1)
    model.compile("adam")
    result = model.evaluate(images, batch_size=100, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(
        result["reconstruction_loss"] + result["kl_loss"], rel=1e-5
    )
    z_mean, z_log_var = model.encoder(images)
    kl = float(ops.mean(take("kl_to_standard_normal")(z_mean, z_log_var)))
    assert result["kl_loss"] == pytest.approx(kl, rel=1e-4)


def test_reconstruction_loss_is_500_times_the_mean_cross_entropy():
    model = small_vae()
    x_hat = rng.random(images.shape, "float32")
    cross_entropy = definitions("01_autoencoder", "cross_entropy")
    losses = ops.convert_to_numpy(model.reconstruction_loss(images[:5], x_hat[:5]))
    expected = [
        500 * cross_entropy(x, y) for x, y in zip(images[:5], x_hat[:5], strict=True)
    ]
    assert np.allclose(losses, expected, rtol=1e-4)


def test_training_lowers_the_loss():
    model = small_vae(seed=1)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(images[:100], batch_size=20, epochs=3, verbose=0).history[
        "loss"
    ]
    assert history[-1] < history[0]


def test_saved_and_loaded_it_gives_the_same(tmp_path):
    model = small_vae(reconstruction_weight=300.0, seed=5)
    model(images[:1])
    model.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert type(loaded) is type(model) and loaded.reconstruction_weight == 300.0
    for a, b in zip(model.encoder(images[:4]), loaded.encoder(images[:4]), strict=True):
        assert np.allclose(a, b, atol=1e-6)
    z = rng.normal(size=(4, 2)).astype("float32")
    assert np.allclose(model.decoder(z), loaded.decoder(z), atol=1e-6)


def test_discretised_logistic_is_a_distribution_and_that_of_scipy():
    from scipy.stats import logistic

    levels = np.arange(256, dtype="float32")
    for middle, width in ((-30.0, 10.0), (0.0, 0.5), (127.3, 4.0), (255.0, 20.0)):
        log_p = ops.convert_to_numpy(
            take("log_prob_of_levels")(levels, middle, np.float32(np.log(width)))
        )
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-4)
        inner = slice(100, 150)
        expected = logistic.cdf(levels + 0.5, middle, width) - logistic.cdf(
            levels - 0.5, middle, width
        )
        big = expected[inner] > 1e-6
        assert np.allclose(np.exp(log_p[inner])[big], expected[inner][big], rtol=1e-2)


def test_log_weights_average_to_the_elbo_and_bound_it():
    LogisticVAE, encoder, decoder = take(
        "LogisticVAE", "build_variational_encoder", "build_logistic_decoder"
    )
    keras.utils.set_random_seed(0)
    model = LogisticVAE(encoder(2), decoder(2), seed=1)
    model.compile("adam")
    log_w = take("log_weights")(model, images[:20], k=50, seed=3)
    assert log_w.shape == (20, 50)
    elbo = -model.evaluate(images[:20], verbose=0, return_dict=True)["loss"]
    assert log_w.mean() == pytest.approx(elbo, rel=0.01)


def test_importance_weights_find_a_likelihood_that_is_known():
    """A decoder that ignores z gives log p(x) whatever q is, so the average of the
    weights must be p(x).
    """
    LogisticVAE, encoder = take("LogisticVAE", "build_variational_encoder")
    z = keras.Input((2,))
    parameters = keras.layers.Reshape((32, 32, 2))(
        keras.layers.Dense(2048, kernel_initializer="zeros")(z)
    )
    keras.utils.set_random_seed(0)
    model = LogisticVAE(encoder(2), keras.Model(z, parameters), seed=1)
    log_w = take("log_weights")(model, images[:2], k=4000, seed=3).astype("float64")
    known = ops.convert_to_numpy(
        model.log_likelihood(images[:2], np.zeros((2, 32, 32, 2), "float32"))
    )
    top = log_w.max(axis=1)
    estimate = top + np.log(np.exp(log_w - top[:, None]).mean(axis=1))
    assert np.allclose(estimate, known, atol=0.1)


def test_area_of_a_class_is_that_of_its_90_percent_ellipse():
    z = rng.normal(size=(40_000, 2)) * (1.0, 3.0)
    labels = np.repeat([0, 1], 20_000)
    z[labels == 1] *= 2
    small, large = take("class_areas")(z, labels)
    assert large / small == pytest.approx(4, rel=0.05)
    inside = (z[labels == 0] ** 2 / (1.0, 9.0)).sum(axis=1) < small / (np.pi * 3)
    assert inside.mean() == pytest.approx(0.9, abs=0.01)


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


def test_fraction_beyond_counts_samples_far_from_everything():
    real = rng.random((300, 1, 1, 1)) * np.ones((1, 32, 32, 1))
    limit = take("usual_distance")(real + 0.002, real)
    near, far = real[:20] + 0.001, real[:60] + 5.0
    assert take("fraction_beyond")(
        np.concatenate([near, far]), real, limit
    ) == pytest.approx(0.75, abs=0.05)  # not 0.25, those near
