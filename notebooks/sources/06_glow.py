# %% [markdown]
# # Chapter 6 · Glow
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/06_glow.ipynb)
#
# **How many bits does a picture cost?**
# A density of images says how well they could be compressed, and it can draw new ones.
# Chapters 4 and 5 mostly had two coordinates; a small image has 784.
# This chapter takes couplings to images, from the plainest to Glow, and then goes back over NICE and RealNVP to see what each step was worth.
# At the end stands a model that scores images, draws them and returns them exactly, and one result that warns against what a likelihood seems to promise.

# %% [markdown]
# **You will learn**
# - why images need noise before they have a density, and what the noise costs;
# - what squeezing, masks, ActNorm, invertible 1×1 convolutions and several scales are for, and what each is worth;
# - to build Glow from layers of a few lines, and to check each;
# - what happens to one boot on its way to noise, and what its latent numbers control;
# - why a model of clothes finds digits likelier than clothes.
#
# **In the book**: chapter 6 (노멀라이징 플로) names Glow (GLOW) at its end and stops there.
#
# **Needs**: [chapter 4](04_realnvp.ipynb) and Fashion-MNIST (31 MB, downloaded once); section 6.13 also MNIST (11 MB), or scikit-learn's digits in its place.
# About 5 minutes on two CPU cores (Intel Xeon with AVX-512), longer on older ones.

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
# The hyper-parameters.
# Where two values stand, the second is for `COURSE_PROFILE=quick`, a short run for tests; the text quotes the first.
# A third one is for a GPU.

# %%
import time

STARTED = time.perf_counter()
SCALES = 2
STEPS = course.choose(full=8, quick=2, gpu=16)  # steps of flow in each scale
WIDTH = course.choose(full=32, quick=16, gpu=96)  # channels in a coupling's network
EPOCHS = course.choose(full=2, quick=1, gpu=40)
IMAGES = course.choose(full=60_000, quick=1_792)  # to train on
BATCH = 64
PEAK_RATE = 2e-3
PLAIN_IMAGES = course.choose(full=20_000, quick=1_792)  # section 6.5
TEST_IMAGES = course.choose(full=10_000, quick=300)
DRAWS = course.choose(full=64, quick=4)  # of the noise, section 6.9
TEMPERATURE = 0.8
seed = course.seed(42)

# %% [markdown]
# ## 6.1 Sixty-four clothes that nobody sewed
#
# This is where the chapter leads.
# A Glow with a million weights was trained for seven and a half minutes on a GPU; its weights come with the course.
# It turns 784 standard normal numbers, multiplied by 0.8 (a *temperature*, section 6.12), into a picture of the kind that is asked for.
# The code of its parts follows, cell by cell; this cell takes it from there.
# In all pictures black pixels, level 0, are shown white.

# %%
import numpy as np

from utils import course, plots, weights
from utils.chapters import definitions

course.require("keras")
build_glow, draw_latents, decode, shares = definitions(
    "06_glow", "build_glow", "draw_latents", "decode", "shares"
)
shipped = build_glow((28, 28, 1), scales=2, steps=16, width=96, classes=10)
weights.load(shipped, "06_glow")
noise = draw_latents(shipped, 64, np.random.default_rng(seed))
noise = [TEMPERATURE * z for z in noise]
new = decode(shipped, noise, shares(np.arange(64) % 10, 10))

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
import matplotlib.pyplot as plt

from utils import datasets

figure, axes = plt.subplots(7, 10, figsize=(plots.WIDTH * 0.8, 5.4))
for axis, image in zip(axes.flat, np.clip(new[..., 0] + 0.5, 0, 1)):
    plots.draw_image(axis, image)
for axis in axes.flat[64:]:
    axis.axis("off")
for axis, name in zip(axes[0], datasets.FASHION_CLASSES):
    axis.set_title(name.replace(" ", "\n"), fontsize=8)
figure.subplots_adjust(wspace=0.06, hspace=0.06)
plots.show(
    figure,
    alt="Sixty-four new clothes, a column for each kind: T-shirts, trousers, "
    "pullovers, dresses, coats, sandals, shirts, sneakers, bags and boots",
)

# %% [markdown]
# Trousers, sneakers, boots, most tops and most bags are what they should be; some dresses and bags are torn, and sandals are mostly fragments.
# Which top is a shirt and which a coat is hard to say, as it is in the data.
# Such clothes are no nearer to training images than test images are (section 6.9), and they are no blurred averages, as a VAE's are: a flow draws every pixel.

# %% [markdown]
# ## 6.2 Grey levels have no density
#
# A pixel is a whole number from 0 to 255.
# A density lives on the continuum, and there it can cheat: it puts ever narrower peaks on the whole numbers, and the likelihood of the data grows without bound, though nothing was learned about them.
# Here is one pixel with 256 levels, and a mixture of 256 peaks (the width is a Gaussian's standard deviation):

# %% tags=["nbval-check-output"]
from scipy.stats import norm

levels = np.arange(256)
for width in (1.0, 0.1, 0.01):
    density = norm.pdf(levels[:, None], levels, width).mean(axis=1)
    bits = -np.log2(density).mean()
    print(f"peaks of width {width}: {bits:6.2f} bits a pixel")
assert bits < 4, "far below 8, with nothing learned"

# %% [markdown]
# The best code spends $-\log_2 P$ bits on a message of probability $P$: eight bits on each of 256 equally likely levels, and no honest code is shorter.
# The cure is to add noise that fills the gap to the next level.
# With $u$ uniform on $[0, 1)$ for each pixel, a density $p$ of $x + u$ defines a probability of the whole numbers,
#
# $$P(x) = \int p(x + u)\, du, \qquad \log P(x) \ge \mathbb{E}_u\left[\log p(x + u)\right].$$
#
# The inequality is Jensen's: the logarithm is concave, so the logarithm of a mean is at least the mean of the logarithms.
# So the mean log-density of noisy images is a lower bound on the log-probability of the true ones (Theis et al., 2016): it cannot cheat.
# The difference of the two sides is what this **dequantisation** costs.
# It is zero if $p$ is flat within each level.
#
# We also bring the levels to $[-\tfrac12, \tfrac12]$: the model sees $y = (x + u)/256 - \tfrac12$.
# Its density $q(y)$ is $256^D\, p(x + u)$ for $D$ pixels, since space is squeezed by 256 in each direction.
# With natural logarithms and $\log_2 256 = 8$ this gives the
#
# $$\text{bits per dimension} = -\frac{\log_2 p(x + u)}{D} = 8 - \frac{\log q(y)}{D \log 2}.$$

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops

from utils import checks
from utils.course import CourseError


def dequantise(x, seed):
    """Levels 0 … 255 (batch, h, w, c) with uniform noise, brought to [-0.5, 0.5]."""
    x = ops.cast(x, "float32")
    return (x + keras.random.uniform(ops.shape(x), seed=seed)) / 256 - 0.5


def quantise(y):
    """Back to levels 0 … 255."""
    return ops.clip(ops.floor((y + 0.5) * 256), 0, 255)


# %% [markdown]
# The way back is exact, but for a few pixels in a million whose noise float32 rounds up to 1.
# And a density that knows nothing, the uniform one on the cube, has $\log q = 0$ and costs 8 bits.

# %%
from utils import results, training

data = datasets.fashion_mnist()
print(data)
x_train, y_train = data.x_train[:IMAGES, ..., None], data.y_train[:IMAGES]
x_test, y_test = data.x_test[:TEST_IMAGES, ..., None], data.y_test[:TEST_IMAGES]
rng = np.random.default_rng(seed)
back = ops.convert_to_numpy(quantise(dequantise(x_test[:100], seed)))
assert (back != x_test[:100]).mean() < 1e-4

# %% [markdown]
# Two numbers to compare with, both from the training images alone: one histogram of grey levels for all pixels, and a histogram for each pixel by itself.
# The second knows where clothes usually are.
# Both are counted as in [appendix A3](A3_likelihood.ipynb), whose function we take.

# %%
histogram_bits = definitions("A3_likelihood", "histogram_bits")
pooled_bits = histogram_bits(x_train, x_test, same_for_all=True)
pixel_bits = histogram_bits(x_train, x_test, same_for_all=False)
print(f"one histogram {pooled_bits:.2f}, one for each pixel {pixel_bits:.2f} bits")
assert pixel_bits < pooled_bits < 8

# %% [markdown]
# ## 6.3 Which half is kept?
#
# A coupling keeps one half of an image and moves the other by what it sees in the first.
# RealNVP (Dinh et al., 2017) cuts images in half in two ways.
# A **checkerboard** keeps every other pixel: each moved pixel has kept neighbours on all sides.
# A **squeeze** makes each block of 2 × 2 pixels one pixel of four channels, and then half of the *channels* can be kept.
# Nothing is lost or computed; numbers move to other places.
# As in chapter 4, `inverse` goes from images to latent numbers, x → z, and `forward` from latent numbers to images, z → x.


# %% tags=["definitions"]
def squeezed(shape):
    """The shape (h, w, c) of an image once blocks of 2 × 2 pixels are channels."""
    h, w, c = shape
    if h % 2 or w % 2:
        raise CourseError(
            f"{h} × {w} pixels cannot be cut into blocks of 2 × 2: "
            "give images with even sides, or fewer scales."
        )
    return h // 2, w // 2, 4 * c


