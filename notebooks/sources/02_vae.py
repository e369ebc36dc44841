# %% [markdown]
# # Chapter 2 · Variational autoencoder
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/02_vae.ipynb)
#
# **What changes when an image becomes a cloud instead of a point?** Chapter 1 ended with three faults of the latent space.
# A variational autoencoder (VAE) all but removes one of them and
# eases the other two, with two small changes: the encoder gives a distribution, and the loss asks
# this distribution to stay near the standard normal. We derive both, check the formulas by numbers, train the book's model
# and a faster one, and measure the three faults again. Then we ask a question that the book does not: how *likely* does
# this model find an image?

# %% [markdown]
# **You will learn**
# - why sampling would stop the gradient, and how one line lets it through;
# - where the KL term comes from, and what the book's weight of 500 means in nats;
# - what one step of `fit` does, written out by hand;
# - what β trades against what, and when a latent dimension is given up;
# - how to give a VAE a likelihood that can be compared with other models, in bits per dimension.
#
# **In the book**: section 3.2, Variational Autoencoders (변이형 오토인코더).
#
# **Needs**: Fashion-MNIST (30 MB, downloaded once). Fifteen passes over its 60,000 images. On two CPU cores a
# pass took about 35 seconds, and all of it 12 minutes; on a slower machine up to 33. On a GPU: not measured.

# %%
import subprocess
import sys
from pathlib import Path

address = "https://github.com/OWNER/generative-models-course"
clone = Path("generative-models-course")
if "google.colab" in sys.modules and not clone.exists():
    subprocess.run(["git", "clone", "--depth=1", address, str(clone)])
places = [Path.cwd(), *Path.cwd().parents, clone]
root = next((p.resolve() for p in places if (p / "utils" / "course.py").exists()), None)
if root is None:
    raise FileNotFoundError(
        f"no utils/ of the course here: git clone {address}, open this there"
    )
sys.path.insert(0, str(root))

from utils import course

course.start(edition=2)

# %% [markdown]
# The hyper-parameters. Where two values stand, the second is for `COURSE_PROFILE=quick`, a short run for tests; the text quotes the first.

# %%
import time

STARTED = time.perf_counter()
LATENT_DIM = 2
TRAIN_IMAGES = course.choose(full=60_000, quick=2_000)
TEST_IMAGES = course.choose(full=10_000, quick=500)
BOOK_EPOCHS, BOOK_BATCH = course.choose(full=5, quick=1), 100
IMAGES_SEEN = course.choose(full=120_000, quick=6_000)
BATCH = course.choose(full=128, quick=10)
PEAK_LEARNING_RATE = 3e-3
SWEEP_IMAGES = course.choose(full=15_000, quick=600)
BOUND_IMAGES = course.choose(full=1_000, quick=100)
seed = course.seed(42)

# %% [markdown]
# The data and the two networks are those of [chapter 1](01_autoencoder.ipynb). They are taken from there, not written
# again: `definitions` runs the cells of a chapter that define something and returns what is asked for.
# `EPOCHS` is the number of passes that show our models `IMAGES_SEEN` images: two over the clothes, more over a smaller set.

# %%
from utils import datasets, plots, training
from utils.chapters import definitions

prepare = definitions("01_autoencoder", "prepare")
data = datasets.fashion_mnist()
x_train = prepare(data.x_train[:TRAIN_IMAGES])
x_test = prepare(data.x_test[:TEST_IMAGES])
y_test = data.y_test[:TEST_IMAGES]
EPOCHS = round(IMAGES_SEEN / len(x_train))
print(data)

# %% [markdown]
# ## 2.1 From a point to a cloud
#
# The autoencoder sends an image to a point. Nothing is asked of the points nearby, and so they decode to anything. The
# VAE sends an image $x$ to a *distribution* over latent space, written $q(z \mid x)$. Training draws a point from it, and
# the decoder has to paint $x$ from that point, wherever it fell. So the whole cloud must decode to something like $x$, and
# where clouds overlap, the decoder must find a compromise. Gaps close.
#
# The distribution is a normal one. In $d$ dimensions, with mean $\mu$ and covariance $\Sigma$, its density is
#
# $$\mathcal{N}(z; \mu, \Sigma) = \frac{1}{\sqrt{(2\pi)^d \det \Sigma}} \exp\left(-\tfrac12 (z - \mu)^\top \Sigma^{-1} (z - \mu)\right).$$
#
# We take $\Sigma$ diagonal: each dimension has a variance $\sigma_i^2$ of its own, and they are independent. Then
# the density is a product of one-dimensional ones, and the encoder needs to give just two vectors, `z_mean` for $\mu$ and
# `z_log_var` for $\log \sigma^2$. Why the logarithm? A variance must be positive, but a dense layer gives any number. The
# logarithm of a variance may be any number.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops

from utils import course
from utils.chapters import definitions

IMAGE_SHAPE, image_features, build_decoder = definitions(
    "01_autoencoder", "IMAGE_SHAPE", "image_features", "build_decoder"
)


def build_variational_encoder(latent_dim):
    """x -> (z_mean, z_log_var): images (batch, 32, 32, 1) to two (batch, latent_dim)."""
    x = keras.Input(IMAGE_SHAPE, name="x")
    h = image_features(x)
    z_mean = layers.Dense(latent_dim, name="z_mean")(h)
    z_log_var = layers.Dense(latent_dim, name="z_log_var")(h)
    return keras.Model(x, [z_mean, z_log_var], name="encoder")


# %% [markdown]
# ## 2.2 The reparameterisation trick
#
# Drawing a random point has no derivative: the point jumps about, and nothing says how it would have moved had the mean
# been a little larger. The way out is to draw the randomness elsewhere (재매개변수화 트릭). Draw $\varepsilon$ from the
# standard normal, which depends on nothing, and shift and scale it:
#
# $$z = \mu + \sigma \varepsilon, \qquad \varepsilon \sim \mathcal{N}(0, I).$$
#
# This $z$ has exactly the distribution that we want. And for a given $\varepsilon$ it is a plain function of $\mu$ and
# $\sigma = \exp(\tfrac12 \log \sigma^2)$, with derivatives $\partial z / \partial \mu = 1$ and
# $\partial z / \partial \sigma = \varepsilon$.

