# %% [markdown]
# # Chapter 3 · A variational autoencoder for faces
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/03_vae_faces.ipynb)
#
# **Can we put glasses on somebody by adding a vector?**
# The model of chapter 2 goes to 64 × 64 pixels in colour and to 200 latent numbers, and its latent space becomes a place to calculate in: one direction stands for a smile, another for a hat.
# We take three things apart that a picture alone leaves open: what makes the faces blurred, what makes new ones worse than rebuilt ones, and what else a vector brings along besides its name.

# %% [markdown]
# **You will learn**
# - which noise level σ hides in the book's factor of 2000, and what a σ, the width of the code and more training each do for the blur;
# - why nearly every latent number can look standard normal while the codes as a whole do not, and how to draw new faces nevertheless;
# - to judge faces by a figure, with a floor under it;
# - to find directions that stand for an attribute, and to measure what they change, what they keep and where they fail.
#
# **In the book**: *Generative Deep Learning*, 2nd edition, by D. Foster, section 3.3, Exploring the Latent Space (잠재 공간 탐색하기), with CelebA.
#
# **Needs**: [chapter 2](02_vae.ipynb), and faces, which the course draws itself; they need no download.
# About 4 minutes on two CPU cores (Intel Xeon with AVX-512), longer on older ones; drawing the faces, which is done once, takes less than one of them.

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
# `FACES` is how many pictures are used, of whatever set; with few pictures, raise `EPOCHS` and `JUDGE_EPOCHS`, since what counts is the number of steps.

# %%
import time

STARTED = time.perf_counter()
FACES = course.choose(full=20_000, quick=1_200)
LATENT_DIM = 200  # that of the weights that ship
EPOCHS = course.choose(full=2, quick=1)
BATCH = course.choose(full=64, quick=32)
PEAK_RATE = 2e-3
JUDGE_EPOCHS = 4  # on pictures of your own
MIXTURES = course.choose(full=(2, 6), quick=(2,))
NEW = course.choose(full=1_000, quick=300)  # new faces of each kind
ALPHA = 2.0  # how far along an attribute's vector, section 3.9
TRIED = course.choose(full=200, quick=40)  # faces that each vector is tried on
RANDOM = 3  # random directions
STEP = course.choose(full=0.5, quick=2.0)  # of alpha
seed = course.seed(42)

# %% [markdown]
# ## 3.1 Thirty faces that nobody drew
#
# This is where the chapter leads.
# (The two functions that the cell below asks for are defined further down; `definitions` fetches them ahead.)
# A decoder, trained for a bit more than an hour on one core, turns thirty random points into thirty faces; its weights come with the course.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
import numpy as np

from utils import plots, weights
from utils.chapters import definitions

build_face_vae, decode = definitions("03_vae_faces", "build_face_vae", "decode")
model = build_face_vae(LATENT_DIM, learn_sigma=True, seed=seed)
shipped = weights.load(model, "03_faces_learned")
points = np.random.default_rng(seed).normal(size=(30, LATENT_DIM))
plots.image_grid(
    decode(model, shipped["centre"] + points @ shipped["factor"].T),
    columns=6,
    width=7,
    alt="Thirty new faces with different hair, skin, glasses, hats and backgrounds",
)

# %% [markdown]
# Skin, hair, pose and background vary, glasses and beards are where they belong, and hardly any two faces are alike.
# Look closer and you see what the chapter is about: soft edges, hair that cannot decide between two lengths, half a hat, a smeared forehead.
# The points were *not* drawn from $\mathcal N(0, I)$; section 3.8 shows what happens then, and why.

# %% [markdown]
# ## 3.2 The faces
#
# The book uses CelebA, 200,000 photographs of celebrities with 40 attributes each.
# It is 1.4 GB and not to be had everywhere, so the default is a set of *drawn* faces, stored just as CelebA is: jpg pictures of 178 × 218 pixels, and a csv with the same 40 columns, 30 of which are in use.
# Here every label is right, because the drawing was made from it.
# Whoever wants photographs sets one of two variables before starting Jupyter:
#
# - `COURSE_FACES=celeba` downloads CelebA from Kaggle (for non-commercial research only);
# - `CELEBA_DIR=/path/to/folder` uses a copy that is there already, or pictures of your own in the same layout, of any size, jpg or png.
#
# On such pictures the chapter trains its own networks and reports what it finds; what it claims, and checks, it claims of the drawn faces.

# %%
from utils import datasets, plots, progress, results, training, weights

line = progress.Line()
faces = datasets.faces(
    FACES, progress=lambda done, of: line.show(f"faces drawn: {done:,} of {of:,}")
)
line.end()
drawn = faces.slug == "drawn-faces"
print(faces)

# %% [markdown]
# The pictures are cut to their middle square, since CelebA has background above and below, and resized to 64 × 64.
# They stay in memory as bytes: 20,000 of them take 250 MB, a quarter of what they would take as floats.

# %% tags=["nbval-check-output"]
names = {part: faces.files(part) for part in ("train", "validation", "test")}
x_train, x_validation, x_test = (faces.pixels(names[part]) for part in names)
labels = {part: faces.attributes.loc[names[part]] for part in names}
print("one face:", x_train.shape[1:], x_train.dtype)

# %% [markdown]
# Labels are joined to pictures by file name.
# A script that reads pictures from a folder and labels from a csv, and trusts that both are in the same order, is wrong as soon as one file is missing, and nothing tells you so.
#
# Eight attributes will occupy us, where the csv has them; the classifier of section 3.7 learns the others, too, unless all faces or none have them.


# %%
def mixed(column):
    """Whether an attribute has at least five examples either way, in each part."""
    sums = [labels[part][column] for part in labels]
    return all(5 <= s.sum() <= len(s) - 5 for s in sums)


WANTED = "Eyeglasses Wearing_Hat Smiling Blond_Hair Gray_Hair Male No_Beard Bald"
known = [name for name in labels["train"] if mixed(name)]
wanted = [name for name in WANTED.split() if name in known]
ATTRIBUTES = (wanted + [name for name in known if name not in wanted])[:8]
if not ATTRIBUTES or len(x_test) < 20:
    raise course.CourseError(
        "Too few: this chapter needs 20 test faces, and an attribute that five faces "
        "of each part have and five have not. Add pictures, or unset CELEBA_DIR."
    )
y_train, y_test = (labels[part][ATTRIBUTES].to_numpy() for part in ("train", "test"))
SHORT = {name: name.replace("_", " ").replace("Wearing ", "") for name in ATTRIBUTES}


# %%
def has(row):
    return "\n".join(name.replace("_", " ") for name in ATTRIBUTES if row[name])


plots.image_grid(
    x_train[:10] / 255,
    columns=5,
    titles=[has(row) for _, row in labels["train"].head(10).iterrows()],
    alt="Ten faces with those of the eight attributes that they have",
)

# %% [markdown]
# Attributes are not spread evenly, and they do not come alone.
# A row of the next picture is a kind of face, a column an attribute, and the number how many of a hundred such faces have it.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
import matplotlib.pyplot as plt


