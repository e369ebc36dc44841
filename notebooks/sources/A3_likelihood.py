# %% [markdown]
# # Appendix A3 · What a VAE's likelihood is
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/A3_likelihood.ipynb)
#
# **How likely does a VAE find an image, as a number that can be held against other models?**
# The loss of chapter 2's VAE of grey images cannot answer, for two reasons: what it takes for the density of a grey pixel is no density, and the loss is only a bound.
# We give the decoder a distribution that adds up to 1, tighten the bound by drawing more often, and say the result in bits per dimension, the unit of [chapter 6](06_glow.ipynb).

# %% [markdown]
# **You will learn**
# - why the cross-entropy of grey pixels is no likelihood, and by how much it is not;
# - a distribution over 256 grey levels that has a middle and a width, the discretised logistic;
# - what importance weights are, and how many of them close how much of the gap;
# - to turn nats into bits per dimension, and what such a figure does not say.
#
# **In the book**: beyond it; it begins where section 3.2 (변이형 오토인코더) ends.
#
# **Needs**: [chapter 2](02_vae.ipynb), whose VAE, bound and importance weights are used here, and Fashion-MNIST (31 MB, downloaded once).
# About 3 minutes on two CPU cores (Intel Xeon with AVX-512).

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

# %%
import time

STARTED = time.perf_counter()
DIMS = 2, 16  # numbers in the code, of the two models
TRAIN_IMAGES = course.choose(full=60_000, quick=1_800)
BOUND_IMAGES = course.choose(full=500, quick=100)
EPOCHS = course.choose(full=2, quick=2)
BATCH = course.choose(full=128, quick=10)
DRAWS = 64
seed = course.seed(42)

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp

from utils import datasets, plots, results, training
from utils.chapters import definitions

prepare = definitions("01_autoencoder", "prepare")
data = datasets.fashion_mnist()
raw_train, raw_test = data.x_train[:TRAIN_IMAGES], data.x_test[:BOUND_IMAGES]
x_train, x_test = prepare(raw_train), prepare(raw_test)
print(data)

# %% [markdown]
# ## A3.1 Why the cross-entropy is no likelihood
#
# For a pixel that is 0 or 1 the cross-entropy is a likelihood.
# If the decoder says "1 with probability $\hat x$", the probability of the pixel $x$ is $\hat x^{x} (1 - \hat x)^{1 - x}$, and minus its logarithm is the cross-entropy.
# Chapter 2 used that for its black-and-white images.
#
# A grey pixel lies in between, and the formula can be worked out there too.
# But then it is the density of nothing: a density over $[0, 1]$ has the integral 1, and this has
#
# $$\int_0^1 \hat x^{x} (1 - \hat x)^{1 - x}\, dx = \frac{2 \hat x - 1}{\log \hat x - \log(1 - \hat x)}. \tag{A3.1}$$

# %%
answers = np.linspace(0.001, 0.999, 500)  # an even count, which leaves out 1/2
mass = (2 * answers - 1) / (np.log(answers) - np.log(1 - answers))
grey = np.linspace(0, 1, 2_001)
by_sum = [np.trapezoid(a**grey * (1 - a) ** (1 - grey), grey) for a in answers]
assert np.allclose(mass, by_sum, rtol=1e-4)
print(f"pixels that are exactly 0: {np.mean(data.x_train == 0):.0%}")

# %% tags=["hide-input", "nbval-check-output"] jupyter={"source_hidden": true} cellView="form"
figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.4))
for answer, colour, style in zip((0.02, 0.5, 0.8), plots.COLOURS, ("-", "--", ":")):
    density = answer**grey * (1 - answer) ** (1 - grey)
    left.plot(grey, density, style, color=colour, label=f"x̂ = {answer}")
