# %% [markdown]
# # Chapter 1 · Autoencoder
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/01_autoencoder.ipynb)
#
# **What is left of an image that has to pass through two numbers?** An autoencoder squeezes each image into a point of a
# small space and paints it again from that point. We build one, measure how much it loses, and then try to use it as a
# generative model. It fails in three ways. We measure each of them, because they are the reason for the next chapter.

# %% [markdown]
# **You will learn**
# - to build a convolutional encoder and decoder and train them as one network;
# - to read a cross-entropy of 0.25: what the best possible value is, and what the most naive model scores;
# - how a learning-rate schedule reaches the same loss with less than half of the work;
# - why the latent space of an autoencoder is a poor place to sample from, in three numbers.
#
# **In the book**: section 3.1, Autoencoders (오토인코더), of chapter 3, Variational Autoencoders (변이형 오토인코더).
#
# **Needs**: Fashion-MNIST (30 MB, downloaded once). Ten passes over its 60,000 images. On two CPU cores a
# pass took about 35 seconds, and all of it 7 minutes; on a slower machine up to 22. On a GPU: not measured.

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
# The line above names the profile. `full` is what you read in the text. `quick` is the same notebook with less training;
# the test suite runs it. A hyper-parameter that differs between the two shows both values.

# %%
import time

STARTED = time.perf_counter()
LATENT_DIM = 2
TRAIN_IMAGES = course.choose(full=60_000, quick=2_000)
TEST_IMAGES = course.choose(full=10_000, quick=1_000)
EPOCHS = course.choose(full=3, quick=2)
BATCH = course.choose(full=128, quick=20)
PEAK_LEARNING_RATE = 3e-3
BOOK_EPOCHS = course.choose(full=5, quick=2)
BOOK_BATCH = 100
seed = course.seed(42)

# %% [markdown]
# ## 1.1 The data
#
# Fashion-MNIST holds 70,000 grey images of clothes, 28 × 28 pixels, in ten classes. The labels play no part in training.
# They come back later, to colour pictures of what the network found without them. Without a network connection,
# scikit-learn's digits stand in for the clothes; then `data.complete` is false.

# %%
from utils import datasets

data = datasets.fashion_mnist()
print(data)

# %% [markdown]
# Two preparations. Pixels are scaled from 0…255 to $[0, 1]$, so that the network can paint them with a sigmoid. And a
# black frame of two pixels makes the side 32: it can then be halved three times, 32 → 16 → 8 → 4, without a remainder.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers

IMAGE_SHAPE = (32, 32, 1)


def prepare(images):
    """uint8 (count, 28, 28) to float32 (count, 32, 32, 1) in [0, 1], with a black frame."""
    framed = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    return framed[..., None].astype("float32") / 255


# %% [markdown]
# All images fit into memory, so we prepare them once.

# %% tags=["nbval-check-output"]
x_train = prepare(data.x_train[:TRAIN_IMAGES])
x_test = prepare(data.x_test[:TEST_IMAGES])
y_test = data.y_test[: len(x_test)]

print("one image:", x_train.shape[1:], x_train.dtype, "from", x_train.min(), "to", x_train.max())

# %% [markdown]
# One test image of each class. Level 0 is black; our pictures show it white and the clothes dark, as print does.

# %% tags=["nbval-check-output"]
from utils import plots

first_of_each = [np.flatnonzero(y_test == label)[0] for label in range(10)]
plots.image_grid(
    x_test[first_of_each],
    titles=list(data.class_names),
    columns=10,
    alt="One test image of each of the ten classes, with its name",
)


# %% [markdown]
# ## 1.2 Encoder and decoder
#
# An autoencoder is two networks in a row.
#
# - The **encoder** maps an image $x$ to a point $z$ of the **latent space** (잠재 공간). Here $z$ is two numbers.
# - The **decoder** maps a point $z$ to an image $\hat x$.
#
# They are trained together so that $\hat x$ resembles $x$. Nobody says what $z$ should mean. But the decoder has nothing
# else to go by, so the encoder must put into $z$ whatever tells images apart.
#
# Both networks are convolutional. Each convolution of the encoder has stride 2: it halves the side of the image while the
# number of channels grows from 1 to 128. Height and width are traded for features.

