# %% [markdown]
# # Chapter 1 · Autoencoder
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/01_autoencoder.ipynb)
#
# **What is left of an image that has to pass through two numbers?**
# An autoencoder squeezes each image into a point of a small space and rebuilds the image from that point.
# We draw its two networks, train them with two lines of Keras, and look at the plane in which clothes find their places.
# Then we ask three things of it: does it beat a linear method, why are its images blurred, and can it make new ones?

# %% [markdown]
# **You will learn**
# - what a convolution with a stride does, and what a transposed one does, number by number;
# - to build, train, watch, save and load an encoder and a decoder in plain Keras;
# - to read a cross-entropy of 0.25: the best possible value, and what a model scores that ignores its input;
# - what the network buys over principal components, and why its images are blurred;
# - three faults of its latent space as a source of new images, counted, and what a density fitted to the codes puts right.
#
# **In the book**: *Generative Deep Learning*, 2nd edition, by D. Foster, section 3.1, Autoencoders (오토인코더), of chapter 3, Variational Autoencoders (변이형 오토인코더).
#
# **Needs**: Fashion-MNIST (31 MB, downloaded once).
# About 5 minutes on two CPU cores (Intel Xeon with AVX-512), longer on older ones; the first network is trained after one minute.
#
# The first cell finds the helper package, and on Colab fetches it.

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
# Below, an `assert` checks a sentence of the text, and prints nothing.

# %%
import time

STARTED = time.perf_counter()
LATENT_DIM, WIDE_DIM = 2, 6
TRAIN_IMAGES = course.choose(full=60_000, quick=1_500)
TEST_IMAGES = course.choose(full=10_000, quick=500)
BATCH = course.choose(full=32, quick=20)
EPOCHS, PEAK_RATE = 2, 3e-3  # from section 1.7 on
LOOKS = 30, 100, 300, 1_000  # section 1.7: after so many steps
NEIGHBOURS = course.choose(full=100, quick=20)  # section 1.10
MIXTURES = course.choose(full=(10, 30, 100), quick=(5, 10))  # section 1.12
EXERCISE_IMAGES = course.choose(full=6_000, quick=256)
seed = course.seed(42)

# %% [markdown]
# What is not the lesson comes from the helper package: the data, the pictures, a progress line.

# %%
import matplotlib.pyplot as plt
import pandas as pd

from utils import datasets, plots, results, training

# %% [markdown]
# ## 1.1 The data
#
# Fashion-MNIST holds 70,000 grey images of clothes, 28 × 28 pixels, in ten classes.
# The labels play no part in training.
# They come back later, to colour pictures of what the network found without them.
# Without a network connection, scikit-learn's handwritten digits stand in for the clothes, and a line says so.

# %%
data = datasets.fashion_mnist()
print(data)

# %% [markdown]
# Two preparations.
# Pixels are scaled from 0…255 to $[0, 1]$.
# And a black frame of two pixels makes the side 32: it can then be halved three times, 32 → 16 → 8 → 4, without a remainder.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops

IMAGE_SHAPE = (32, 32, 1)


def prepare(images):
    """uint8 (count, 28, 28) to float32 (count, 32, 32, 1) in [0, 1], black-framed."""
    framed = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return framed[..., None].astype("float32") / 255


# %% tags=["nbval-check-output"]
x_train = prepare(data.x_train[:TRAIN_IMAGES])
x_test = prepare(data.x_test[:TEST_IMAGES])
y_train, y_test = data.y_train[: len(x_train)], data.y_test[: len(x_test)]
first_of_each = [np.flatnonzero(y_test == label)[0] for label in range(10)]
print(
    "one image:", x_train.shape[1:], x_train.dtype, x_train.min(), "to", x_train.max()
)

# %% tags=["hide-input", "nbval-check-output"] jupyter={"source_hidden": true} cellView="form"
plots.image_grid(
    x_test[first_of_each],
    titles=list(data.class_names),
    columns=10,
    alt="One test image of each of the ten classes, with its name",
)

# %% [markdown]
# One test image of each class.
# Level 0 is black; our pictures show it white and the clothes dark, as print does.

# %% [markdown]
# ## 1.2 Two networks
#
# An autoencoder is two networks in a row.
#
# - The **encoder** (인코더) maps an image $x$ to a point $z$ of the **latent space** (잠재 공간), the image's *code*.
#   Here $z$ is two numbers.
# - The **decoder** (디코더) maps a point $z$ to an image $\hat x$.
#
# They are trained together so that $\hat x$ resembles $x$.
# Nobody says what $z$ should mean.
# But the decoder has nothing else to go by, so the encoder must put into $z$ whatever tells images apart.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("autoencoder")

# %% [markdown]
# Each box is a stack of images, its *channels*: its height shows their side, its width how many there are.
# Each of the first three arrows of the encoder is a *convolution*, which halves the side, while the channels become more: height and width are traded for features, what was found rather than where.
# ReLU sets negative numbers to 0; Flatten writes all numbers in a row, of which a Dense layer makes the code.
# The decoder goes the other way: it doubles the side three times, and a last convolution turns the 32 channels into one image.
# All of an image, 1,024 pixels, must pass through the two blue numbers.

# %% [markdown]
# ## 1.3 A convolution that halves, and one that doubles
#
# A convolution slides a small *kernel* over an image.
# At each stop the numbers under it are multiplied with those of the kernel and added up.
# With a *stride* of 2 it stops at every second place only, in both directions, so the output has half of the side.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("strided_convolution")

# %% [markdown]
# (The window that begins at the third column needs a fifth: so one column and one row of zeros are added at the end, the *padding*.)
# The same in Keras, and the first number by hand.
# Keras wants four axes: batch, height, width and channel for an image; height, width, channels in and channels out for a kernel.
# `None` adds those of length 1.

# %%
image = np.float32([[0, 1, 2, 1], [1, 3, 2, 0], [2, 1, 0, 1], [0, 1, 1, 2]])
kernel = np.float32([[1, 2, 0], [0, 3, 1], [1, 0, 2]])


def halve(image):
    """One strided convolution: (side, side) to (side / 2, side / 2)."""
    x, k = image[None, ..., None], kernel[..., None, None]
    return ops.convert_to_numpy(ops.conv(x, k, strides=2, padding="same"))[0, ..., 0]


print(halve(image))
assert halve(image)[0, 0] == np.sum(image[:3, :3] * kernel) == 15

# %% [markdown]
# The decoder has to go the other way, from 4 × 4 to 8 × 8.
# A **transposed convolution** turns the picture round: each number of the *input* is multiplied with the whole kernel, and that patch is added to the output.
# With a stride of 2, patches of neighbours are two places apart, so the output has twice the side.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("transposed_convolution")

# %% [markdown]
# Each colour is one number of the input, with its patch; the 5 in the middle of the sum is the one place where all four patches meet.
# In Keras, and by hand:


# %%
def double(image):
    """One transposed convolution: (side, side) to (2 side, 2 side)."""
    x, k = image[None, ..., None], kernel[..., None, None]
    y = ops.conv_transpose(x, k, strides=2, padding="same")
    return ops.convert_to_numpy(y)[0, ..., 0]


small = np.float32([[1, 2], [3, 1]])
by_hand = np.zeros((5, 5))
for i in range(2):
    for j in range(2):
        by_hand[2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += small[i, j] * kernel

print(double(small))
assert np.array_equal(double(small), by_hand[:4, :4])

# %% [markdown]
# Why "transposed"?
# Both operations are linear, so each is a matrix that acts on the pixels, written one after another as a vector.
# Column $k$ of the matrix is what becomes of an image whose pixel $k$ is 1 and all others 0.

# %%
units_in, units_out = np.eye(16, dtype="float32"), np.eye(4, dtype="float32")
C = np.stack([halve(unit.reshape(4, 4)).ravel() for unit in units_in], axis=1)
T = np.stack([double(unit.reshape(2, 2)).ravel() for unit in units_out], axis=1)
print("halve:", C.shape, "  double:", T.shape)
assert np.array_equal(T, C.T)

# %% tags=["hide-input", "nbval-check-output"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 4), width_ratios=(16, 6))
names = "halve, C: 16 pixels in, 4 out", "double, Cᵀ: 4 in, 16 out"
for axis, matrix, name in zip(axes, (C, T), names, strict=True):
    axis.imshow(matrix, cmap="Blues", vmin=0, vmax=5)
    for (row, column), value in np.ndenumerate(matrix):
        if value:
            axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=9)
    axis.set_title(name, fontsize=10)
    axis.set(xticks=[], yticks=[], xlabel="pixels in", ylabel="pixels out")