class Squeeze(layers.Layer):
    """Blocks of 2 × 2 pixels become channels: (b, h, w, c) to (b, h/2, w/2, 4c)."""

    def inverse(self, x):
        """x -> z and log |det dz/dx|, which is 0."""
        c, (h, w, _) = x.shape[-1], squeezed(x.shape[1:])
        x = ops.reshape(x, (-1, h, 2, w, 2, c))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return ops.reshape(x, (-1, h, w, 4 * c)), 0.0

    def forward(self, z):
        """z -> x."""
        _, h, w, c = z.shape
        z = ops.reshape(z, (-1, h, w, 2, 2, c // 4))
        z = ops.transpose(z, (0, 1, 3, 2, 4, 5))
        return ops.reshape(z, (-1, 2 * h, 2 * w, c // 4))


# %% [markdown]
# The two ways to keep one half, as masks:


# %% tags=["definitions"]
def checkerboard(shape, odd):
    """A mask (h, w, c) of ones and zeros in turn, for pixels that are kept or moved."""
    h, w, c = shape
    rows, columns = np.indices((h, w))
    board = (rows + columns + odd) % 2
    return np.repeat(board[..., None], c, axis=-1).astype("float32")


def half_of_channels(shape, odd):
    """A mask (h, w, c) that keeps the first half of the channels, or, if odd, the
    second.
    """
    first = np.arange(shape[-1]) < shape[-1] // 2
    return np.broadcast_to(first != odd, shape).astype("float32")


# %% [markdown]
# A picture of 4 × 4 pixels, its two checkerboards, and what a squeeze does to it:

# %%
tiny = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
channels = ops.convert_to_numpy(Squeeze().inverse(tiny)[0])
assert np.array_equal(ops.convert_to_numpy(Squeeze().forward(channels)), tiny)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
size, ratios = (plots.WIDTH, 1.9), [2, 2, 2, 1, 1, 1, 1]
figure, axes = plt.subplots(1, 7, figsize=size, width_ratios=ratios)
boards = [checkerboard((4, 4, 1), odd)[..., 0] for odd in (0, 1)]
pictures = [tiny[0, ..., 0], *boards, *np.moveaxis(channels[0], -1, 0)]
titles = ["image", "mask (white: kept)", "other mask"]
titles += [f"channel {k}" for k in range(1, 5)]
for axis, picture, title in zip(axes, pictures, titles):
    mask = "mask" in title
    settings = ("Greys_r", 1) if mask else ("cividis", 15)
    axis.imshow(picture, cmap=settings[0], vmin=0, vmax=settings[1])
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=9)
    for (row, column), value in np.ndenumerate(picture):
        shade = "white" if value < 9 else "black"
        text = "" if mask else int(value)
        axis.text(column, row, text, ha="center", va="center", color=shade, fontsize=8)
plots.show(
    figure,
    alt="A 4 by 4 image, two checkerboards, and the four channels of 2 by 2 that a "
    "squeeze makes of it",
)

# %% [markdown]
# Read the first pixel of the four channels: 0, 1, 4 and 5, the block of 2 × 2 at the top left of the image.
# Where one checkerboard keeps a pixel, the other moves it; two couplings in turn move all of them.

# %% [markdown]
# ## 6.4 A coupling for images
#
# The network of a coupling is now made of convolutions: 3 × 3 to look at the neighbours, 1 × 1 to mix channels, 3 × 3 again.
# The last one starts at zero, so that each coupling starts as the identity (Kingma and Dhariwal, 2018, section 3.3).
# Everything else is as in chapter 4: what is kept passes, the rest becomes $z = x\, e^{s} + t$, and the log-determinant is the sum of the log-scales $s$.
# An additive coupling, NICE's, has $s = 0$.
# The log-scale is bounded smoothly, by 2.
# (The rule of [section 4.11](04_realnvp.ipynb) would be 1; the weights that ship were trained with 2, and section 6.9 shows what can grow from step to step then.)
#
# Some things are ours and not the papers', such as the bound.
# Clothes are photographed in the middle of the picture, and a convolution does not know where it is; so each place gets a bias of its own, after the first convolution and after the last.
# The network's input is cut at ±6: what that is for is told in section 6.9.


# %% tags=["definitions"]
class PlaceBias(layers.Layer):
    """Adds a number of its own at each place and channel."""

    def build(self, shape):
        self.bias = self.add_weight(shape=shape[1:], initializer="zeros", name="bias")

    def call(self, x):
        return x + self.bias


def conv_network(shape, outputs, width):
    """(batch, h, w, c) to (batch, h, w, outputs), zero at the start."""
    x = keras.Input(shape)
    h = layers.Conv2D(width, 3, padding="same")(ops.clip(x, -6, 6))
    h = ops.relu(PlaceBias()(h))
    h = layers.Conv2D(width, 1, activation="relu")(h)
    h = layers.Conv2D(outputs, 3, padding="same", kernel_initializer="zeros")(h)
    return keras.Model(x, PlaceBias()(h))


# %% [markdown]
# The coupling itself:


# %% tags=["definitions"]
class MaskedCoupling(layers.Layer):
    """Keeps what `mask` (h, w, c) has 1 for and moves the rest; additive, as NICE's, if
    `bound` is 0.
    """

    def __init__(self, mask, width, bound=2.0):
        super().__init__()
        self.mask, self.bound = mask, bound
        channels = mask.shape[-1]
        self.network = conv_network(mask.shape, (2 if bound else 1) * channels, width)
        self.built = True

    def log_scale_and_shift(self, kept):
        t, *u = ops.split(self.network(kept), 2 if self.bound else 1, axis=-1)
        s = self.bound * ops.tanh(u[0] / self.bound) if u else ops.zeros_like(t)
        return s * (1 - self.mask), t * (1 - self.mask)

    def inverse(self, x):
        s, t = self.log_scale_and_shift(x * self.mask)
        return x * ops.exp(s) + t, ops.sum(s, axis=(1, 2, 3))

    def forward(self, z):
        s, t = self.log_scale_and_shift(z * self.mask)
        return (z - t) * ops.exp(-s)


# %% [markdown]
# Every layer of this chapter gets the same two questions, with random weights: is `forward` the inverse of `inverse`, and is the log-determinant that of the matrix that automatic differentiation finds?


# %% tags=["definitions"]
def shaken(layer, rng, scale=0.2):
    """Adds random numbers to a layer's weights: an identity would pass every check."""
    for weight in layer.trainable_variables:
        weight.assign(weight + scale * rng.normal(size=weight.shape).astype("float32"))
    return layer


# %%
def check(layer, shape):
    """Both errors of a layer at five random images of this shape."""
    x = rng.normal(size=(5, *shape)).astype("float32")

    def to_latent(x):
        return layer.inverse(x)[0]

    def log_det(x):
        return layer.inverse(x)[1] + ops.zeros(len(x))

    there = checks.inverse_error(to_latent, layer.forward, x, 1e-4)
    return there, checks.log_det_error(to_latent, log_det, x, 1e-3)


board, halves = checkerboard((4, 4, 4), 0), half_of_channels((4, 4, 4), 1)
affine, additive = MaskedCoupling(board, 8), MaskedCoupling(halves, 8, bound=0)
for layer in (Squeeze(), affine, additive):
    errors = check(shaken(layer, rng), (4, 4, 4))
    print(f"{type(layer).__name__}: {errors[0]:.0e}, {errors[1]:.0e}")

# %% [markdown]
# ## 6.5 The plainest flow of images
#
# What is left when all layers are through should be standard normal.
# A border pixel is always black; its deviation is a thousandth, that of the noise.
# So, like NICE, we end the way to $z$ with a mean and a deviation for each number, which some images set before training starts (a rate of 0.002 would take thousands of steps to get there).


# %% tags=["definitions"]
class Scale(layers.Layer):
    """A mean and a deviation for each number of an image, set once by data, then
    trained.
    """

    def __init__(self, shape):
        super().__init__()
        self.mean = self.add_weight(shape=shape, initializer="zeros")
        self.log_deviation = self.add_weight(shape=shape, initializer="zeros")
        self.done = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    def initialise(self, x):
        """Sets mean and deviation by x (batch, h, w, c), unless that was done before or
        x is one image, which has no deviation.
        """
        if len(x) > 1 and not ops.convert_to_numpy(self.done):
            mean, variance = ops.moments(x, axes=0)
            self.mean.assign(mean)
            self.log_deviation.assign(0.5 * ops.log(variance + 1e-8))
            self.done.assign(1.0)

    def inverse(self, x):
        z = (x - self.mean) * ops.exp(-self.log_deviation)
        return z, -ops.sum(self.log_deviation)

    def forward(self, z):
        return self.mean + z * ops.exp(self.log_deviation)


# %% [markdown]
# A model is a list of layers.
# `inverse` goes through them from the first to the last and adds up the log-determinants; `forward` goes back.
# (Section 6.8 has a layer that lets some of the numbers leave early; they are collected in a list.)


# %% tags=["definitions"]
class Chain(keras.Model):
    """A list of layers that can be undone, for images (h, w, c)."""

    def __init__(self, chain):
        super().__init__()
        self.chain, self.built = chain, True

    def inverse(self, y):
        """Images to a list of latents, those that leave first, first, and log |det|."""
        latents, log_det = [], 0.0
        for layer in self.chain:
            y, *noise, layer_log_det = layer.inverse(y)
            latents, log_det = latents + noise, log_det + layer_log_det
        return [*latents, y], log_det

    def forward(self, latents):
        """A list of latents to images."""
        *latents, y = latents
        for layer in reversed(self.chain):
            noise = [latents.pop()] if hasattr(layer, "leaves") else []
            y = layer.forward(y, *noise)
        return y

    def initialise(self, y):
        """Sets the layers that start from data, one after another, by images y."""
        for layer in self.chain:
            if hasattr(layer, "initialise"):
                layer.initialise(y)
            y = layer.inverse(y)[0]


# %% [markdown]
# The density is that of standard normal numbers, times the determinant, and the loss is in bits per dimension.
# `fit` first hands some images to the layers that start from data.
# It refuses images of another size or range: values from 0 to 1, taken for grey levels, would give a loss below one bit, which would mean nothing.


# %% tags=["definitions"]
def log_normal(z):
    """log N(z; 0, 1) in nats, added up: (batch, h, w, c) to (batch,)."""
    return -0.5 * ops.sum(z**2 + np.log(2 * np.pi), axis=(1, 2, 3))


class ImageFlow(Chain):
    """A density of images `shape` (h, w, c) of 256 levels, as a list of layers."""

    def __init__(self, chain, shape, seed=0):
        super().__init__(chain)
        self.image_shape, self.dim = shape, int(np.prod(shape))
        self.noise = keras.random.SeedGenerator(seed)

    def log_prob(self, y):
        """log q(y) in nats of dequantised images: (batch, h, w, c) to (batch,)."""
        latents, log_det = self.inverse(y)
        return log_det + sum(log_normal(z) for z in latents)

    def call(self, x):
        return self.log_prob(dequantise(x, self.noise))

    def compute_loss(self, x=None, y=None, y_pred=None, *rest, **more):
        return 8 - ops.mean(y_pred) / (self.dim * np.log(2))

    def fit(self, x, **settings):
        x = checks.levels(x, self.image_shape)
        self.initialise(dequantise(x[:256], 0))
        return super().fit(x, **settings)


# %% [markdown]
# Four couplings on channels make a RealNVP, without all that comes in the next sections.
# It gets small images, each 2 × 2 pixels averaged into one, and is trained by Keras' `compile` and `fit`:


# %% tags=["definitions"]
def halved(x):
    """Levels (count, 28, 28, 1) to (count, 14, 14, 1)."""
    return x.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4)).round().astype("uint8")


# %%
small_train, small_test = halved(x_train[:PLAIN_IMAGES]), halved(x_test)
couplings = [MaskedCoupling(half_of_channels((7, 7, 4), k % 2), 32) for k in range(4)]
plain = ImageFlow([Squeeze(), *couplings, Scale((7, 7, 4))], (14, 14, 1))
plain.compile(keras.optimizers.Adam(1e-3, global_clipnorm=5.0))
watch = [training.Progress("four couplings"), training.StopOnBadLoss()]
_ = plain.fit(small_train, batch_size=BATCH, epochs=2, verbose=0, callbacks=watch)

# %% [markdown]
# One more thing before we ask what it costs a test image.
# A flow that has never seen such an image may give it an absurdly small density, and one image out of ten thousand would ruin the mean.
# A code protects itself by an escape: with a probability of one in ten thousand an image may be *anything*, uniform on the cube.
# As a density that is $(1 - 10^{-4})\, q(y) + 10^{-4} \cdot 1$; it costs next to nothing, and no image of 28 × 28 pixels can cost more than 8.02 bits per dimension.
# All test figures of flows in this chapter have it; training has not.


# %% tags=["definitions"]
def or_anything(log_q, chance=1e-4):
    """log of (1 − chance) q + chance · 1, where 1 is the density of the whole cube."""
    return np.logaddexp(np.log1p(-chance) + log_q, np.log(chance))


def bits_of(log_prob, x, seed=0):
    """Bits per dimension of each image of levels x (count, h, w, c), by a density of
    dequantised images, with one draw of the noise.
    """
    pieces = (dequantise(x[i : i + 500], seed + i) for i in range(0, len(x), 500))
    nats = np.concatenate([ops.convert_to_numpy(log_prob(y)) for y in pieces])
    return 8 - or_anything(nats.astype("float64")) / (np.log(2) * x[0].size)


# %%
of_plain = training.compiled(plain.log_prob, plain, kind="convolutions")
plain_bits = bits_of(of_plain, small_test, seed)
small_pixels = histogram_bits(halved(x_train), small_test, same_for_all=False)
print(f"four couplings {plain_bits.mean():.2f} bits per dimension")
print(f"a histogram for each pixel {small_pixels:.2f}")
assert plain_bits.mean() < 8

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
drawn = draw_latents(plain, 12, np.random.default_rng(seed))
drawn = ops.convert_to_numpy(plain.forward([TEMPERATURE * z for z in drawn]))
plots.image_rows(
    {
        "drawn": np.clip(drawn[..., 0] + 0.5, 0, 1),
        "test images": small_test[:12, ..., 0] / 255,
    },
    alt="Twelve small images drawn by four couplings, without form, and test images",
)

# %% [markdown]
# It runs, and it has a likelihood, but it needs more bits than a histogram for each pixel, which knows nothing of neighbours.
# What it draws are dark spots in the place of clothes.
# The next three sections have what Glow adds; section 6.11 measures what each part is worth.

# %% [markdown]
# ## 6.6 ActNorm
#
# Deep networks train well when their numbers stay near mean 0 and deviation 1.
# Batch normalisation sees to that with statistics of the batch; section 5.8 of [chapter 5](05_tfp_flows.ipynb) showed how that sits ill with a flow.
# And images are large, so batches are small, in the paper one image per device.
# **ActNorm** looks at the data once.
# It has a shift and a scale for each channel, which are set so that the first batch comes out with mean 0 and deviation 1.
# From then on they are weights like any others:
#
# $$z = (x + b)\, e^{a}, \qquad \log\left|\det \frac{\partial z}{\partial x}\right| = h\, w \sum_c a_c,$$
#
# with the shift $b$ and the log-scale $a$ of each channel $c$, and $h \times w$ pixels.
# ActNorm does not normalise every batch by its own statistics: the second batch is treated with the numbers of the first, and with what training has made of them.


# %% tags=["definitions"]
class ActNorm(layers.Layer):
    """A shift and a scale for each channel, set once by data, then trained."""

    def __init__(self, channels):
        super().__init__()
        self.shift = self.add_weight(shape=(channels,), initializer="zeros")
        self.log_scale = self.add_weight(shape=(channels,), initializer="zeros")
        self.done = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    def initialise(self, x):
        """Sets shift and scale by x (batch, h, w, c), unless that was done before."""
        if not ops.convert_to_numpy(self.done):
            mean, variance = ops.moments(x, axes=(0, 1, 2))
            self.shift.assign(-mean)
            self.log_scale.assign(-0.5 * ops.log(variance + 1e-6))
            self.done.assign(1.0)

    def inverse(self, x):
        h, w = x.shape[1:3]
        return (x + self.shift) * ops.exp(self.log_scale), h * w * ops.sum(
            self.log_scale
        )

    def forward(self, z):
        return z * ops.exp(-self.log_scale) - self.shift


# %% [markdown]
# That it was done is a weight too, so it is saved and loaded with the others.
# One image is enough, and a second call changes nothing:

# %%
image, brighter = (
    Squeeze().inverse(dequantise(x_test[k : k + 1], seed))[0] for k in (0, 1)
)
act_norm = ActNorm(4)
for given in (image, brighter):
    act_norm.initialise(given)
    z = ops.convert_to_numpy(act_norm.inverse(given)[0])
    mean, deviation = z.mean(axis=(0, 1, 2)), z.std(axis=(0, 1, 2))
    print("mean", mean.round(2), "deviation", deviation.round(2))
    if given is image:
        assert np.allclose(mean, 0, atol=1e-4) and np.allclose(deviation, 1, atol=1e-3)
assert abs(mean).max() > 0.05, "the second image has other statistics"
print("errors", check(shaken(act_norm, rng), (2, 2, 4)))

# %% [markdown]
# The first image comes out with means of 0 and deviations of 1.
# The second comes out with others, because it is measured by the first one's numbers.

# %% [markdown]
# ## 6.7 Invertible 1×1 convolutions
#
# Which channels are kept?
# RealNVP swaps the halves after each coupling.
# That is one permutation of many, and Glow learns a better mix: a 1×1 convolution multiplies the channels of every pixel with a matrix $W$, $c \times c$.
# A permutation is such a matrix; $W$ starts as a random rotation, or a rotation with a reflection.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("one_by_one")

# %% [markdown]
# Written as one matrix for all numbers of the image, it has $W$ once for each pixel on its diagonal, and zeros elsewhere, since no pixel looks at another.
# The determinant of such a matrix is the product of its blocks' determinants.
# So the log-determinant is $h\, w \log|\det W|$, and all one needs is the determinant of a $c \times c$ matrix.


# %% tags=["definitions"]
def random_rotation(channels, rng):
    """A random rotation, or one with a reflection, (channels, channels)."""
    q, r = np.linalg.qr(rng.normal(size=(channels, channels)))
    return (q * np.sign(np.diag(r))).astype("float32")


class Convolution1x1(layers.Layer):
    """Multiplies the channels of each pixel with a matrix W."""

    def __init__(self, channels, rng):
        super().__init__()
        start = keras.initializers.Constant(random_rotation(channels, rng))
        self.w = self.add_weight(shape=(channels, channels), initializer=start)
        self.built = True

    def matrix(self):
        return self.w

    def log_det(self):
        """log |det W|."""
        return ops.slogdet(self.w)[1]

    def inverse(self, x):
        h, w = x.shape[1:3]
        return ops.matmul(x, self.matrix()), h * w * self.log_det()

    def forward(self, z):
        return ops.matmul(z, ops.inv(self.matrix()))


# %% [markdown]
# A determinant takes about $c^3$ operations.
# To save them, Glow keeps the factors of $W$ in place of $W$:
#
# $$W = P\, L\, \left(U + \operatorname{diag}(d)\right),$$
#
# with a permutation $P$ that stays as it is, $L$ with ones on its diagonal and numbers below it, and $U$ with numbers above it.
# Then $\log|\det W| = \sum_i \log|d_i|$, which takes $c$ operations.
# We keep $\log|d|$, so that no $d_i$ can come to 0.
# The signs of $d$ stay as they are; like $P$ they are saved with the weights and not trained.

# %% tags=["definitions"]
from scipy.linalg import lu


class LUConvolution(Convolution1x1):
    """The same with W = P L (U + diag(d)), which makes the determinant a product."""

    def __init__(self, channels, rng):
        layers.Layer.__init__(self)
        permutation, lower, upper = lu(random_rotation(channels, rng))
        d, self.below = np.diag(upper), np.tril(np.ones_like(lower), -1)
        self.lower = self.keep(lower * self.below)
        self.upper = self.keep(upper * self.below.T)
        self.log_d = self.keep(np.log(np.abs(d)))
        self.sign = self.keep(np.sign(d), trainable=False)
        self.p = self.keep(permutation, trainable=False)
        self.built = True

    def keep(self, start, trainable=True):
        constant = keras.initializers.Constant(start)
        shape = start.shape
        return self.add_weight(shape=shape, initializer=constant, trainable=trainable)

    def matrix(self):
        lower = self.lower * self.below + ops.eye(len(self.below))
        upper = self.upper * self.below.T + ops.diag(self.sign * ops.exp(self.log_d))
        return ops.matmul(self.p, ops.matmul(lower, upper))

    def log_det(self):
        return ops.sum(self.log_d)


# %% [markdown]
# Both start as a rotation, with a log-determinant of 0.
# Shaken, both pass the checks, and agree with NumPy's determinant.

# %%
for kind in (Convolution1x1, LUConvolution):
    fresh = kind(8, np.random.default_rng(1))
    assert abs(float(fresh.log_det())) < 1e-5, "a rotation keeps volume"
    errors = check(shaken(fresh, rng, 0.1), (2, 2, 8))
    w = ops.convert_to_numpy(fresh.matrix()).astype("float64")
    assert np.isclose(float(fresh.log_det()), np.linalg.slogdet(w)[1], atol=1e-4)
    print(f"{kind.__name__}: {errors[0]:.0e}, {errors[1]:.0e}")

# %% [markdown]
# What does it save?
# The time of the log-determinant alone, for more and more channels:

# %%
CHANNELS = (4, 16, 64, 256, 512)


def log_det_ms(kind, channels):
    """Milliseconds of log |det W|."""
    layer = kind(channels, rng)
    run = training.compiled(layer.log_det, layer, kind="convolutions")
    return results.milliseconds(run, 50)


kinds = {"det W": Convolution1x1, "sum of log|d|": LUConvolution}
times = {name: [log_det_ms(kind, c) for c in CHANNELS] for name, kind in kinds.items()}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
for (name, ms), marker, colour in zip(times.items(), "os", plots.COLOURS):
    axis.loglog(CHANNELS, ms, marker=marker, color=colour, label=name)
axis.set(xlabel="channels", ylabel="milliseconds")
axis.set_xticks(CHANNELS, CHANNELS)
least, most = np.min(list(times.values())), np.max(list(times.values()))
ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if least < t < most]
axis.set_yticks(ticks, ticks)
axis.minorticks_off()
axis.legend(frameon=False)
plots.show(
    figure,
    alt="The time of a determinant grows steeply with the channels, that of a sum does "
    "not",
)