# %% tags=["definitions"]
def image_features(image):
    """Three strided convolutions: an image (batch, 32, 32, 1) to features (batch, 2048)."""
    h = image
    for filters in (32, 64, 128):
        h = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(h)
    return layers.Flatten()(h)


def build_encoder(latent_dim):
    """The network x -> z: images (batch, 32, 32, 1) to points (batch, latent_dim)."""
    x = keras.Input(IMAGE_SHAPE, name="x")
    z = layers.Dense(latent_dim, name="encoder_output")(image_features(x))
    return keras.Model(x, z, name="encoder")


# %% [markdown]
# The decoder is the encoder's mirror. A dense layer spreads the point over the 4 × 4 × 128 numbers that the encoder had
# before flattening. Three **transposed convolutions** with stride 2 double the side each: 4 → 8 → 16 → 32. (Each input value
# adds a weighted 3 × 3 patch to an output of twice the side. The weights of the patches are what is learned.) A last
# convolution with a sigmoid mixes 32 channels into one grey value in $[0, 1]$.

# %% tags=["definitions"]
def build_decoder(latent_dim):
    """The network z -> image: points (batch, latent_dim) to images (batch, 32, 32, 1) in [0, 1]."""
    z = keras.Input((latent_dim,), name="z")
    h = layers.Dense(4 * 4 * 128)(z)
    h = layers.Reshape((4, 4, 128))(h)
    for filters in (128, 64, 32):
        h = layers.Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")(h)
    x_hat = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="x_hat")(h)
    return keras.Model(z, x_hat, name="decoder")


# %% [markdown]
# Joined, they are the autoencoder: 343,043 trainable numbers, as in the book. That may look like a lot for two latent
# numbers, but the networks are shared by all images. What belongs to one image is $z$ alone.

# %% tags=["definitions"]
def build_autoencoder(latent_dim):
    """Encoder, decoder, and the two joined: x -> z -> x_hat."""
    encoder, decoder = build_encoder(latent_dim), build_decoder(latent_dim)
    x = keras.Input(IMAGE_SHAPE, name="x")
    return encoder, decoder, keras.Model(x, decoder(encoder(x)), name="autoencoder")


# %% [markdown]
# Built, they tell what goes in, what comes out, and how many numbers are learned.

# %% tags=["nbval-check-output"]
encoder, decoder, autoencoder = build_autoencoder(LATENT_DIM)

for network in (encoder, decoder, autoencoder):
    shapes = f"{network.input_shape} -> {network.output_shape}"
    print(f"{network.name:12} {shapes:40} {network.count_params():,} parameters")
assert autoencoder.count_params() == 343_043


# %% [markdown]
# ## 1.3 What does a cross-entropy of 0.25 mean?
#
# The loss compares each pixel $x \in [0, 1]$ with the painted $\hat x$ by the **binary cross-entropy**
#
# $$H(x, \hat x) = -x \log \hat x - (1 - x) \log (1 - \hat x),$$
#
# averaged over pixels and images, in nats (the unit of the natural logarithm; 1 nat is 1.44 bits). A loss is easier to read with two marks beside it.
#
# **The floor.** For a given $x$ the best answer is $\hat x = x$. Then $H$ is 0 if the pixel is black or white, but not if
# it is grey: $H(x, x)$ is the entropy of a coin with probability $x$. So no model, not even a perfect one, reaches 0.
#
# **The mean image.** The best answer that ignores its input is the mean of all training images. A model that scores no
# better has learned nothing about the single image.

# %% tags=["definitions"]
def cross_entropy(x, x_hat):
    """Mean binary cross-entropy in nats a pixel. Arrays that broadcast, values in [0, 1]."""
    p = np.clip(x_hat, 1e-7, 1 - 1e-7)
    return float(np.mean(-x * np.log(p) - (1 - x) * np.log(1 - p)))