left.set(xlabel="level x of a pixel", ylabel="x̂ˣ (1 − x̂)¹⁻ˣ", ylim=(0, 1.05))
left.legend(frameon=False)
right.plot(answers, mass, color=plots.COLOURS[0])
right.axhline(1, color="0.35", linestyle="--", label="a density's")
right.set(xlabel="the decoder's answer x̂", ylabel="integral over x", ylim=(0, 1.1))
right.legend(frameon=False)
plots.show(
    figure,
    alt="Left: the expression by the level of the pixel for three answers, never "
    "above 1. Right: its integral, at most one half, and less near 0 and 1",
)

# %% [markdown]
# On the right, a density would lie on the dashed line.
# The integral is at most a half (its limit where both logarithms are equal), and for an answer near 0 or 1, where most pixels are, far less.
# Dividing by (A3.1) makes a density of it, the *continuous Bernoulli* (Loaiza-Ganem and Cunningham, 2019).
# But real pixels are whole numbers from 0 to 255, half of ours are exactly 0, and a density may be as high as it likes at a single point.
# So we give each of the 256 levels a *probability*.

# %% [markdown]
# ## A3.2 A distribution over 256 levels
#
# Take a bell curve with a middle $m$ and a width $s$, in levels, and cut it at the half numbers.
# What lies between $v - \frac12$ and $v + \frac12$ is the probability of level $v$; level 0 takes all that lies below, and level 255 all above.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("levels")

# %% [markdown]
# The bell is that of the logistic distribution, since its cumulative function is a plain formula, the sigmoid $S(t) = 1 / (1 + e^{-t})$ (Salimans et al., 2017, equation 2):
#
# $$p(v) = S(b) - S(a), \qquad a = \frac{v - \frac12 - m}{s}, \quad b = \frac{v + \frac12 - m}{s}, \tag{A3.2}$$
#
# with $a = -\infty$ for level 0 and $b = \infty$ for level 255.
# Far from the middle both sigmoids are nearly 0 or nearly 1, and their difference is lost in rounding.
# Written as a product it is not:
#
# $$S(b) - S(a) = S(b)\, S(-a)\, \left(1 - e^{a - b}\right). \tag{A3.3}$$


# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops

from utils.chapters import definitions


def log_prob_of_levels(level, middle, log_width):
    """Log probability of levels 0 … 255, with middle and width in levels."""
    a = (level - 0.5 - middle) * ops.exp(-log_width)
    b = (level + 0.5 - middle) * ops.exp(-log_width)
    lowest, highest = level < 0.5, level > 254.5
    below_b = ops.where(highest, 0.0, ops.log_sigmoid(b))
    above_a = ops.where(lowest, 0.0, ops.log_sigmoid(-a))
    overlap = ops.where(lowest | highest, 0.0, ops.log(-ops.expm1(a - b)))
    return below_b + above_a + overlap


# %% [markdown]
# It must add up to 1 for any middle and width, even for a middle outside of the scale, and agree with SciPy's logistic distribution.

# %% tags=["nbval-check-output"]
from scipy.stats import logistic

levels = np.arange(256, dtype="float32")[:, None]
middles, log_widths = np.float32([-40, 0, 100.3, 255]), np.float32([3, -1, 2, 0.5])
log_p = ops.convert_to_numpy(log_prob_of_levels(levels, middles, log_widths))
print("each adds up to", np.exp(log_p).sum(axis=0).round(4))
assert np.allclose(np.exp(log_p).sum(axis=0), 1, atol=1e-4)

bell = logistic(loc=100.3, scale=np.exp(2))
by_scipy = bell.cdf(levels[:, 0] + 0.5) - bell.cdf(levels[:, 0] - 0.5)
assert np.allclose(np.exp(log_p)[1:-1, 2], by_scipy[1:-1], atol=1e-6)