# %% tags=["definitions"]
@keras.saving.register_keras_serializable(package="course")
class Sampling(layers.Layer):
    """Draws z from a normal distribution: two (batch, latent_dim) to one (batch, latent_dim)."""

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, z_mean, z_log_var):
        epsilon = keras.random.normal(ops.shape(z_mean), seed=self.noise)
        return z_mean + ops.exp(z_log_var / 2) * epsilon


# %% [markdown]
# Does the gradient come through? Three ways to draw, and the derivative of the result with respect to the mean. (A
# gradient is asked for by `tf.GradientTape`, so this cell is about TensorFlow; on another backend it says so and passes.)

# %%
if course.backend() == "tensorflow":
    import tensorflow as tf

    mean, log_var = tf.Variable([[1.0, 2.0]]), tf.Variable([[-1.0, 0.4]])
    with tf.GradientTape(persistent=True) as tape:
        detached = tf.stop_gradient(tf.random.normal([1, 2], mean, tf.exp(log_var / 2)))
        trick = Sampling(seed=1)(mean, log_var)
        library = tf.random.normal([1, 2], mean=mean, stddev=tf.exp(log_var / 2))
    gradients = [tape.gradient(z, mean) for z in (detached, trick, library)]
    for name, gradient in zip(("detached", "trick", "library"), gradients, strict=True):
        print(f"{name:9} dz/dmean = {None if gradient is None else gradient.numpy()}")
    by_log_var = tape.gradient(trick, log_var)
else:
    print("This cell shows TensorFlow's gradients; the backend here is", course.backend())

# %% [markdown]
# A point that was drawn and then handed over as a plain number gives no gradient, and the encoder would never learn. (That
# is what `stop_gradient` does here on purpose.) Our layer gives 1. The third line holds a surprise for those who have read that `tf.random.normal(mean=…)` cannot
# be differentiated. It can, because inside it does the very same thing: it draws from the standard normal and then shifts
# and scales.

# %%
if course.backend() == "tensorflow":
    assert gradients[0] is None
    assert all(np.allclose(gradient, 1.0) for gradient in gradients[1:])
    assert np.allclose(by_log_var, (trick - mean) / 2)  # dz / d log σ² = σ ε / 2


# %% [markdown]
# ## 2.3 A loss with two parts
#
# Left alone, the encoder would make its clouds as small as points, since that makes painting easier, and we would be back
# in chapter 1. So a second term asks each cloud to look like the standard normal distribution. The measure is the
# Kullback-Leibler divergence. For distributions $q$ and $p$ it is the mean of the difference of their log-densities,
#
# $$\mathrm{KL}(q \,\|\, p) = \mathbb{E}_{z \sim q}\left[\log q(z) - \log p(z)\right] \ge 0,$$
#
# and it is 0 only if they are equal. Here $q = \mathcal{N}(\mu, \sigma^2)$ and $p = \mathcal{N}(0, 1)$, one dimension at
# a time. Write $z = \mu + \sigma\varepsilon$ and insert the two log-densities:
#
# $$\log q(z) - \log p(z) = -\log \sigma - \tfrac12 \varepsilon^2 + \tfrac12 (\mu + \sigma\varepsilon)^2.$$
#
# The mean of $\varepsilon$ is 0 and that of $\varepsilon^2$ is 1, which leaves
#
# $$\mathrm{KL} = \tfrac12\left(\mu^2 + \sigma^2 - 1 - \log \sigma^2\right).$$
#
# The term $\mu^2$ pulls clouds to the middle. The others pull each variance to 1.

# %% tags=["definitions"]
def kl_to_standard_normal(z_mean, z_log_var):
    """KL divergence of each distribution from N(0, I) in nats: (batch, latent_dim) to (batch,)."""
    return 0.5 * ops.sum(z_mean**2 + ops.exp(z_log_var) - 1 - z_log_var, axis=-1)


# %% [markdown]
# A formula that took four lines to derive is worth a check. The definition is a mean, so we take it literally: draw a
# million points from $q$ and average the difference of log-densities.

# %%
from scipy.stats import norm

mean, log_var = np.float32([[0.7, -1.5]]), np.float32([[-1.0, 0.4]])
std = np.exp(log_var / 2)
z = mean + std * np.random.default_rng(seed).normal(size=(1_000_000, 2))
terms = (norm.logpdf(z, mean, std) - norm.logpdf(z)).sum(axis=1)
kl_formula, kl_mean = float(kl_to_standard_normal(mean, log_var)[0]), terms.mean()
kl_error = terms.std() / np.sqrt(len(terms))

print(f"formula {kl_formula:.4f}   average {kl_mean:.4f} ± {kl_error:.4f}")
assert abs(kl_formula - kl_mean) < 4 * kl_error


# %% [markdown]
# ## 2.4 The model
#
# In Keras 3 a model says what its loss is in one method, `compute_loss`. `fit` and `evaluate` both call it, so training
# and validation are measured in the same way. Two metrics keep the parts apart. They are fed one value an image, so that
# their mean over an epoch is the mean over all images, even when the last batch is smaller.
#
# The model takes its encoder and decoder as arguments and uses no other network. (A method that reached for a global
# `encoder` would work until the notebook defines a second one.) It is built in two steps. The first holds the two
# networks and says how to write them down, so that Keras can save the whole model in one file.

# %% tags=["definitions"]
class EncoderDecoder(keras.Model):
    """Holds an encoder and a decoder, and is saved with them and its settings (numbers)."""

    def __init__(self, encoder, decoder, settings, **kwargs):
        super().__init__(**kwargs)
        self.encoder, self.decoder, self.settings = encoder, decoder, settings

    def get_config(self):
        networks = {"encoder": self.encoder, "decoder": self.decoder}
        saved = {name: keras.saving.serialize_keras_object(net) for name, net in networks.items()}
        return {"name": self.name, **saved, **self.settings}

    @classmethod
    def from_config(cls, config):
        revive = keras.saving.deserialize_keras_object
        networks = {name: revive(config[name]) for name in ("encoder", "decoder")}
        return cls(**{**config, **networks})