# %% [markdown]
# The two marks on our test images, and what the untrained network scores:

# %%
floor = cross_entropy(x_test, x_test)
mean_image_loss = cross_entropy(x_test, x_train.mean(axis=0))
untrained_loss = cross_entropy(x_test[:500], autoencoder.predict(x_test[:500], verbose=0))

print(f"floor {floor:.4f}   mean image {mean_image_loss:.4f}   untrained {untrained_loss:.4f}")
assert floor < mean_image_loss < untrained_loss

# %% [markdown]
# Untrained, the network says "one half" for every pixel, which costs $\log 2 = 0.693$. All that can be learned about
# the single image lies between the mean image and the floor.
#
# ## 1.4 Training
#
# The input is the target: `fit(x, x)`. Adam (a form of gradient descent with a step size for each weight) does the rest.
#
# First the book's settings: a constant learning rate of 0.001, batches of 100, at most five epochs. We look at the test
# images twice an epoch, to see *when* a loss is reached. The book's stored run ended at 0.2547, so that is the mark, and
# training stops once it is passed. (The mark belongs to Fashion-MNIST. On the digits that stand in for it there is none to stop at.) The test
# images serve as validation images here, as in the book. That is fine for comparing speed. A model must not be *chosen* by
# them.

# %%
from utils import training

BOOK_LOSS = 0.2547 if data.complete else 0.0


class StopBelow(keras.callbacks.Callback):
    """Ends training when the validation loss has passed a mark."""

    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_loss"] < self.mark:
            self.model.stop_training = True


# %% [markdown]
# `train` compiles a network, fits it, and returns the validation losses and when each was reached. Time spent on validation is
# left out. For Keras, an "epoch" is here half a pass over the training images (`steps_per_epoch=half`).
# `StopOnBadLoss` stops if the loss is not a number. `training.jit_compile` says whether XLA, TensorFlow's compiler, shall
# compile the step: on a CPU that does not pay for convolutions.

# %%
def train(network, batch, epochs, learning_rate, label, stop_below=0.0):
    """Trains to paint x_train again; returns seconds, val_loss and images seen, by half epochs."""
    half = len(x_train) // batch // 2
    x = x_train[: 2 * half * batch]
    optimizer = keras.optimizers.Adam(learning_rate)
    jit_compile = training.jit_compile("convolutions")
    network.compile(optimizer, loss="binary_crossentropy", jit_compile=jit_compile)
    progress = training.Progress(label, unit="half epoch")
    history = network.fit(
        x, x, batch_size=batch, steps_per_epoch=half, epochs=2 * epochs, shuffle=True,
        validation_data=(x_test, x_test), validation_batch_size=500, verbose=0,
        callbacks=[progress, training.StopOnBadLoss(), StopBelow(stop_below)],
    )  # fmt: skip
    val_loss = history.history["val_loss"]
    images = [half * batch * (i + 1) for i in range(len(val_loss))]
    return {"seconds": progress.seconds, "val_loss": val_loss, "images": images}


# %% [markdown]
# Training takes some minutes. With `LOAD = True` the cells below skip it and load what an earlier run left in the output
# folder.

# %%
LOAD = False

folder = course.output(data.slug, "01_autoencoder")
_, _, by_the_book = build_autoencoder(LATENT_DIM)
if LOAD:
    book_run = training.load(by_the_book, folder / "book")
else:
    book_run = train(
        by_the_book, BOOK_BATCH, BOOK_EPOCHS, 1e-3, "book's settings", stop_below=BOOK_LOSS
    )
    training.save(by_the_book, folder / "book", **book_run)

# %% [markdown]
# A constant learning rate is a compromise. Early on it is too small: the weights are far from anything good, and larger
# steps would get there sooner. Later it is too large: the weights jitter around a good place and never settle. A
# **schedule** needs no compromise. Ours climbs to 0.003, three times the book's rate, within the first tenth of training,
# since full steps on random weights can do harm, and then falls to 0 along a cosine. The batch is 128, and training goes
# through three epochs, without a mark to stop at. Everything else is as before.