plots.show(
    figure,
    alt="The matrix of the strided convolution, 4 by 16, and that of the transposed "
    "one, 16 by 4: the same numbers, rows and columns exchanged",
)

# %% [markdown]
# Each row on the left holds the kernel's numbers at the places of one window; zeros are left blank.
# On the right is the same matrix with rows and columns exchanged.
# It is transposed, not inverted: `double(halve(image))` does not give the image back.
# In a network the numbers of the kernel are what is learned, and there are many of them.
# With several channels in, each has a kernel of its own and the results are added up: a layer with 32 channels in and 64 out has 32 × 64 kernels.

# %% [markdown]
# ## 1.4 The networks in Keras
#
# Encoder, decoder, and the two joined.
# `layer(h)` applies a layer to what came before, and a `Model` is named by its input and its output.
# (`image_features` is a function of its own, since chapter 2 uses it again.)
# The Dense layers have no activation, as a code may be any two numbers.
# The decoder ends in a sigmoid, so that whatever $z$ it is given, its pixels lie in $[0, 1]$.


# %% tags=["definitions"]
def image_features(image):
    """Three strided convolutions: (batch, 32, 32, 1) to features (batch, 2048)."""
    h = image
    for filters in (32, 64, 128):
        h = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(h)
    return layers.Flatten()(h)


def build_encoder(latent_dim):
    """x -> z: images (batch, 32, 32, 1) to points (batch, latent_dim)."""
    x = keras.Input(IMAGE_SHAPE, name="x")
    z = layers.Dense(latent_dim, name="encoder_output")(image_features(x))
    return keras.Model(x, z, name="encoder")


# %% tags=["definitions"]
def build_decoder(latent_dim):
    """z -> x_hat: points (batch, latent_dim) to images (batch, 32, 32, 1) in [0, 1]."""
    z = keras.Input((latent_dim,), name="z")
    h = layers.Dense(4 * 4 * 128)(z)
    h = layers.Reshape((4, 4, 128))(h)
    double = {"strides": 2, "padding": "same", "activation": "relu"}
    for filters in (128, 64, 32):
        h = layers.Conv2DTranspose(filters, 3, **double)(h)
    last = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="x_hat")
    return keras.Model(z, last(h), name="decoder")


def build_autoencoder(latent_dim):
    """Encoder, decoder, and the two joined: x -> z -> x_hat."""
    encoder, decoder = build_encoder(latent_dim), build_decoder(latent_dim)
    x = keras.Input(IMAGE_SHAPE, name="x")
    return encoder, decoder, keras.Model(x, decoder(encoder(x)), name="autoencoder")


# %%
encoder, decoder, autoencoder = build_autoencoder(LATENT_DIM)
encoder.summary(line_length=80)
decoder.summary(line_length=80)

# %% [markdown]
# The shapes are those of the drawing; `None` stands for the size of the batch.
# The first convolution has $3 \cdot 3 \cdot 1$ numbers for each of its 32 kernels and a bias for each, 320 in all.
# The two networks have 343,043 parameters together, as in the book.
# That may look like a lot for two latent numbers, but the networks serve all images.
# What belongs to one image is $z$ alone.

# Whatever it is given, even a code far from all others, the decoder answers with pixels in $[0, 1]$:

# %%
far_away = np.float32([[0, 0], [1e3, -1e3], [-1e5, 1e5]])
pixels = decoder.predict(far_away, verbose=0)
assert pixels.min() >= 0 and pixels.max() <= 1
assert autoencoder.count_params() == 343_043

# %% [markdown]
# ## 1.5 The first training
#
# The input is the target, `fit(x, x)`, and the loss compares each pixel with what came back.
# Adam, a form of gradient descent with a step size for each parameter, does the rest.