def heat_map(axis, values, rows, columns, limit=100, colours="PuOr_r", low=None):
    low = -limit if low is None else low
    axis.imshow(values, cmap=colours, vmin=low, vmax=limit, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        dark = value - low > 0.8 * (limit - low) or value - low < 0.15 * (limit - low)
        colour = "white" if dark and colours == "PuOr_r" else "black"
        colour = "white" if colours == "Blues" and value > 60 else colour
        axis.text(
            j, i, f"{round(value)}", ha="center", va="center", size=7, color=colour
        )
    axis.set_xticks(range(len(columns)), columns, rotation=60, ha="right", size=8)
    axis.set_yticks(range(len(rows)), rows, size=8)


kinds = {"all faces": np.ones(len(y_train), bool)}
kinds |= {SHORT[name]: y_train[:, k] for k, name in enumerate(ATTRIBUTES)}
together = np.array([100 * y_train[chosen].mean(axis=0) for chosen in kinds.values()])
figure, axis = plt.subplots(figsize=(6, 4))
heat_map(axis, together, kinds, SHORT.values(), colours="Blues", low=0)
axis.axhline(0.5, color="black")
plots.show(figure, "How many of all faces, and of each kind, have each attribute")

# %% [markdown]
# The first row is the prevalence: half of the faces smile, one in seven wears a hat.
# Below, a number far from the one in the first row means that two attributes go together.
# Everybody with a beard is a man, so women all have `No Beard`; most bald heads are men's; and under a hat nobody is labelled bald.
# Keep this table in mind: whatever learns from these labels will learn such company too.

# %% [markdown]
# ## 3.3 The networks
#
# Encoder and decoder are deeper than before.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("face_networks")

# %% [markdown]
# After each convolution stands a **batch normalisation**.
# It subtracts the mean of each channel over the batch and divides by the standard deviation, and then applies a scale and a shift of its own, which are learned; deep stacks are easier to train with it.
# Later, when a face may come alone, running averages take the place of the batch's own figures; `momentum=0.9` says how fast they follow.
# LeakyReLU passes a small part of a negative value on, so that no channel falls silent for good.
#
# The book's network has 64 filters in every layer, in the Korean edition's notebook and in the English one until 2023.
# (Since February 2024 the English [repository](https://github.com/davidADSP/Generative_Deep_Learning_2nd_Edition) has faces of 32 × 32 and 128 filters.)
# Ours has few where the image is large, since every filter costs a thousand times more at 64 × 64 pixels than at 2 × 2, and many where it is small; that takes three fifths of the multiplications.


# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops

from utils.chapters import definitions

FACE_SHAPE = (64, 64, 3)
FILTERS = (24, 48, 96, 128, 160)
BOOK_FILTERS = (64, 64, 64, 64, 64)


def normalised(h):
    """Batch normalisation, then LeakyReLU."""
    return layers.LeakyReLU()(layers.BatchNormalization(momentum=0.9)(h))


def build_face_encoder(latent_dim, filters=FILTERS):
    """x -> (z_mean, z_log_var): (batch, 64, 64, 3) in [0, 1] to (batch, latent_dim)."""
    h = x = keras.Input(FACE_SHAPE, name="x")
    for count in filters:
        h = normalised(layers.Conv2D(count, 3, strides=2, padding="same")(h))
    h = layers.Flatten()(h)
    z_mean = layers.Dense(latent_dim, name="z_mean")(h)
    z_log_var = layers.Dense(latent_dim, name="z_log_var")(h)
    return keras.Model(x, [z_mean, z_log_var], name="encoder")


# %% [markdown]
# The decoder is the mirror image, with one layer more at the end, which makes three colours out of its filters.


# %% tags=["definitions"]
def build_face_decoder(latent_dim, filters=FILTERS):
    """z -> x_hat: (batch, latent_dim) to faces (batch, 64, 64, 3) in [0, 1]."""
    z = keras.Input((latent_dim,), name="z")
    h = normalised(layers.Dense(2 * 2 * filters[-1])(z))
    h = layers.Reshape((2, 2, filters[-1]))(h)
    for count in reversed(filters):
        h = layers.Conv2DTranspose(count, 3, strides=2, padding="same")(h)
        h = normalised(h)
    last = {"activation": "sigmoid", "name": "x_hat"}
    x_hat = layers.Conv2DTranspose(3, 3, padding="same", **last)(h)
    return keras.Model(z, x_hat, name="decoder")


# %% [markdown]
# ## 3.4 What hides in the factor of 2000
#
# The book's reconstruction loss is 2000 times the mean squared error (MSE).
# Where does a squared error come from?
# From a Gaussian decoder: given $z$, each of the $D = 64 \cdot 64 \cdot 3 = 12288$ values $x_j$ of the image is normally distributed around the decoder's $\hat x_j$ with standard deviation $\sigma$.
# Then
#
# $$-\log p(x \mid z) = \frac{1}{2\sigma^2} \sum_{j=1}^{D} (x_j - \hat x_j)^2 + D \log \sigma + \text{const}
# = \frac{D}{2\sigma^2}\, \mathrm{MSE} + D \log \sigma + \text{const}. \tag{3.1}$$
#
# So a factor of 2000 says $D / 2\sigma^2 = 2000$, which is $\sigma = 1.75$, on a scale from 0 to 1: the model is told that every value carries noise larger than the difference between black and white.
# (The KL has weight 1. For faces of 32 × 32 the same 2000 is a σ of 0.88.)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("sigma")

# %% [markdown]
# With so large a σ hardly any detail is worth a nat of KL, and the decoder shows an average of all faces that could be meant.
# An average of faces is a blurred face.
#
# What should σ be?
# The loss itself knows: the derivative of (3.1) by σ is zero where
#
# $$\sigma^2 = \mathrm{MSE}. \tag{3.2}$$
#
# (Rybkin et al., 2021, equation 5.)
# In a picture, for three errors:

# %%
sigmas = np.geomspace(0.01, 4, 400)
D = x_train[0].size
losses = {
    mse: D * (mse / (2 * sigmas**2) + np.log(sigmas)) for mse in (0.02, 0.005, 0.001)
}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
for (mse, loss), colour, style in zip(losses.items(), plots.COLOURS, ("-", "--", ":")):
    axis.plot(sigmas, loss / 1000, style, color=colour, label=f"MSE = {mse:g}")
    best = loss.argmin()
    axis.plot(sigmas[best], loss[best] / 1000, "o", color=colour)
axis.axvline(1.75, color="0.4", linewidth=1)
axis.text(1.8, -45, "the book's σ", size=9)
axis.set(
    xscale="log", xlabel="σ", ylabel="−log p(x | z), thousand nats", ylim=(-60, 60)
)
axis.legend(frameon=False)
plots.show(
    figure, "The loss by sigma for three errors, each with its least at the root"
)

# %% [markdown]
# Each curve is lowest, at the dot, where σ is the root of the error.
# At the book's σ the three curves lie on each other: there the best and the worst of these errors are 38 nats apart, at σ = 0.05 about 47,000.
# So a better picture hardly pays.

# %%
for mse, loss in losses.items():
    assert np.isclose(sigmas[loss.argmin()], mse**0.5, rtol=0.02)


# %% tags=["definitions"]
VALUES = int(np.prod(FACE_SHAPE))
BOOK_SIGMA = (VALUES / (2 * 2000)) ** 0.5


def squared_error(x, x_hat):
    """Mean squared error of each face: bytes, floats (batch, 64, 64, 3) to (batch,)."""
    return ops.mean((ops.cast(x, "float32") / 255 - x_hat) ** 2, axis=(1, 2, 3))


# %% [markdown]
# The model takes everything else from chapter 2.
# It divides the bytes by 255 itself, so that the data may stay bytes in memory.
# With `learn_sigma=True`, $\sigma^2$ is a running mean of the squared error of training batches: by (3.2) that is its best value, so it is assigned, not learned by gradient.
# It is one of the model's weights, and is saved with them.
#
# `call` hands `training` on to both networks, whose batch normalisation needs to know it.
# On TensorFlow Keras would tell them by itself; on JAX `fit` goes to `call` directly, and nobody would.


# %% tags=["definitions"]
VAE = definitions("02_vae", "VAE")


@keras.saving.register_keras_serializable(package="course")
class FaceVAE(VAE):
    """Chapter 2's VAE with a Gaussian decoder, for faces given as bytes."""

    def __init__(
        self, encoder, decoder, sigma=BOOK_SIGMA, learn_sigma=False, seed=None, **more
    ):
        super().__init__(encoder, decoder, seed=seed, **more)
        self.settings = {"sigma": sigma, "learn_sigma": learn_sigma, "seed": seed}
        self.first_sigma, self.learn_sigma = sigma, learn_sigma
        self.sigma_squared = self.add_weight(
            name="sigma_squared",
            initializer=keras.initializers.Constant(sigma**2),
            trainable=False,
            aggregation="mean",  # over several GPUs, if there are
        )
        self.error_tracker = keras.metrics.Mean(name="mean_squared_error")

    def call(self, x, training=None):  # batch normalisation needs to know `training`
        z_mean, z_log_var = self.encoder(
            ops.cast(x, "float32") / 255, training=training
        )
        z = self.sampling(z_mean, z_log_var)
        return z_mean, z_log_var, self.decoder(z, training=training)

    def reconstruction_loss(self, x, x_hat):
        """-log p(x | z) in nats, (batch,), but for a constant; the book's 2000 MSE."""
        error = squared_error(x, x_hat)
        self.error_tracker.update_state(error)
        log_ratio = 0.5 * ops.log(self.sigma_squared / self.first_sigma**2)
        return VALUES * (error / (2 * self.sigma_squared) + log_ratio)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if self.learn_sigma and training:
            error = ops.stop_gradient(ops.mean(squared_error(x, y_pred[2])))
            self.sigma_squared.assign(0.9 * self.sigma_squared + 0.1 * error)
        return super().compute_loss(x=x, y=y, y_pred=y_pred)


# %% [markdown]
# The last function builds the model, and calls it once, so that it has its variables.


# %% tags=["definitions"]
def build_face_vae(
    latent_dim, learn_sigma, sigma=BOOK_SIGMA, filters=FILTERS, seed=None
):
    """A FaceVAE that is built: it has its variables before the first face."""
    encoder = build_face_encoder(latent_dim, filters)
    decoder = build_face_decoder(latent_dim, filters)
    model = FaceVAE(encoder, decoder, sigma, learn_sigma, seed)
    model(np.zeros((1, *FACE_SHAPE), "uint8"))
    return model


# %% [markdown]
# Is it the book's loss?
# With σ = 1.75 it must equal 2000 times the mean squared error.

# %% tags=["nbval-check-output"]
by_the_book = build_face_vae(LATENT_DIM, learn_sigma=False, seed=seed)
few = x_test[:8]
x_hat = by_the_book(few)[2]
by_class = keras.ops.convert_to_numpy(by_the_book.reconstruction_loss(few, x_hat))
x_hat = keras.ops.convert_to_numpy(x_hat)
by_hand = 2000 * ((few / 255 - x_hat) ** 2).mean(axis=(1, 2, 3))
assert np.allclose(by_class, by_hand, rtol=1e-4)
print(f"σ = {BOOK_SIGMA:.2f}, {by_the_book.count_params():,} parameters")

# %% [markdown]
# ## 3.5 A short training
#
# First a model of our own, for about two minutes.
# One call of `compile`, one of `fit`; the learning rate rises to a peak and falls to zero (in chapter 1 it only fell).
# `training.jit_compile` asks for XLA, the compiler of section 4.8, where it makes convolutions faster.
#
# This is the first training that one would not like to lose, so two callbacks write to disk after each epoch.
# `training.checkpoint` is Keras' `BackupAndRestore`: with `RESUME = True` a run that was killed goes on after its last whole epoch.
# (On Colab the disk ends with the session: mount Drive, and set `COURSE_OUTPUT` to a folder there.)
# (When several GPUs are to share a batch, [this page](../docs/devices.md) says what to change.)
# `SampleImages` decodes the same points after each epoch, so that one can watch the faces emerge.

# %%
import math

RESUME = False
folder = course.output(faces.slug, "03_vae_faces")
points = np.random.default_rng(seed).normal(size=(10, LATENT_DIM)).astype("float32")
short = build_face_vae(LATENT_DIM, learn_sigma=True, seed=seed)
steps = EPOCHS * math.ceil(len(x_train) / BATCH)
short.compile(
    keras.optimizers.Adam(training.warmup_cosine(PEAK_RATE, steps)),
    jit_compile=training.jit_compile("convolutions"),
)

# %%
watch = [
    training.Progress("faces"),
    training.StopOnBadLoss(),
    training.checkpoint(folder / "checkpoint", resume=RESUME),
    training.SampleImages(short.decoder, points, folder / "samples"),
]
fit = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0, "callbacks": watch}
history = short.fit(x_train, validation_data=(x_validation,), **fit).history
errors = history.get("val_mean_squared_error", [float("nan")])
print("error on validation faces after each epoch:", np.round(errors, 4))