# %%
if LOAD:
    our_run = training.load(autoencoder, folder / "ours")
else:
    schedule = training.warmup_cosine(PEAK_LEARNING_RATE, steps=EPOCHS * (len(x_train) // BATCH))
    our_run = train(autoencoder, BATCH, EPOCHS, schedule, "with a schedule")
    training.save(autoencoder, folder / "ours", **our_run)

# %% [markdown]
# Both runs against the time they took. The dashed line is the floor of section 1.3, the dotted one the mark. (On the
# stand-in the mark is where the book's settings end.)

# %%
mark = BOOK_LOSS or book_run["val_loss"][-1]
plots.curves(
    {
        "book: constant rate, batch 100": (book_run["seconds"], book_run["val_loss"]),
        "ours: warm-up and cosine, batch 128": (our_run["seconds"], our_run["val_loss"]),
    },
    levels={"floor": floor, "mark": mark},
    x_label="seconds of training",
    y_label="cross-entropy on test images (nats a pixel)",
    alt="Test cross-entropy against training time; the schedule passes the mark well before",
)


# %% [markdown]
# How much work until the mark is passed? Between two looks we draw a straight line. We count images, which do not depend on
# what else the machine was doing, and seconds, which do.

# %%
def work_until(run, mark, unit):
    """Images or seconds until the validation loss passes `mark`; infinite if it never does."""
    losses, work = [untrained_loss, *run["val_loss"]], [0.0, *run[unit]]
    for i in range(1, len(losses)):
        if losses[i] <= mark:
            share = (losses[i - 1] - mark) / (losses[i - 1] - losses[i])
            return work[i - 1] + share * (work[i] - work[i - 1])
    return np.inf


final_loss = our_run["val_loss"][-1]
print(f"final loss: {final_loss:.4f} after {our_run['images'][-1]:,} images")
for unit in ("images", "seconds"):
    book_work, our_work = work_until(book_run, mark, unit), work_until(our_run, mark, unit)
    ratio = f"{book_work / our_work:.1f} times as many" if our_work < np.inf else "not reached"
    print(f"{unit} until {mark:.4f}: book's {book_work:,.0f}, ours {our_work:,.0f}: {ratio}")

# %% [markdown]
# Two claims, checked. Everywhere: the trained network beats the mean image. In the full profile on Fashion-MNIST: it ends
# below the book's mark, and passes it with at most half of the images that the book's settings need.

# %%
assert final_loss < mean_image_loss
if course.profile() == "full" and data.complete:
    assert final_loss < BOOK_LOSS
    assert 2 * work_until(our_run, mark, "images") < work_until(book_run, mark, "images")

# %% [markdown]
# ## 1.5 What comes back
#
# Originals over reconstructions. The outline and the kind of garment survive. Prints, seams and buttons do not: two
# numbers have no room for them, and the network spends them on what lowers the loss most.

# %% tags=["nbval-check-output"]
reconstructions = autoencoder.predict(x_test[:500], verbose=0, batch_size=500)

plots.image_rows(
    {"original": x_test[:12], "painted again": reconstructions[:12]},
    alt="Twelve test images over their reconstructions, which keep outlines and lose details",
)

# %% [markdown]
# ## 1.6 The latent space
#
# With two latent numbers we can look at all of it. Each dot is a test image at the place that the encoder gives it. The
# colour is its class, which the network has never seen. Alike garments lie together nevertheless, because alike images
# need alike codes.

# %%
z_test = encoder.predict(x_test[:5000], verbose=0, batch_size=500)
labels = y_test[: len(z_test)]

for i in range(LATENT_DIM):
    print(f"z{i + 1} from {z_test[:, i].min():.1f} to {z_test[:, i].max():.1f}")


# %% [markdown]
# The second picture shows the decoder's side of the same plane. A regular grid of points is laid over the embedding, and
# each point is decoded where it stands.

# %%
def decode_grid(decoder, low, high, side):
    """Decodes the centres of side x side tiles between two corners into one image, z2 upwards."""
    half = (high - low) / (2 * side)
    z1, z2 = (np.linspace(low[i] + half[i], high[i] - half[i], side) for i in range(2))
    z1, z2 = np.meshgrid(z1, z2[::-1])
    tiles = decoder.predict(np.stack([z1, z2], -1).reshape(-1, 2), verbose=0, batch_size=256)
    return tiles.reshape(side, side, 32, 32).transpose(0, 2, 1, 3).reshape(side * 32, side * 32)


# %% [markdown]
# Both pictures show the same stretch of the plane. One code in a hundred, in each direction, lies outside.

# %%
import matplotlib.pyplot as plt

low, high = np.quantile(z_test, [0.005, 0.995], axis=0)
figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 5.2), sharex=True, sharey=True)
plots.embedding(left, z_test, labels, data.class_names, name_classes=False)
painted = decode_grid(decoder, low, high, side=16)
right.imshow(painted, cmap="Greys", extent=[low[0], high[0], low[1], high[1]], aspect="auto")
left.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="auto")
left.set_title("where the encoder puts test images", fontsize=10)
right.set_title("what the decoder paints there", fontsize=10)
right.set_xlabel("z₁")
plots.class_legend(figure, left)
plots.show(figure, alt="Test images as dots in the latent plane, beside images decoded from a grid")