# %%
autoencoder.compile(optimizer="adam", loss="binary_crossentropy")
half = x_train[: len(x_train) // 2]
fitted = autoencoder.fit(half, half, batch_size=BATCH, epochs=1, verbose=2)

# %% [markdown]
# One pass over half of the images, to see that it works.
# (The loss that `fit` prints is a mean over the epoch, from the first step on; the network that it leaves is better.)
# What comes back of images that it has not seen?

# %%
first = autoencoder.predict(x_test, batch_size=500, verbose=0)
plots.image_rows(
    {"original": x_test[:12], "reconstructed": first[:12]},
    alt="Twelve test images over their reconstructions, which mostly keep the kind "
    "of garment and lose details",
)

# %% [markdown]
# Mostly the kind of garment survives, with its size and how dark it is.
# Not always: both sandals come back as closed shoes.
# Prints, seams and buttons never do.
# That is all it takes: two networks, `compile`, `fit`.

# %% [markdown]
# ## 1.6 What does a cross-entropy of 0.25 mean?
#
# The loss compares each pixel $x \in [0, 1]$ with its reconstruction $\hat x$ by the **binary cross-entropy**
#
# $$H(x, \hat x) = -x \log \hat x - (1 - x) \log (1 - \hat x), \tag{1.1}$$
#
# averaged over pixels and images, in nats (the unit of the natural logarithm; 1 nat is 1.44 bits).
# A loss is easier to read between two values that need no training.
#
# **The floor.**
# For a given $x$ the best answer is $\hat x = x$.
# Then $H$ is 0 if the pixel is at 0 or 1, but not in between: $H(x, x)$ is the entropy of a coin that falls on heads with probability $x$.
# So no model, not even a perfect one, reaches 0.
#
# **The mean image.**
# The best answer that ignores its input is the mean of all training images (section 1.10 shows why).
# A model that scores no better has, as far as this loss can tell, learned nothing about the single image.


# %% tags=["definitions"]
def cross_entropy(x, x_hat):
    """Mean binary cross-entropy, in nats a pixel, of arrays that broadcast."""
    p = np.clip(x_hat, 1e-7, 1 - 1e-7)
    return float(np.mean(-x * np.log(p) - (1 - x) * np.log(1 - p)))


# %%
floor = cross_entropy(x_test, x_test)
of_mean = cross_entropy(x_test, x_train.mean(axis=0))
of_first = cross_entropy(x_test, first)
print(f"floor {floor:.4f}   after this epoch {of_first:.4f}   mean image {of_mean:.4f}")
print(f"'one half' for every pixel {cross_entropy(x_test, 0.5):.4f}")
half_way = (floor + of_mean) / 2 if data.complete else np.log(2)
assert floor < of_first < course.choose(full=half_way, quick=np.log(2))

# %% [markdown]
# An untrained network says about one half for every pixel, which costs $\log 2 = 0.693$.
# All that can be learned about the single image lies between 0.376, the mean image, and the floor of 0.185.
# After half of the images the network has gone more than half of that way; 0.25, where the next section ends, is two thirds of it.
# (All figures are means over 32 × 32 pixels, of which a good model's frame costs nothing: over the inner 28 × 28 they are 1.31 times as large.)

# %% [markdown]
# ## 1.7 Train on, and watch
#
# We start afresh and train two epochs, as one would for real.
# A constant learning rate is a compromise between large steps, to get on early, and small ones, to settle late.
# So the rate starts at three times Adam's usual one and falls to 0 along a cosine.
#
# Five callbacks go along.
# `Progress` shows a line, `StopOnBadLoss` ends a training whose loss is not finite, `ModelCheckpoint` keeps the network after each epoch, `TensorBoard` writes the losses into a file, and one of our own looks at the network while it learns: what the loss is, where images have their codes, and what twelve places of the plane decode to.
# The network's two parts are layers of it, found by their names.

# %%
# Twelve places, as fractions of the rectangle around the codes of the moment.
FRACTIONS = np.random.default_rng(seed).random((12, LATENT_DIM))


def look(autoencoder, images):
    """The loss and the codes of images, and what the twelve places decode to."""
    encoder = autoencoder.get_layer("encoder")
    decoder = autoencoder.get_layer("decoder")
    z = encoder.predict(images, batch_size=500, verbose=0)
    x_hat = decoder.predict(z, batch_size=500, verbose=0)
    low, high = z.min(axis=0), z.max(axis=0)
    points = (low + (high - low) * FRACTIONS).astype("float32")
    return cross_entropy(images, x_hat), z, decoder.predict(points, verbose=0)


# %% [markdown]
# It looks before the first step, after 30, 100, 300 and 1,000, and at the end; a step is one batch, so an epoch has 60,000 / 32 = 1,875 of them.
# Keras calls a callback's methods at these moments, and has set `self.model` to the network in training.


# %%
class Watch(keras.callbacks.Callback):
    """`seen[step]` is what `look` gives after so many steps."""

    def __init__(self, images):
        super().__init__()
        self.images, self.step, self.seen = images, 0, {}

    def note(self):
        self.seen[self.step] = look(self.model, self.images)

    def on_train_begin(self, logs=None):
        self.note()

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.step in LOOKS:
            self.note()

    def on_train_end(self, logs=None):
        self.note()


# %%
folder = course.output(data.slug, "01_autoencoder")
encoder, decoder, autoencoder = build_autoencoder(LATENT_DIM)
watch = Watch(x_test[:2_000])
kept = keras.callbacks.ModelCheckpoint(str(folder / "checkpoint.keras"))
callbacks = [watch, kept]
if course.backend() == "tensorflow":
    course.require("tensorboard")
    logs = folder / "tensorboard" / time.strftime("%Y-%m-%d-%H-%M-%S")
    callbacks.append(keras.callbacks.TensorBoard(str(logs)))
else:
    print("The callback that writes TensorBoard's files needs TensorFlow: none here.")


# %%
def train(autoencoder, label, callbacks):
    """`fit(x, x)` with a rate that falls to 0; returns the losses by epoch."""
    steps = EPOCHS * int(np.ceil(len(x_train) / BATCH))
    rate = keras.optimizers.schedules.CosineDecay(PEAK_RATE, decay_steps=steps)
    autoencoder.compile(keras.optimizers.Adam(rate), loss="binary_crossentropy")
    callbacks = [training.Progress(label), training.StopOnBadLoss(), *callbacks]
    check = {"validation_data": (x_test, x_test), "validation_batch_size": 500}
    fit = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": callbacks}
    return autoencoder.fit(x_train, x_train, **fit, **check).history


history = train(autoencoder, "two numbers", callbacks)
steps_seen = list(watch.seen)
losses_seen, codes_seen, samples_seen = zip(*watch.seen.values())
of_two = history["val_loss"][-1]
as_many = x_train[: len(x_test)]
of_seen = autoencoder.evaluate(as_many, as_many, batch_size=500, verbose=0)
print(f"cross-entropy on test images {of_two:.4f}", end=", ")
print(f"on as many training images {of_seen:.4f}")
assert floor < of_two < of_mean
if data.complete and course.profile() == "full":
    assert of_two < 0.2520  # three other seeds end there, too: "What we measured"

# %% [markdown]
# The book's notebook, as the Korean edition stores it, ends at 0.2547 after three epochs (1,800 steps), with batches of 100 and Adam's constant rate.
# The test images serve as validation images, as there; nothing is chosen by them, neither an epoch nor a setting.
#
# This is what `Watch` saw:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
columns = len(steps_seen)
figure, axes = plt.subplots(1, columns, figsize=(plots.WIDTH, 2.2))
titles = ["untrained", *(f"{step:,} steps" for step in steps_seen[1:])]
for axis, z, title in zip(axes, codes_seen, titles, strict=True):
    labels = y_test[: len(z)]
    plots.embedding(axis, z, labels, data.class_names, "", "", name_classes=False)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[], aspect="auto")
plots.class_legend(figure, axes[0])
plots.show(
    figure,
    alt="Codes of 2,000 test images before training and after more and more steps",
)

# %% [markdown]
# Two thousand test images, each at its code, coloured by a class that the network has never seen; each panel has its own scale.
# Untrained, nearly all lie on one heap.
# After thirty steps shoes and tops have parted; after a hundred trousers gather at an edge, among dresses.
# Bags lie among the boots until step 300, and have left them by step 1,000.
#
# And what the twelve places decode to; each keeps its share of the rectangle around the codes, which moves as they do:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.image_rows(
    dict(zip(titles, samples_seen, strict=True)),
    alt="Twelve random places of the plane, decoded before training and after more "
    "and more steps: first grey squares, then mostly clothes",
)

# %% [markdown]
# Untrained, every pixel is about one half.
# After thirty steps all places have the same blurred figure, nearly the mean of all images; after a hundred they differ in kind; later steps sharpen most of them, and some turn into another kind.
# Three of them (the second, the fifth, the third from the right) end as no garment: section 1.11 is about such places.
#
# The losses: of the 2,000 images that `Watch` looks at, and those of both epochs as `TensorBoard` wrote them into its files, which must be those that `fit` returned.
# (`tensorboard --logdir output` shows them in a browser.)

# %%
read = {"training": history["loss"], "validation": history["val_loss"]}
if course.backend() == "tensorflow":
    for name in ("train", "validation"):
        key = "training" if name == "train" else name
        read[key] = training.read_tensorboard(logs / name, "epoch_loss")
assert np.allclose(read["training"], history["loss"], rtol=1e-5)
assert np.allclose(read["validation"], history["val_loss"], rtol=1e-5)
print({step: round(loss, 3) for step, loss in zip(steps_seen, losses_seen)})

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.6))
axis.plot(
    steps_seen, losses_seen, "o-", color=plots.COLOURS[0], label="2,000 test images"
)
ends = np.linspace(0, steps_seen[-1], EPOCHS + 1)[1:]
for (name, losses), mark, colour in zip(read.items(), "sD", plots.COLOURS[1:]):
    label = f"{name}, after an epoch"
    axis.plot(ends, losses, mark, color=colour, label=label, fillstyle="none")
for level, words, style in ((of_mean, "mean image", "--"), (floor, "floor", ":")):
    axis.axhline(level, color="0.35", ls=style, lw=1.2, label=f"{words}: {level:.4f}")
axis.set_xscale("symlog", linthresh=LOOKS[0])
ticks = sorted({*steps_seen, *map(int, ends)})
axis.set_xticks(ticks, labels=[f"{step:,}" for step in ticks])
axis.minorticks_off()
axis.set(
    xlabel="steps of training", ylabel="cross-entropy (nats a pixel)", xlim=(-2, None)
)
axis.grid(alpha=0.25)
axis.legend(frameon=False)
plots.show(
    figure,
    alt="The loss falls from 0.69 to the mean image within thirty steps, and then more "
    "and more slowly to 0.25, above the floor",
)

# %% [markdown]
# The axis is linear up to 30 steps and logarithmic beyond, and the lines only join what `Watch` saw (both levels are of all test images).
# The untrained network's $\log 2$ stands at 0.
# Thirty steps reach the mean image, and a hundred go half of the way from there to the floor; the rest is slow.
# Training and validation loss end together; the first is a mean over the epoch, though, and lags behind.
# What counts are the two losses of the network that is left, printed after its training: on training images it is better by 0.003, and both lie 0.13 below the mean image, so it has learned little by heart.
#
# ### Save and load
#
# A network is saved with its architecture and its weights in one `.keras` file; encoder and decoder may be saved apart.
# The checkpoint is such a file, too; both hold the optimizer as well, since the network was compiled.
# Had training been interrupted after the first of the two epochs, `loaded.fit(x_train, x_train, batch_size=BATCH, initial_epoch=1, epochs=2)` would go on from there; compiling again would begin the fall of the rate anew.
# `loaded.get_layer("encoder")` is the encoder.