# %% [markdown]
# (A run that is resumed after its last epoch has nothing left to train, and no history.)
#
# A check of the normalisation: its running averages start at 0, and if nobody told the layers that they are trained, they would still be there.

# %%
both = [*short.encoder.layers, *short.decoder.layers]
norms = [n for n in both if isinstance(n, layers.BatchNormalization)]
averages = [ops.convert_to_numpy(norm.moving_mean) for norm in norms]
assert all(np.abs(average).max() > 0 for average in averages)

# %% [markdown]
# The last file of `SampleImages`, and under it the same points after the long training:

# %%
from PIL import Image


def strip(path):
    """The ten images of a file of SampleImages, (10, 64, 64, 3) in [0, 1]."""
    sheet = np.asarray(Image.open(path)) / 255
    return sheet.reshape(64, 10, 64, 3).swapaxes(0, 1)


last_file = folder / "samples" / f"epoch-{EPOCHS:03d}.png"
grown = {f"epoch {EPOCHS}": strip(last_file)}
plots.image_rows(
    grown | ({"long": decode(model, points)} if drawn else {}),
    alt="Faces at the same ten points after the short and after the long training",
)

# %% [markdown]
# Faces appear at once: the middle of the picture is easy, since all faces are there.
# (The loss above is negative: a narrow bell is higher than 1, the constant of (3.1) is left out, and σ is counted in units of the first one, which takes off another $D \log 1.75$, about 6,900 nats.)
# A point stands for another face in another model, so only the kind of picture can be compared with the last row.
# And the points here *are* from $\mathcal N(0, I)$: even the long training leaves them smudged and greyish, far from the faces of 3.1, which the same decoder made.

# %% [markdown]
# ## 3.6 What blurs
#
# Where does more training lead?
# `make weights CHAPTER=03 MINUTES=…` trained two models equally long, on 24,000 drawn faces that are not among those of this chapter: one with the book's σ, one that learns it.

# %%
models = {"short training": short}
if drawn:
    weights.load(by_the_book, "03_faces_book")
    models |= {"σ = 1.75": by_the_book, "σ learned": model}
    told, other = (weights.record(f"03_faces_{k}") for k in ("learned", "book"))
    assert told["images"] == other["images"], "they are trained equally long"
    print(f"{told['images']:,} images, {told['seconds'] / 60:.0f} minutes")
else:
    model = short  # on your pictures, it is the model of the sections to come

# %% [markdown]
# Rebuilt by each: encode a face, take the mean of its cloud, decode.


# %% tags=["definitions"]
def codes(model, x, batch=250):
    """z_mean and z_log_var of faces given as bytes, both (count, latent_dim)."""
    starts = range(0, len(x), batch)
    pieces = [x[start : start + batch] / np.float32(255) for start in starts]
    coded = [model.encoder.predict_on_batch(piece) for piece in pieces]
    return tuple(np.concatenate(parts) for parts in zip(*coded, strict=True))


def decode(model, z):
    """Faces (count, 64, 64, 3) in [0, 1] of points (count, latent_dim)."""
    return model.decoder.predict(np.float32(z), batch_size=250, verbose=0)


# %% tags=["nbval-check-output"]
coded = {name: codes(network, x_test) for name, network in models.items()}
rebuilt = {name: decode(models[name], z_mean) for name, (z_mean, _) in coded.items()}
plots.image_rows(
    {"original": x_test[:10] / 255} | {k: images[:10] for k, images in rebuilt.items()},
    alt="Ten test faces and their reconstructions by each model",
)

# %% [markdown]
# With the book's σ a face keeps its skin, its background and most of its hair, even after so long a training; smiles, glasses and beards are gone or cannot be told.
# With a learned σ nearly all of that is there; what is lost are curls, lights, and what is one pixel wide.
# Two epochs with a learned σ have a smaller error than twenty-five with the book's, in this run and in the three of [the benchmark](../docs/benchmark.md).
# In numbers: the mean squared error; the *sharpness*, which is the mean difference of neighbouring pixels as a fraction of that of the originals; σ; and the price, the KL in nats that the code of a face costs.


# %% tags=["definitions"]
def edges(images):
    """Mean absolute difference of neighbouring pixels, (count, height, width, 3)."""
    down, right = np.diff(images, axis=1), np.diff(images, axis=2)
    return np.abs(down).mean() + np.abs(right).mean()


# %%
import pandas as pd

kl_by_dimension = definitions("02_vae", "kl_by_dimension")