# %% [markdown]
# ## 1.7 Three faults of this latent space
#
# Can we make new clothes? Pick a point, decode it, done. But which point? Three faults get in the way. Each is put into a
# number here, and chapter 2 takes the same three numbers again.
#
# **Fault 1: classes get unequal room.** Some classes lie on a small patch and some sprawl. Pick points evenly and you get
# mostly the sprawling ones. We measure the *area* of a class by an ellipse: the one that holds 90 % of a Gaussian
# with the covariance $\Sigma$ of its points. Its area is $A = \pi\, c \sqrt{\det \Sigma}$, with $c = 4.605$ the 90 % quantile of the
# $\chi^2$ distribution with two degrees of freedom. The measure is the largest area over the smallest.

# %% tags=["definitions"]
def class_areas(z, labels):
    """Area of the 90 % ellipse of each class. z (count, 2), labels (count,); returns (classes,)."""
    covariances = [np.cov(z[labels == label].T) for label in np.unique(labels)]
    return np.pi * 4.605 * np.sqrt([np.linalg.det(covariance) for covariance in covariances])


# %% [markdown]
# The share of each class in the sum of all areas:

# %%
areas = class_areas(z_test, labels)
share = areas / areas.sum()

for label in np.argsort(share)[::-1]:
    print(f"{data.class_names[label]:12} {'█' * round(100 * share[label]):32} {share[label]:6.1%}")
print(f"largest over smallest: {areas.max() / areas.min():.0f}")


# %% [markdown]
# **Fault 2: no distribution to sample from is known beforehand.** Nothing in the loss says where codes should lie, so they lie
# anywhere: not around zero, not at any particular scale, not in a shape that has a name. The measure is the largest
# difference between the cumulative distribution of a coordinate and that of the standard normal distribution, the
# *Kolmogorov-Smirnov distance*. It is near 0 for standard normal points and near 1 for points that all lie far to one side.
# It looks at one coordinate at a time, and we take the worse one.

# %% tags=["definitions"]
def distance_from_normal(z):
    """Largest Kolmogorov-Smirnov distance of a coordinate of z (count, dimensions) from N(0, 1)."""
    from scipy.stats import kstest

    return max(float(kstest(coordinate, "norm").statistic) for coordinate in np.asarray(z).T)


# %% [markdown]
# For the codes of the test images, and for as many points that are normal:

# %%
distance = distance_from_normal(z_test)

normal_points = np.random.default_rng(seed).normal(size=z_test.shape)
by_chance = distance_from_normal(normal_points)
print(f"the codes: {distance:.2f}   as many normal points: {by_chance:.2f}")