# %% [markdown]
# Below a hundred channels or so both times are that of starting a computation.
# With the 4 and 8 channels of this chapter there is nothing to be gained, and the paper did not measure a large difference either.
# The idea is worth knowing all the same: here, too, a triangular matrix makes the determinant cheap.

# %% [markdown]
# ## 6.8 Steps, scales, Glow
#
# An ActNorm, a 1×1 convolution and a coupling make a **step of flow**.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("glow_step")

# %% [markdown]
# After a squeeze the kept channels need not be masked.
# They can be cut off, so that the network computes no zeros:


# %% tags=["definitions"]
class ChannelCoupling(layers.Layer):
    """Keeps the first half of the channels of images (h, w, c), and moves the rest."""

    def __init__(self, shape, width, bound=2.0):
        super().__init__()
        h, w, c = shape
        self.kept, self.bound = c // 2, bound
        self.network = conv_network((h, w, self.kept), 2 * (c - self.kept), width)
        self.built = True

    def log_scale_and_shift(self, kept):
        t, u = ops.split(self.network(kept), 2, axis=-1)
        return self.bound * ops.tanh(u / self.bound), t

    def inverse(self, x):
        kept, moved = x[..., : self.kept], x[..., self.kept :]
        s, t = self.log_scale_and_shift(kept)
        z = ops.concatenate([kept, moved * ops.exp(s) + t], axis=-1)
        return z, ops.sum(s, axis=(1, 2, 3))

    def forward(self, z):
        kept, moved = z[..., : self.kept], z[..., self.kept :]
        s, t = self.log_scale_and_shift(kept)
        return ops.concatenate([kept, (moved - t) * ops.exp(-s)], axis=-1)