def blur(name):
    z_mean, z_log_var = coded[name]
    return {
        "error": ((x_test / 255 - rebuilt[name]) ** 2).mean(),
        "sharpness": edges(rebuilt[name]) / edges(x_test / 255),
        "σ": float(models[name].sigma_squared) ** 0.5,
        "KL (nats)": np.asarray(kl_by_dimension(z_mean, z_log_var)).sum(axis=1).mean(),
    }


table = pd.DataFrame({name: blur(name) for name in models}).T
table.round(4)

# %% [markdown]
# Checks: all have learned something (the mean of all faces is what one can show without looking); on the drawn faces, a learned σ gives the smaller error, the sharper picture and the costlier code, and it is near the root of the error, as (3.2) asks.

# %%
grey_error = ((x_test / 255 - 0.5) ** 2).mean()
mean_face_error = ((x_test / 255 - x_train.mean(axis=0) / 255) ** 2).mean()
print(
    f"error of a grey picture {grey_error:.4f}, of the mean face {mean_face_error:.4f}"
)
if drawn:
    book, learned = table.loc["σ = 1.75"], table.loc["σ learned"]
    assert table.loc["short training", "error"] < mean_face_error
    assert learned["error"] < 0.4 * book["error"] < 0.4 * mean_face_error
    assert learned["sharpness"] > 1.5 * book["sharpness"]
    assert learned["KL (nats)"] > 10 * book["KL (nats)"]
    assert abs(learned["σ"] - learned["error"] ** 0.5) < 0.25 * learned["σ"]

# %% [markdown]
# So is it σ that blurs?
# Not alone.
# Two models that differ in one thing show what that thing does; so `make bench PART=images` trained the model of the short training again (σ learned, 200 numbers, two epochs of 16,000 faces), and others that differ from it in one setting each, with three seeds a model.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
rows = results.benchmarked("images")
BASE = "faces, σ learned, 200 numbers, 2 epochs"
CAUSES = {
    "σ": {"1.75": "faces, σ = 1.75", "0.3": "faces, σ = 0.3", "learned": BASE},
    "numbers in a code": {str(n): f"faces, {n} numbers" for n in (4, 16, 64)}
    | {"200": BASE},
    "epochs": {"2": BASE, "5": "faces, 5 epochs"},
    "filters": {"the book's": "faces, the book's filters", "ours": BASE},
}
size, widths = (plots.WIDTH, 4.6), [3, 4, 2, 2]
figure, axes = plt.subplots(
    2, 4, figsize=size, sharey="row", sharex="col", width_ratios=widths
)
for column, (cause, values) in zip(axes.T, CAUSES.items()):
    for axis, key in zip(column, ("mean_squared_error", "sharpness")):
        found = [[run[key] for run in rows[name]] for name in values.values()]
        middle, low, high = (list(map(f, found)) for f in (np.median, min, max))
        axis.plot(range(len(found)), middle, "o-", color=plots.COLOURS[0])
        axis.vlines(range(len(found)), low, high, color=plots.COLOURS[0], linewidth=4)
        axis.grid(alpha=0.25)
    column[1].set_xticks(range(len(values)), values)
    column[1].set_xlim(-0.4, len(values) - 0.6)
    column[1].set_xlabel(cause)
axes[0, 0].set(ylabel="squared error", ylim=(0, 0.014))
axes[1, 0].set(ylabel="sharpness", ylim=(0, 1))
figure.tight_layout()
plots.show(figure, "Error and sharpness by sigma, numbers, epochs and filters")

# %% [markdown]
# Dots are medians, bars the range of the seeds, mostly smaller than the dot.
# With σ learned in place of 1.75 the error falls to a half, and the sharpness rises from 0.58 to 0.75; most of that is gained at σ = 0.3 already.
# But with σ learned, a code of four numbers blurs nearly as much as the book's σ.
# Sixteen come near to 200; and 64 are, after two epochs, a little better than these.
#
# Length of training is the third cause: five epochs in place of two halve the error once more, and it is not exhausted, as the long training of the table shows.
# With the book's σ it lowers the error, to 0.0076 in the table's twenty-five epochs, but no sharpness comes with it (0.54).
# The fourth are the networks: the book's filters, with more work for a face, end at an error of 0.0070 in place of 0.0064.
#
# So on these faces the book's blur is mostly σ's, and more training does not take it away.
# What remains with a learned σ yields to more training.

# %% [markdown]
# ## 3.7 A judge
#
# To say how good *new* faces are, there is no original to compare with.
# We ask a classifier, trained on real faces and their labels, that has never seen a decoded one.
# Its last hidden layer holds 64 **features**, numbers that say what matters about a face; a set of new faces is good only if their features are distributed as those of real ones are.
#
# Half of its training pictures are softened, by halving and doubling their size.
# Otherwise every decoded face, soft as it is, would surprise it, and we would measure that instead.


# %% tags=["definitions"]
def build_judge(count):
    """Two networks on faces as bytes, the second a part of the first: the log odds of
    `count` attributes, (batch, count), and the features behind them, (batch, 64).
    """
    x = keras.Input(FACE_SHAPE)
    h = layers.Rescaling(1 / 255)(x)
    for filters in (32, 64, 96, 128):
        h = layers.Conv2D(filters, 3, strides=2, padding="same")(h)
        h = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(h))
    h = layers.Dropout(0.3)(layers.Flatten()(h))
    features = layers.Dense(64, activation="leaky_relu", name="features")(h)
    log_odds = layers.Dense(count, name="log_odds")(features)
    return keras.Model(x, log_odds, name="judge"), keras.Model(x, features)


def softened(images):
    """Bytes (count, 64, 64, 3) at half of their resolution, in the same shape."""
    small = images.reshape(len(images), 32, 2, 32, 2, 3).mean(axis=(2, 4))
    return small.repeat(2, axis=1).repeat(2, axis=2).astype("uint8")


# %%
def train_judge(judge, kinds):
    x, y = x_train.copy(), labels["train"][kinds].to_numpy("float32")
    x[::2] = softened(x[::2])
    rate = training.warmup_cosine(2e-3, JUDGE_EPOCHS * math.ceil(len(x) / BATCH))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    judge.compile(keras.optimizers.Adam(rate), loss)
    judge.fit(x, y, batch_size=BATCH, epochs=JUDGE_EPOCHS, verbose=0)


if drawn:  # trained on other drawn faces, for the thirty attributes in use
    from utils.faces import DRAWN

    judge_knows = list(DRAWN)
    judge, inside = build_judge(len(judge_knows))
    weights.load(judge, "03_judge")
else:
    judge_knows = known
    judge, inside = build_judge(len(judge_knows))
    train_judge(judge, judge_knows)

# %% [markdown]
# Can it be trusted?
# Its accuracy is *balanced*: the mean of the hit rates on faces with and without the attribute, so that saying "no" to everything scores one half.
# On originals, and on the same faces rebuilt:


# %% tags=["definitions"]
def of_faces(network, images):
    """What a network for bytes gives for faces in [0, 1], 250 of them at a time."""
    return network.predict(255 * np.float32(images), batch_size=250, verbose=0)