# %%
networks = {"autoencoder": autoencoder, "encoder": encoder, "decoder": decoder}
for name, network in networks.items():
    network.save(folder / f"{name}.keras")

same = autoencoder.predict(x_test[:20], verbose=0)
for name in ("autoencoder.keras", "checkpoint.keras"):
    loaded = keras.models.load_model(folder / name)
    assert np.allclose(loaded.predict(x_test[:20], verbose=0), same, atol=1e-6)
print("the checkpoint's optimizer stands at step", int(loaded.optimizer.iterations))

# %% [markdown]
# ## 1.8 The plane
#
# With two latent numbers we can look at nearly all of latent space (one code in a hundred, in each direction, lies outside the picture).
# On the left each dot is one of 5,000 test images at its code.
# On the right a grid of points is laid over the same stretch of the plane, and each point is decoded where it stands.

# %%
z_train = encoder.predict(x_train, batch_size=500, verbose=0)
z_test = encoder.predict(x_test, batch_size=500, verbose=0)
x_hat = decoder.predict(z_test, batch_size=500, verbose=0)


def decode_grid(low, high, side):
    """One image of side x side tiles between two corners, z2 upwards."""
    half = (high - low) / (2 * side)
    z1, z2 = (np.linspace(low[i] + half[i], high[i] - half[i], side) for i in range(2))
    points = np.stack(np.meshgrid(z1, z2[::-1]), axis=-1).reshape(-1, 2)
    tiles = decoder.predict(points, batch_size=256, verbose=0)
    rows = tiles.reshape(side, side, 32, 32).transpose(0, 2, 1, 3)
    return rows.reshape(side * 32, side * 32)


low, high = np.quantile(z_test, [0.005, 0.995], axis=0)
plane = decode_grid(low, high, side=16)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 5.2), sharex=True, sharey=True)
some = slice(0, 5_000)
plots.embedding(axes[0], z_test[some], y_test[some], data.class_names)
axes[1].imshow(
    plane, cmap="Greys", extent=[low[0], high[0], low[1], high[1]], aspect="auto"
)
axes[0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="auto")
axes[0].set_title("where the encoder puts test images", fontsize=10)
axes[1].set_title("what the decoder makes of these places", fontsize=10)
axes[1].set_xlabel("z₁")
plots.class_legend(figure, axes[0])
plots.show(
    figure,
    alt="Test images as dots in the latent plane, beside images decoded from a grid",
)

# %% [markdown]
# Nearby codes decode to similar images, as the decoder is a continuous function; so similar garments do best as neighbours.
# Shoes have one region, with sandals, sneakers and boots as neighbours; trousers have a corner of their own, half of the bags lie in a strip below the tops, and the others are strewn over the lower part.
# Shirts, pullovers and coats lie on top of one another, and their names crowd together: with two numbers this network cannot tell them apart.
# On the right one kind of garment turns into the next, and some tiles in between look like no garment.

# %% [markdown]
# ## 1.9 What does a network buy? Principal components
#
# There is an older way to describe an image by a few numbers: **principal components** (PCA).
# Take the mean image and the directions in which images vary most.
# The code is how far an image lies along each direction, and the reconstruction adds the directions up again:
#
# $$z_k = v_k \cdot (x - \bar x), \qquad \hat x = \bar x + \sum_{k \le d} z_k v_k, \tag{1.2}$$
#
# where $\bar x$ is the mean image, $v_k$ the $k$-th direction, of length 1, and $d$ the number of directions.
# It is an autoencoder, too, with one linear layer each way, and among all linear ones it has the smallest squared error on the training images.
# So it tells what the nonlinear layers are worth.
# We give it two numbers and six, and we train a wider network of ours, with six as well.

# %%
wide_encoder, wide_decoder, wide = build_autoencoder(WIDE_DIM)
of_six = train(wide, "six numbers", [])["val_loss"][-1]

# %%
from sklearn.decomposition import PCA

COMPONENTS = 60
pca = PCA(COMPONENTS, svd_solver="randomized", random_state=seed)
pca.fit(x_train.reshape(len(x_train), -1))
mean, directions = pca.mean_, pca.components_
pca_codes = (x_test.reshape(len(x_test), -1) - mean) @ directions.T


def by_pca(d):
    """Test images from their first d components, cut to [0, 1]."""
    x_hat = mean + pca_codes[:, :d] @ directions[:d]
    return np.clip(x_hat, 0, 1).reshape(x_test.shape)


# %%
rebuilt = {
    "PCA, 2 numbers": by_pca(2),
    "network, 2 numbers": x_hat,
    "PCA, 6 numbers": by_pca(6),
    "network, 6 numbers": wide.predict(x_test, batch_size=500, verbose=0),
}
chosen = [*first_of_each, 7, 11]
plots.image_rows(
    {"original": x_test[chosen]} | {k: x[chosen] for k, x in rebuilt.items()},
    alt="Test images, and their reconstructions from two and from six numbers, by "
    "principal components and by the network",
)

# %% [markdown]
# With two components the sneaker, the boot and the strappy sandal become much the same smear, and in the white coat a shoe and trousers show through: a sum of fixed directions can only fade between them.
# The network with two numbers has fewer ghosts.
# From six numbers it draws the dress with its straps and the sneaker with its sole, where six components still smear; the strappy sandal is still a closed shoe.
#
# In figures, the cross-entropy and the root of the mean squared error (RMSE), per pixel:


# %% tags=["definitions"]
def rmse(x, x_hat):
    """Root of the mean squared difference of two arrays that broadcast."""
    return float(np.sqrt(np.mean((x - x_hat) ** 2)))


# %%
table = pd.DataFrame(
    {
        name: {"cross-entropy": cross_entropy(x_test, x), "RMSE": rmse(x_test, x)}
        for name, x in {"mean image": x_train.mean(axis=0)[None], **rebuilt}.items()
    }
).T
by_count = [rmse(x_test, by_pca(d)) for d in range(1, COMPONENTS + 1)]
network_errors = [table["RMSE"][f"network, {d} numbers"] for d in (2, 6)]
needed = [1 + int(np.argmax(np.array(by_count) <= e)) for e in network_errors]
print("components that PCA needs for the same RMSE:", needed)
table.round(4)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 4), width_ratios=(5, 4))
axes[0].plot(range(1, COMPONENTS + 1), by_count, color=plots.COLOURS[0], label="PCA")
axes[0].plot([2, 6], network_errors, "o", color=plots.COLOURS[1], label="the network")
for count, error, d in zip(needed, network_errors, (2, 6), strict=True):
    axes[0].plot([d, count], [error, error], ":", color="0.4")
    axes[0].annotate(f"{d}", (d, error), (0, 7), textcoords="offset points", ha="right")
axes[0].set(xscale="log", xlabel="numbers in the code", ylabel="RMSE on test images")
ticks = sorted({1, 2, 60, *needed})
axes[0].set_xticks(ticks, labels=[str(tick) for tick in ticks])
axes[0].minorticks_off()
axes[0].legend(frameon=False)
axes[0].grid(alpha=0.25)
plots.embedding(
    axes[1], pca_codes[some, :2], y_test[some], data.class_names, name_classes=False
)
axes[1].set_title("the first two principal components", fontsize=10)
plots.class_legend(figure, axes[1])
plots.show(
    figure,
    alt="Left: the error against the number of components, with the network's two "
    "points below the curve. Right: test images in the plane of two components",
)

# %% [markdown]
# The network's two dots lie below PCA's curve; the dotted lines lead to as many components as PCA would need for the same error.
# In PCA's plane the classes lie on top of one another more than in ours.
# How much more?
# If a test image is named after the majority of its twenty nearest neighbours among the training images' codes, how often is that right?