# %% [markdown]
# Must every number of an image go through all steps?
# RealNVP lets half of the channels go after each scale: what leaves early is done with, and what stays is squeezed again and sees a larger part of the image for half of the work.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("glow_stack")

# %% [markdown]
# Whatever leaves needs a density.
# A standard normal one would do.
# Glow does better: what stays is kept, so it may *predict* what leaves, as a mean $\mu$ and a standard deviation $e^{\ell}$ for each number $z$.
# Then
#
# $$\varepsilon = (z - \mu)\, e^{-\ell}, \qquad \log p(z \mid \text{what stays}) = \log \mathcal N(\varepsilon; 0, 1) - \ell.$$
#
# The map from $z$ to $\varepsilon$ is one more affine coupling, whose network sees what stays; $\varepsilon$ goes through no further layer.
# So we can write it as one, and all latent numbers of the model are standard normal.
# Its $\ell$ is bounded by 3, not by 2: a deviation can be as small as $e^{-3} = 0.05$, so that what stays may tell nearly all about what leaves.
# The density of $z$ given what stays is called a learned *prior*.
# (The paper has splits without a word on their priors; the authors' code has this one.)


# %% tags=["definitions"]
class Split(layers.Layer):
    """Lets the second half of the channels go, as noise: less the mean and divided by
    the deviation that the first half predicts.
    """

    leaves = True

    def __init__(self, shape, width, bound=3.0):
        super().__init__()
        h, w, c = shape
        self.kept, self.bound = c // 2, bound
        self.network = conv_network((h, w, self.kept), 2 * (c - self.kept), width)
        self.built = True

    def mean_and_log_deviation(self, kept):
        mean, u = ops.split(self.network(kept), 2, axis=-1)
        return mean, self.bound * ops.tanh(u / self.bound)

    def inverse(self, x):
        """x -> what is kept, the noise that goes, and the log-determinant."""
        kept, z = x[..., : self.kept], x[..., self.kept :]
        mean, log_deviation = self.mean_and_log_deviation(kept)
        noise = (z - mean) * ops.exp(-log_deviation)
        return kept, noise, -ops.sum(log_deviation, axis=(1, 2, 3))

    def forward(self, kept, noise):
        mean, log_deviation = self.mean_and_log_deviation(kept)
        return ops.concatenate([kept, mean + noise * ops.exp(log_deviation)], axis=-1)


# %% [markdown]
# ### A prior for each class
#
# At the end of the flow each number has a mean and a deviation.
# Glow's authors give them to each *class* of images when labels are there.
# The map is the same for all; the coarsest latents of a boot have another mean than those of a shirt.
# With $C$ classes, equally frequent, the density of an image is the mean of the classes' densities,
#
# $$q(y) = \frac1C \sum_{k=1}^{C} q(y \mid k).$$
#
# Bits are counted by $q(y)$, which needs no label.
# Training has labels, and minimises $-\log q(y \mid k)$ for the class $k$ of each image.


# %% tags=["definitions"]
class ClassScale(layers.Layer):
    """A mean and a deviation for each number of an image and each class."""

    def __init__(self, shape, classes):
        super().__init__()
        each = {"shape": (classes, *shape), "initializer": "zeros"}
        self.mean, self.log_deviation = self.add_weight(**each), self.add_weight(**each)
        self.done = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    def log_prob(self, x):
        """log N(x; mean, deviation) for each class: (b, h, w, c) to (b, classes)."""
        noise = (x[:, None] - self.mean) * ops.exp(-self.log_deviation)
        log_p = -0.5 * noise**2 - self.log_deviation - 0.5 * np.log(2 * np.pi)
        return ops.sum(log_p, axis=(2, 3, 4))

    def forward(self, noise, share):
        """Noise (b, h, w, c) to the classes' mean and deviation, mixed by `share`,
        (b, classes).
        """
        mean = ops.tensordot(share, self.mean, 1)
        return mean + noise * ops.exp(ops.tensordot(share, self.log_deviation, 1))

    def inverse(self, x, share):
        mean = ops.tensordot(share, self.mean, 1)
        return (x - mean) * ops.exp(-ops.tensordot(share, self.log_deviation, 1))


# %% [markdown]
# Means and deviations of the classes are set by some images before training starts:


# %% tags=["definitions"]
def set_by_classes(prior, x, labels):
    """Sets a ClassScale by images x (b, h, w, c) and their classes, unless that was
    done before or x is one image; a class with fewer than two is set by all.
    """
    if len(x) > 1 and not ops.convert_to_numpy(prior.done):
        x = ops.convert_to_numpy(x)
        of = [x[labels == k] for k in range(prior.mean.shape[0])]
        of = [part if len(part) > 1 else x for part in of]
        deviations = np.stack([part.std(axis=0) for part in of])
        prior.mean.assign(np.stack([part.mean(axis=0) for part in of]))
        prior.log_deviation.assign(np.log(deviations.clip(1e-3)))
        prior.done.assign(1.0)


# %% [markdown]
# The model computes $\log q(y, k) = \log q(y \mid k) - \log C$ for all classes at once: one way through the layers, and ten Gaussians at its end.
# In training a row of one 1 picks the class of the label; the density of an image is the sum over all.


# %% tags=["definitions"]
class ClassFlow(ImageFlow):
    """A density of images of equally frequent classes, with a prior of each."""

    def __init__(self, chain, coarse, shape, classes, seed=0):
        super().__init__(chain, shape, seed)
        self.prior, self.classes = ClassScale(coarse, classes), classes

    def joint(self, y):
        """log q(y, class) in nats: (batch, h, w, c) to (batch, classes)."""
        (*latents, coarse), log_det = self.inverse(y)
        log_prob = log_det + sum(log_normal(z) for z in latents)
        return log_prob[:, None] + self.prior.log_prob(coarse) - np.log(self.classes)

    def log_prob(self, y):
        return ops.logsumexp(self.joint(y), axis=1)

    def call(self, x):
        return self.joint(dequantise(x, self.noise))

    def compute_loss(self, x=None, y=None, y_pred=None, *rest, **more):
        of_class = y_pred * ops.one_hot(y, self.classes)
        return super().compute_loss(y_pred=ops.sum(of_class, 1) + np.log(self.classes))

    def fit(self, x, labels, **settings):
        x = checks.levels(x, self.image_shape)
        labels = checks.labels(labels, len(x), self.classes)
        some = dequantise(x[:2_000], 0)
        self.initialise(some[:256])
        set_by_classes(self.prior, self.inverse(some)[0][-1], labels[:2_000])
        return keras.Model.fit(self, x, labels, **settings)


# %% [markdown]
# And Glow is put together:


# %% tags=["definitions"]
def glow_steps(shape, count, width, rng):
    """`count` steps of flow: ActNorm, 1×1 convolution, coupling."""
    steps = []
    for _ in range(count):
        steps += [ActNorm(shape[-1]), LUConvolution(shape[-1], rng)]
        steps += [ChannelCoupling(shape, width)]
    return steps


def build_glow(shape, scales, steps, width, classes=None, seed=0):
    """Glow: each scale a squeeze and some steps of flow, and a split between scales;
    with `classes`, a prior for each at the end.
    """
    rng, chain, image_shape = np.random.default_rng(seed), [], shape
    for scale in range(scales):
        shape = h, w, c = squeezed(shape)
        chain += [Squeeze(), *glow_steps(shape, steps, width, rng)]
        if scale < scales - 1:
            chain.append(Split(shape, width))
            shape = h, w, c // 2
    if classes is None:
        return ImageFlow([*chain, Scale(shape)], image_shape, seed)
    return ClassFlow(chain, shape, image_shape, classes, seed)


# %% [markdown]
# To draw, take noise, give the coarse half the mean and deviation of a class, and go back through the layers.
# `share` has a row for each image and says which class it is of; a row such as (½, ½, 0, …) is half-way between two.


# %% tags=["definitions"]
def draw_latents(flow, count, rng):
    """Standard normal noise for `count` images: a list of (count, h, w, c)."""
    blank = np.zeros((1, *flow.image_shape), "float32")
    shapes = [z.shape[1:] for z in flow.inverse(blank)[0]]
    return [rng.normal(size=(count, *shape)).astype("float32") for shape in shapes]


# %% tags=["definitions"]
def shares(labels, classes):
    """Classes as numbers, (count,), to rows that have a 1 at theirs."""
    return np.eye(classes, dtype="float32")[labels]


def decode(flow, noise, share):
    """Standard normal noise, a list as of `draw_latents`, to images (count, h, w, c) of
    classes mixed by `share` (count, classes); 250 images at a time.
    """
    images = []
    for i in range(0, len(share), 250):
        *latents, coarse = (z[i : i + 250] for z in noise)
        coarse = flow.prior.forward(coarse, share[i : i + 250])
        images.append(ops.convert_to_numpy(flow.forward([*latents, coarse])))
    return np.concatenate(images)


def encode(flow, y, share):
    """Images y of known classes to the noise that `decode` makes them of."""
    *latents, coarse = flow.inverse(y)[0]
    noise = [*latents, flow.prior.inverse(coarse, share)]
    return [ops.convert_to_numpy(z) for z in noise]


# %% [markdown]
# The checks again, for a whole model with random weights.
# All its latents, laid end to end, are as many numbers as the image has.

# %%
trial = build_glow((8, 8, 1), scales=2, steps=2, width=8)
eights = ops.convert_to_numpy(dequantise(x_test[:4, 10:18, 10:18], seed))
trial.initialise(eights)
shaken(trial, rng, 0.1)


def in_a_row(y):
    return ops.concatenate(
        [ops.reshape(z, (len(y), -1)) for z in trial.inverse(y)[0]], 1
    )


assert in_a_row(eights).shape == (4, 64)
log_det_error = checks.log_det_error(
    in_a_row, lambda y: trial.inverse(y)[1], eights, 1e-2
)
there = ops.convert_to_numpy(trial.forward(trial.inverse(eights)[0]))
print(
    f"inverse {np.abs(there - eights).max():.0e}, log-determinant {log_det_error:.0e}"
)
assert np.abs(there - eights).max() < 1e-4

# %% [markdown]
# And for a model with classes: its noise and its density of one class belong together, too.

# %%
classy = shaken(build_glow((8, 8, 1), 2, 2, 8, classes=3), rng, 0.1)
share = shares(np.array([1]), 3)  # one class for all


def noise_of(y):
    *fine, coarse = classy.inverse(y)[0]
    parts = [*fine, classy.prior.inverse(coarse, share)]
    return ops.concatenate([ops.reshape(z, (len(y), -1)) for z in parts], 1)


def log_det_of_class(y):
    log_q = ops.sum(classy.joint(y) * share, axis=1) + np.log(3)  # of q(y | k)
    return log_q + 0.5 * ops.sum(noise_of(y) ** 2 + np.log(2 * np.pi), axis=1)


log_det_error = checks.log_det_error(noise_of, log_det_of_class, eights, 1e-2)
there = decode(classy, encode(classy, eights, share), share)
print(
    f"inverse {np.abs(there - eights).max():.0e}, log-determinant {log_det_error:.0e}"
)
assert np.abs(there - eights).max() < 1e-4

# %% [markdown]
# What cannot work says so in one line:

# %% tags=["nbval-check-output"]
for attempt in (
    lambda: build_glow((28, 28, 1), scales=3, steps=1, width=8),
    lambda: trial.fit(x_test[:64, 10:18, 10:18] / 255),
    lambda: trial.fit(x_test[:64]),
):
    try:
        attempt()
    except CourseError as error:
        print(error)
    else:
        raise AssertionError("nothing was said")

# %% [markdown]
# ## 6.9 Train one yourself
#
# The large model saw 4.7 million images.
# Here is a smaller one, with half as many steps (`STEPS`; $K$ in the drawing) and a third of the width, for two passes over the training set.
# Both are one training each.
# With `LOAD = True` the training is skipped, and what an earlier run left in the output folder is loaded.
#
# Gradients are cut to a length of 5.
# Most are longer, so nearly all gradients reach Adam with the same length, and a strange batch has no more weight than another.

# %%
LOAD = False
folder = course.output(data.slug, "06_glow")
small = build_glow((28, 28, 1), SCALES, STEPS, WIDTH, len(data.class_names), seed)
rate = training.warmup_cosine(PEAK_RATE, EPOCHS * (len(x_train) // BATCH))
compiled = training.jit_compile("convolutions")
small.compile(keras.optimizers.Adam(rate, global_clipnorm=5.0), jit_compile=compiled)
print(f"{small.count_params():,} weights; the large one {shipped.count_params():,}")

# %%
if LOAD:
    curve = training.load(small, folder / "glow")
else:
    notes = training.Curve(BATCH)
    watch = [training.Progress("Glow"), training.StopOnBadLoss(), notes]
    settings = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    small.fit(x_train, y_train, callbacks=watch, **settings)
    curve = {"images": notes.images, "bits": notes.bits}
    training.save(small, folder / "glow", **curve)

# %% [markdown]
# Its curve beside the one of the large model, whose record ships with its weights.
# Both are training losses, in which each image is counted by the density of its own class; without labels it can be no more than $\log_2 10/784 = 0.004$ bits worse.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
sittings = weights.record("06_glow")["sittings"]
per = [
    each["images"] / len(each["losses"]) for each in sittings for _ in each["losses"]
]
losses = [loss for each in sittings for loss in each["losses"]]
long = {"images": np.cumsum(per), "bits": losses}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
for name, line, colour in (("yours", curve, 0), ("the large one", long, 1)):
    axis.plot(line["images"], line["bits"], color=plots.COLOURS[colour], label=name)
axis.axhline(pixel_bits, color="0.4", ls="--", label="a histogram for each pixel")
axis.set(xscale="log", ylim=(3, 8), xlabel="images seen", ylabel="bits per dimension")
axis.legend(frameon=False)
plots.show(
    figure, alt="Training losses of a small and a large Glow fall with images seen"
)

# %% [markdown]
# Yours goes from 7.5 bits to about 4; the large one goes on to 3.17.
# Why does a line have spikes, and the large one's even leave the picture?
# In two of its 85 epochs the mean loss was up to $10^{10}$, because of a few images.
# A network of ReLUs answers a large input with a larger output, and a coupling may multiply by $e^2 \approx 7$; sixteen couplings in a row let a number that is out of the ordinary grow from step to step.
# The loss is back in the next epoch; such a batch's gradient is cut to the length of all others, which may be why.

# %% [markdown]
# What do two passes give, and what 85?
# The same noise through both:

# %%
names = data.class_names
kinds = np.arange(10) % len(names)
share = shares(kinds, len(names))
rows, models = (
    {},
    {"yours": small} | ({"the large one": shipped} if data.complete else {}),
)
for name, model in models.items():
    points = draw_latents(model, 10, np.random.default_rng(7))
    y = decode(model, [TEMPERATURE * z for z in points], share)
    rows[name] = np.clip(y[..., 0] + 0.5, 0, 1)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.image_rows(
    rows,
    alt="Samples of each class by the small Glow, blotched, and by the large one",
    columns=[name.replace(" ", "\n") for name in names],
)

# %% [markdown]
# Two passes of a small model put blotches in the right place; trousers and tops can be told.
# The large one has edges, soles, sleeves and folds, though not every garment is whole.
#
# ### Is it right?
#
# The figure that counts is that of the test images.
# No weight was trained on them.
# The large model was trained on 55,000 of the 60,000 training images; the cut at ±6 was chosen by the other 5,000, the temperature by eye.

# %%
of_small = training.compiled(small.log_prob, small, kind="convolutions")
small_bits = bits_of(of_small, x_test, seed)
flow, log_prob, flow_bits = small, of_small, small_bits
if data.complete:  # the large model knows clothes, and no stand-in
    log_prob = training.compiled(shipped.log_prob, shipped, kind="convolutions")
    flow, flow_bits = shipped, bits_of(log_prob, x_test, seed)
for name, bits in (("yours", small_bits), ("the large one", flow_bits)):
    error = bits.std() / np.sqrt(len(bits))
    print(f"{name}: {bits.mean():.3f} ± {error:.3f}, worst image {bits.max():.2f}")

# %%
assert small_bits.mean() < 8
if course.profile() == "full" and data.complete:
    assert small_bits.mean() < pixel_bits
if data.complete:
    assert abs(flow_bits.mean() - 3.207) < (
        0.02 if course.profile() == "full" else 0.15
    )

# %% [markdown]
# The large model needs 3.207 bits.
# One image out of 10,000 has 8.02 bits: it is caught by the escape of section 6.5.
# Without that it would cost 1,831 bits, and the mean would be 3.39.
# (The escape was brought in after that image had been seen; of the large model's figures no other depends on it.)
#
# That is the growth from step to step once more, and the cut at ±6 is there to stop it: a network is shown nothing that is further out than it knows.
# The large model was trained before the cut stood in the code.
# On the 5,000 images that it had not seen, the mean without the escape was $10^{13}$ bits then, because of two of them; with a cut at 15, 10 and 6 it is 3.213, 3.201 and 3.199.
# A likelihood is a mean of logarithms, and one image can own it: look at the worst before you trust the mean.

# %% [markdown]
# The figure is a bound, by the noise of section 6.2.
# With $k$ draws of it for each image the mean *inside* the logarithm gives a tighter one, as in [appendix A3](A3_likelihood.ipynb): $\log \frac1k \sum_j p(x + u_j)$.

# %%
from scipy.special import logsumexp

some = np.repeat(x_test[:50], DRAWS, axis=0)
nats = (8 - bits_of(log_prob, some, seed).reshape(50, DRAWS)) * 784 * np.log(2)
tighter = 8 - (logsumexp(nats, axis=1) - np.log(DRAWS)).mean() / (784 * np.log(2))
plainly = 8 - nats.mean() / (784 * np.log(2))
print(f"mean of logs {plainly:.3f}, log of the mean of {DRAWS} {tighter:.3f} bits")

# %% [markdown]
# For these fifty images 64 draws save 0.03 bits.
# In 784 dimensions so few draws find only a part of the gap: the noise costs at least this much.
#
# A flow returns exactly what it was given, up to rounding.
# A VAE's reconstruction is blurred.

# %%
noisy = dequantise(x_test[:250], seed)
returned = flow.forward(flow.inverse(noisy)[0])
inverse_error = float(ops.max(ops.abs(returned - noisy)))
wrong = (ops.convert_to_numpy(quantise(returned)) != x_test[:250]).mean()
print(f"largest error {inverse_error:.1e}, a level is {1 / 256:.1e}; wrong {wrong:.3%}")
assert inverse_error < 1 / 256 and wrong < 2e-3

# %% [markdown]
# ### Are the samples clothes?
#
# A classifier that ships, too, is asked of what class each of a thousand samples is, and the kernel distance of [section 3.7](03_vae_faces.ipynb) compares its features of samples and of test images (0 would be no difference).


# %% tags=["definitions"]
def build_judge(classes=10):
    """Two networks on levels (batch, 28, 28, 1): the log odds of each class, and the 64
    features behind them.
    """
    x = keras.Input((28, 28, 1))
    h = layers.Rescaling(1 / 255)(x)
    for filters in (32, 64, 64):
        h = layers.Conv2D(filters, 3, padding="same")(h)
        h = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(h))
        h = layers.MaxPooling2D(padding="same")(h)
    h = layers.Dropout(0.3)(layers.Flatten()(h))
    features = layers.Dense(64, activation="leaky_relu")(h)
    return keras.Model(x, layers.Dense(classes)(features)), keras.Model(x, features)


# %%
kernel_distance = definitions("03_vae_faces", "kernel_distance")
judge, features = build_judge()
weights.load(judge, "06_judge")
count = course.choose(full=1_000, quick=100)
noise = draw_latents(shipped, count, np.random.default_rng(seed))
noise = [TEMPERATURE * z for z in noise]
y = decode(shipped, noise, shares(np.arange(count) % 10, 10))
samples = ops.convert_to_numpy(quantise(y))
said = judge.predict(samples, verbose=0).argmax(axis=1)
fractions = np.bincount(said, minlength=10) / count
print("of each class, in percent:", (100 * fractions).round(1))
print(f"of the class that was asked for: {(said == np.arange(count) % 10).mean():.0%}")

# %%
if data.complete:
    real = features.predict(x_test[: 3 * count], verbose=0)
    drawn, other = features.predict(samples, verbose=0), real[2 * count :]
    distance, floor = (kernel_distance(f, real[: 2 * count]) for f in (drawn, other))
    print(f"kernel distance {distance:.3f}, of other test images {floor:.3f}")
    assert fractions.min() >= 0.03
    assert distance < 0.22

# %% [markdown]
# The judge sees what was asked for in 88 % of the samples, and every class in 6 % of them or more; a hundred of each were asked for.
# The distance is 0.135, where test images are at 0 from each other but for chance.
# For scale: a smaller Glow, of 310,000 weights and without classes, had a distance of 0.44 at this temperature after 13 minutes of training on two cores, and of the rarest class it drew 2.5 % (one training, which differs in more than one thing).
#
# Are they copies?
# The nearest training image of each sample, by the distance of pixels, against that of as many test images, which are no copies:


# %%
def nearest(x):
    """Root mean square distance in levels of images from the nearest in training."""
    a, b = (np.float32(each).reshape(len(each), -1) for each in (x, x_train))
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(squares.min(axis=1).clip(0) / a.shape[1])


for name, images in (("samples", samples[:100]), ("test images", x_test[:100])):
    low, middle = np.quantile(nearest(images), [0.05, 0.5])
    print(f"{name}: median {middle:.0f} levels, 5 % below {low:.0f}")

# %% [markdown]
# They are no nearer to a training image than test images are.

# %% [markdown]
# ## 6.10 One boot through the flow
#
# What happens to an image on its way to noise?
# We follow one boot through the large model and look at it after every few steps, with channels put back where a squeeze took them from.


# %%
def followed(flow, y):
    """What is left of images y after each layer, and the names of the layers."""
    parts, names = [y], ["image"]
    for layer in flow.chain:
        y = layer.inverse(y)[0]
        parts.append(y)
        names.append(type(layer).__name__)
    return [ops.convert_to_numpy(part) for part in parts], names


def unfolded(x):
    """Channels (h, w, c) as one picture, put back by squeezes or set side by side."""
    while x.shape[-1] >= 4:
        x = ops.convert_to_numpy(Squeeze().forward(x[None]))[0]
    return np.concatenate(np.moveaxis(x, -1, 0), axis=1)


parts, layer_names = followed(flow, dequantise(x_test[:200], seed))
after = [k for k, name in enumerate(layer_names) if name == "ChannelCoupling"]
split = layer_names.index("Split")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
fine = [k for k in after if k < split]
coarse = [k for k in after if k > split]
left = encode(flow, dequantise(x_test[:200], seed), shares(y_test[:200], len(names)))
figure, axes = plt.subplots(2, 6, figsize=(plots.WIDTH, 3.6), height_ratios=[2, 1])
rows = zip(axes, (fine, coarse), (0, split), ("image", "stays"), left)
for row, steps, first, start, noise in rows:
    picks = np.linspace(0, len(steps) - 1, 4).round().astype(int)
    shown = [parts[k][0] for k in (first, *(steps[p] for p in picks))]
    titles = [start, *(f"step {p + 1}" for p in picks), "noise"]
    for axis, part, title in zip(row, [*shown, noise[0]], titles):
        axis.imshow(unfolded(part), cmap="Greys", vmin=-3, vmax=3)
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
axes[0, 0].images[0].set_clim(-0.5, 0.5)
axes[0, 0].set_ylabel("fine scale", fontsize=9)
axes[1, 0].set_ylabel("coarse scale", fontsize=9)
figure.tight_layout()
plots.show(
    figure,
    alt="A boot after some steps of both scales: its outline goes step by step, and at "
    "the end of each row stands noise",
)

# %% [markdown]
# The 1×1 convolutions have mixed the channels, so what is put back as a picture has a weave in it.
# For most of the fine steps the outline stays to be seen; the background goes from white to grey, since its many black pixels must become as ordinary as any others.
# Then half of the channels leaves, as the noise at the end of the row (its two channels stand side by side), and the boot is in the half that stays, which begins the second row.
# At the end of that row, less the mean of all boots, it is noise, too.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
middle, last = parts[fine[len(fine) // 2]], parts[fine[-1]]
panels = {"image": parts[0] / parts[0].std(), "half of the steps": middle}
panels |= {"before the split": last, "fine latents": left[0], "coarse latents": left[1]}
figure, axes = plt.subplots(1, 5, figsize=(plots.WIDTH, 2.4), sharey=True)
line = np.linspace(-4, 4, 200)
for axis, (title, values) in zip(axes, panels.items()):
    bins = np.linspace(-4, 4, 60)
    axis.hist(values.ravel(), bins, density=True, color=plots.COLOURS[0])
    axis.plot(line, norm.pdf(line), color="0.2")
    axis.set_title(title, fontsize=9)
    axis.set(ylim=(0, 1.2), xticks=[-3, 0, 3])
figure.tight_layout()
plots.show(
    figure,
    alt="Histograms of the numbers of 200 images on their way, beside a standard "
    "normal curve; the latents follow it",
)

# %% [markdown]
# All numbers of 200 test images, against the standard normal curve.
# (Those of the image are divided by their deviation, and their peak, the half of all pixels that is black, is cut.)
# Before the split the numbers are more peaked than normal, and they may be: the split predicts a mean and a deviation for each number that leaves, and the others go through the second scale first.
# After that both halves follow the curve.

# %% [markdown]
# ### What does the half that leaves early carry?
#
# Half of the numbers leave after the first scale.
# We keep one half of the boot's latents and draw the other anew, at the temperature of 6.9.
# How much does a pixel change?

# %%
boot = np.repeat(ops.convert_to_numpy(dequantise(x_test[:1], seed)), 8, axis=0)
of_boot = shares(np.repeat(y_test[:1], 8), len(names))
own = encode(flow, boot, of_boot)
fresh = [TEMPERATURE * z for z in draw_latents(flow, 8, np.random.default_rng(3))]
redrawn = {
    "fine drawn anew": decode(flow, [fresh[0], own[1]], of_boot),
    "coarse drawn anew": decode(flow, [own[0], fresh[1]], of_boot),
}
for name, images in redrawn.items():
    change = np.abs(np.clip(images, -0.5, 0.5) - boot).mean()
    print(f"{name}: a pixel changes by {255 * change:.0f} levels")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
seen = {name: np.clip(y[..., 0] + 0.5, 0, 1) for name, y in redrawn.items()}
rows = {"image": boot[..., 0] + 0.5, "fine drawn anew": seen["fine drawn anew"]}
difference = seen["fine drawn anew"] - rows["image"]
rows["its difference, × 3"] = np.clip(0.5 + 3 * difference, 0, 1)
rows["coarse drawn anew"] = seen["coarse drawn anew"]
plots.image_rows(
    rows,
    alt="A boot, variants with other fine latents and their small differences, and "
    "variants with other coarse latents, which are other boots",
)

# %% [markdown]
# With other fine latents it stays this boot: its shade and its grain change, by 5 of 256 levels on average over the picture.
# (The third row is three times the difference from the image; grey is none, and lighter is paler.
# Most changes are to paler; a temperature below 1 makes images so, section 6.12.)
# With other coarse latents it is another boot.
#
# And how many bits are spent on each half?
# One cannot just compare the densities of the two, because the steps may stretch one and shrink the other.
# Let $\varepsilon_1$ be the noise that leaves at the first split, 392 numbers.
# All images with this coarse half lie on a curved sheet of 392 dimensions in the space of pixels, and *on the sheet* there is a density: that of the noise, divided by how much the way back stretches,
#
# $$\log q(y \mid \text{coarse}) = \log \mathcal N(\varepsilon_1; 0, I) - \tfrac12 \log \det (J J^\top), \qquad J = \frac{\partial y}{\partial \varepsilon_1},$$
#
# with a row of $J$ for each of the 392 numbers: $\sqrt{\det (J J^\top)}$ is the factor by which a small piece of noise grows in area on the sheet.
# It counts in the units of pixels, so its bits can be set beside those of the whole image: as in section 6.2 each direction begins with 8 bits.


# %%
def fine_bits(noise, share, step=0.01):
    """Bits of an image on the sheet of all that share its coarse half, per dimension of
    the whole image; `noise` and `share` are those of one image.
    """
    fine, coarse = noise
    count = fine.size
    steps = step * np.eye(count, dtype="float32").reshape(count, *fine.shape[1:])
    coarse, share = np.repeat(coarse, count, 0), np.repeat(share, count, 0)
    up, down = (decode(flow, [fine + s, coarse], share) for s in (steps, -steps))
    J = np.float64(up - down).reshape(count, -1) / (2 * step)
    log_q = (
        -0.5 * np.sum(fine**2 + np.log(2 * np.pi)) - np.linalg.slogdet(J @ J.T)[1] / 2
    )
    return (8 * count - log_q / np.log(2)) / J.shape[1]


for k in range(course.choose(full=4, quick=1)):
    y = ops.convert_to_numpy(dequantise(x_test[k : k + 1], seed))
    of_one = shares(y_test[k : k + 1], len(names))
    whole = 8 - log_prob(y)[0] / (784 * np.log(2))
    part = fine_bits(encode(flow, y, of_one), of_one)
    print(f"{names[y_test[k]]}: {part:.2f} of {whole:.2f} bits on the fine half")

# %% [markdown]
# For all four, more than half of the bits are spent on the half that changes shade and grain, and less than half on what makes it a boot.

# %% [markdown]
# ## 6.11 What each idea buys
#
# Eight models, from NICE to Glow, see the same small images, 14 × 14, for three passes over the training set.
# All have eight couplings with networks of the same width, the same schedule, and end with a scale for each number.
# Each is the one before with **one idea changed**:
#
# 1. **NICE**: its additive couplings, on checkerboards;
# 2. **log-scales**: couplings are affine;
# 3. **channels**: four of the couplings work on channels, after a squeeze;
# 4. **batch norm**: before each coupling, which makes it RealNVP.
#    In training the statistics are those of the batch, else running averages, as in its authors' code;
# 5. **ActNorm** in its place;
# 6. **1×1**: channels are mixed by a learned matrix, and no longer swapped;
# 7. **no boards**: the squeeze comes first, and all couplings work on channels (so four networks see 7 × 7 places in place of 14 × 14, and there are four more matrices);
# 8. **split**: half of the channels leave after four couplings, with a learned prior, as in Glow.
#    (What stays would be squeezed next, but 7 × 7 pixels cannot be; so this is the split alone, without a second scale.)

# %% [markdown]
# `make bench PART=ladders` trains each with three seeds, and the last three rungs at a second rate, too; [benchmarks/rung_layers.py](https://github.com/OWNER/generative-models-course/blob/main/benchmarks/rung_layers.py) has the rungs as lists of layers.
# This is how many bits per dimension they need on the 10,000 test images.
# The two lines are what a single Gaussian with full covariance needs, on dequantised images, and a histogram for each pixel.
# (The Gaussian knows how pixels go together, and loses all the same: it cannot say that a pixel is exactly black in half of the images.)

# %%
RUNGS = "NICE", "log-scales", "channels", "batch norm"
RUNGS += "ActNorm", "1×1", "no boards", "split"
bench = results.benchmarked("ladders")
ladder = {name: [run["bits_per_dim"] for run in bench[f"{name} (6)"]] for name in RUNGS}
faster = {
    name: [run["bits_per_dim"] for run in bench[f"{name}, rate 0.01 (6)"]]
    for name in RUNGS[-3:]
}
for rate, found in (("0.002", ladder), ("0.01", faster)):
    print(f"bits at a rate of {rate}:")
    for name, bits in found.items():
        print(f"{name:11} {np.median(bits):.2f} ({min(bits):.2f} to {max(bits):.2f})")

# %%
from scipy.stats import multivariate_normal


def gaussian_bits(train, test):
    """Bits per dimension of one Gaussian with full covariance, fitted to `train`."""
    a, b = (
        ops.convert_to_numpy(dequantise(x, 0)).reshape(len(x), -1)
        for x in (train, test)
    )
    gaussian = multivariate_normal(a.mean(axis=0), np.cov(a.T))
    return 8 - gaussian.logpdf(b).mean() / (a.shape[1] * np.log(2))


gauss = gaussian_bits(halved(x_train), small_test)
print(f"one Gaussian {gauss:.2f}, a histogram for each pixel {small_pixels:.2f}")
if data.complete and course.profile() == "full":
    assert max(ladder["NICE"]) < gauss

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
for place, bits in enumerate(ladder.values()):
    axis.plot([min(bits), max(bits)], [place, place], color="0.3", linewidth=2)
    axis.plot(bits, [place] * len(bits), "o", color=plots.COLOURS[0])
    axis.text(max(bits) + 0.04, place, f"{np.median(bits):.2f}", va="center")
for place, bits in enumerate(faster.values(), len(ladder) - len(faster)):
    label = "at five times the rate" if place == len(ladder) - 1 else None
    hollow = {"mfc": "white", "color": plots.COLOURS[1], "label": label}
    axis.plot(bits, [place] * len(bits), "s", ms=5, **hollow)
axis.axvline(gauss, color="0.4", ls=":", label=f"one Gaussian: {gauss:.2f}")
axis.axvline(
    small_pixels, color="0.4", ls="--", label=f"histograms: {small_pixels:.2f}"
)
axis.set(xlabel="bits per dimension of test images, 14 × 14", ylim=(7.5, -0.5))
axis.set_yticks(range(8), ladder)
axis.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
plots.show(
    figure,
    alt="Bits per dimension of eight models with three seeds each, and two lines",
)

# %% [markdown]
# **Log-scales** save most by far, 1.65 bits: additive couplings leave volume alone, and all that NICE has besides is the scale at the end.
# Moving half of the couplings to **channels** changes nothing that three seeds would show.
# A **normalisation** saves 0.08, and between ActNorm and batch normalisation the seeds show no difference.
# What ActNorm gains is something else: one image would do, training and use are the same function, and its log-determinant is one number.
# A learned **1×1** matrix saves 0.08 over swapping.
#
# The last two steps cost.
# Giving up **checkerboards**, as Glow does, costs 0.3 bits at this rate; perhaps because a kept neighbour on every side says more than a kept channel, perhaps because the networks see fewer places.
# The **split** costs 0.1: half of the numbers go through four couplings in place of eight.
# It is there to save work, which counts where images are large and steps are many; the large model has 32 of them.
#
# But the rate, 0.002 at its peak, was chosen for none of the rungs.
# At 0.01 (the squares) the last three all gain, by 0.2 to 0.4 bits; without checkerboards it costs 0.13 still, and for the split the seeds show no difference.
# So not every idea of a famous model pays on every budget, and what one costs depends on how well the models are trained that are compared.

# %% [markdown]
# ## 6.12 Temperatures, and ways between images
#
# A *temperature* $T$ multiplies the standard normal latents.
# Below 1 it keeps them near the middle.
# Each column below is one point of the latent space at five temperatures.

# %%
points = draw_latents(flow, 10, np.random.default_rng(7))
rows = {}
for T in (0.0, 0.3, 0.6, 0.8, 1.0):
    y = decode(flow, [T * z for z in points], share)
    rows[f"T = {T}"] = np.clip(y[..., 0] + 0.5, 0, 1)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.image_rows(
    rows,
    alt="Ten samples, one of each class, at five temperatures",
    columns=[name.replace(" ", "\n") for name in names],
)

# %% [markdown]
# At $T = 0$ each class has one image, the pale outline of its mean, with the weave of the squeeze in boot and sneaker.
# With rising temperature a garment gets its own shade and texture; at $T = 1$, where the model is the density that was trained, some fall to pieces.
# By eye 0.8 is the better picture; by the distance of 6.9 it is not: it falls as $T$ rises, from 0.45 at 0.6 over 0.13 at 0.8 to 0.06 at 1 ([the benchmark](../docs/benchmark.md) has it).
# Below 1 the samples are tidier, and less varied, than the data.

# %% [markdown]
# **Ways.**
# Half-way between two images in pixels is a double exposure.
# What lies half-way between their latents?
# The mean of two independent standard normal numbers has a standard deviation of only $1/\sqrt2$.
# So the mix $(1 - \alpha)\, z_A + \alpha\, z_B$ of two latents is divided by $\sqrt{(1-\alpha)^2 + \alpha^2}$, which brings it back to 1.
# The classes are mixed as they are.


# %%
def between(y, labels, steps=9):
    """Images on the way from y[0] to y[1], of classes `labels`: through the pixels and
    through the latents.
    """
    alpha = np.linspace(0, 1, steps, dtype="float32")[:, None, None, None]
    pixels = (1 - alpha) * y[:1] + alpha * y[1:]
    ends = shares(labels, len(names))
    share = (1 - alpha[:, 0, 0]) * ends[:1] + alpha[:, 0, 0] * ends[1:]
    norm = np.sqrt((1 - alpha) ** 2 + alpha**2)
    noise = [
        ((1 - alpha) * z[:1] + alpha * z[1:]) / norm for z in encode(flow, y, ends)
    ]
    return pixels, decode(flow, noise, share)


rows = {}
for a, b in [(0, 1), (5, 9)]:
    pair = [np.flatnonzero(y_test == label)[0] for label in (a, b)]
    y = ops.convert_to_numpy(dequantise(x_test[pair], seed))
    way_of = f"{names[a]} to {names[b]}"
    for way, path in zip(("pixels", "latents"), between(y, [a, b])):
        rows[f"{way_of},\n{way}"] = np.clip(path[..., 0] + 0.5, 0, 1)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.image_rows(rows, alt="Two ways between two images, in pixels and in latents")

# %% [markdown]
# Through the pixels one sees both at once.
# Through the latents the T-shirt loses its sleeves and its lower half parts into legs; half-way it is a T-shirt that is nearly trousers.
# From a sandal to a boot the way leads through a shoe in pieces: what lies between two classes is rare in the data, and the model has nothing whole to put there.
# Does the likelihood notice?
# The bits of the images on that way:

# %%
print((8 - log_prob(path) / (784 * np.log(2))).round(2))

# %% [markdown]
# On this way it does not: the bits rise from those of the sandal to those of the boot, with no hill where the shoe is broken.
# The next section asks what these bits measure.

# %% [markdown]
# ## 6.13 The likelihood paradox
#
# Here is a density of clothes.
# Something that is no garment should be less likely.
# Is it?
# Nalisnick et al. (2019) asked, with MNIST's handwritten digits; so do we, or with scikit-learn's digits where MNIST cannot be had.

# %%
stranger, strange = datasets.strangers(data)
strange = strange[: len(x_test), ..., None]
strange_bits = bits_of(log_prob, strange, seed)
groups = {data.name: flow_bits, stranger: strange_bits}
for name, bits in groups.items():
    error = bits.std() / np.sqrt(len(bits))
    print(f"{name}: {bits.mean():.3f} ± {error:.3f} bits, {len(bits):,} images")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.2), width_ratios=[1, 2.2])
rows = [x_test[:12, ..., 0], strange[:12, ..., 0]]
sheet = np.concatenate([np.hstack(each[i : i + 4]) for each in rows for i in (0, 4, 8)])
axes[0].imshow(sheet, cmap="Greys")
axes[0].set(xticks=[], yticks=[])
bins = np.linspace(0.5, 7, 80)
for (name, bits), colour in zip(groups.items(), plots.COLOURS):
    axes[1].hist(bits, bins, density=True, color=colour, alpha=0.6, label=name)
axes[1].set(xlabel="bits per dimension (fewer: likelier)", ylabel="density")
axes[1].legend(frameon=False)
figure.tight_layout()
plots.show(
    figure, alt="Images of both kinds, and histograms of their bits per dimension"
)

# %% [markdown]
# Digits need a whole bit per dimension *less* than clothes, and that is no matter of chance: the standard errors are below 0.01.
# Nalisnick et al. had 1.83 bits for MNIST and 2.96 for clothes, with another Glow.
# (With scikit-learn's digits, enlarged from 8 × 8 pixels and smooth, the gap is smaller.)
#
# A likelihood that is used as an alarm for strange images would not ring.
# How bad is it?
# The area under the ROC curve is the probability that a strange image gets more bits than a usual one; 0.5 is a coin.

# %%
from sklearn.metrics import roc_auc_score

is_strange = np.r_[np.zeros(len(flow_bits)), np.ones(len(strange_bits))]
every = np.r_[flow_bits, strange_bits]
auc = roc_auc_score(is_strange, every)
draws = np.random.default_rng(seed).integers(0, len(every), (200, len(every)))
again = [roc_auc_score(is_strange[k], every[k]) for k in draws]
print(f"area under the ROC curve {auc:.3f} ± {np.std(again):.3f}")
assert auc < 0.3 or not data.complete or stranger != "MNIST"

# %% [markdown]
# Worse than a coin: of a garment and a digit, the digit is the likelier one in 87 % of pairs.
# (The error is that of the test images; another training would give another figure.)

# %% [markdown]
# ### Images that show nothing
#
# What makes an image likely?
# We ask for the bits of images that are one grey level everywhere.

# %%
grey = np.array([0, 1, 2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 240, 255])
constant = np.broadcast_to(grey[:, None, None, None], (len(grey), 28, 28, 1))
constant_bits = bits_of(log_prob, constant.astype("uint8"), seed)
print(f"all 0: {constant_bits[0]:.2f}; all 255: {constant_bits[-1]:.2f} bits")
for name, bits in groups.items():
    print(f"the likeliest of {name}: {bits.min():.2f} bits")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3))