def kernel_distance(drawn, real):
    """Squared kernel distance of features (n, d) from those of real faces (m, d), which
    set mean 0 and deviation 1: about 0 where both come from one distribution.
    """
    centre, scale = real.mean(axis=0), real.std(axis=0)
    a, b = (np.float64(features - centre) / scale for features in (drawn, real))
    aa, bb, ab = ((p @ q.T / a.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
    inner = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (aa, bb)]
    return inner[0] + inner[1] - 2 * ab.mean()


# %%
from sklearn.metrics import balanced_accuracy_score

columns = [judge_knows.index(name) for name in ATTRIBUTES]


def seen(images):
    """What the judge sees in faces in [0, 1]: bool (count, attributes)."""
    return of_faces(judge, images)[:, columns] > 0


def accuracies(images):
    pairs = zip(y_test.T, seen(images).T, strict=True)
    return [balanced_accuracy_score(truth, answer) for truth, answer in pairs]


last = list(models)[-1]  # σ learned, where it is there
trust = pd.DataFrame(
    {"originals": accuracies(x_test / 255)}
    | {name: accuracies(images) for name, images in rebuilt.items()},
    index=ATTRIBUTES,
)
if drawn:
    assert trust["originals"].min() > 0.9 and trust["σ learned"].min() > 0.7
trust.round(2)

# %% [markdown]
# The judge is right about originals.
# What it misses in the rebuilt faces is missing there, or too soft for it: with the book's σ all smiles and much else, with the learned one hardly anything but some smiles.
#
# For the distance of two sets of features we take the **kernel distance** (Bińkowski et al., 2018), of features shifted and scaled so that the real ones have mean 0 and deviation 1.
# With $k(u, v) = (u \cdot v / d + 1)^3$, for features $u, u'$ of two new faces and $v, v'$ of two real ones, of $d = 64$ numbers each,
#
# $$\text{distance} = \mathbb E\, k(u, u') + \mathbb E\, k(v, v') - 2\, \mathbb E\, k(u, v). \tag{3.3}$$
#
# The cube compares means, variances, correlations and skewness at once.
# Where both sets come from one distribution, the three terms cancel.

# %%
real = of_faces(inside, x_validation / 255)
FLOOR = kernel_distance(of_faces(inside, x_test / 255), real)
print(f"two sets of real faces: {FLOOR:.4f}")
for name, images in rebuilt.items():
    print(f"{name}: {kernel_distance(of_faces(inside, images), real):.3f}")

# %% [markdown]
# All are measured from the validation faces, which are other faces than those rebuilt; (3.3) asks for two sets that are independent.
# Two sets of different real faces are the floor, near zero.
# (It may be a little below: the means in (3.3) leave out the pairs of a face with itself, which makes the figure right on average, and not always positive.)
# Rebuilt faces are above it, by their blur and by what was lost.

# %% [markdown]
# ## 3.8 Why are new faces worse than rebuilt ones?
#
# The KL term asks that codes look like draws from $\mathcal N(0, I)$.
# Do they?
# First the KL itself, coordinate by coordinate: how many nats each of the 200 carries.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3))
for (name, found), colour, style in zip(coded.items(), plots.COLOURS, ("-", "--", ":")):
    values = np.sort(np.asarray(kl_by_dimension(*found)).mean(axis=0))[::-1]
    label = f"{name}: {values.sum():.0f} nats"
    axis.plot(range(1, len(values) + 1), values, style, color=colour, label=label)
axis.set(xlabel="coordinates, by their KL", ylabel="nats", ylim=(0, None))
axis.legend(frameon=False)
plots.show(figure, "KL of each coordinate, sorted, for each model")

# %% [markdown]
# With a learned σ all 200 are in use, none for much: the code is spread thin.
# With the book's σ all of them together carry some eight nats, nearly all in eight coordinates: enough to tell apart $e^8$, about three thousand, kinds of faces; with a learned σ there is room for far more kinds than there are faces.
#
# Now histograms like those of the book, which shows fifty: a hundred coordinates of the codes of training faces, a point drawn from each face's cloud, under the density of $\mathcal N(0, 1)$, from −3.5 to 3.5.


# %%
def draws(found, rng):
    """One point from each cloud (z_mean, z_log_var), (count, latent_dim)."""
    z_mean, z_log_var = found
    return z_mean + np.exp(z_log_var / 2) * rng.normal(size=z_mean.shape)


rng = np.random.default_rng(seed)
z_train = codes(model, x_train)
z_drawn = draws(z_train, rng)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
grid = np.linspace(-3.5, 3.5, 60)
density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
figure, axes = plt.subplots(5, 20, figsize=(plots.WIDTH, 2.6), sharex=True, sharey=True)
for axis, coordinate in zip(axes.flat, z_drawn.T):
    axis.hist(coordinate, grid[::3], density=True, color=plots.COLOURS[0])
    axis.plot(grid, density, color="black", linewidth=0.8)
    axis.set(xticks=[], yticks=[])
figure.subplots_adjust(wspace=0.05, hspace=0.05)
plots.show(figure, "Histograms of 100 coordinates under the standard normal density")

# %% [markdown]
# Nearly every one is a bell, about half of them a little narrow, a few wide.
# So draws from $\mathcal N(0, I)$ ought to decode to faces as good as those of 3.1, and we have seen in 3.5 that they do not.
# What the histograms cannot show is how two coordinates hang together.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("correlated")

# %% [markdown]
# Both histograms are those of the circle, and yet draws from it (orange) differ from the codes in two ways: many lie off the ellipse, and none reach to its far ends.
# Which of the two harms is measured below.
# Is it so with our codes?

# %%
correlations = np.corrcoef(z_drawn.T)
spread = np.linalg.eigvalsh(np.cov(z_drawn.T))[::-1] ** 0.5
pairs = np.abs(np.triu(correlations, 1))
first, second = np.unravel_index(pairs.argmax(), pairs.shape)
print(f"the most correlated pair: {correlations[first, second]:.2f}")
print(f"deviation along the axes of the whole: {spread[0]:.1f} to {spread[-1]:.2f}")
if drawn:
    assert spread[0] > 2 and spread[-1] < 0.5

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3), layout="constrained")
image = axes[0].imshow(correlations, cmap="PuOr", vmin=-0.5, vmax=0.5)
axes[0].set(title="correlations", xlabel="coordinate", ylabel="coordinate")
figure.colorbar(image, ax=axes[0], shrink=0.8)
axes[1].scatter(*z_drawn[:1000, [first, second]].T, s=3, color=plots.COLOURS[0])
circle = plt.Circle((0, 0), 2, fill=False, linestyle="--", color="0.2")
axes[1].add_patch(circle)
axes[1].set(aspect="equal", xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), title="one pair")
axes[1].set(xlabel=f"z of coordinate {first}", ylabel=f"z of coordinate {second}")
axes[2].plot(range(1, len(spread) + 1), spread, color=plots.COLOURS[0])
axes[2].axhline(1, color="0.2", linestyle="--")
axes[2].set(title="deviations along the axes", xlabel="axis of the ellipsoid")
axes[2].set(yscale="log")
plots.show(figure, "Correlations of the codes, one pair, and deviations along all axes")

# %% [markdown]
# Left: most pairs are correlated a little and some strongly (the colours end at ±0.5); what so many little ones do together, the right panel shows.
# Middle: the pair that is most so (and each of the two is wider than normal); the dashed circle, two deviations, holds most of $\mathcal N(0, I)$, and the codes leave much of it empty and run on beyond it.
# Right: seen along its own axes, the cloud of all codes has a deviation of several in some directions and of a fraction of 1 in most others.
# $\mathcal N(0, I)$ has 1 along each (dashed): too little along those that are long, and too much along the many that are thin.
#
# Why does the KL term allow it?
# For one face, (2.5) asks for small $\mu_i^2$ and for a cloud's deviation near 1, in each coordinate $i$ for itself.
# Averaged over faces, it knows of the means no more than their mean squares; how the means of different coordinates go together costs nothing by itself.
# (A code that carries hundreds of nats has to put its clouds somewhere.)
#
# The cure is to draw from where the codes are.
# A normal distribution with their mean and full covariance has $\bar z + L \varepsilon$ for its draws, where $L L^\top$ is the covariance and $\varepsilon$ is standard normal; a mixture of such has more freedom.


# %% tags=["definitions"]
def fitted_gaussian(z):
    """Mean (dim,) and factor L (dim, dim) of the normal distribution of points z."""
    centred = z - z.mean(axis=0)
    covariance = centred.T @ centred / len(z) + 1e-6 * np.eye(z.shape[1])
    return z.mean(axis=0), np.linalg.cholesky(covariance)


# %% [markdown]
# The number of components of the mixture is chosen on codes that are held back, as in chapter 1.
# Half of the codes serve, which saves half a minute.