# %% [markdown]
# ## A3.3 The decoder, and what counts
#
# The decoder is chapter 1's with another last layer: two channels in place of one, for the middle and the logarithm of the width of each pixel.
# The reconstruction loss of an image is minus the log probability of its levels, a sum, in nats; the KL term has weight 1.
# Then minus the loss is the ELBO of chapter 2.
#
# What counts are the image's own 28 × 28 pixels.
# The frame of 240 zeros that makes it 32 × 32 is not part of the image, and a model that is praised for guessing it would look better than it is.
#
# Three numbers only help training.
# 3 makes the width $e^3 \approx 20$ levels where the network says 0, and −3 and 6 bound the logarithm of the width: without a bound, a pixel that is always black would draw it to $-\infty$.


# %% tags=["definitions"]
build_decoder = definitions("01_autoencoder", "build_decoder")
VAE, build_variational_encoder = definitions(
    "02_vae", "VAE", "build_variational_encoder"
)


def build_logistic_decoder(latent_dim):
    """Chapter 1's decoder with two channels: (batch, latent_dim) to (…, 32, 32, 2)."""
    decoder = build_decoder(latent_dim)
    features = decoder.layers[-2].output
    two = layers.Conv2D(2, 3, padding="same", name="middle_and_log_width")
    return keras.Model(decoder.input, two(features), name="logistic_decoder")


# %% tags=["definitions"]
def own_pixels(images):
    """Without the frame: (…, 32, 32, channels) to (…, 28, 28, channels)."""
    return images[..., 2:-2, 2:-2, :]


@keras.saving.register_keras_serializable(package="course")
class LogisticVAE(VAE):
    """A VAE whose decoder gives a distribution of the 256 levels of each pixel."""

    def log_likelihood(self, x, parameters):
        """log p(x | z) in nats, (batch,): images x and what the decoder gave."""
        level = ops.round(255 * own_pixels(x)[..., 0])
        middle = 255 * ops.sigmoid(own_pixels(parameters)[..., 0])
        log_width = ops.clip(3 + own_pixels(parameters)[..., 1], -3.0, 6.0)
        return ops.sum(log_prob_of_levels(level, middle, log_width), axis=(1, 2))

    def reconstruction_loss(self, x, parameters):
        return -self.log_likelihood(x, parameters)


def build_logistic_vae(latent_dim, seed=None):
    encoder = build_variational_encoder(latent_dim)
    return LogisticVAE(encoder, build_logistic_decoder(latent_dim), seed=seed)


# %% [markdown]
# Does it count the right pixels?
# We work out the log probability of one image from the file's own 28 × 28 bytes, with SciPy (`expit` is the sigmoid), for middles and widths that are different at each place; a window shifted by a single pixel would be found out.

# %%
bytes_of_one = raw_test[0].astype(float)
outputs = np.random.default_rng(seed).normal([0, 1.5], 0.4, (1, 32, 32, 2))
of_one = outputs.astype("float32")
middle = 255 * expit(of_one[0, 2:30, 2:30, 0].astype(float))
width = np.exp(3 + of_one[0, 2:30, 2:30, 1].astype(float))
bells = logistic(loc=middle, scale=width)
low = np.where(bytes_of_one > 0, bells.cdf(bytes_of_one - 0.5), 0)
high = np.where(bytes_of_one < 255, bells.cdf(bytes_of_one + 0.5), 1)
by_hand = np.log(high - low).sum()
by_model = float(build_logistic_vae(2).log_likelihood(x_test[:1], of_one)[0])
print(f"one image: {by_model:.2f} nats by the model, {by_hand:.2f} by hand")
assert np.isclose(by_model, by_hand, rtol=1e-4)

# %% [markdown]
# Two of them are trained, with two numbers in the code, as in chapter 2, and with sixteen.