axis.plot(
    grey, constant_bits, "o-", color=plots.COLOURS[0], label="one level everywhere"
)
for name, bits, style in zip(groups, groups.values(), ("--", ":")):
    axis.axhline(bits.mean(), color="0.3", ls=style, label=f"{name}, mean")
axis.set(xlabel="grey level", ylabel="bits per dimension")
axis.legend(frameon=False)
plots.show(figure, alt="Bits per dimension of constant images of all grey levels")

# %% [markdown]
# An image that is 0 everywhere (black; our pictures show it white) needs 0.4 bits, fewer than any garment or digit.
# So it is not that digits are taken for clothes.
# What is simple is likely, provided that it is simple in the way of the data, which have large black areas.
# One grey level everywhere is as simple, but no garment has such a border: most levels cost 3.2 to 3.7 bits, as much as a garment.

# %% [markdown]
# ### Models that know next to nothing
#
# Digits are four-fifths black, clothes half.
# How much of the paradox is that?
# A single histogram of all grey levels of the training images knows nothing else:

# %%
levels_seen = np.bincount(x_train.ravel(), minlength=256) + 1
level_code = -np.log2(levels_seen / levels_seen.sum())
flat = [level_code[x[..., 0]].mean(axis=(1, 2)) for x in (x_test, strange)]
auc = roc_auc_score(is_strange, np.concatenate(flat))
print(
    f"one histogram: {flat[0].mean():.2f} and {flat[1].mean():.2f} bits, area {auc:.3f}"
)