# %%
fit_mixture = definitions("01_autoencoder", "fit_mixture")
centre, factor = fitted_gaussian(z_drawn)
fitted, held_back = np.split(z_drawn[: len(z_drawn) // 2], [len(z_drawn) * 9 // 20])
counts = [n for n in MIXTURES if 20 * n < len(fitted)] or [1]
mixture = fit_mixture(fitted, held_back, counts, seed)
print(f"a mixture of {mixture.n_components} Gaussians")

# %% [markdown]
# And to find out what harms, we bend the Gaussian, whose axes are the columns of $U$, of deviations $s$, in $LL^\top = U \operatorname{diag}(s^2)\, U^\top$: once its long axes are cut to 1, once its thin ones are widened to 1.
# As one more control, each coordinate is drawn for itself, with its own mean and deviation: then the histograms are right, and the correlations are missing.

# %%
U, s, _ = np.linalg.svd(factor)


def ways_to_draw(count, rng):
    """Ways to draw points, by name, each (count, latent_dim)."""
    e = rng.normal(size=(count, len(centre)))
    mixture.random_state = int(rng.integers(2**31))
    return {
        "N(0, I)": e,
        "each for itself": centre + e * z_drawn.std(axis=0),
        "long axes cut": centre + (e * np.minimum(s, 1)) @ U.T,
        "thin widened": centre + (e * np.maximum(s, 1)) @ U.T,
        "one Gaussian": centre + e @ factor.T,
        "a mixture": rng.permutation(mixture.sample(count)[0]),
    }


# %% [markdown]
# Ten of each (but for that control), under rebuilt faces, which have the same decoder and codes of real faces:

# %% tags=["nbval-check-output"]
shown = {"rebuilt": rebuilt[last][:10]}
shown |= {name: decode(model, z) for name, z in ways_to_draw(10, rng).items()}
pictures = {name: images for name, images in shown.items() if name[:4] != "each"}
plots.image_rows(pictures, alt="Ten faces rebuilt, and ten drawn in each of five ways")

# %% [markdown]
# The faces of $\mathcal N(0, I)$ are smudged and greyish, pale of contrast; with the long axes cut they are no better.
# With the thin axes widened to 1 nothing that one sees is lost.
# One Gaussian has the variety and contrast of real faces; the mixture, too.
# What is left is that things do not quite fit: half a pair of glasses, hair of two colours.
# The judge, by (3.3), with three sets of draws each (of one model, not three trainings):

# %%
distances = {"real faces": [FLOOR]}
distances["rebuilt"] = [kernel_distance(of_faces(inside, rebuilt[last]), real)]
for number in range(3):
    for name, z in ways_to_draw(NEW, np.random.default_rng(number)).items():
        found = kernel_distance(of_faces(inside, decode(model, z)), real)
        distances.setdefault(name, []).append(found)
for name, found in distances.items():
    sharp = edges(shown[name]) / edges(x_test[:10] / 255) if name in shown else 1
    print(f"{name:15} {min(found):.3f} to {max(found):.3f}, sharpness {sharp:.2f}")
if drawn:
    best = max(distances["one Gaussian"])
    for name in ("N(0, I)", "each for itself", "long axes cut"):
        assert best < 0.7 * min(distances[name])

# %% [markdown]
# Figure and picture agree.
# Right histograms without the correlations help little; what harms is that the long axes are cut.
# To widen the thin ones does no harm: it lowers the figure a little.
# Along them lie the large differences between faces, skin, background, hair, and $\mathcal N(0, I)$ draws only from near the middle of each.
# The cure costs no training, only one mean and one covariance.
# What still parts new faces from real ones, in this figure, is what parts rebuilt ones from them, too: blur and lost detail, which are the decoder's.
# Whether things fit together it tests only as far as the thirty attributes cover that; for the rest there is the eye.
# (The sharpness is that of the ten faces shown, beside the ten originals that are rebuilt, and only a hint.)

# %% [markdown]
# ## 3.9 Calculating with attributes
#
# If codes of faces with glasses lie elsewhere than codes without, the difference of the two means is a direction that stands for glasses:
#
# $$v = \bar z_{\text{with}} - \bar z_{\text{without}}, \qquad z' = z + \alpha v. \tag{3.4}$$
#
# The labels had no part in the training of the VAE.
# They only serve now, to find out where it has put things.

# %%
z_mean = z_train[0]
z_test = coded[last][0]


def mean_difference(k):
    """Mean code of training faces with attribute k minus that of those without."""
    return z_mean[y_train[:, k]].mean(axis=0) - z_mean[~y_train[:, k]].mean(axis=0)


vectors = np.array([mean_difference(k) for k in range(len(ATTRIBUTES))])

# %% [markdown]
# At α = 1 the step leads from the middle of one group to the middle of the other.
# Since many faces start behind the middle of theirs, we go further, α = 2, for three attributes and eight faces without each.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
pairs = {}
for k in sorted({0, 1, 5} & set(range(len(ATTRIBUTES)))):
    name = ATTRIBUTES[k]
    without = np.resize(np.roll(np.flatnonzero(~y_test[:, k]), -8 * k), 8)
    pairs |= {" " * (k + 1): rebuilt[last][without]}
    pairs |= {f"+ {SHORT[name]}": decode(model, z_test[without] + ALPHA * vectors[k])}
plots.image_rows(
    pairs, alt="Faces without an attribute, and below each after its vector"
)

# %% [markdown]
# Upper row: eight rebuilt faces; lower row: the same eight after the vector.
# Glasses come, and hats, before the same background and on what looks like the same face.
# But look at the last pair: when `Male` is added, moustaches and beards come with most, and long hair often stays.

# %% [markdown]
# ### What a vector carries
#
# A picture convinces too easily, so we ask the judge.
# And we compare three ways to find a direction:
#
# - the **difference of means** (3.4);
# - the direction of a **logistic regression**, which predicts the attribute from the code: it points to where the attribute changes fastest *given all other coordinates*, roughly the difference of means times the inverse of the covariance;
# - **all at once**: a linear regression of the code on *all* eight attributes, $z \approx a_0 + \sum_k y_k a_k$, where $a_k$ is what attribute $k$ adds while the others stay as they are.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("attribute_vector")

# %% [markdown]
# In the sketch the difference of means leads from women to men as well, since all beards are men's; the dashed arrow, among men alone, does not.
# *All at once* does such a thing for all eight attributes.

# %%
from sklearn.linear_model import LinearRegression, LogisticRegression


def logistic(k):
    model_of_k = LogisticRegression(C=0.1, max_iter=300)
    return model_of_k.fit(z_mean, y_train[:, k]).coef_[0]


directions = {
    "difference of means": vectors,
    "logistic regression": np.array([logistic(k) for k in range(len(ATTRIBUTES))]),
    "all at once": LinearRegression().fit(y_train.astype(float), z_mean).coef_.T,
}

# %% [markdown]
# To be compared, all vectors get one length, the mean length of $v$ over the attributes.
# We add each to the same faces, of all kinds, and count in how many of a hundred more (or fewer) the judge sees each attribute than before.
# An attribute cannot rise by more than those who lacked it: `No Beard`, which seven of ten have, by about 30.

# %%
LENGTH = np.linalg.norm(vectors, axis=1).mean()
some = np.random.default_rng(seed).permutation(len(z_test))[:TRIED]
before = seen(rebuilt[last][some]).mean(axis=0)


def of_length(v, length=LENGTH):
    return v * (length / np.linalg.norm(v))


def changes(v):
    """Change of how often each attribute is seen, in percent of the faces tried."""
    moved = decode(model, z_test[some] + of_length(v))
    return 100 * (seen(moved).mean(axis=0) - before)


effects = {k: np.array([changes(v) for v in vs]) for k, vs in directions.items()}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.6), sharey=True)
for axis, (name, values) in zip(axes, effects.items()):
    heat_map(axis, values, SHORT.values(), SHORT.values())
    axis.set_title(name, size=10)
axes[0].set_ylabel("vector that was added")
axes[1].set_xlabel("what is seen more often (orange) or less often (violet)")
figure.subplots_adjust(wspace=0.06)
plots.show(
    figure, "Change of every attribute by every vector, for three kinds of vectors"
)


# %% [markdown]
# A row is what one vector did to all eight attributes: on the diagonal what was asked for, beside it what came along.
# In numbers: the mean of the diagonal, the mean size of what is beside it as a fraction of that, and the deviation of the codes along the vectors.


# %%
def leak(values):
    """Mean size of the changes off the diagonal, as a fraction of those on it."""
    on, off = np.diag(values), values[~np.eye(len(values), dtype=bool)]
    return np.abs(off).mean() / on.mean() if on.any() and off.size else 0.0


def spread_along(vs):
    """Deviations of the codes along directions (count, latent_dim)."""
    return ((z_mean @ vs.T) / np.linalg.norm(vs, axis=1)).std(axis=0)