# %%
models = {}
for dim in DIMS:
    keras.utils.set_random_seed(seed)
    model = models[dim] = build_logistic_vae(dim, seed)
    steps = EPOCHS * -(-len(x_train) // BATCH)
    rate = training.warmup_cosine(1e-3, steps)
    model.compile(keras.optimizers.Adam(rate))
    watch = [training.Progress(f"{dim}"), training.StopOnBadLoss()]
    model.fit(x_train, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=watch)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
rows = {"image": own_pixels(x_test[:10])}
for dim, model in models.items():
    code = model.encoder.predict(x_test[:10], verbose=0)[0]
    outputs = own_pixels(model.decoder.predict(code, verbose=0))
    rows[f"{dim} numbers: middle"] = expit(outputs[..., :1])
    rows["width"] = np.clip(3 + outputs[..., 1:], -3, 6) / 9 + 1 / 3
    rows[f"{dim}: width"] = rows.pop("width")
plots.image_rows(
    rows,
    alt="Ten test images; under them, for both models, the middle and the logarithm of "
    "the width that the decoder gives each pixel",
)

# %% [markdown]
# Dark is a large width: white is a twentieth of a level, black four hundred levels.
# Around the garment, where all pixels are 0, the decoder is sure; on the garment it is not.
# So the model says, pixel by pixel, where it does not know.

# %% [markdown]
# ## A3.4 Closing the gap: importance weights
#
# Chapter 2 showed that $\log p(x) = \text{ELBO} + \text{gap}$, and closed the gap by a grid over the plane.
# In sixteen dimensions there is no grid.
# But draws from $q(z \mid x)$ can be weighted:
#
# $$p(x) = \int p(x \mid z)\, p(z)\, dz = \mathbb E_{z \sim q(z \mid x)}\left[ w(z) \right], \qquad w(z) = \frac{p(x \mid z)\, p(z)}{q(z \mid x)}. \tag{A3.4}$$
#
# The **weight** $w(z)$ is how much more often $z$ stands behind $x$ than $q$ draws it, times $p(x)$.
# If $q$ were the true posterior, all weights would be equal, to $p(x)$.
# The ELBO is the expectation of $\log w$, and what we want is the logarithm of the expectation of $w$; from $k$ draws we have the logarithm of a mean:
#
# $$L_k = \log \frac1k \sum_{i=1}^{k} w(z_i), \qquad z_i \sim q(z \mid x). \tag{A3.5}$$
#
# This is the **importance-weighted bound** (Burda et al., 2016, equation 8).
# Its mean is the ELBO for $k = 1$, grows with $k$, and tends to $\log p(x)$.
# It stays below, on average, since the logarithm of a mean of a few draws misses the rare large weights.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("weights")

# %% [markdown]
# `log_weights` is chapter 2's.
# Each $w$ is of the size of $e^{-2000}$, which is 0 for the machine, so the mean is taken by `logsumexp`, which takes the largest out first.
# Twenty images with 64 draws each make one batch of 1,280 decoded images.

# %%
log_weights = definitions("02_vae", "log_weights")


def weights_of(model, x, k=DRAWS, batch=20):
    """log w of k draws for each image, (count, k), in float64."""
    starts = range(0, len(x), batch)
    pieces = [log_weights(model, x[i : i + batch], k, seed + i) for i in starts]
    return np.concatenate(pieces).astype("float64")


log_w = {dim: weights_of(model, x_test) for dim, model in models.items()}

# %% [markdown]
# With 64 draws an image we have $L_{64}$ once, $L_{32}$ twice, $L_1$ 64 times, and average over these and over images.
# How far $L_k$ is above the ELBO is measured image by image, so its standard error is that of a difference.


# %%
def bound(log_w, k):
    """L_k of each image in nats, averaged over groups of k draws: (count,)."""
    groups = log_w.reshape(len(log_w), -1, k)
    return (logsumexp(groups, axis=2) - np.log(k)).mean(axis=1)


counts = 2 ** np.arange(7)  # 1, 2, 4 … 64
gains = {
    dim: np.stack([bound(w, k) - bound(w, 1) for k in counts], axis=1)
    for dim, w in log_w.items()
}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH * 0.75, 3.6))
for (dim, gain), colour, mark in zip(gains.items(), plots.COLOURS, "os"):
    errors = gain.std(axis=0) / np.sqrt(len(gain))
    style = {"color": colour, "marker": mark, "capsize": 3}
    axis.errorbar(counts, gain.mean(axis=0), errors, label=f"{dim} numbers", **style)