# %% [markdown]
# It has the paradox, and a greater one than Glow.
#
# Kirichenko et al. (2020) name another reason: a flow learns correlations of neighbouring pixels, which digits and clothes share.
# A model of neighbours alone predicts each pixel's level from the pixel at its left and the one above it, 16 shades each, by counting in the training images: 256 situations, and in each a histogram.
# That is a probability of whole images, too, as each pixel is predicted from earlier ones.


# %%
def situations(x):
    """For each pixel of levels (count, h, w, 1), a number 0 … 255 for the shades of its
    left and its upper neighbour; beyond the border all is 0.
    """
    wide = np.pad(x[..., 0], ((0, 0), (1, 0), (1, 0))) // 16
    return 16 * wide[:, 1:, :-1].astype(int) + wide[:, :-1, 1:]


counts = np.bincount(
    (256 * situations(x_train) + x_train[..., 0]).ravel(), minlength=65_536
)
counts = counts.reshape(256, 256) + 0.01
code = -np.log2(counts / counts.sum(axis=1, keepdims=True))


def neighbour_bits(x):
    """Bits a pixel of each image by the counts."""
    return code[situations(x), x[..., 0]].mean(axis=(1, 2))


near = {data.name: neighbour_bits(x_test), stranger: neighbour_bits(strange)}
for name, bits in near.items():
    correlation = np.corrcoef(bits, groups[name])[0, 1]
    print(f"{name}: {bits.mean():.3f} bits; correlation with Glow's {correlation:.3f}")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 4))
for (name, bits), colour in zip(near.items(), plots.COLOURS):
    shown = slice(0, 2_000)
    axis.plot(
        bits[shown], groups[name][shown], ".", ms=3, alpha=0.4, color=colour, label=name
    )