# %% [markdown]
# **Fault 3: gaps.** Between the islands lies land that no image is ever sent to. The decoder was never trained there, and
# what it paints need not be anything. To measure it we ask of a painted image how far the nearest real image is (root of
# the mean squared difference of pixels). As a yardstick we take reconstructions: 19 of 20 lie within some distance of a
# real image, their own original left out. A sample beyond that distance counts as *nothing*.

# %% tags=["definitions"]
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


def share_of_nothing(samples, real, limit):
    """Share of samples that are farther than `limit` from every real image."""
    return float(np.mean(nearest_distance(samples, real) > limit))


# %% [markdown]
# Where do the points come from? With no distribution to sample from we have to make one up: evenly from the rectangle
# around the codes, as the book does.

# %%
rng = np.random.default_rng(seed)
z_box = rng.uniform(z_test.min(axis=0), z_test.max(axis=0), size=(1000, 2)).astype("float32")
samples = decoder.predict(z_box, verbose=0, batch_size=500)

nothing = share_of_nothing(samples, x_test, usual_distance(reconstructions, x_test))
print(f"samples that are nothing: {nothing:.0%}, reconstructions: 5% by definition")

# %% [markdown]
# Eighteen of those samples as they come, to see what the number means. Some are garments, some are smears between two.

# %%
plots.image_grid(samples[:18], columns=9, alt="Eighteen images decoded from points drawn evenly")

# %% [markdown]
# The three checks below would fail for a latent space without these faults. If you change the model and they fail, you
# have mended something.

# %%
assert areas.max() / areas.min() > 2
assert distance > 0.2
assert nothing > 0.05

# %% [markdown]
# ## 1.8 Two numbers against six
#
# Is it the network that blurs, or the two numbers? Give it six and change nothing else.

# %%
WIDE_DIM = 6

_, _, wide = build_autoencoder(WIDE_DIM)
if LOAD:
    wide_run = training.load(wide, folder / "wide")