# %% [markdown]
# The second is the VAE itself. The loss of one image is a weighted reconstruction loss plus the KL divergence. The book's
# reconstruction loss is 500 times the *mean* cross-entropy of the pixels; section 2.5 explains the number.
# `course.replicas()` is 1 unless several GPUs share a batch; [chapter 3](03_vae_faces.ipynb) says why it is there.

# %% tags=["definitions"]
@keras.saving.register_keras_serializable(package="course")
class VAE(EncoderDecoder):
    """A variational autoencoder. Calling it maps images x to (z_mean, z_log_var, x_hat)."""

    def __init__(self, encoder, decoder, reconstruction_weight=500.0, seed=None, **kwargs):
        settings = {"reconstruction_weight": reconstruction_weight, "seed": seed}
        super().__init__(encoder, decoder, settings, **kwargs)
        self.reconstruction_weight = reconstruction_weight
        self.sampling = Sampling(seed)
        self.reconstruction_tracker = keras.metrics.Mean(name="reconstruction_loss")
        self.kl_tracker = keras.metrics.Mean(name="kl_loss")

    def call(self, x):
        z_mean, z_log_var = self.encoder(x)
        return z_mean, z_log_var, self.decoder(self.sampling(z_mean, z_log_var))

    def reconstruction_loss(self, x, x_hat):
        """The weighted cross-entropy of each image, (batch,)."""
        pixels = keras.losses.binary_crossentropy(x, x_hat)
        return self.reconstruction_weight * ops.mean(pixels, axis=(1, 2))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        z_mean, z_log_var, x_hat = y_pred
        reconstruction = self.reconstruction_loss(x, x_hat)
        kl = kl_to_standard_normal(z_mean, z_log_var)
        self.reconstruction_tracker.update_state(reconstruction)
        self.kl_tracker.update_state(kl)
        return ops.mean(reconstruction + kl) / course.replicas()


# %% [markdown]
# Put together, with the shapes of what goes through:

# %% tags=["nbval-check-output"]
def build_vae(latent_dim, **settings):
    return VAE(build_variational_encoder(latent_dim), build_decoder(latent_dim), **settings)


vae = build_vae(LATENT_DIM, seed=seed)
z_mean, z_log_var, x_hat = vae(x_test[:4])
print("x", (4, 32, 32, 1), "-> z_mean", tuple(z_mean.shape), "z_log_var", tuple(z_log_var.shape))
print("z -> x_hat", tuple(x_hat.shape), f" {vae.count_params():,} parameters")

# %% [markdown]
# ## 2.5 What the 500 means
#
# The KL term is a sum over latent dimensions, in nats. The cross-entropy of a whole image would be a *sum* over its
# $32 \cdot 32 = 1024$ pixels, in nats too. The book takes 500 times the mean instead, which is $500/1024$ of that sum.
# Multiply the loss by $1024/500$ and it reads
#
# $$\underbrace{\textstyle\sum_{\text{pixels}} H(x, \hat x)}_{\text{nats}} + \beta \cdot \mathrm{KL}, \qquad \beta = \frac{1024}{500} = 2.05.$$
#
# So the book's VAE is what is called a β-VAE (Higgins et al., 2017), with the KL term weighted twice. That is a
# choice, not an error. Section 2.9 shows what β trades against what.
#
# Two marks to read the loss by, as in chapter 1: the floor of the reconstruction loss, 500 times chapter 1's floor
# of the mean cross-entropy, and the cost of the mean image, which needs no latent code and so has a KL of 0.

# %%
cross_entropy = definitions("01_autoencoder", "cross_entropy")
floor = 500 * cross_entropy(x_test, x_test)
mean_image_loss = 500 * cross_entropy(x_test, x_train.mean(axis=0))

print(f"floor of the reconstruction loss {floor:.1f}   mean image {mean_image_loss:.1f}")

# %% [markdown]
# ## 2.6 Training
#
# First the book's settings: Adam with a constant rate of 0.0005, batches of 100, five epochs. Then ours: two epochs in
# batches of 128 with the warm-up and cosine of chapter 1. (`math.ceil` rounds up, since the last, smaller batch is a step
# too.)

# %%
import math


def train(model, x, batch, epochs, learning_rate, label):
    """Trains a VAE on images x; returns its history by epochs, with the seconds of training."""
    jit_compile = training.jit_compile("convolutions")
    model.compile(keras.optimizers.Adam(learning_rate), jit_compile=jit_compile)
    progress = training.Progress(label)
    history = model.fit(
        x,
        batch_size=batch,
        epochs=epochs,
        validation_data=(x_test,),
        validation_batch_size=500,
        verbose=0,
        callbacks=[progress, training.StopOnBadLoss()],
    )
    return {"seconds": progress.seconds, **history.history}


def schedule(images, epochs, peak=PEAK_LEARNING_RATE):
    return training.warmup_cosine(peak, steps=epochs * math.ceil(images / BATCH))


# %% [markdown]
# With `LOAD = True` the training cells of this chapter are skipped, and what an earlier run left in the output folder is
# loaded instead.

# %%
LOAD = False
folder = course.output(data.slug, "02_vae")


def trained(model, name, x, batch, epochs, learning_rate):
    """Trains a model, or loads it, and returns its history."""
    if LOAD:
        model.compile()
        model(x[:1])
        return training.load(model, folder / name)
    history = train(model, x, batch, epochs, learning_rate, name.replace("_", " "))
    training.save(model, folder / name, **history)
    return history


# %% [markdown]
# The book's settings:

# %%
by_the_book = build_vae(LATENT_DIM, seed=seed)
book_run = trained(by_the_book, "book's settings", x_train, BOOK_BATCH, BOOK_EPOCHS, 5e-4)

# %% [markdown]
# And ours, with less than half of the images:

# %%
our_schedule = schedule(len(x_train), EPOCHS)
our_run = trained(vae, "with a schedule", x_train, BATCH, EPOCHS, our_schedule)