# %%
from sklearn.neighbors import KNeighborsClassifier

pca_train = (x_train.reshape(len(x_train), -1) - mean) @ directions[:2].T
planes = {"PCA": (pca_train, pca_codes[:, :2]), "network": (z_train, z_test)}
right = {
    name: KNeighborsClassifier(20).fit(codes, y_train).score(tests, y_test)
    for name, (codes, tests) in planes.items()
}
print({name: f"{value:.1%}" for name, value in right.items()})

# %% [markdown]
# The network's codes rebuild better and tell classes apart better.
# With two numbers its error is that of seven components, with six that of twenty-nine.
# Each figure here is of one training; the errors and classes of three others, from the course's [benchmark](../docs/benchmark.md) (`make bench`), are close to these (the table at the end of the chapter).

# %% [markdown]
# ## 1.10 Why are the images blurred?
#
# Six numbers blur less than two, so the size of the code is one reason.
# The loss is another.
# Many images share nearly the same code, and the decoder must answer all of them with *one* image.
# Which image is the best answer?
#
# Take one pixel, and let $m$ be its mean over the images that share the code.
# Their mean cross-entropy is $H(m, \hat x) = -m \log \hat x - (1 - m) \log (1 - \hat x)$, since $x$ stands in $H$ to the first power only.
# Its derivative vanishes where
#
# $$-\frac{m}{\hat x} + \frac{1 - m}{1 - \hat x} = 0, \qquad \text{that is, at } \hat x = m. \tag{1.3}$$
#
# The mean squared error is $(\hat x - m)^2$ plus the variance of $x$, so it is smallest at $\hat x = m$, too.
# Both losses ask for the mean, and a mean of sharp images is blurred.
#
# If that is right, what the decoder makes of a code must look like the mean of the training images with codes nearby.

# %%
from sklearn.neighbors import NearestNeighbors

places = np.random.default_rng(seed).choice(len(z_test), 300, replace=False)
index = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(z_train)
near = index.kneighbors(z_test[places], return_distance=False)  # (300, NEIGHBOURS)
means = np.stack([x_train[some_of].mean(axis=0) for some_of in near])

to_mean = rmse(x_hat[places], means)
to_one = rmse(x_hat[places], x_train[near[:, 0]])
print(f"decoded image to the mean of {NEIGHBOURS} neighbours: RMSE {to_mean:.3f}")
print(f"decoded image to the nearest neighbour alone: {to_one:.3f}")
of_class = np.stack([x_train[y_train == label].mean(axis=0) for label in range(10)])
to_class = rmse(x_hat[places], of_class[y_test[places]])
print(f"decoded image to the mean of its class: {to_class:.3f}")
assert to_mean < to_one / 2 and to_mean < to_class

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
few = [
    np.flatnonzero(y_test[places] == label)[0] for label in np.unique(y_test[places])
]
rows = {"decoded": x_hat[places][few], f"mean of {NEIGHBOURS} near": means[few]}
rows |= {f"neighbour {k + 1}": x_train[near[few, k]] for k in range(4)}
plots.image_rows(
    rows,
    alt="Decoded images, the means of the training images with the nearest codes, "
    "which look much the same, and four of these images each, which are sharp",
)

# %% [markdown]
# The first two rows look much the same, though they are made in different ways: the first is a network's output, the second an average of training images.
# (Not quite the same: the bag is more blurred than the mean of its neighbours.)
# Below are four of the images that went into each average.
# They are sharp, and they differ, now and then even in kind, as a bag among sneakers: that is where the blur comes from.
#
# Now a single pixel.
# We take the place and the pixel at which the neighbours disagree most.

# %%
spread = x_train[near].std(axis=1)[..., 0]  # (300, 32, 32)
place, row, column = np.unravel_index(spread.argmax(), spread.shape)
pixel = x_train[near[place], row, column, 0]
m = pixel.mean()
answers = np.linspace(0.01, 0.99, 99)
H = [cross_entropy(pixel, answer) for answer in answers]
squared = [np.mean((pixel - answer) ** 2) for answer in answers]
best = answers[np.argmin(H)], answers[np.argmin(squared)]
answer = x_hat[places[place], row, column, 0]
garment = data.class_names[y_test[places[place]]]
print(f"near a {garment}, the pixel in row {row}, column {column}")
print(f"mean {m:.3f}, best answers {best[0]:.2f} and {best[1]:.2f}, ours {answer:.2f}")
assert np.allclose(best, m, atol=0.011)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3), sharex=True)
axes[0].hist(pixel, np.linspace(0, 1, 21), color="0.75")
axes[0].set(title="the pixel in the neighbours", ylabel="images")
axes[1].plot(answers, H, color=plots.COLOURS[0])
axes[1].set(title="mean cross-entropy")
axes[2].plot(answers, squared, color=plots.COLOURS[1])
axes[2].set(title="mean squared error")
for axis in axes:
    axis.axvline(m, color="0.2", linestyle="--", linewidth=1.2, label="mean, m")
    axis.axvline(answer, color=plots.COLOURS[2], linewidth=1.2, label="the decoder")
    axis.set_xlabel("answer x̂" if axis is not axes[0] else "level of the pixel")
    axis.title.set_fontsize(10)
axes[1].legend(facecolor="white", framealpha=1, fontsize=9, loc="upper center")
figure.subplots_adjust(wspace=0.3)
plots.show(
    figure,
    alt="A pixel that is black in some neighbours and bright in others, and the two "
    "losses against the answer: both are least at the mean",
)

# %% [markdown]
# In some of the neighbours this pixel is at 0, in others near 1, and in few is it in between.
# Yet both losses are smallest in between, at the mean, and near it the decoder's answer lies, too.
# To ask for the mean of all likely images is to ask for a blurred one.
# A model that drew one of them at random would not have to blur.

# %% [markdown]
# ## 1.11 New clothes? Three faults
#
# Can the decoder make new clothes?
# Pick a point, decode it, done.
# But which point?
# The obvious thing, and the book's, is to draw points evenly from the rectangle around the codes.
# To judge what comes out, we look for the real image that is most like it.
# Two images are alike if their *patterns* are, whatever their contrast: we take the correlation of their pixels.


# %% tags=["definitions"]
def standardised(images):
    """Images as vectors of mean 0 and length 1: (count, …) to (count, pixels)."""
    v = np.asarray(images, "float32").reshape(len(images), -1)
    v = v - v.mean(axis=1, keepdims=True)
    return v / (np.linalg.norm(v, axis=1, keepdims=True) + 1e-6)


def nearest(images, real):
    """For each image the index of the real one most like it, and 1 − correlation."""
    correlation = standardised(images) @ standardised(real).T
    index = correlation.argmax(axis=1)
    return index, 1 - correlation[np.arange(len(images)), index]


# %% [markdown]
# How far from every real image is too far?
# The distance is 1 − correlation.
# Reconstructions of test images set the limit, since they are as blurred as samples are: 95 % of them lie within it.
# A sample beyond it is *like none*.
# And of which class is a sample?
# Of that of the image it is most like: a rough rule, as the figures below show, so we compare samples with reconstructions by the same rule.
# (We search 20,000 of the training images, which is enough, and faster.)


# %% tags=["definitions"]
def yardstick(reconstructions, real, names):
    """The distance to the nearest real image within which 95 % of reconstructions lie,
    and what fraction of them is most like each class: a number and (classes,).
    """
    like, distances = nearest(reconstructions, real)
    usual = np.bincount(names[like], minlength=names.max() + 1) / len(like)
    return float(np.quantile(distances, 0.95)), usual


# %%
real, names = x_train[:20_000], y_train[:20_000]
LIMIT, usual = yardstick(x_hat[:2_000], real, names)
for name, images in {"test images": x_test, "reconstructions": x_hat}.items():
    named = names[nearest(images[:2_000], real)[0]] == y_test[:2_000]
    print(f"{name} that are most like one of their own class: {named.mean():.0%}")