axis.axline((3, 3), slope=1, color="0.3", lw=1)
axis.set(xlabel="bits by the neighbours", ylabel="bits by Glow", aspect="equal")
axis.legend(frameon=False, markerscale=4)
plots.show(figure, alt="Glow's bits against those of the predictor by neighbours")

# %% [markdown]
# With two neighbours and counting, digits need half of the bits of clothes, and Glow's bits follow those of the neighbours, with a correlation of 0.96 among clothes.
# Some of that is how black an image is, which both count.
# So most of what this likelihood measures can be had without knowing what an image shows.
#
# But look at the line, where both need the same.
# Clothes lie below it: Glow knows something about them besides their neighbours, and saves 0.3 bits.
# Digits lie above: what Glow knows about clothes is of no use there, and costs 0.35.
# The *difference* is an alarm:

# %%
beyond = every - np.r_[near[data.name], near[stranger]]
auc = roc_auc_score(is_strange, beyond)
again = [roc_auc_score(is_strange[k], beyond[k]) for k in draws]
print(f"area under the ROC curve {auc:.3f} ± {np.std(again):.3f}")
assert auc > 0.9 or not data.complete or stranger != "MNIST"

# %% [markdown]
# This one rings: in 99 % of pairs the difference is larger for the digit than for the garment.
# A table of counts makes a good alarm of a useless one, on this pair of data sets.
# Serrà et al. (2020) take off the size of the image's file, packed by PNG or a better method, Ren et al. (2019) the likelihood of a second model that was trained on noisy images.
# Both ask, like this, not how likely an image is, but how much likelier it is than its grain alone would suggest.
#
# The warning stays: a high likelihood does not say that an image belongs.

# %% [markdown]
# ## What we measured
#
# The VAE of [appendix A3](A3_likelihood.ipynb) has a likelihood over the same 784 pixels, as a bound by 64 draws, on the first 500 test images; `make bench` has its figures.

# %%
vae = "VAE with levels, 16 numbers"
bound = [run["bits_per_dim"] for run in results.benchmarked("images")[vae]]
likelihoods = [
    {"model": "one histogram", "bits_per_dim": pooled_bits},
    {"model": "a histogram for each pixel", "bits_per_dim": pixel_bits},
    {"model": "two neighbours", "bits_per_dim": near[data.name].mean()},
    {"model": "Glow, yours", "bits_per_dim": small_bits.mean()},
]
if data.complete:
    of_vae = {"model": "VAE of A3, 3 seeds", "bits_per_dim": np.median(bound)}
    print(f"VAE of A3: {min(bound):.2f} to {max(bound):.2f} bits by its seeds")
    likelihoods.insert(3, of_vae)
    likelihoods.append(
        {"model": "Glow, the large one", "bits_per_dim": flow_bits.mean()}
    )
spent = time.perf_counter() - STARTED
results.record("06_glow", data=data.name, seconds=spent, rows=likelihoods)

# %% [markdown]
# Two neighbours and counting are better than each seed of the VAE, and better than your Glow, one training of two passes.
# The large Glow, one training, too, saves 0.3 bits on them.
# The figures are bounds, except those of the histograms and of the neighbours, and their budgets differ: an instant for counting, two passes and 16 latent numbers for the VAE, some minutes for your Glow, seven and a half on a GPU for the large one.
# Nalisnick et al. report 2.96 bits for their Glow.
# Fewer bits do not mean better pictures: two neighbours have no idea of a shoe.

# %% [markdown]
# ## Summary
#
# - Whole numbers have no density.
#   Uniform noise makes the density of noisy images a bound on the probability of the true ones.
# - A coupling for images keeps a checkerboard or half of the channels.
# - ActNorm is set by data once and is then a weight; a 1×1 convolution is one small matrix for all pixels, and its determinant counts once a pixel.
#
# - Half of the numbers leave early, with a mean and a deviation that the others predict.
# - On small images, log-scales buy most, normalisation and a 1×1 matrix a little less than a tenth of a bit each; giving up checkerboards costs, a split at the better of two rates nothing that three seeds would show.
# - One image that is unlike all others can own the mean of a likelihood; an escape of one in ten thousand bounds it.
# - A flow gives back what it was given, and draws at a temperature.
# - A likelihood measures how black and how predictable an image is, pixel by pixel, more than what it shows.
#   How much likelier it is than neighbouring pixels alone would make it tells more.
#
# [Chapter 7](07_mintnet.ipynb) has layers that move every coordinate at once, with a Jacobian that is still triangular.
#
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.** At temperature 0 all noise is 0, its likeliest value.
# Is the image of a boot at temperature 0 the likeliest image of all?
# Say yes or no before you open the solution.
# (That image is one point of the cube and not a whole grey level, so its bits are of a density there, and no bound on the length of a code.)

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# No. The latents are the likeliest, but the density of an image also has the
# determinant: how much the map spreads out what is near it. An image that is 0
# everywhere needs far fewer bits, though it is no boot. Its latents are quite
# ordinary, with a deviation of about 1; it is the determinant that makes it likely.
last = len(names) - 1
still = [0 * z[:1] for z in points]
middle = decode(flow, still, shares([last], last + 1))
nats = ops.convert_to_numpy(log_prob(middle))
print(f"at temperature 0: {8 - nats[0] / (784 * np.log(2)):.2f} bits per dimension")
print(f"test images of its class: {flow_bits[y_test == last].min():.2f} and more")
print(f"all 0: {constant_bits[0]:.2f}")
zero = encode(flow, dequantise(0 * x_test[:1], 0), shares([last], last + 1))
for name, z in zip(("fine", "coarse"), zero):
    print(f"all 0: {name} latents have a deviation of {z.std():.2f}")

# %% [markdown]
# **2. Derive.** Write a 1×1 convolution of an image of 2 × 2 pixels with 3 channels as one matrix $M$ with $z = M x$, the numbers of the image in a column, pixel after pixel.
# Show that its determinant is $(\det W)^4$, and test that by a computer.
# What would change if each pixel had a matrix of its own?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# No output looks at another pixel, so all blocks off the diagonal are 0, and the
# matrix is block-diagonal with the transpose of W four times (W multiplies rows, M
# columns), and det Wᵀ = det W. Row operations inside one block leave the others alone:
# the determinant of the whole is the product of the blocks', (det W) ** 4, and the
# logarithm is h w log |det W|. With a matrix for each pixel it would be the product of
# their determinants, and h w times as many weights. It would still be cheap, but a
# convolution no more.
w = random_rotation(3, rng) + 0.3 * rng.normal(size=(3, 3))
whole = np.kron(np.eye(4), w.T)
image = rng.normal(size=(2, 2, 3))
assert np.allclose(whole @ image.ravel(), (image @ w).ravel())
print(np.linalg.slogdet(whole)[1], 4 * np.linalg.slogdet(w)[1])

# %% [markdown]
# **3. Build.** Another split: write a `LateSplit` that lets only the last quarter of the channels go.
# Put it in place of `Split` between two stacks of steps for 8 × 8 images, check the log-determinant, and count the latents.
# (Call the flow `trial`: section 6.8's `in_a_row` reads that name.)


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
class LateSplit(Split):
    """Lets the last quarter of the channels go."""

    def __init__(self, shape, width, bound=3.0):
        layers.Layer.__init__(self)
        h, w, c = shape
        self.kept, self.bound = 3 * c // 4, bound
        self.network = conv_network((h, w, self.kept), 2 * (c - self.kept), width)
        self.built = True


steps = [glow_steps(s, 1, 8, rng) for s in ((4, 4, 4), (4, 4, 3))]
trial = ImageFlow([Squeeze(), *steps[0], LateSplit((4, 4, 4), 8), *steps[1]], (8, 8, 1))
shaken(trial, rng, 0.1)
print([z.shape for z in trial.inverse(eights)[0]])
print(checks.log_det_error(in_a_row, lambda y: trial.inverse(y)[1], eights, 1e-2))

# %% [markdown]
# **4. Find the bug.** This ActNorm normalises, its `forward` undoes its `inverse`, and models with it train to fewer bits than any other.
# What is wrong, and which check of this chapter finds it?


# %%
class FastActNorm(ActNorm):
    """ActNorm in a new version."""

    def inverse(self, x):
        h, w = x.shape[1:3]
        z = (x + self.shift) * ops.exp(self.log_scale)
        return z, h * w * ops.sum(ops.abs(self.log_scale))


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# The log-determinant takes every scale for a widening: |a| in place of a. The more a
# layer narrows, the more it is rewarded, and the loss falls below what the data
# allow. `forward` is right, so the inverse is, too. The comparison with automatic
# differentiation finds it, as soon as one scale is below 1.
faulty = shaken(FastActNorm(4), np.random.default_rng(0))
try:
    check(faulty, (2, 2, 4))
except checks.CheckFailed as error:
    print(error)
else:
    raise AssertionError("the check let it through")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - L. Dinh, D. Krueger, Y. Bengio. [*NICE: Non-linear Independent Components Estimation*](https://arxiv.org/abs/1410.8516). ICLR workshop, 2015. Section 3.3: the scaling at the end.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. [*Density estimation using Real NVP*](https://arxiv.org/abs/1605.08803). ICLR, 2017. Sections 3.4 to 3.7: masks, squeezing, several scales, batch normalisation. The [authors' code](https://github.com/tensorflow/models/tree/archive/research/real_nvp) has batch normalisation with the statistics of the batch, where the paper mixes in running averages.
# - D. P. Kingma, P. Dhariwal. [*Glow: Generative Flow with Invertible 1×1 Convolutions*](https://arxiv.org/abs/1807.03039). NeurIPS, 2018. Section 3 and table 1. The [authors' code](https://github.com/openai/glow) has the priors of splits and classes.
#
# - L. Theis, A. van den Oord, M. Bethge. [*A note on the evaluation of generative models*](https://arxiv.org/abs/1511.01844). ICLR, 2016. Section 3.1: dequantisation.
# - E. Nalisnick, A. Matsukawa, Y. W. Teh, D. Gorur, B. Lakshminarayanan. [*Do Deep Generative Models Know What They Don't Know?*](https://arxiv.org/abs/1810.09136) ICLR, 2019.
# - J. Serrà, D. Álvarez, V. Gómez, O. Slizovskaia, J. F. Núñez, J. Luque. [*Input complexity and out-of-distribution detection with likelihood-based generative models*](https://arxiv.org/abs/1909.11480). ICLR, 2020.
# - P. Kirichenko, P. Izmailov, A. G. Wilson. [*Why Normalizing Flows Fail to Detect Out-of-Distribution Data*](https://arxiv.org/abs/2006.08545). NeurIPS, 2020.
# - J. Ren, P. J. Liu, E. Fertig, J. Snoek, R. Poplin, M. A. DePristo, J. V. Dillon, B. Lakshminarayanan. [*Likelihood Ratios for Out-of-Distribution Detection*](https://arxiv.org/abs/1906.02845). NeurIPS, 2019.
# - J. Ho, X. Chen, A. Srinivas, Y. Duan, P. Abbeel. [*Flow++*](https://arxiv.org/abs/1902.00275). ICML, 2019. Noise that is learned in place of uniform noise, which makes the gap of section 6.9 smaller.