# %% [markdown]
# The three losses of both runs on the whole test set. The book's notebook stores a total of 134.57. That number is no
# mark to compare with: there, `test_step` hands back the tensors of the current batch, so what is printed as validation
# loss belongs to the *last batch of 100 images*. Its standard error is over 3.

# %%
import pandas as pd

losses = ["val_loss", "val_reconstruction_loss", "val_kl_loss"]
runs = {"book's settings": book_run, "with a schedule": our_run}
summary = pd.DataFrame(
    {name: {key: run[key][-1] for key in losses} for name, run in runs.items()}
).T
summary["seconds"] = [run["seconds"][-1] for run in runs.values()]
summary.round(2)

# %% [markdown]
# Checks. The parts add up to the total, in training and in validation. The trained model beats the mean image. In the
# full profile on Fashion-MNIST: ours ends at most half a nat above the book's; the line says after what share of its time.

# %%
for run in runs.values():
    for prefix in ("", "val_"):
        parts = np.array(run[prefix + "reconstruction_loss"]) + np.array(run[prefix + "kl_loss"])
        assert np.allclose(parts, run[prefix + "loss"], rtol=1e-4)
assert our_run["val_loss"][-1] < mean_image_loss
if course.profile() == "full" and data.complete:
    assert our_run["val_loss"][-1] <= book_run["val_loss"][-1] + 0.5
    print(f"our time over the book's: {our_run['seconds'][-1] / book_run['seconds'][-1]:.2f}")


# %% [markdown]
# ## 2.7 What one step of `fit` does
#
# `fit` hides the step that everything rests on. Written out it is short: run the model forwards while a tape records,
# compute the loss, ask the tape for the derivative of the loss with respect to every weight, and let the optimizer move
# the weights.
#
# To see that this is all, we do the step twice from the same weights and with the same noise (the same seed, the images in
# the same order), once by hand and once by `fit`. Plain gradient descent with a learning rate of 1 moves each weight by minus its gradient, so the gradients of
# `fit` can be read off the weights.

# %%
def one_step_by_hand(model, batch):
    """The gradient of one batch's loss for each trainable weight, by TensorFlow's tape."""
    with tf.GradientTape() as tape:
        y_pred = model(batch, training=True)
        loss = model.compute_loss(x=batch, y_pred=y_pred)
    return tape.gradient(loss, model.trainable_weights)


def one_step_of_fit(model, batch):
    """The same gradients, as the difference of the weights before and after one step of `fit`."""
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(learning_rate=1.0), jit_compile=False)
    model.fit(batch, batch_size=len(batch), shuffle=False, verbose=0)
    after = [weight.numpy() for weight in model.trainable_weights]
    return [old - new for old, new in zip(before, after, strict=True)]


# %% [markdown]
# Two twins of our model with equal weights and seeds take one step each:

# %%
if course.backend() == "tensorflow":
    gradients = []
    for step in (one_step_by_hand, one_step_of_fit):
        twin = build_vae(LATENT_DIM, seed=7)
        twin.set_weights(vae.get_weights())
        gradients.append([np.asarray(gradient) for gradient in step(twin, x_train[:100])])
    pairs = list(zip(*gradients, strict=True))
    difference = max(np.abs(a - b).max() / np.abs(a).max() for a, b in pairs)
    print(f"{len(pairs)} weights; largest relative difference of their gradients: {difference:.0e}")
    assert difference < 1e-3
else:
    print("GradientTape is TensorFlow's; the backend here is", course.backend())

# %% [markdown]
# ## 2.8 A look at the latent space
#
# Reconstructions first. The decoder is given `z_mean`, the middle of each cloud.

# %% tags=["nbval-check-output"]
z_test, z_test_log_var = vae.encoder.predict(x_test[:5000], verbose=0, batch_size=500)
labels = y_test[: len(z_test)]
reconstructions = vae.decoder.predict(z_test[:500], verbose=0, batch_size=500)

plots.image_rows(
    {"original": x_test[:12], "painted again": reconstructions[:12]},
    alt="Twelve test images over their reconstructions",
)

# %% [markdown]
# The means of 5,000 test images, by class. They lie around zero, at a scale of one. The second picture shows the same
# points through the cumulative distribution function $\Phi$ of the standard normal: each coordinate becomes the share of
# the normal distribution that lies below it (the book calls it the p-value). Standard normal points fill the square evenly.

# %%
import matplotlib.pyplot as plt

figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 5.0))
plots.embedding(left, z_test, labels, data.class_names, name_classes=False)
p_values = norm.cdf(z_test)
plots.embedding(right, p_values, labels, data.class_names, "Φ(z₁)", "Φ(z₂)", name_classes=False)
left.set(title="z_mean of test images", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6))
right.set(title="the same as p-values", xlim=(0, 1), ylim=(0, 1))
plots.class_legend(figure, left)
plots.show(
    figure, alt="Test images in the latent plane by class, beside the same points as p-values"
)

# %% [markdown]
# Now there *is* a distribution to sample from. Eighteen points from the standard normal, decoded:

# %% tags=["nbval-check-output"]
rng = np.random.default_rng(seed)
z_normal = rng.normal(size=(1000, LATENT_DIM)).astype("float32")
samples = vae.decoder.predict(z_normal, verbose=0, batch_size=500)

plots.image_grid(
    samples[:18], columns=9, alt="Eighteen garments decoded from standard normal points"
)

# %% [markdown]
# And a walk over the unit square of p-values: even steps there, $z = \Phi^{-1}(p)$ in latent space. Neighbours look
# alike. Between the classes stand mixtures of them.

# %% tags=["nbval-check-output"]
SIDE = 14
p = np.linspace(0.03, 0.97, SIDE)
p1, p2 = np.meshgrid(p, p[::-1])
z_walk = norm.ppf(np.stack([p1, p2], axis=-1).reshape(-1, 2)).astype("float32")
tiles = vae.decoder.predict(z_walk, verbose=0, batch_size=256).reshape(SIDE, SIDE, 32, 32)
canvas = tiles.transpose(0, 2, 1, 3).reshape(SIDE * 32, SIDE * 32)