print(f"like none: farther than {LIMIT:.3f}")

SHOWN = 30
box = np.stack([z_train.min(axis=0), z_train.max(axis=0)])
even = np.random.default_rng(seed).uniform(*box, (1_000, LATENT_DIM)).astype("float32")
new = decoder.predict(even, batch_size=500, verbose=0)
like, distances = nearest(new, real)
kind, far = names[like], distances > LIMIT

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
from matplotlib.patheffects import withStroke

colours = ["black" if lost else plots.CLASS_COLOURS[k] for lost, k in zip(far, kind)]


def draw_places(axis):
    """The first even points as numbers over the codes; a box where like none."""
    plots.embedding(
        axis, z_test[some], y_test[some], data.class_names, name_classes=False
    )
    words = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
    words["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
    for number in range(SHOWN):
        frame = {"boxstyle": "square,pad=0.1", "fc": "none", "ec": "black"}
        frame["linewidth"] = 1.2 if far[number] else 0
        look = words | {"color": colours[number], "bbox": frame}
        axis.text(*even[number], f"{number + 1}", **look)
    margin = 0.03 * (box[1] - box[0])
    low, high = box[0] - margin, box[1] + margin
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="auto")
    axis.set_title("points drawn evenly, on the codes", fontsize=10)


# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure = plt.figure(figsize=(plots.WIDTH, 4.4))
left, right_side = figure.subfigures(1, 2, width_ratios=(5, 6))
axis = left.subplots()
draw_places(axis)
plots.class_legend(figure, axis)
tiles = right_side.subplots(5, 6)
for number, tile in enumerate(tiles.flat):
    plots.draw_image(tile, new[number])
    tile.spines[:].set(color=colours[number], linewidth=2.5)
    if far[number]:
        tile.plot([0, 31], [31, 0], color="black", linewidth=1.2)
    tile.set_title(f"{number + 1}", fontsize=8, pad=2)
right_side.subplots_adjust(hspace=0.35, wspace=0.08, top=0.9, bottom=0.02)
plots.show(
    figure,
    alt="Thirty points drawn evenly over the codes of test images, numbered, beside "
    "the images that they decode to; frames have the colour of the class that an image "
    "is most like, and what is like none is crossed out",
)

# %% [markdown]
# Each number on the left is a point, and its image is the tile of that number.
# A frame has the colour of the class that the image is most like; what is like none is black, boxed on the left and crossed out on the right.
# The limit is a lenient judge: tiles 17 and 19 are hardly better than 5, which is crossed out, and contrast plays no part.
# So it counts too few rather than too many.

# %%
seen = pd.Series([data.class_names[k] for k in kind[:SHOWN][~far[:SHOWN]]])
print(f"of the {SHOWN} shown, {far[:SHOWN].sum()} are like none; the others look like")
print(seen.value_counts().to_string(header=False))

# %% [markdown]
# Three faults come together here.
#
# **Fault 1: the classes have unequal room.**
# Some sprawl, others lie on a small patch or under another class, and even points fall where the room is.
# Bags fill much of the picture; boots and sandals, which lie on small patches, do not turn up among the thirty.
# We count a thousand points.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
from matplotlib.patches import Patch

of_even = np.bincount(kind, minlength=10) / len(kind)
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3))
where = np.arange(10)
axis.bar(where - 0.2, usual, 0.4, color="0.8", label="reconstructions of test images")
axis.bar(where + 0.2, of_even, 0.4, color=plots.CLASS_COLOURS)
in_colour = Patch(facecolor="white", edgecolor="0.2", label="in colour: even points")
axis.set_xticks(where, data.class_names, fontsize=9)
axis.set(ylabel="fraction")
axis.legend(handles=[*axis.get_legend_handles_labels()[0], in_colour], frameon=False)
plots.show(
    figure,
    alt="How many of a thousand even points look like each class, beside the same for "
    "reconstructions of test images",
)

# %% [markdown]
# Grey bars are the classes of reconstructions, by the same rule; they are not even, since blurred images are named a coat or a boot too often, and a shirt, a bag or a sandal too rarely.
# Where a coloured bar is taller than the grey one beside it, the class has more room than its due, as bags have by far; boots and coats have about a third of theirs.
# (Sandals and shirts seem to have more, too, but beside grey bars that are too low; and tiles 17 and 19, which count as shirts, are shapeless.)


# %% tags=["definitions"]
def judge(images, real, names, limit, usual):
    """What fraction of images is like no real one, and what fraction would have to
    change class so that the classes had their `usual` fractions (classes,).
    """
    like, distances = nearest(images, real)
    fractions = np.bincount(names[like], minlength=len(usual)) / len(images)
    return {
        "like none": float(np.mean(distances > limit)),
        "wrong class": float(np.abs(fractions - usual).sum() / 2),
    }


# %%
faults = judge(new, real, names, LIMIT, usual)
print(f"would have to change class: {faults['wrong class']:.1%}")
assert faults["like none"] == far.mean()

# %% [markdown]
# The figure is half the sum of the differences between the bars; what is like none counts, too, under the class of its nearest image.
# Three other trainings have 19 to 32 %: how unequal the room is differs much from one to the next.
#
# **Fault 2: nobody said where codes should lie.**
# The rectangle was our guess, and it depends on the outermost codes.
# Standard normal points, which the next chapter will draw, would miss many of the codes: these do not lie around 0, and they spread about twice as far.
# How far are they from normal?
# The Kolmogorov–Smirnov distance is the largest difference between the cumulative distribution of a coordinate and that of the standard normal distribution, $\mathcal N(0, 1)$; it is 0 for equal ones and at most 1.


# %% tags=["definitions"]
def distance_from_normal(z):
    """Largest Kolmogorov-Smirnov distance of a coordinate of z, (count, dim)."""
    from scipy.stats import kstest

    return max(float(kstest(values, "norm").statistic) for values in np.asarray(z).T)


# %%
centre, size = z_test.mean(axis=0), z_test.std(axis=0)
as_it_is = distance_from_normal(z_test)
shifted = distance_from_normal((z_test - centre) / size)
print(f"means {centre.round(1)}, deviations {size.round(1)}")
print(f"distance from normal {as_it_is:.2f}, and {shifted:.2f} once shifted and scaled")

# %% [markdown]
# So place and size are most of this distance, and they could be put right afterwards.
# But it looks at one coordinate at a time: it does not see that the codes lie in groups, islands with gaps between them.
#
# **Fault 3: gaps.**
# Between the islands, and beyond them, lies land that no image is ever sent to.
# The decoder was never trained there, and what it makes of it can be anything.
# Not all of it is nonsense (3 is a T-shirt and 12 a pair of trousers, far from all codes), but all four crossed-out tiles come from there.

# %%
print(f"like none: {far.mean():.1%} of a thousand even points")

# %% [markdown]
# Three other trainings give 5 to 7 %, as the table at the end says, and so do the codes of real images (section 1.12).
# So in the plane this count hardly shows the gaps: much land is empty, but most of it decodes to something like a garment.
# The next section shows what gaps are in six dimensions.

# %% [markdown]
# ## 1.12 A density of the codes
#
# Is it really a fault that nobody said where the codes lie?
# We have the codes of the training images (a fifth of them will do, and another twentieth to choose by).
# A density, which says how thickly codes lie at each place, can be *fitted* to them afterwards, and points be drawn from it (Ghosh et al., 2020).
# The simplest is one Gaussian, a round or stretched cloud with the mean of the codes, and with their covariance, which says how far they spread in each direction.
# A *mixture* of Gaussians is a sum of many such clouds, each with a weight, a place and a shape of its own, and can take nearly any shape.
# How many clouds?
# We try some numbers, and keep the one whose density is highest, on average of its logarithm (the log-likelihood), at codes that were held back from the fit.