else:
    schedule = training.warmup_cosine(PEAK_LEARNING_RATE, steps=EPOCHS * (len(x_train) // BATCH))
    wide_run = train(wide, BATCH, EPOCHS, schedule, "six latent numbers")
    training.save(wide, folder / "wide", **wide_run)

# %% [markdown]
# The same twelve test images, painted from two numbers and from six:

# %% tags=["nbval-check-output"]
plots.image_rows(
    {
        "original": x_test[:12],
        "2 numbers": reconstructions[:12],
        "6 numbers": wide.predict(x_test[:12], verbose=0),
    },
    alt="Test images and their reconstructions from two and from six numbers, which are sharper",
)

# %% [markdown]
# The outlines are sharper: the boot gets a sole, the legs of trousers come apart. The strappy sandal on the right becomes a boot. Measured against the floor: how much of the way from the mean image
# down to the floor has each network gone?

# %%
wide_loss = wide_run["val_loss"][-1]

for dim, loss in ((LATENT_DIM, final_loss), (WIDE_DIM, wide_loss)):
    way_down = (mean_image_loss - loss) / (mean_image_loss - floor)
    print(f"{dim} numbers: {loss:.4f}, {way_down:.0%} of the way")
assert floor < wide_loss < final_loss

# %% [markdown]
# So the two numbers were a good part of it. But nothing in the loss has changed: with six numbers, too, codes lie where they
# like, and now we can no longer look at them.
#
# ## What we measured

# %%
from IPython.display import display

from utils import results


def row(name, network, run, **more):
    return {
        "model": name,
        "validation_loss": run["val_loss"][-1],
        "train_seconds": run["seconds"][-1],
        "parameters": network.count_params(),
        **more,
    }


faults = {
    "area_ratio": areas.max() / areas.min(),
    "distance_from_normal": distance,
    "share_of_nothing": nothing,
}
rows = [
    {"model": "floor", "validation_loss": floor},
    {"model": "mean image", "validation_loss": mean_image_loss},
    row("2-D, book's settings", by_the_book, book_run),
    row("2-D, with a schedule", autoencoder, our_run, **faults),
    row("6-D, with a schedule", wide, wide_run),
]

# %% [markdown]
# `record` writes the rows into `output/results.json`, where later chapters and the index page find them.

# %%
seconds = time.perf_counter() - STARTED
display(results.record("01_autoencoder", data=data.name, seconds=seconds, rows=rows))

# %% [markdown]
# ## Summary
#
# - An autoencoder learns a code for images by painting them again. What the code means is nobody's choice.
# - A cross-entropy is read between two marks: the floor, which is not 0 for grey pixels, and the mean image.
# - Warm-up and a cosine reach the book's loss in a fraction of the time and end lower. It costs one line.
# - More latent numbers give sharper images, not a better space.
# - As a generative model it has three faults: classes have unequal room, there is no distribution to sample from, and
#   there are gaps that decode to nothing. [Chapter 2](02_vae.ipynb) turns points into distributions, and measures again.
#
# ## Exercises
#
# The cell below each exercise holds a solution. It is folded: click it to open it.
#
# **1.** Walk from a trouser to an ankle boot (the first test image of each) in nine steps, once on a straight line in
# latent space and once by fading one image into the other. Which walk stays closer to real images? Use
# `nearest_distance` on the steps in between.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
start, end = x_test[first_of_each[1]], x_test[first_of_each[9]]
steps = np.linspace(0, 1, 9, dtype="float32")[:, None]
z_start, z_end = encoder.predict(np.stack([start, end]), verbose=0)
latent_walk = decoder.predict((1 - steps) * z_start + steps * z_end, verbose=0)
fade = (1 - steps[..., None, None]) * start + steps[..., None, None] * end

walks = {"latent": latent_walk, "fade": fade}
plots.image_rows(walks, alt="A walk in latent space over a fade between two images")
for name, walk in walks.items():
    others = np.delete(x_test, [first_of_each[1], first_of_each[9]], axis=0)
    distance_to_real = nearest_distance(walk[1:-1], others).mean()
    print(f"{name:7} mean distance to the nearest real image {distance_to_real:.3f}")


# %% [markdown]
# **2.** The book also tries the root mean squared error as loss. What are its floor and the value of the mean image? What
# does the trained network score, although it was trained on another loss?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2: the floor is 0, since the best answer for a grey pixel costs nothing.
def root_mean_square(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


of_mean = root_mean_square(x_test, x_train.mean(axis=0))
of_network = root_mean_square(x_test[: len(reconstructions)], reconstructions)
print(f"floor 0   mean image {of_mean:.3f}   network {of_network:.3f}")
assert 0 < of_network < of_mean


# %% [markdown]
# **3.** Does the network notice that something is not a garment? Turn test images upside down, compare the
# cross-entropies of both kinds image by image, and give the share of pairs in which the turned image scores worse. Why is
# it not near 100 %?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3: what looks much the same upside down, such as a dress, tells the network little.
def loss_of_each(images):
    painted = autoencoder.predict(images, verbose=0, batch_size=500)
    return np.array([cross_entropy(x, x_hat) for x, x_hat in zip(images, painted, strict=True)])


worse = loss_of_each(x_test[:500, ::-1]) > loss_of_each(x_test[:500])
by_class = np.array([worse[labels[:500] == label].mean() for label in range(10)])
print(f"the turned image scores worse in {worse.mean():.0%} of pairs")
for label in np.argsort(by_class):
    print(f"   {data.class_names[label]:12} {by_class[label]:.0%}")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Section 3.1. In Korean: 만들면서 배우는 생성 AI 2판.
# - G. E. Hinton, R. R. Salakhutdinov. *Reducing the Dimensionality of Data with Neural Networks*. Science, 2006.
# - H. Xiao, K. Rasul, R. Vollgraf. *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*. arXiv:1708.07747, 2017.
# - D. P. Kingma, J. Ba. *Adam: A Method for Stochastic Optimization*. ICLR, 2015. Algorithm 1.
# - I. Loshchilov, F. Hutter. *SGDR: Stochastic Gradient Descent with Warm Restarts*. ICLR, 2017. Equation 5: the cosine.