figure, axis = plt.subplots(figsize=(6, 6))
axis.imshow(canvas, cmap="Greys", extent=[0, 1, 0, 1])
axis.set(xlabel="Φ(z₁)", ylabel="Φ(z₂)")
plots.show(
    figure, alt="Images decoded from a grid over the square of p-values; neighbours look alike"
)

# %% [markdown]
# ### The three faults, measured again
#
# Chapter 1's three faults as three numbers.
#
# - Unequal room: the area of the largest class over that of the smallest. The area of a class is that of the ellipse which
#   holds 90 % of a Gaussian with the covariance of its codes; 4.605 is the 90 % quantile of $\chi^2$ with two degrees of freedom.
# - No distribution: the largest difference between the cumulative distribution of a coordinate and the standard normal's.
# - Gaps: the fraction of samples that are farther from every real image than 95 % of reconstructions are (root of the mean
#   squared difference; a reconstruction's own original is left out).

# %% tags=["definitions"]
def class_areas(z, labels):
    """Area of the 90 % ellipse of each class. z (count, 2), labels (count,); returns (classes,)."""
    covariances = [np.cov(z[labels == label].T) for label in np.unique(labels)]
    return np.pi * 4.605 * np.sqrt([np.linalg.det(covariance) for covariance in covariances])


def nearest_distance(images, real, leave_out_own=False):
    """Distance of each image to the nearest real one, or to the nearest but its own."""
    a, b = (np.asarray(batch, "float32").reshape(len(batch), -1) for batch in (images, real))
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    if leave_out_own:
        np.fill_diagonal(squared, np.inf)
    return np.sqrt(np.maximum(squared.min(axis=1), 0) / a.shape[1])


def usual_distance(reconstructions, real):
    """The distance to a real image but their own within which 95 % of reconstructions lie."""
    return float(np.quantile(nearest_distance(reconstructions, real, leave_out_own=True), 0.95))


def fraction_beyond(samples, real, limit):
    """Fraction of samples that are farther than `limit` from every real image."""
    return float(np.mean(nearest_distance(samples, real) > limit))


# %% [markdown]
# Chapter 1's autoencoder, trained here for as long as our VAE, beside the VAE, on the same test images.
# The autoencoder's samples come from the rectangle around its codes. The VAE's come from the
# standard normal. What is far is decided by the autoencoder's reconstructions for both.

# %%
build_autoencoder, distance_from_normal = definitions(
    "01_autoencoder", "build_autoencoder", "distance_from_normal"
)
encoder, decoder, autoencoder = build_autoencoder(LATENT_DIM)
if LOAD:
    training.load(autoencoder, folder / "autoencoder")
else:
    rate = schedule(len(x_train), EPOCHS)
    jit_compile = training.jit_compile("convolutions")
    autoencoder.compile(keras.optimizers.Adam(rate), "binary_crossentropy", jit_compile=jit_compile)
    watch = [training.Progress("chapter 1's autoencoder"), training.StopOnBadLoss()]
    autoencoder.fit(x_train, x_train, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=watch)
    training.save(autoencoder, folder / "autoencoder")

# %% [markdown]
# The measures of both:

# %%
z_point = encoder.predict(x_test[:5000], verbose=0, batch_size=500)
limit = usual_distance(decoder.predict(z_point[:500], verbose=0, batch_size=500), x_test)


def faults(z, labels, decoder, z_sampled):
    """The three measures of chapter 1 for codes z of test images and points to sample from."""
    areas = class_areas(z, labels)
    sampled = decoder.predict(z_sampled, verbose=0, batch_size=500)
    return {
        "area_ratio": areas.max() / areas.min(),
        "distance_from_normal": distance_from_normal(z),
        "fraction_beyond": fraction_beyond(sampled, x_test, limit),
    }


z_box = rng.uniform(z_point.min(axis=0), z_point.max(axis=0), size=(1000, 2)).astype("float32")
before = faults(z_point, labels, decoder, z_box)
after = faults(z_test, labels, vae.decoder, z_normal)
pd.DataFrame({"autoencoder": before, "VAE": after}).T.round(3)

# %% [markdown]
# The second fault is nearly gone: there is a distribution to sample from. The first has shrunk: nothing in the loss asks for
# equal areas, but the pull to the middle leaves no room to sprawl. The third has shrunk least. Some empty stretches are left,
# such as the one at the bottom of the p-values, right of the middle, and there the decoder paints pale smears. And where the
# clouds of unlike garments touch, it paints a mixture of both, and a mixture of a boot and a bag is like neither.

# %%
assert after["distance_from_normal"] < before["distance_from_normal"]
if course.profile() == "full" and data.complete:  # the stand-in leaves hardly a gap to close
    assert after["fraction_beyond"] < before["fraction_beyond"]

# %% [markdown]
# ## 2.9 What β trades against what
#
# Four models with eight latent dimensions, four values of β, a short training each. By section 2.5, β is 1024 over the
# reconstruction weight.
#
# - With a small β the clouds are small and the images good, but the codes are far from normal: back towards chapter 1.
# - With a large β the encoder gives up dimensions one by one. A dimension is given up when its mean is the same for every
#   image: it carries nothing. We call a dimension **active** if the variance of `z_mean` over test images is above 0.01
#   (Burda et al., 2016). When all are given up, the encoder says nearly the same of every
#   image, and the model paints the mean image: it has *collapsed*.

# %%
SWEEP_DIM = 8
BETAS = (0.1, 1.0, 10.0, 200.0)


def sweep(beta):
    """A short training with one β; returns its two losses in nats and its active dimensions."""
    model = build_vae(SWEEP_DIM, reconstruction_weight=1024 / beta, seed=seed)
    rate = schedule(SWEEP_IMAGES, EPOCHS)
    run = trained(model, f"beta_{beta:g}", x_train[:SWEEP_IMAGES], BATCH, EPOCHS, rate)
    means, _ = model.encoder.predict(x_test, verbose=0, batch_size=500)
    return {
        "beta": beta,
        "reconstruction (nats)": run["val_reconstruction_loss"][-1] * beta,
        "KL (nats)": run["val_kl_loss"][-1],
        "active": int((means.var(axis=0) > 0.01).sum()),
    }