# %% tags=["definitions"]
def fit_mixture(z, held_back, counts, seed):
    """The mixture of Gaussians, of so many each, that suits `held_back` best."""
    from sklearn.mixture import GaussianMixture

    tries = [GaussianMixture(n, random_state=seed, reg_covar=1e-3) for n in counts]
    return max((t.fit(z) for t in tries), key=lambda t: t.score(held_back))


def ways_to_draw(z, counts, seed, size=1_000):
    """Four ways to draw codes, by name, each (size, dim); z are codes of images."""
    rng, z = np.random.default_rng(seed), np.asarray(z, "float64")
    shape = size, z.shape[1]
    # A fifth of the codes to fit, and another twentieth to choose by.
    fitted, held_back = np.split(z[: len(z) // 4], [len(z) // 5])
    gaussian, mixture = (
        fit_mixture(fitted, held_back, n, seed) for n in ((1,), counts)
    )
    ways = {
        "standard normal": rng.normal(size=shape),
        "evenly from the box": rng.uniform(z.min(axis=0), z.max(axis=0), shape),
        "one Gaussian": rng.permutation(gaussian.sample(size)[0]),
        "a mixture": rng.permutation(mixture.sample(size)[0]),
    }
    return {name: points.astype("float32") for name, points in ways.items()}


# %% [markdown]
# The same two questions as before: how many samples are like none, and how many would have to change class?
# We ask for codes of two numbers and of six, each by the limit that its own reconstructions set.

# As a reference for a perfect way to draw, we also decode the codes of a thousand other test images.

# %%
networks = {2: (encoder, decoder), 6: (wide_encoder, wide_decoder)}
drawn, samples, table = {}, {}, {}
for d, (encode, decode) in networks.items():
    again = decode.predict(encode.predict(x_test[:2_000], verbose=0), verbose=0)
    limit, usual_of_d = yardstick(again, real, names)
    ways = ways_to_draw(
        encode.predict(x_train, batch_size=500, verbose=0), MIXTURES, seed
    )
    ways["codes of test images"] = encode.predict(x_test[-1_000:], verbose=0)
    for name, points in ways.items():
        drawn[d, name] = points
        samples[d, name] = decode.predict(points, batch_size=500, verbose=0)
        judged = judge(samples[d, name], real, names, limit, usual_of_d)
        table[f"{d} numbers, {name}"] = judged | {"limit": limit}

table = pd.DataFrame(table).T
table.rename(columns={"wrong class": "to change class"}).round(3)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 4, figsize=(plots.WIDTH, 2.7), sharex=True, sharey=True)
for axis, name in zip(axes, ways):  # the first four
    axis.scatter(*z_test[some].T, s=2, color="0.75", linewidths=0)
    axis.scatter(*drawn[2, name].T, s=3, color=plots.COLOURS[2], linewidths=0)
    axis.set_title(name, fontsize=10)
    axis.set_xlabel("z₁")
axes[0].set_ylabel("z₂")
axes[0].set(xlim=box[:, 0], ylim=box[:, 1])
plots.show(
    figure,
    alt="A thousand points drawn in four ways, in red on the grey codes: standard "
    "normal ones miss many codes, even ones fill the gaps, one Gaussian spills over, "
    "and the mixture lies on the codes",
)

# %% [markdown]
# Codes of test images in grey, what is drawn in red.
# The mixture follows the islands and leaves the gaps out; one Gaussian covers both.
# And what the points decode to, each row the first twelve of its thousand, as they came:

# %%
plots.image_rows(
    {f"{d}, {name}": images[:12] for (d, name), images in samples.items()},
    alt="Twelve samples by each of five ways to draw codes, of two numbers and of six; "
    "those from a mixture look like clothes, those from a box of six numbers mostly "
    "do not",
)

# %% [markdown]
# The last row of each half is the reference: 5 to 7 % like none, since the limit was set so, and 3 to 5 % to change class, by chance alone.
# Differences of one or two per cent mean nothing.
# (The limit of six numbers is the laxer: compare within a half.
# And these thousand even points are others than those above, hence 0.076 for 0.073, and 39.7 % to change class for 37.2.)
#
# - Of standard normal points 44 % are like none with two numbers (35 % in three other trainings) and 78 % with six; many of those are faint scraps, since their points lie off the codes.
# - Even points from the box have the wrong classes, bags above all with two numbers; with six nearly three quarters are like none: there the box is nearly all gap.
# - One Gaussian gives better classes than the box, but in the plane more samples that are like none, in this and in the three other trainings: much of it falls between the islands.
# - The mixture is as good as codes of real images, within what chance does.
#
# So the second fault can be put right afterwards, and with it most of the first and the third.
# Is there a reason to go on?
# There are three.
# The density is a second model, fitted to whatever the first one left; nothing made the first leave what is easy to fit.
# The decoder still has its gaps, which the mixture merely avoids: on the way from one code to another one may still cross them (exercise 1).
# And nothing here says how likely an image is.
# [Chapter 2](02_vae.ipynb) asks for a latent space of a known shape *while* it trains the networks.

# %%
# Evenly drawn points are worse than the mixture's, and the codes are not normal:
lost, wrong = table["like none"], table["wrong class"]
for d in (2, 6):
    assert wrong[f"{d} numbers, a mixture"] < wrong[f"{d} numbers, evenly from the box"]
assert distance_from_normal(z_test) > 0.2

# %% [markdown]
# ## What we measured
#
# One training each, above.
# Three trainings with other seeds, by `make bench PART=images`, on the clothes: median and range.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
bench = {
    name: runs
    for name, runs in results.benchmarked("images").items()
    if name.startswith(("PCA", "autoencoder"))
}
shown = {
    "cross-entropy": ("cross_entropy", 4),
    "RMSE": ("rmse", 4),
    "class named by neighbours": ("neighbours_right", 2),
    "to change class, box": ("class_box", 2),
    "to change class, mixture": ("class_mixture", 2),
    "like none, box": ("none_box", 2),
    "like none, one Gaussian": ("none_gaussian", 2),
    "like none, mixture": ("none_mixture", 2),
}


pd.DataFrame(
    {
        name: {
            words: results.spread(runs, *of) if of[0] in runs[0] else ""
            for words, of in shown.items()
        }
        for name, runs in bench.items()
    }
)

# %% [markdown]
# "Class named by neighbours" is the fraction that twenty neighbours in the space of codes name rightly.
#
# The figures of this run go into `output/results.json`, where later chapters and the site that `make run` makes find them; `validation_loss` is the loss on test images.

# %%
from IPython.display import display

rows = [
    {"model": "floor", "validation_loss": floor},
    {"model": "mean image", "validation_loss": of_mean},
]
for d, loss, network in ((2, of_two, autoencoder), (6, of_six, wide)):
    rows.append(
        {
            "model": f"autoencoder, {d} numbers",
            "validation_loss": loss,
            "like_none_box": lost[f"{d} numbers, evenly from the box"],
            "like_none_mixture": lost[f"{d} numbers, a mixture"],
            "parameters": network.count_params(),
        }
    )

seconds = time.perf_counter() - STARTED
display(results.record("01_autoencoder", data=data.name, seconds=seconds, rows=rows))

# %% [markdown]
# ## Summary
#
# - An autoencoder learns a code for images by rebuilding them.
#   What the code means is nobody's choice.
# - A strided convolution halves an image; a transposed one doubles it, by the transposed matrix.
# - A cross-entropy is read between two others: the floor, which is not 0 for grey pixels, and the mean image.
# - With two and with six numbers the network's error was below that of principal components, which can only fade between fixed images.
# - Images that share a code are answered by about their mean; so both cross-entropy and squared error blur.
# - As a source of new images the plane has three faults: classes have unequal room, nobody said where codes lie, and there are gaps.
#   A density that is fitted to the codes afterwards puts most of that right.
#
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.**
# Walk from the trousers to the ankle boot (the first test image of each) in nine steps, once on a straight line in latent space and once by fading one image into the other.
# By `nearest`, with the `real` of section 1.11: which walk is closer at its ends, in its middle and on average, and at which step is each farthest?
# Say it before you run it.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# The fade is farthest just past the middle, where it shows two garments at once. There
# the decoded walk is nearer to real images; but between the last garment and the first
# shoe it crosses a gap and is farther than any fade. At the ends both are near, and on
# average neither wins: the straight line between two codes is no better than a fade
# where it leaves the land that codes live on.
start, end = x_test[first_of_each[1]], x_test[first_of_each[9]]
steps = np.linspace(0, 1, 9, dtype="float32")[:, None]
z_start, z_end = encoder.predict(np.stack([start, end]), verbose=0)
walk = decoder.predict((1 - steps) * z_start + steps * z_end, verbose=0)
fade = (1 - steps[..., None, None]) * start + steps[..., None, None] * end
walks = {"decoded": walk, "fade": fade}
plots.image_rows(walks, alt="A walk in latent space over a fade between two images")
for name, images in walks.items():
    others = nearest(images, real)[1]
    print(f"{name:8}", others.round(2), f"limit {LIMIT:.2f}")

# %% [markdown]
# **2. Derive.**
# Show that $H(x, \hat x) - H(x, x)$ is never negative and 0 for $\hat x = x$ alone.
# (Its derivative will do; it is the Kullback–Leibler divergence of two coins, which chapter 2 needs again.)
# How large is it, on average, for the trained network, and what does that make of "0.25"?


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# H(x, x̂) − H(x, x) = x log(x / x̂) + (1 − x) log((1 − x) / (1 − x̂)), which is the KL
# divergence of a coin with probability x from one with probability x̂. Its derivative
# by x̂ is (x̂ − x) / (x̂ (1 − x̂)), negative below x and positive above: the only
# minimum is at x̂ = x, where it is 0. So of a loss of about 0.25 some 0.185 are the
# clothes' own greyness, and the network's error is what is left, a quarter of it.
def coin_divergence(x, x_hat):
    x, x_hat = np.float64(x), np.clip(np.float64(x_hat), 1e-7, 1 - 1e-7)
    ones = np.where(x > 0, x * np.log(np.maximum(x, 1e-300) / x_hat), 0)
    zeros = np.where(
        x < 1, (1 - x) * np.log(np.maximum(1 - x, 1e-300) / (1 - x_hat)), 0
    )
    return float(np.mean(ones + zeros))


gap = coin_divergence(x_test, x_hat)
print(f"the network's part {gap:.4f}, of {cross_entropy(x_test, x_hat):.4f}")
assert np.isclose(gap, cross_entropy(x_test, x_hat) - floor, atol=1e-4)

# %% [markdown]
# **3. Build.**
# A *denoising* autoencoder gets an image with noise and is asked for the clean one: `fit(noisy, clean)`.
# Train one with six numbers on the first 6,000 images with Gaussian noise of deviation 0.3, cut to $[0, 1]$, for one epoch in batches of 32, and clean test images with it.
# Compare with the network of section 1.9, which has never seen noise.


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# The network that never saw noise makes it worse: trousers become pullovers, and shoes
# pale squares. The other one has learned what clothes look like without noise, though
# it blurs, and makes a dark smear of the checked shirt.
def with_noise(x):
    noise = np.random.default_rng(seed).normal(0, 0.3, x.shape)
    return np.clip(x + noise, 0, 1).astype("float32")


clean = x_train[:EXERCISE_IMAGES]
_, _, cleaner = build_autoencoder(WIDE_DIM)
cleaner.compile("adam", "binary_crossentropy")
cleaner.fit(with_noise(clean), clean, batch_size=32, verbose=0)
noisy = with_noise(x_test[:1_000])
cleaned = {"noisy": noisy, "wide": wide.predict(noisy, verbose=0)}
cleaned["denoising"] = cleaner.predict(noisy, verbose=0)
rows = {name: images[:12] for name, images in cleaned.items()}
plots.image_rows(rows, alt="Noisy test images, and what two networks make of them")
for name, images in cleaned.items():
    print(f"{name:10} RMSE to the clean image {rmse(x_test[:1_000], images):.3f}")

# %% [markdown]
# **4. Build.**
# Train a network with two numbers on the squared error, for one epoch of 6,000 images, and one on the cross-entropy for as long.
# Score both networks by both losses.
# Are the images of the first less blurred?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# No: both losses ask for the mean (section 1.10), and the images look alike. Each loss
# weighs pixels in its own way, the cross-entropy by 1 / (m (1 − m)) near its minimum,
# so that it cares more for pixels that are nearly always black. One training of each
# does not tell them apart: here each network is ahead by its own loss, by little, and
# in another run, by JAX on a GPU, the first was ahead by both.
for loss in ("mse", "binary_crossentropy"):
    keras.utils.set_random_seed(seed)
    _, _, other = build_autoencoder(LATENT_DIM)
    other.compile("adam", loss)
    other.fit(clean, clean, batch_size=32, verbose=0)
    made = other.predict(x_test[:1_000], verbose=0)
    scores = cross_entropy(x_test[:1_000], made), rmse(x_test[:1_000], made)
    print(f"{loss:20} cross-entropy {scores[0]:.4f}, RMSE {scores[1]:.4f}")
    plots.image_grid(made[:12], columns=12, alt=f"Reconstructions, trained by {loss}")

# %% [markdown]
# **5. Find the bug.**
# Somebody reports a loss far below 0.25 after one short epoch, from the lines below.
# What is wrong, which number of section 1.6 shows at once that something is, and which two, worked out again for these data, show that nothing was learned?


# %%
def prepare_again(images):
    return prepare(images) / 255


tiny = prepare_again(data.x_train[:EXERCISE_IMAGES])
_, _, suspect = build_autoencoder(LATENT_DIM)
suspect.compile("adam", "binary_crossentropy")
fitted = suspect.fit(tiny, tiny, batch_size=32, verbose=0)
print(f"loss {fitted.history['loss'][-1]:.4f}")

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 5
# The pixels were divided by 255 twice: no pixel is above 1/255, every image is black,
# and black is easy. A loss below section 1.6's floor, 0.185, is one that no model of
# the right data can have. The floor and the mean image of these data say what the loss
# is worth: it is no better than that of the mean image, so nothing was learned of
# images. (The loss printed above, ten times as large, is a mean over an epoch that
# began near 0.69.)
tiny_test = prepare_again(data.x_test[:1_000])
bounds = cross_entropy(tiny_test, tiny_test), cross_entropy(tiny_test, tiny.mean(0))
loss = cross_entropy(tiny_test, suspect.predict(tiny_test, verbose=0))
print(f"floor {bounds[0]:.4f}, network {loss:.4f}, mean image {bounds[1]:.4f}")
assert loss > bounds[0] + 0.5 * (bounds[1] - bounds[0])

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Section 3.1; [its code](https://github.com/davidADSP/Generative_Deep_Learning_2nd_Edition). In Korean: 만들면서 배우는 생성 AI 2판.
# - G. E. Hinton, R. R. Salakhutdinov. [Reducing the Dimensionality of Data with Neural Networks](https://www.science.org/doi/10.1126/science.1127647). Science, 2006. Autoencoders beside principal components.
# - V. Dumoulin, F. Visin. [A guide to convolution arithmetic for deep learning](https://arxiv.org/abs/1603.07285). 2016. Chapter 4: transposed convolutions.
# - P. Ghosh, M. S. M. Sajjadi, A. Vergari, M. Black, B. Schölkopf. [From Variational to Deterministic Autoencoders](https://arxiv.org/abs/1903.12436). ICLR, 2020. Section 4: a density fitted to the codes.
# - H. Xiao, K. Rasul, R. Vollgraf. [Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms](https://arxiv.org/abs/1708.07747). 2017.
# - P. Vincent, H. Larochelle, Y. Bengio, P.-A. Manzagol. [Extracting and Composing Robust Features with Denoising Autoencoders](https://www.cs.toronto.edu/~larocheh/publications/icml-2008-denoising-autoencoders.pdf). ICML, 2008. Exercise 3.