axis.set_xscale("log", base=2)
axis.set_xticks(counts, labels=[str(k) for k in counts])
axis.set(xlabel="draws k", ylabel="L_k − ELBO (nats an image)")
axis.grid(alpha=0.25)
axis.legend(frameon=False)
plots.show(
    figure,
    alt="How far the bound with k draws lies above the ELBO, for both models: it grows "
    "with k, ever more slowly",
)

# %% [markdown]
# Every doubling gains less than the one before.
# So the gaps are at least 21 nats with sixteen numbers and 9 with two, of some 2,000; in the three trainings of the table at the end they are 20 to 21, and 9 to 20.
# (For the small black-and-white images of chapter 2 the gap was at least 0.8 nats, of 42.)
# Nothing shows that 64 draws are enough, as the curves still climb; so what follows is called a bound, on $-\log p(x)$ from above.

# %% [markdown]
# ### Are the weights right?
#
# Two checks against what is known.
# A decoder that says nothing, $\log p(x \mid z) = 0$, leaves $\log w = \log p(z) - \log q(z \mid x)$, and the mean of that is minus the KL, for which chapter 2 has a formula.
# And the normal density is held against SciPy's.

# %%
from types import SimpleNamespace

from scipy.stats import norm

kl_to_standard_normal, log_normal = definitions(
    "02_vae", "kl_to_standard_normal", "log_normal"
)


def silent(model):
    """The same encoder with a decoder that says nothing of the image."""
    nothing = {"decoder": lambda z: z, "reconstruction_loss": lambda x, z: 0.0}
    return SimpleNamespace(encoder=model.encoder, **nothing)


for dim, model in models.items():
    log_ratio = weights_of(silent(model), x_test[:100], 512)
    draws, error = -log_ratio.mean(axis=1), log_ratio.std(axis=1) / np.sqrt(512)
    kl = ops.convert_to_numpy(kl_to_standard_normal(*model.encoder(x_test[:100])))
    print(
        f"{dim:2} numbers: KL {kl.mean():.3f} by formula, {draws.mean():.3f} by draws"
    )
    assert np.all(np.abs(draws - kl) < 6 * error + 1e-3)  # image by image

z = np.float32([[0.3, -1.2], [2.0, 0.1]])
mean, log_var = np.float32([0.5, -1.0]), np.float32([-0.4, 1.1])
expected = norm.logpdf(z, mean, np.exp(log_var / 2)).sum(axis=1)
assert np.allclose(log_normal(z, mean, log_var), expected, atol=1e-5)

# %% [markdown]
# ## A3.5 Bits per dimension
#
# A nat an image means little beside images of another size, so likelihoods of images are given in **bits per dimension**: nats divided by $\log 2$, which makes bits of them, and by the number of pixels,
#
# $$\text{bits per dimension} = \frac{-\log p(x)}{784 \log 2}. \tag{A3.6}$$
#
# It is how many bits a pixel costs, on average, if images are compressed by a code that is built on the model.
# A model that knows nothing gives each level 1/256 and needs 8.
#
# Two models that need no training stand beside ours.
# *Independent pixels* counts, for each place, how often each level occurs there in the training images; *one histogram* counts over all places together.


# %% tags=["definitions"]
def bits_per_dimension(nats, pixels=28 * 28):
    """Bits for each pixel, of nats for each image."""
    return nats / (pixels * np.log(2))