# %% [markdown]
# Four short trainings:

# %%
trade = pd.DataFrame([sweep(beta) for beta in BETAS])
trade.round(2)

# %% [markdown]
# As a curve: what the code costs to the right, what the image costs upwards. Every β is a different point of one trade.

# %%
figure, axis = plt.subplots(figsize=(plots.WIDTH * 0.7, 4))
axis.plot(trade["KL (nats)"], trade["reconstruction (nats)"], "o-", color=plots.COLOURS[0])
for row in trade.itertuples(index=False):
    note = f"β = {row.beta:g}: {row.active} active"
    axis.annotate(note, (row[2], row[1]), xytext=(6, 5), textcoords="offset points")
axis.axhline(floor * 1024 / 500, color="0.35", linestyle="--", label="floor")
axis.axhline(mean_image_loss * 1024 / 500, color="0.35", linestyle=":", label="mean image")
axis.set(xlabel="KL divergence (nats an image)", ylabel="cross-entropy (nats an image)")
axis.set_xlim(-1, trade["KL (nats)"].max() * 1.5)
axis.margins(y=0.15)
axis.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.85))
plots.show(
    figure,
    alt="Reconstruction against KL for four values of beta, between the floor and the mean image",
)

# %% [markdown]
# A larger β never buys a larger KL, the reconstruction pays for it, and at the end nothing is active:

# %%
assert trade["KL (nats)"].is_monotonic_decreasing
assert trade["reconstruction (nats)"].iloc[0] < trade["reconstruction (nats)"].iloc[-1]
assert trade["active"].iloc[-1] == 0 < trade["active"].iloc[0]


# %% [markdown]
# ## 2.10 How likely is an image?
#
# The loss above is a good recipe for training. It is not a probability. The "density" of a grey pixel whose negative
# logarithm is the cross-entropy, $\hat x^{x} (1 - \hat x)^{1 - x}$, does not integrate to 1 over $x \in [0, 1]$. A number
# that does not cannot be compared with the probability that another model gives.
#
# So we change the decoder to one that gives a real distribution over the 256 grey levels. Its last layer has two
# channels, a middle $m$ and the logarithm of a width $s$, for a logistic distribution whose cumulative function is the
# sigmoid $S((v - m)/s)$, with $S(t) = 1/(1 + e^{-t})$. The probability of level $v$ is the mass of the interval around it (Salimans et al., 2017):
#
# $$p(v) = S(b) - S(a), \qquad a = \frac{v - \frac12 - m}{s}, \quad b = \frac{v + \frac12 - m}{s}.$$
#
# The lowest level takes all mass below it ($a = -\infty$) and the highest all above ($b = \infty$), so the 256
# probabilities sum to 1. For the logarithm we use
# $S(b) - S(a) = S(b)\, S(-a)\, (1 - e^{a - b})$, which stays accurate when both sigmoids are near 0 or 1.

# %% tags=["definitions"]
def log_prob_of_levels(level, middle, log_width):
    """Log probability of levels 0 ... 255 by a discretised logistic; middle, width in levels."""
    a = (level - 0.5 - middle) * ops.exp(-log_width)
    b = (level + 0.5 - middle) * ops.exp(-log_width)
    below_b = ops.where(level > 254.5, 0.0, ops.log_sigmoid(b))
    above_a = ops.where(level < 0.5, 0.0, ops.log_sigmoid(-a))
    inside = ops.log(-ops.expm1(a - b))
    return below_b + above_a + ops.where((level < 0.5) | (level > 254.5), 0.0, inside)


# %% [markdown]
# It must sum to 1 for any middle and width, even for a middle outside the scale, and agree with SciPy's logistic
# distribution. The "density" of the cross-entropy, $\hat x^{x} (1 - \hat x)^{1 - x}$, integrated from 0 to 1,
# misses 1 by far.

# %% tags=["nbval-check-output"]
from scipy.stats import logistic

levels = np.arange(256, dtype="float32")[:, None]
middles, log_widths = np.float32([-40, 0, 100.3, 255, 400]), np.float32([3, -1, 2, 0.5, 3])
sums = np.exp(np.asarray(log_prob_of_levels(levels, middles, log_widths))).sum(axis=0)
soft = np.mean([np.exp(-cross_entropy(v / 255, 0.4)) for v in range(256)])
inner, step = levels[100:150], logistic(loc=127.3, scale=4.0)
expected = step.cdf(inner + 0.5) - step.cdf(inner - 0.5)
log_p = log_prob_of_levels(inner, np.float32(127.3), np.float32(np.log(4)))

print("discretised logistic:", sums.round(5), f"  from the cross-entropy: {soft:.2f}")
assert np.allclose(sums, 1.0, atol=1e-4)
assert np.allclose(np.exp(np.asarray(log_p)), expected, atol=1e-4)


# %% [markdown]
# The model is the VAE with another decoder and another reconstruction loss: the negative log-probability of the image's
# own 28 × 28 pixels, in nats, without the frame. The KL term gets weight 1. Then the loss has a meaning.
#
# A VAE is a recipe for making images: draw $z$ from the **prior** $p(z) = \mathcal{N}(0, I)$, then $x$ from $p(x \mid z)$, the
# decoder's distribution. So the probability of an image is $p(x) = \mathbb{E}_{z \sim p(z)}[p(x \mid z)]$. The **posterior**
# $p(z \mid x) = p(x \mid z)\, p(z) / p(x)$ says which $z$ may have made $x$. It cannot be computed, and the encoder's
# $q(z \mid x)$ stands in for it. For any $q$, since the logarithm is concave,
#
# $$\log p(x) = \log \mathbb{E}_{z \sim q}\left[\frac{p(x \mid z)\, p(z)}{q(z \mid x)}\right]
# \ge \mathbb{E}_{z \sim q}\left[\log p(x \mid z)\right] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) = \mathrm{ELBO}.$$
#
# This is the *evidence lower bound*. The loss is its negative, and so an upper bound on $-\log p(x)$.
#
# Three numbers in `log_likelihood` only help training: 3 makes the width $e^3 = 20$ levels where the network says 0, and
# −3 and 6 bound the logarithm of the width.