entangled = pd.DataFrame(
    {
        name: {
            "on the diagonal": np.diag(effects[name]).mean(),
            "leak": leak(effects[name]),
            "codes along it": spread_along(directions[name]).mean(),
        }
        for name in effects
    }
).T
entangled.round(2)

# %% [markdown]
# In the first map `Male` and `No Beard` go together: adding `Male` brings as many beards as men, adding `No Beard` takes men away, and `Bald` brings some men along.
# That is the company of 3.2, which the difference of means takes for the attribute's own.
#
# (All figures of this section are of one model and of these faces; they make no rank of the three ways.)
# The logistic regression has a little less of it here.
# It is made to tell faces apart: dividing by the covariance turns it to directions in which codes vary less ("codes along it", their deviation in that direction).
# *All at once* has the least, and `Male` comes almost without beards: the labels have been told apart, since among men there are both.
# Both get somewhat less done than the means at the same length, 36 and 38 in place of 42.
#
# Some of it no direction can avoid.
# A head has one colour of hair, and under a hat nobody is labelled bald: these exclude each other by what they mean.

# %% [markdown]
# ### How far to go
#
# How much of a vector is enough, and what is left of the person?
# For the first question, the fraction of faces without an attribute in which the judge sees it, for α from 0 to 4, and as a control random directions of the same length.
# (They are drawn from the fitted Gaussian, so that they point to where codes vary; the grey band is the range of three of them.)
#
# For the second, a line-up: the changed face among all the unchanged ones that were tried.
# Is the nearest, by the squared error of eyes, nose and mouth, still the one it was made from?

# %%
ALPHAS = np.arange(0, 4.1, STEP)


def random_direction(rng):
    return factor @ rng.normal(size=LATENT_DIM)


# %% tags=["definitions"]
INNER = (slice(None), slice(28, 52), slice(20, 44))  # from the eyes to the mouth


def recognised(changed, originals):
    """Fraction of changed faces whose nearest original is their own."""
    pair = (images[INNER] for images in (changed, originals))
    a, b = (images.reshape(len(images), -1) for images in pair)
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return (squares.argmin(axis=1) == np.arange(len(a))).mean()


# %%
was = seen(rebuilt[last])