def histogram_bits(train, test, same_for_all):
    """Bits a pixel under the counts of training levels plus 1: uint8 (count, h, w)."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    counts = np.stack([np.bincount(pixel, minlength=256) for pixel in train.T]) + 1.0
    if same_for_all:
        counts = np.broadcast_to(counts.sum(axis=0), counts.shape)
    log_p = np.log2(counts / counts.sum(axis=1, keepdims=True))
    return -log_p[np.arange(train.shape[1]), test].mean()


# %%
def likelihood_row(log_w):
    nats = -bound(log_w, DRAWS)
    return {
        "minus ELBO (nats)": -log_w.mean(),
        "minus L64 (nats)": nats.mean(),
        "standard error": nats.std() / np.sqrt(len(nats)),
        "bits per dimension": bits_per_dimension(nats.mean()),
    }


pooled = histogram_bits(raw_train, raw_test, same_for_all=True)
independent = histogram_bits(raw_train, raw_test, same_for_all=False)
table = {
    "one histogram": {"bits per dimension": pooled},
    "independent pixels": {"bits per dimension": independent},
    **{f"VAE, {dim} numbers": likelihood_row(w) for dim, w in log_w.items()},
}
pd.DataFrame(table).T.map("{:.2f}".format).replace("nan", "")

# %% [markdown]
# Sixteen numbers in the code save nearly half a bit a pixel against two, and 0.8 against pixels that know nothing of each other; the VAEs' figures are upper bounds.
# The standard error, in nats, is that of the mean over 500 test images.
# The difference of two models on the same images is known better than that, as an image that is dear for one is dear for the other:

# %%
difference = bound(log_w[16], DRAWS) - bound(log_w[2], DRAWS)
error = difference.std() / np.sqrt(len(difference))
print(f"16 numbers save {difference.mean():.0f} ± {error:.0f} nats an image")

# %%
two, sixteen = (bits_per_dimension(-bound(log_w[dim], DRAWS).mean()) for dim in DIMS)
assert 0 < two < pooled < 8 and 0 < sixteen < pooled
if course.profile() == "full" and data.complete:
    assert 3.7 < sixteen < 4 < two < independent

# %% [markdown]
# ## A3.6 What such a figure does not say
#
# It is about compression, not about looks: most of the bits of an image go into grains of grey that nobody sees, and a model may have good bits and poor samples, or the other way round (Theis et al., 2016).
# It compares only what is over the same 256 levels of the same pixels; a flow has a density over real numbers, and [chapter 6](06_glow.ipynb) shows what must be done to compare it (*dequantisation*).
# And a likely image need not be a usual one: section 6.13 shows models of clothes that find digits likelier than clothes (Nalisnick et al., 2019).
#
# What do samples of this model look like?
# Two kinds of dice are thrown, as in section 2.1: one for $z$ and one for each pixel.


# %%
def sample_levels(parameters, rng):
    """Draws the levels of each pixel: (count, 28, 28, 2) to (count, 28, 28, 1)."""
    middle = 255 * expit(parameters[..., :1])
    width = np.exp(np.clip(3 + parameters[..., 1:], -3, 6))
    levels = np.round(rng.logistic(middle, width))
    return np.clip(levels, 0, 255) / 255, middle / 255


rng = np.random.default_rng(seed)
samples = {}
for dim, model in models.items():
    z = rng.normal(size=(12, dim)).astype("float32")
    outputs = own_pixels(model.decoder.predict(z, verbose=0))
    drawn, middles_of = sample_levels(outputs, rng)
    samples |= {f"{dim} numbers: middle": middles_of, f"{dim}: levels drawn": drawn}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.image_rows(
    samples,
    alt="Twelve samples of each model: the middle of each pixel, and levels drawn from "
    "the distribution of each pixel, which are grainy on the garment",
)

# %% [markdown]
# In this training the model with sixteen numbers has the better figure by far, and the worse samples.
# A cloud has a KL of some 40 nats, so it takes about $e^{-40}$ of the prior, and 60,000 of them are lost in sixteen dimensions: nearly all that is drawn from the prior falls between them, as in chapter 1.
# The likelihood hardly minds: if all draws fell on clouds, each cloud would get $1 / 60{,}000 = e^{-11}$ of them in place of $e^{-40}$, and $\log p(x)$ would gain 29 nats, of 2,000.
#
# Given $z$, every pixel throws its own dice, independently of its neighbours, and so the drawn levels are grainy where real cloth is smooth.
# The figure of the table pays for this grain.
# What is usually shown are the middles, as in chapter 2, and they are not samples of the model whose likelihood was measured.

# %% [markdown]
# ## What we measured
#
# One training each, above.
# (In bits both lie a little outside of what follows: three seeds do not exhaust what chance does.)
# Three trainings with other seeds, by `make bench PART=images`, judged on 500 test images with 64 draws: median and range.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
bench = {
    name: runs
    for name, runs in results.benchmarked("images").items()
    if name.startswith("VAE with levels")
}
shown = {
    "minus ELBO (nats)": ("elbo_nats", 1),
    "minus L64 (nats)": ("bound_nats", 1),
    "KL (nats)": ("kl", 1),
    "bits per dimension": ("bits_per_dim", 3),
}


pd.DataFrame(
    {
        name: {words: results.spread(runs, *of) for words, of in shown.items()}
        for name, runs in bench.items()
    }
)

# %%
from IPython.display import display

rows = [
    {"model": "one histogram", "bits_per_dim": pooled},
    {"model": "independent pixels", "bits_per_dim": independent},
    *(
        {
            "model": f"VAE, {dim} numbers",
            "elbo_nats": -w.mean(),
            "bound_nats": -bound(w, DRAWS).mean(),
            "bits_per_dim": bits_per_dimension(-bound(w, DRAWS).mean()),
        }
        for dim, w in log_w.items()
    ),
]
seconds = time.perf_counter() - STARTED
display(results.record("A3_likelihood", data=data.name, seconds=seconds, rows=rows))

# %% [markdown]
# ## Summary
#
# - For pixels that are 0 or 1 the cross-entropy is a likelihood; for grey ones it is not, as its "density" adds up to a half at most.
# - The discretised logistic gives each of 256 levels a probability, by a middle and a width.
# - Weights $w = p(x \mid z)\, p(z) / q(z \mid x)$ have the mean $p(x)$; the logarithm of a mean of $k$ of them is a bound that tightens with $k$.
# - Bits per dimension are nats divided by the number of pixels and by $\log 2$.
# - They measure compression over the same levels, not looks, and not whether an image belongs.
#
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.**
# Flip test images, the last row first (`x[:, ::-1]`).
# Is a flipped image dearer than the same one upright, in bits under the model with sixteen numbers?
# For which classes least?
# Say it before you run it.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# On average it is, by more than a bit for T-shirts, sandals and boots, which are never
# seen that way. Least for what looks much alike both ways: dresses, trousers, bags.
# (That does not make the model a judge of what belongs: see A3.6.)
model, some = models[16], slice(0, 200)
ways = {"upright": x_test[some], "flipped": x_test[some, ::-1]}
bits = {
    name: bits_per_dimension(-bound(weights_of(model, x, 8), 8))
    for name, x in ways.items()
}
frame = pd.DataFrame(bits)
frame["class"] = [data.class_names[k] for k in data.y_test[some][: len(frame)]]
frame["more when flipped"] = frame["flipped"] - frame["upright"]
print(frame.groupby("class").mean(numeric_only=True).round(2))

# %% [markdown]
# **2. Derive.**
# Show that the mean of $L_1$ is the ELBO, and that the mean of $L_2$ is not smaller than that of $L_1$.
# (For any two weights, compare $\log \frac12 (w_1 + w_2)$ with $\frac12 (\log w_1 + \log w_2)$.)
# When are they equal?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# E L_1 = E log w = E[log p(x|z) + log p(z) − log q(z|x)], which is the ELBO. The
# logarithm is concave, so log of the mean of two weights is at least the mean of their
# logarithms; take the expectation of both sides: the left is E L_2, and on the right
# both halves are E L_1. They are equal only if w_1 = w_2 always, that is if w does not
# depend on z; then q(z|x) is in proportion to p(x|z) p(z), so it is the posterior.
w = np.exp(np.random.default_rng(seed).normal(size=(100_000, 2)))
halves = np.log(w).mean(axis=1)
print("smallest difference:", (np.log(w.mean(axis=1)) - halves).min().round(6))

# %% [markdown]
# **3. Build.**
# A pixel near an edge is often either in the garment or outside of it, which one bell cannot say.
# Write the log probability of a *mixture* of two discretised logistics with weights $\pi$ and $1 - \pi$, and show that it adds up to 1.
# What must change in the decoder?


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# The decoder needs five channels: two middles, two widths, and the logit of π.
def log_prob_of_mixture(level, logit, middles, log_widths):
    first, second = (
        log_prob_of_levels(level, middles[k], log_widths[k]) for k in (0, 1)
    )
    return ops.logaddexp(
        ops.log_sigmoid(logit) + first, ops.log_sigmoid(-logit) + second
    )


log_p = log_prob_of_mixture(
    levels, np.float32([0.7]), np.float32([[20.0], [200.0]]), np.float32([[1.0], [3.0]])
)
total = float(ops.sum(ops.exp(log_p)))
print(f"adds up to {total:.4f}")
assert abs(total - 1) < 1e-4

# %% [markdown]
# **4. Find the bug.**
# Somebody's VAE is nearly a quarter better than ours with the lines below.
# What do they count that they should not?
# Which check of A3.3 finds it?


# %%
class BoastfulVAE(LogisticVAE):
    def log_likelihood(self, x, parameters):
        level = ops.round(255 * x[..., 0])
        middle = 255 * ops.sigmoid(parameters[..., 0])
        log_width = ops.clip(3 + parameters[..., 1], -12.0, 6.0)
        nats = ops.sum(log_prob_of_levels(level, middle, log_width), axis=(1, 2))
        return nats / (1024 / 784)


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# The frame of 240 black pixels is counted as if it were part of the image: once
# trained, it costs nothing, as it is always black, and the sum is then divided as if it
# cost as much as the rest. The check by hand over the file's own 28 × 28 bytes finds it
# at once. (The laxer bound on the width does no harm by itself.)
boastful = BoastfulVAE(build_variational_encoder(2), build_logistic_decoder(2))
claimed = float(boastful.log_likelihood(x_test[:1], of_one)[0])
print(f"by the lines above {claimed:.1f} nats, by hand {by_hand:.1f}")
assert abs(claimed - by_hand) > 1

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Section 3.2. In Korean: 만들면서 배우는 생성 AI 2판.
# - Y. Burda, R. Grosse, R. Salakhutdinov. [Importance Weighted Autoencoders](https://arxiv.org/abs/1509.00519). ICLR, 2016. Equation 8: the bound; theorem 1: it grows with $k$.
# - T. Salimans, A. Karpathy, X. Chen, D. P. Kingma. [PixelCNN++](https://arxiv.org/abs/1701.05517). ICLR, 2017. Equation 2: the discretised logistic distribution.
# - G. Loaiza-Ganem, J. P. Cunningham. [The continuous Bernoulli: fixing a pervasive error in variational autoencoders](https://arxiv.org/abs/1907.06845). NeurIPS, 2019. The constant that is 1 over (A3.1).
# - L. Theis, A. van den Oord, M. Bethge. [A note on the evaluation of generative models](https://arxiv.org/abs/1511.01844). ICLR, 2016.
# - E. Nalisnick, A. Matsukawa, Y. W. Teh, D. Gorur, B. Lakshminarayanan. [Do Deep Generative Models Know What They Don't Know?](https://arxiv.org/abs/1810.09136) ICLR, 2019.