# %% tags=["definitions"]
def build_logistic_decoder(latent_dim):
    """Chapter 1's decoder with two channels: (batch, latent_dim) to (batch, 32, 32, 2)."""
    decoder = build_decoder(latent_dim)
    features = decoder.layers[-2].output
    parameters = layers.Conv2D(2, 3, padding="same", name="middle_and_log_width")(features)
    return keras.Model(decoder.input, parameters, name="logistic_decoder")


@keras.saving.register_keras_serializable(package="course")
class LogisticVAE(VAE):
    """A VAE whose decoder gives a distribution over the 256 levels of each of 28 x 28 pixels."""

    def log_likelihood(self, x, parameters):
        """log p(x | z) in nats, (batch,), of images (batch, 32, 32, 1) under decoder outputs."""
        inner = (slice(None), slice(2, -2), slice(2, -2))
        level = ops.round(255 * x[inner][..., 0])
        middle = 255 * ops.sigmoid(parameters[inner][..., 0])
        log_width = ops.clip(3 + parameters[inner][..., 1], -3.0, 6.0)
        return ops.sum(log_prob_of_levels(level, middle, log_width), axis=(1, 2))

    def reconstruction_loss(self, x, parameters):
        return -self.log_likelihood(x, parameters)


# %% [markdown]
# The bound has a gap, because $q$ is not the true posterior. The **importance-weighted bound** (Burda et al., 2016,
# equation 8) narrows it: average $k$ weights $w_i = p(x \mid z_i)\, p(z_i) / q(z_i \mid x)$ *before* taking the logarithm.
# For $k = 1$ it is the ELBO. As $k$ grows it tends to $\log p(x)$.

# %% tags=["definitions"]
def log_normal(z, mean, log_var):
    """Log density of N(mean, exp(log_var)), independent dimensions, summed over the last axis."""
    return -0.5 * ops.sum(np.log(2 * np.pi) + log_var + (z - mean) ** 2 / ops.exp(log_var), axis=-1)


def log_weights(model, x, k, seed):
    """log w of k draws for each image, in nats: x (batch, 32, 32, 1) to (batch, k), all at once."""
    z_mean, z_log_var = model.encoder(x)
    x, z_mean, z_log_var = (ops.repeat(values, k, axis=0) for values in (x, z_mean, z_log_var))
    epsilon = keras.random.normal(ops.shape(z_mean), seed=seed)
    z = z_mean + ops.exp(z_log_var / 2) * epsilon
    prior, posterior = log_normal(z, 0.0, ops.zeros_like(z)), log_normal(z, z_mean, z_log_var)
    log_w = model.log_likelihood(x, model.decoder(z)) + prior - posterior
    return ops.convert_to_numpy(ops.reshape(log_w, (-1, k)))


# %% [markdown]
# Two models of this kind, with the two latent dimensions that we can look at and with 16. The learning rate peaks at 0.001,
# since this loss is steeper. **Bits per dimension** are nats
# an image divided by $784 \ln 2$: how many bits a pixel would cost if the model were used to compress.

# %%
WIDE_DIM = 16
K = 50
honest = {}
for dim in (LATENT_DIM, WIDE_DIM):
    networks = build_variational_encoder(dim), build_logistic_decoder(dim)
    honest[dim] = LogisticVAE(*networks, seed=seed)
    rate = schedule(len(x_train), EPOCHS, peak=1e-3)
    trained(honest[dim], f"likelihood_{dim}", x_train, BATCH, EPOCHS, rate)

# %% [markdown]
# Twenty images with 50 draws each fill a batch of 1,000 decoded images, which keeps memory small. The mean of
# exponentials is taken by `logsumexp`, since $e^{-2000}$ would be 0 for the machine.

# %%
from scipy.special import logsumexp


def bounds(model, x, k=K, batch=20):
    """-ELBO and importance-weighted bound of each image in nats: two (count,)."""
    pieces = [log_weights(model, x[i : i + batch], k, seed + i) for i in range(0, len(x), batch)]
    log_w = np.concatenate(pieces).astype("float64")
    return -log_w.mean(axis=1), np.log(k) - logsumexp(log_w, axis=1)


def bits_per_dimension(nats):
    return nats / (28 * 28 * np.log(2))


measured = {dim: bounds(model, x_test[:BOUND_IMAGES]) for dim, model in honest.items()}


# %% [markdown]
# Beside them stand two models that need no code. *Independent pixels* counts how often each level occurs at each
# position in the training images. *One histogram* counts over all positions together.