def response(k, v):
    """For each α: fraction in which attribute k is seen, fraction recognised."""
    chosen = np.flatnonzero(~y_test[:, k] & ~was[:, k])[: TRIED // 2]
    if not len(chosen):  # of pictures of your own, maybe
        return np.zeros((2, len(ALPHAS)))
    moved = z_test[chosen] + ALPHAS[:, None, None] * v  # (alphas, faces, latent_dim)
    images = decode(model, moved.reshape(-1, LATENT_DIM))
    hits = seen(images)[:, k].reshape(len(ALPHAS), -1).mean(axis=1)
    originals, groups = rebuilt[last][chosen], np.split(images, len(ALPHAS))
    return np.array([hits, [recognised(group, originals) for group in groups]])


rng = np.random.default_rng(seed)
curves = []
for k, v in enumerate(vectors):
    size = np.linalg.norm(v)
    control = [of_length(random_direction(rng), size) for _ in range(RANDOM)]
    curves.append([response(k, v), np.array([response(k, c) for c in control])])

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(2, 4, figsize=(plots.WIDTH, 4.4), sharex=True, sharey=True)
for axis, name, ((hit, kept), control) in zip(axes.flat, ATTRIBUTES, curves):
    axis.plot(ALPHAS, hit, "o-", ms=3, color=plots.COLOURS[0], label="seen")
    axis.plot(ALPHAS, kept, "--", color=plots.COLOURS[1], label="recognised")
    low, high = control[:, 0].min(axis=0), control[:, 0].max(axis=0)
    axis.fill_between(ALPHAS, low, high, color="0.75", label="seen, random")
    kept = control[:, 1].mean(axis=0)
    axis.plot(ALPHAS, kept, ":", color="0.4", label="recognised, random")
    axis.set(title=SHORT[name], ylim=(-0.02, 1.02))
    axis.grid(alpha=0.25)
names = axes[0, 0].get_legend_handles_labels()
figure.legend(*names, loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=4)
figure.supxlabel("α", y=0.03)
plots.show(figure, "Seen, recognised, and the control of random directions, by alpha")

# %% [markdown]
# Blue: the vector has done its work at α = 2, for all but `Bald`.
# Grey band: random directions of that length seldom do, at α = 2; but they are not harmless, and the longer they are, the more they hit by chance.
# Orange: most vectors leave eyes, nose and mouth recognisable at α = 2; glasses cover them, and cost the most.
# The dotted line says how much any step of that length would cost: all but the vectors of glasses, of `No Beard` and, by a little, of `Smiling` keep more of the face than a random one.
# So there is a best α for each attribute, where blue is high and orange still is.

# %% [markdown]
# ### Where it fails
#
# Why would a vector fail?
# There are four suspects, and each can be measured.
#
# - The attribute is rare, and its vector is noise: then vectors from two halves of the training faces would point apart (cosine well below 1).
# - The decoder does not show it, or the judge does not see it: then the judge's accuracy on rebuilt faces is low.
# - The step is too short: then the curve still rises at the end.
# - It works for some faces and not for others: then it matters who they were.


# %%
def split_half(k):
    """Cosine of the vectors of attribute k from two halves of the training faces."""
    halves = [
        z_mean[part][y_train[part, k]].mean(axis=0)
        - z_mean[part][~y_train[part, k]].mean(axis=0)
        for part in (slice(None, None, 2), slice(1, None, 2))
    ]
    return halves[0] @ halves[1] / np.prod([np.linalg.norm(h) for h in halves])


at = np.abs(ALPHAS - ALPHA).argmin()
verdict = pd.DataFrame(
    {
        "prevalence": y_train.mean(axis=0),
        "judge, rebuilt": trust[last].to_numpy(),
        "two halves": [split_half(k) for k in range(len(ATTRIBUTES))],
        "seen after vector": [hit[at] for (hit, _), _ in curves],
        "after random": [control[:, 0, at].mean() for _, control in curves],
        "recognised": [kept[at] for (_, kept), _ in curves],
    },
    index=ATTRIBUTES,
)
works = (verdict["seen after vector"] >= 0.8) & (verdict["after random"] < 0.3)
print(f"at α = {ALPHA:g} it works for {works.sum()} of {len(ATTRIBUTES)} attributes")
if drawn:
    assert works.sum() >= 4
verdict.round(2)

# %% [markdown]
# The vectors are not noise, rare as some attributes are: halves of the faces agree.
# The judge sees nearly all of it in rebuilt faces.
# "Works" is to say: seen in 80 % of the faces after the vector, and in less than 30 % after random ones.
# `Bald` fails at this α, and its curve still rises, so the step is too short; but for whom?
# On one half of the faces we choose the label that best separates those who changed from those who did not, and on the other half we look at it.
# (Now of all test faces without the attribute; the table has the first of them.)

# %%
worst = int(verdict["seen after vector"].to_numpy().argmin())
chosen = np.flatnonzero(~y_test[:, worst] & ~was[:, worst])
moved = decode(model, z_test[chosen] + ALPHA * vectors[worst])
changed = seen(moved)[:, worst]
about = labels["test"][known].iloc[chosen].to_numpy()


def by_label(k, part):
    """How often it worked with label k, and without, in a part of the faces."""
    with_it = about[part, k]
    return changed[part][with_it].mean(), changed[part][~with_it].mean()


# %%
halves = np.arange(len(chosen)) % 2 == 0
often = [k for k in range(len(known)) if min(about[halves, k].sum(), 9) == 9]
often = [k for k in often if about[~halves, k].any() and not about[:, k].all()]
apart = {k: abs(np.subtract(*by_label(k, halves))) for k in often}
if apart:
    k = max(apart, key=apart.get)
    yes, no = by_label(k, ~halves)
    print(f"{ATTRIBUTES[worst]} is seen in {changed.mean():.0%}: in {yes:.0%} of those")
    print(f"with {known[k]}, and in {no:.0%} of those without")

# %% [markdown]
# Of all labels blond hair tells the most: perhaps because bright hair is far from a bald head, so that the same step, which is enough for most, is not for those.
# A vector is one step for everybody, and everybody starts somewhere else.

# %% [markdown]
# ## 3.10 From one face to another
#
# Points between two codes, $(1 - \alpha)\, z_A + \alpha\, z_B$, decode to faces between two faces; here α is the share of the second.
# At both ends stands the original.

# %% tags=["nbval-check-output"]
ends = [(0, 1), (4, 5)]
between = np.linspace(0, 1, 8, dtype="float32")[:, None]
morphs = {}
for a, b in ends:
    steps = decode(model, z_test[a] * (1 - between) + z_test[b] * between)
    row = np.concatenate([x_test[[a]] / 255, steps, x_test[[b]] / 255])
    morphs[f"faces {a + 1} and {b + 1}"] = row
titles = ["original", *[f"α = {alpha:.2g}" for alpha in between[:, 0]], "original"]
plots.image_rows(
    morphs, alt="Two faces turned into others, originals at both ends", columns=titles
)

# %% [markdown]
# Fading one picture into the other would show two faces at once; here every step is one face.
# Skin, hair and pose change together, and glasses fade in.
# The step from an original to its α = 0 or 1 is what the model loses of a face: strands of hair, spots of light.
#
# ## What we measured

# %%
from IPython.display import display

rows = [
    {
        "model": f"VAE, {name}",
        "mean_squared_error": row["error"],
        "sharpness": row["sharpness"],
        "sigma": row["σ"],
        "kl_nats": row["KL (nats)"],
    }
    for name, row in table.iterrows()
]
rows += [
    {"model": f"faces: {name}", "kernel_distance": np.median(found)}
    for name, found in distances.items()
]
rows += [
    {
        "model": f"vector: {name}",
        "seen_after_vector": row["seen after vector"],
        "seen_after_random": row["after random"],
        "recognised": row["recognised"],
    }
    for name, row in verdict.iterrows()
]
seconds = time.perf_counter() - STARTED
display(results.record("03_vae_faces", data=faces.name, seconds=seconds, rows=rows))

# %% [markdown]
# ## Summary
#
# - A factor before a squared error is a statement about noise.
#   The book's 2000 says σ = 1.75, and on our drawn faces that is most of the blur.
#   A code of too few numbers and too short a training blur as well.
#
# - Codes whose coordinates nearly all look standard normal are not standard normal as a whole: they are correlated.
#   Draws from $\mathcal N(0, I)$ stay near the middle of the long axes; draws from one Gaussian with the codes' covariance do not, and that costs no training.
#
# - New faces are judged by a kernel distance of features, with a floor under it and reconstructions beside it.
#
# - The difference of two mean codes is a direction that stands for an attribute, and for whatever goes with it in the data.
#   What a step changes, what it keeps and for whom it works are questions to a judge who has seen neither model nor vector.
#
# [Chapter 4](04_realnvp.ipynb) begins anew with points in two dimensions, and with models that know the density itself.
#
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.** Take the hat off: subtract the hat's vector from faces that wear one, α from 0 to 3.
# What colour of hair will come out where the hat hides all of it?
# Write down your guess, then let the judge count.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1: not the four colours as often as others have them. A step that is the same
# for all cannot throw dice: first comes a middle, brown, then, beyond where codes are,
# ever lighter hair.
if "Wearing_Hat" in ATTRIBUTES:
    k = ATTRIBUTES.index("Wearing_Hat")
    colours = ("Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair")
    hair = [h for h in colours if h in judge_knows]
    hidden = ~labels["test"][hair].to_numpy(bool).any(axis=1)
    with_hat = np.flatnonzero(y_test[:, k].astype(bool) & hidden)[:TRIED]
    without = labels["train"][~labels["train"]["Wearing_Hat"]]
    counts = {"all without a hat": without[hair].mean()}
    for alpha in (0, 1, 2, 3):
        bare = decode(model, z_test[with_hat] - alpha * vectors[k])
        said = of_faces(judge, bare)[:, [judge_knows.index(h) for h in hair]] > 0
        counts[f"α = −{alpha}"] = dict(zip(hair, said.mean(axis=0)))
    display(pd.DataFrame(counts).T.round(2))

# %% [markdown]
# **2. Derive.** A program that you find trains a VAE for images of 28 × 28 grey values with the *sum* of squared errors plus four times the KL.
# Which σ is that?
# And what must its factor before the sum be for σ = 0.1, with the KL still times four?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2: dividing a loss by 4 changes nothing, so it is SSE / 4 + KL, and by (3.1)
# 1 / (2 σ²) = 1/4, so σ = √2. For σ = 0.1 the factor is 4 / (2 · 0.01) = 200. The size
# of the image has no part in it: only a *mean* of squares brings D in.
sse, kl = 3.0, 5.0
for weight, s in ((1, 2**0.5), (200, 0.1)):
    assert np.isclose((weight * sse + 4 * kl) / 4, sse / (2 * s**2) + kl)

# %% [markdown]
# **3. Build.** The vector of `Male` brings beards along.
# Make one that does not: take out of it all that lies along the vectors of the other attributes (they are not at right angles to each other: least squares), and look at its row of the heat map.
# Is that the same as *all at once*?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3: least squares, v = Σ c_k v_k + rest, which is at right angles to all v_k.
k = ATTRIBUTES.index("Male") if "Male" in ATTRIBUTES else 0
rest_of = np.delete(vectors, k, axis=0).T
rest = vectors[k] - rest_of @ np.linalg.lstsq(rest_of, vectors[k], rcond=None)[0]
compared = {name: effects[name][k] for name in effects} | {"the rest": changes(rest)}
display(pd.DataFrame(compared, index=SHORT.values()).T.round(0))
# Not the same. *All at once* asks what the attribute adds while the others stay as they
# are, and uses how the labels go together; "the rest" only avoids their directions. It
# brings no beards, but few men either: the vector of No Beard leads away from men, and
# what lies along it takes most of Male with it. (`changes` gives all the same length.)

# %% [markdown]
# **4. Find the bug.** A friend draws faces by `centre + points @ factor`, without the transpose.
# The faces look fairly normal, and no error is raised.
# What is the covariance of such points, what do they have in common with the right ones, and which one-line check would have told?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4: it is factorᵀ factor in place of factor factorᵀ. The two have the same
# trace and the same eigenvalues, so points are as far from the mean as codes are, and
# in wrong directions. (The right ones are off by the chance of their draws alone.)
noise = np.random.default_rng(seed).normal(size=(NEW, LATENT_DIM))
wanted = factor @ factor.T
for name, drawn_points in {"right": noise @ factor.T, "wrong": noise @ factor}.items():
    off = np.abs(np.cov(drawn_points.T) - wanted).max()
    far = kernel_distance(of_faces(inside, decode(model, centre + drawn_points)), real)
    print(f"{name}: covariance off by {off:.2f} at most, distance {far:.3f}")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Section 3.3. In Korean: 만들면서 배우는 생성 AI 2판.
# - Z. Liu, P. Luo, X. Wang, X. Tang. [*Deep Learning Face Attributes in the Wild*](https://arxiv.org/abs/1411.7766). ICCV, 2015. CelebA.
# - O. Rybkin, K. Daniilidis, S. Levine. [*Simple and Effective VAE Training with Calibrated Decoders*](https://arxiv.org/abs/2006.13202). ICML, 2021. Equation 5.
#
# - S. Ioffe, C. Szegedy. [*Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift*](https://arxiv.org/abs/1502.03167). ICML, 2015. Algorithm 1.
# - A. B. L. Larsen, S. K. Sønderby, H. Larochelle, O. Winther. [*Autoencoding beyond pixels using a learned similarity metric*](https://arxiv.org/abs/1512.09300). ICML, 2016. Section 4: attribute vectors.
# - M. Bińkowski, D. J. Sutherland, M. Arbel, A. Gretton. [*Demystifying MMD GANs*](https://arxiv.org/abs/1801.01401). ICLR, 2018. The kernel distance, with the features of another network.
# - P. Ghosh, M. S. M. Sajjadi, A. Vergari, M. Black, B. Schölkopf. [*From Variational to Deterministic Autoencoders*](https://arxiv.org/abs/1903.12436). ICLR, 2020. A density fitted to the codes.
