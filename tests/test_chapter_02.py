"""What chapter 2 defines, against TensorFlow Probability and against what must hold."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.stats import norm

from utils import course
from utils.chapters import definitions

rng = np.random.default_rng(0)


def take(*names):
    return definitions("02_vae", *names)


def large_vae(**settings):
    keras.utils.set_random_seed(0)
    return take("build_vae")(2, **settings)


def small_vae(latent_dim=2, **settings):
    keras.utils.set_random_seed(0)
    return take("build_small_vae")(latent_dim, **settings)


images = rng.random((150, 32, 32, 1), "float32")
silhouettes = (rng.random((60, 14, 14, 1)) < 0.4).astype("float32")


def test_silhouettes_are_one_where_four_pixels_average_above_three_tenths():
    raw = rng.integers(0, 256, (5, 28, 28)).astype("uint8")
    small = take("silhouettes")(raw)
    assert small.shape == (5, 14, 14, 1) and small.dtype == np.float32
    four = raw[2, 6:8, 20:22].astype(float).mean() / 255
    assert small[2, 3, 10, 0] == float(four > 0.3)
    means = [raw[:, i::2, j::2].astype(float) for i in (0, 1) for j in (0, 1)]
    assert np.array_equal(small[..., 0], (np.mean(means, axis=0) > 0.3 * 255))


def test_kl_is_that_of_tensorflow_probability():
    tfd = pytest.importorskip("tensorflow_probability").distributions
    mean, log_var = rng.normal(size=(2, 5, 3)).astype("float32")
    q = tfd.MultivariateNormalDiag(mean, np.exp(log_var / 2))
    p = tfd.MultivariateNormalDiag(np.zeros((5, 3), "float32"))
    expected = tfd.kl_divergence(q, p).numpy()
    by_formula = take("kl_to_standard_normal")(mean, log_var)
    assert np.allclose(by_formula, expected, rtol=1e-5)
    one = tfd.kl_divergence(tfd.Normal(mean, np.exp(log_var / 2)), tfd.Normal(0.0, 1.0))
    assert np.allclose(take("kl_by_dimension")(mean, log_var), one, rtol=1e-4)


def test_sampling_has_the_mean_and_variance_it_is_given():
    mean, log_var = np.float32([[2.0, -1.0]]), np.log(np.float32([[4.0, 0.25]]))
    many = np.repeat(mean, 20_000, 0), np.repeat(log_var, 20_000, 0)
    z = ops.convert_to_numpy(take("Sampling")(seed=1)(*many))
    assert np.allclose(z.mean(axis=0), mean, atol=0.06)
    assert np.allclose(z.var(axis=0), [4.0, 0.25], rtol=0.05)
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.03  # each coordinate has its own dice


def test_every_image_and_every_call_has_its_own_draw():
    layer = take("Sampling")(seed=1)
    zeros = np.zeros((4, 2), "float32")
    first, second = (ops.convert_to_numpy(layer(zeros, zeros)) for _ in range(2))
    assert len(np.unique(np.stack([first, second]))) == 16


def test_the_gradient_passes_the_draw():
    tf = pytest.importorskip("tensorflow")
    mean, log_var = tf.Variable([[1.0, 2.0]]), tf.Variable([[-1.0, 0.4]])
    with tf.GradientTape(persistent=True) as tape:
        z = take("Sampling")(seed=1)(mean, log_var)
    assert np.allclose(tape.gradient(z, mean), 1)
    assert np.allclose(tape.gradient(z, log_var), (z - mean) / 2)


def test_the_two_heads_are_two_layers():
    encoder = take("build_variational_encoder")(2)
    before = ops.convert_to_numpy(encoder(images[:3])[1])
    head = encoder.get_layer("z_mean")
    head.set_weights([0 * weights for weights in head.get_weights()])
    assert np.abs(before).max() > 0
    assert np.array_equal(encoder(images[:3])[1], before)
    z_mean, z_log_var = small_vae().encoder(silhouettes[:3])
    assert not np.allclose(z_mean, z_log_var)


def test_a_batch_that_devices_share_is_divided_among_them(monkeypatch):
    monkeypatch.setattr(course, "replicas", lambda: 2)
    assert float(small_vae().batch_mean(np.float32([1, 3]))) == 1


def test_losses_add_up_and_are_means_over_all_images():
    """150 images in batches of 100: the mean of two batch means would weigh the last 50
    images double.
    """
    model = large_vae(seed=1)
    model.compile("adam")
    result = model.evaluate(images, batch_size=100, verbose=0, return_dict=True)
    both = result["reconstruction_loss"] + result["kl_loss"]
    assert result["loss"] == pytest.approx(both, rel=1e-5)
    kl = ops.mean(take("kl_to_standard_normal")(*model.encoder(images)))
    assert result["kl_loss"] == pytest.approx(float(kl), rel=1e-4)


def test_reconstruction_loss_is_500_times_the_mean_cross_entropy():
    model = large_vae()
    x_hat = rng.random(images.shape, "float32")
    cross_entropy = definitions("01_autoencoder", "cross_entropy")
    losses = ops.convert_to_numpy(model.reconstruction_loss(images[:5], x_hat[:5]))
    pairs = zip(images[:5], x_hat[:5], strict=True)
    expected = [500 * cross_entropy(x, y) for x, y in pairs]
    assert np.allclose(losses, expected, rtol=1e-4)


def test_the_decoder_is_given_a_draw_and_not_the_mean():
    model = small_vae(seed=3)
    x = np.repeat(silhouettes[:1], 500, axis=0)
    z_mean, z_log_var, _ = model(x)
    seen = []
    decode, model.decoder = model.decoder, lambda z: seen.append(z) or z
    model(x)
    model.decoder = decode
    drawn = ops.convert_to_numpy(seen[0])
    assert np.allclose(drawn.std(axis=0), np.exp(z_log_var[0] / 2), rtol=0.15)
    assert np.allclose(drawn.mean(axis=0), z_mean[0], atol=0.2)


@pytest.mark.parametrize("beta", [0.5, 1.0, 4.0, np.inf])
def test_beta_is_the_weight_of_the_kl_against_a_sum_over_pixels(beta):
    model = small_vae(beta=beta, seed=1)
    model.compile("adam")
    result = model.evaluate(silhouettes, batch_size=30, verbose=0, return_dict=True)
    z_mean, z_log_var, x_hat = (ops.convert_to_numpy(v) for v in model(silhouettes))
    kl = float(ops.mean(take("kl_to_standard_normal")(z_mean, z_log_var)))
    p = np.where(silhouettes > 0.5, x_hat, 1 - x_hat)
    nats = -np.log(p).sum(axis=(1, 2, 3)).mean()  # other draws, nearly the same
    assert result["loss"] == pytest.approx(nats / beta + kl, rel=0.02)


@pytest.mark.parametrize("build, x", [(large_vae, images), (small_vae, silhouettes)])
def test_training_lowers_the_loss(build, x):
    model = build(seed=1)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(x[:60], batch_size=20, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_saved_and_loaded_it_gives_the_same(tmp_path):
    model = large_vae(reconstruction_weight=300.0, seed=5)
    model(images[:1])
    model.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert type(loaded) is type(model) and loaded.reconstruction_weight == 300.0
    assert loaded.settings == model.settings
    for a, b in zip(model.encoder(images[:4]), loaded.encoder(images[:4]), strict=True):
        assert np.allclose(a, b, atol=1e-6)
    z = rng.normal(size=(4, 2)).astype("float32")
    assert np.allclose(model.decoder(z), loaded.decoder(z), atol=1e-6)


# ------------------------------------------------------------------ the bound


def test_the_normal_density_is_that_of_scipy():
    """With its 2π, which cancels in the importance weights and nowhere else."""
    z, mean, log_var = rng.normal(size=(3, 7, 4)).astype("float32")
    expected = norm.logpdf(z, mean, np.exp(log_var / 2)).sum(axis=1)
    assert np.allclose(take("log_normal")(z, mean, log_var), expected, atol=1e-4)


def test_the_grid_is_even_and_its_cells_fill_the_square():
    points = take("square_grid")(2, 0.5)
    assert points.shape == (64, 2)
    assert np.allclose(np.unique(points), np.arange(-1.75, 2, 0.5))
    assert len(np.unique(points, axis=0)) == 64
    assert np.allclose(points[1] - points[0], [0.5, 0])  # rows are rows of a picture


def test_the_joint_density_is_likelihood_times_prior():
    model = small_vae()
    z = rng.normal(size=(5, 2)).astype("float32")
    joint = take("log_joint")(model.decoder, silhouettes[:3], z)
    x_hat = ops.convert_to_numpy(model.decoder(z))
    for i in range(5):
        for j in range(3):
            p = np.where(silhouettes[j] > 0.5, x_hat[i], 1 - x_hat[i])
            expected = np.log(p).sum() + norm.logpdf(z[i]).sum()
            assert joint[i, j] == pytest.approx(expected, abs=1e-3)


def test_the_joint_density_of_a_decoder_that_is_sure_is_not_cut_off():
    model = small_vae()
    last = model.decoder.layers[-2]
    last.set_weights([0 * last.get_weights()[0], np.full(196, -10.0)])
    joint = take("log_joint")(model.decoder, silhouettes[:2], np.zeros((1, 2), "f4"))
    ones = silhouettes[:2].sum(axis=(1, 2, 3))
    nats = ones * np.logaddexp(0, 10) + (196 - ones) * np.logaddexp(0, -10)
    assert np.allclose(joint[0], -nats - np.log(2 * np.pi), rtol=1e-3)


def test_log_weights_average_to_minus_the_loss():
    model = small_vae(seed=1)
    model.compile("adam")
    log_w = take("log_weights")(model, silhouettes[:20], k=100, seed=3)
    assert log_w.shape == (20, 100)
    loss = model.evaluate(silhouettes[:20], verbose=0, return_dict=True)["loss"]
    assert log_w.mean() == pytest.approx(-loss, rel=0.01)


def test_each_image_is_weighted_with_its_own_draws():
    """The draws of an image stand in its own row, and are of its own cloud: with a
    decoder that says nothing of z, what is left of an image is the KL of its cloud.
    """
    model = small_vae(seed=1)
    heads = [h for h in model.encoder.layers if h.name.startswith("dense")][2:]
    heads[0].set_weights([20 * heads[0].get_weights()[0], heads[0].get_weights()[1]])
    last = model.decoder.layers[-2]
    last.set_weights([0 * last.get_weights()[0], np.zeros(196)])
    kl = take("kl_to_standard_normal")(*model.encoder(silhouettes[:4]))
    log_w = take("log_weights")(model, silhouettes[:4], k=4_000, seed=3).mean(axis=1)
    assert np.ptp(kl) > 5 and np.allclose(log_w, -196 * np.log(2) - kl, atol=1)

    model = small_vae()
    last = model.decoder.layers[-2]
    last.set_weights([last.get_weights()[0], np.full(196, 2.0)])
    different = np.concatenate([silhouettes[:1], np.ones_like(silhouettes[:1])])
    log_w = take("log_weights")(model, different, k=50, seed=3)
    alone = take("log_weights")(model, different[1:], k=50, seed=3)
    assert log_w[1].mean() == pytest.approx(alone.mean(), rel=0.05)
    assert abs(log_w[0].mean() - log_w[1].mean()) > 10 * abs(alone.std())


def test_importance_weights_find_a_likelihood_that_is_known():
    """A decoder that ignores z gives log p(x) whatever q is, so the average of the
    weights must be p(x).
    """
    model = small_vae(seed=1)
    last = model.decoder.layers[-2]
    last.set_weights([0 * last.get_weights()[0], rng.normal(size=196)])
    log_w = take("log_weights")(model, silhouettes[:2], k=20_000, seed=3)
    log_w = log_w.astype("float64")
    x_hat = ops.convert_to_numpy(model.decoder(np.zeros((2, 2), "float32")))
    p = np.where(silhouettes[:2] > 0.5, x_hat, 1 - x_hat)
    known = np.log(p).sum(axis=(1, 2, 3))
    top = log_w.max(axis=1)
    estimate = top + np.log(np.exp(log_w - top[:, None]).mean(axis=1))
    assert np.allclose(estimate, known, atol=0.05)