# %% tags=["definitions"]
def histogram_bits(train, test, same_for_all):
    """Bits a pixel under the level counts of training images plus one; uint8 (count, h, w, …)."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    counts = np.stack([np.bincount(pixel, minlength=256) for pixel in train.T]) + 1.0
    if same_for_all:
        counts = np.broadcast_to(counts.sum(axis=0), counts.shape)
    log_p = np.log2(counts / counts.sum(axis=1, keepdims=True))
    return -log_p[np.arange(train.shape[1]), test].mean()


# %% [markdown]
# Counted on the training images, and tried on the test images of the bounds:

# %%
raw_train, raw_test = data.x_train[:TRAIN_IMAGES], data.x_test[:BOUND_IMAGES]
independent = histogram_bits(raw_train, raw_test, same_for_all=False)
pooled = histogram_bits(raw_train, raw_test, same_for_all=True)

# %% [markdown]
# One row for each model:

# %%
from utils import results


def likelihood_row(dim):
    elbo, iwae = measured[dim]
    return {
        "model": f"VAE, {dim} latent dimensions",
        "elbo_nats": elbo.mean(),
        "iwae_nats": iwae.mean(),
        "iwae_se": iwae.std() / np.sqrt(len(iwae)),
        "bits_per_dim": bits_per_dimension(iwae.mean()),
    }


likelihoods = [
    {"model": "one histogram", "bits_per_dim": pooled},
    {"model": "independent pixels", "bits_per_dim": independent},
    *(likelihood_row(dim) for dim in honest),
]
results.table(likelihoods)

# %% [markdown]
# Both bounds are printed as bounds on $-\log p(x)$, so smaller is better; `iwae_se` is the standard error of the mean over
# images. Now the checks. The importance-weighted bound lies below the other one, as it must. Its standard error is about
# 1 %. Both models have learned where the garment is, so they beat the one histogram. And after the full training a code of 16 numbers
# gives a smaller bound than two.

# %%
for elbo, iwae in measured.values():
    assert iwae.mean() < elbo.mean()
    assert course.profile() == "quick" or iwae.std() / np.sqrt(len(iwae)) < 0.013 * iwae.mean()
    assert bits_per_dimension(iwae.mean()) < pooled
if course.profile() == "full":
    assert measured[WIDE_DIM][1].mean() < measured[LATENT_DIM][1].mean()
if course.profile() == "full" and data.complete:
    assert bits_per_dimension(measured[WIDE_DIM][1].mean()) < independent

# %% [markdown]
# Are the weights right? With a decoder that says nothing about the image, $\log w$ is only
# $\log p(z) - \log q(z \mid x)$, and its mean is minus the KL divergence that section 2.3 has a formula for. That formula
# shares no code with the weights.

# %%
from types import SimpleNamespace

for model in honest.values():
    silent = SimpleNamespace(
        encoder=model.encoder, decoder=lambda z: z, log_likelihood=lambda x, z: 0.0
    )
    kl = float(ops.mean(kl_to_standard_normal(*model.encoder(x_test[:100]))))
    by_draws = -log_weights(silent, x_test[:100], 500, seed).mean()
    print(f"KL by formula {kl:.2f}, by draws {by_draws:.2f}")
    assert abs(by_draws - kl) < 0.03 * kl

# %% [markdown]
# ## 2.11 Save and load
#
# The whole model, networks and weights, in one `.keras` file. Loading needs the classes to be known, which is what
# `register_keras_serializable` is for. The loaded model must give the same codes and the same images.

# %%
path = folder / "vae.keras"
vae.save(path)
loaded = keras.saving.load_model(path)

pairs = zip(vae.encoder(x_test[:8]), loaded.encoder(x_test[:8]), strict=True)
code_difference = max(float(ops.max(ops.abs(a - b))) for a, b in pairs)
image_difference = float(ops.max(ops.abs(vae.decoder(z_test[:8]) - loaded.decoder(z_test[:8]))))
assert max(code_difference, image_difference) <= 1e-6
assert loaded.reconstruction_weight == vae.reconstruction_weight

# %% [markdown]
# ## What we measured

# %%
from IPython.display import display


def row(name, model, run, **more):
    return {
        "model": name,
        "validation_loss": run["val_loss"][-1],
        "train_seconds": run["seconds"][-1],
        "parameters": model.count_params(),
        **more,
    }


rows = [
    row("VAE, book's settings", by_the_book, book_run),
    row("VAE, with a schedule", vae, our_run, **after),
    *likelihoods,
]
seconds = time.perf_counter() - STARTED
display(results.record("02_vae", data=data.name, seconds=seconds, rows=rows))

# %% [markdown]
# ## Summary
#
# - A VAE's encoder gives a distribution. Drawing from it as $\mu + \sigma\varepsilon$ lets the gradient through.
# - The KL term pulls codes to the standard normal. That gives something to sample from and narrows the gaps.
# - The book's 500 is a choice of β, about 2. A larger β costs sharpness and, in the end, whole dimensions.
# - A step of `fit` is: forward, loss, gradients, update. We saw the same gradients by hand.
# - The cross-entropy of grey pixels is not a likelihood. With a discretised logistic decoder the loss bounds $-\log p(x)$, and
#   bits per dimension can be compared with other models, such as the flow of chapter 6.
#
# [Chapter 3](03_vae_faces.ipynb) takes the same class to faces in colour.
#
# ## Exercises
#
# The cell below each exercise holds a solution. It is folded: click it to open it.
#
# **1.** Interpolate between two test images in latent space, as in chapter 1, between a sneaker and a pullover. Is there a
# gap on the way?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
start, end = z_test[labels == 7][0], z_test[labels == 2][0]
steps = np.linspace(0, 1, 10, dtype="float32")[:, None]
walk = vae.decoder.predict((1 - steps) * start + steps * end, verbose=0)
plots.image_grid(walk, columns=10, alt="A walk from a sneaker to a pullover in ten steps")
print("distance to the nearest real image:", nearest_distance(walk, x_test).round(2))
print(f"it would count as far beyond {limit:.2f}")

# %% [markdown]
# **2.** A VAE can say how strange an image is. Compare the loss (negative ELBO) of test images with that of the same images
# upside down, and give the share of pairs in which the turned one is stranger. Use the likelihood model with 16
# dimensions.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
model = honest[WIDE_DIM]
upright, turned = (bounds(model, images, k=5)[0] for images in (x_test[:200], x_test[:200, ::-1]))
print(f"the turned image is stranger in {np.mean(turned > upright):.0%} of pairs")

# %% [markdown]
# **3.** How far is the approximate posterior from the true one? The gap between $-\text{ELBO}$ and $-\log p(x)$ is
# $\mathrm{KL}(q(z \mid x) \,\|\, p(z \mid x))$. Estimate it from below for both likelihood models, in nats.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3: the weighted bound lies between the two, so it gives a lower estimate of the gap.
for dim, (elbo, iwae) in measured.items():
    print(f"{dim:2} dimensions: at least {np.mean(elbo - iwae):.1f} nats of {elbo.mean():.0f}")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Section 3.2. In Korean: 만들면서 배우는 생성 AI 2판.
# - D. P. Kingma, M. Welling. *Auto-Encoding Variational Bayes*. ICLR, 2014. Equation 10, and appendix B: the KL divergence.
# - I. Higgins et al. *beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework*. ICLR, 2017. Equation 4.
# - Y. Burda, R. Grosse, R. Salakhutdinov. *Importance Weighted Autoencoders*. ICLR, 2016. Equation 8: the bound; section 5: active units.
# - T. Salimans, A. Karpathy, X. Chen, D. P. Kingma. *PixelCNN++*. ICLR, 2017. Equation 2: the discretised logistic distribution.
