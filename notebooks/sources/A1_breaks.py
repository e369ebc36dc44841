# %% [markdown]
# # Appendix A1 · When the code breaks
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/A1_breaks.ipynb)
#
# You have the book open, *Generative Deep Learning*, 2nd edition, or an article on flows in TensorFlow Probability (TFP), and its code raises an error.
# Or it raises none, and what comes out is wrong.
# **Which line is it, why, and what do you type instead?**
# We ran the notebooks of chapters 3 and 6, cell by cell, on the versions that the next cell names; so also what articles and TFP's own documentation give for flows.
# Below is each line that failed or misled, as an example that you can run, with its cure.

# %% [markdown]
# **You will learn**
# - to get the book's notebooks, and articles on flows in TFP, to run on today's versions;
# - which of their lines are silently wrong, and how a number shows it;
# - what to check in code of your own: which Keras it is, how many variables are trained, and of what a figure is the mean.
#
# **In the book**: the code of sections 3.1 to 3.3 and 6.3, in [the English repository](https://github.com/davidADSP/Generative_Deep_Learning_2nd_Edition) and [the Korean one](https://github.com/rickiepark/Generative_Deep_Learning_2nd_Edition), as of November 2026.
#
# **Needs**: TensorFlow as Keras' backend, and TFP.
# About half a minute on two CPU cores.

# %% [markdown]
# ## A1.1 What do you see?
#
# Find your symptom, and jump.
# (In a notebook, search for the heading.)
#
# | you see | with | jump |
# | --- | --- | --- |
# | `ValueError: Received an invalid value for units, expected a positive integer` | `Dense(np.prod(…))`, all of chapter 3 | [received an invalid value for units](#received-an-invalid-value-for-units) |
# | `ValueError: Cannot convert '2' to a shape` | `Input(shape=2)`, 6.3 | [cannot convert 2 to a shape](#cannot-convert-2-to-a-shape) |
# | `ValueError: The filepath provided must end in .keras`, or `.weights.h5`; `Invalid filepath extension for saving`; `File format not supported`; `FileNotFoundError`; `has not yet been built` | checkpoints, `save`, `load_weights` | [the filepath provided must end in keras](#the-filepath-provided-must-end-in-keras) |
# | `NotImplementedError: Object VAE was created by passing non-serializable argument values`; `could not be deserialized properly`; `Could not locate class` | `vae.save`, 3.2 and 3.3 | [non-serializable argument values](#non-serializable-argument-values) |
# | `AttributeError: module … has no attribute 'mean_squared_error'` | `losses.mean_squared_error`, 3.3 | [no attribute mean_squared_error](#no-attribute-mean_squared_error) |
# | `AttributeError: module 'keras.backend' has no attribute 'int_shape'`, `'random_normal'` | `K.int_shape`, `K.random_normal`, 3.1 and 3.2 | [no attribute int_shape](#no-attribute-int_shape) |
# | `ValueError: A KerasTensor cannot be used as input to a TensorFlow function` | `tf.exp`, `tf.shape` between layers | [a kerastensor cannot be used](#a-kerastensor-cannot-be-used) |
# | `Layer "encoder" expects 1 named input(s) with keys`, or `expects 1 input(s), but it received 2` | `vae.fit(x, x)` | [expects 1 input but received 2](#expects-1-input-but-received-2) |
# | `NotImplementedError`, and no message | `model.add_loss` | [notimplementederror without a word](#notimplementederror-without-a-word) |
# | `AttributeError: 'tuple' object has no attribute 'rank'`; `Only instances of keras.Layer can be added`; `Could not interpret optimizer identifier`; `batchnorm_layer must be an instance of tf_keras…` | two Kerases in one model | [tuple has no attribute rank](#tuple-has-no-attribute-rank) |
# | `InvalidArgumentError`: `Detected unsupported operations`, `No registered 'LogMatrixDeterminant' OpKernel` | `jit_compile=True` | [invalidargumenterror under jit_compile](#invalidargumenterror-under-jit_compile) |
# | `TBNotInstalledError: TensorBoard is not installed` | `callbacks.TensorBoard` | [tensorboard is not installed](#tensorboard-is-not-installed) |
# | `NameError: make_axes_locatable`; no attribute `lr`, `output_shape`, `np.float`, `ptp`; unexpected `workers` | everywhere | [names that are gone](#names-that-are-gone) |
# | a regulariser changes nothing | `kernel_regularizer`, 6.3 | [a regulariser that does nothing](#a-regulariser-that-does-nothing) |
# | `val_` figures jump about; a loss of 0 | `test_step`, 3.2 and 3.3 | [val_loss of the last batch](#val_loss-of-the-last-batch) |
# | early stopping never stops; a checkpoint keeps every epoch | `total_loss` and `loss`, 3.2 | [two names for one loss](#two-names-for-one-loss) |
# | the KL counts twice | `500 * mean`, 3.2; for the `2000 * mean` of 3.3 see 3.4 | [a mean against a sum](#a-mean-against-a-sum) |
# | `No gradients provided for any variable`; `Gradients do not exist` | global `encoder`, `decoder`, 3.2 and 3.3 | [another network than its own](#another-network-than-its-own) |
# | the outer tiles of a grid are white | `norm.ppf`, 3.2 | [white tiles at the edge](#white-tiles-at-the-edge) |
# | `model(x)` and `model.predict(x)` disagree; a log-determinant is 0 | 6.3 | [predict goes the other way](#predict-goes-the-other-way) |
# | `moving_mean` stays at 0, dropout drops nothing | `call` of a model of one's own | [a normalisation that does nothing](#a-normalisation-that-does-nothing) |
# | some epochs of `fit` take up to twice as long as others | `fit`, `predict` | [an epoch that waits](#an-epoch-that-waits) |
# | `ValueError` in `Model(x_, distribution.log_prob(x_))` | articles on flows | [a kerastensor in a tfp function](#a-kerastensor-in-a-tfp-function) |
# | `TypeError: got an unexpected keyword argument 'event_shape'`; `event_ndims must be at least 1` | `TransformedDistribution` | [unexpected keyword argument event_shape](#unexpected-keyword-argument-event_shape) |
# | `unexpected keyword argument 'num_maksed'`; `fraction_masked must be a float` | `tfb.RealNVP` | [unexpected keyword argument num_maksed](#unexpected-keyword-argument-num_maksed) |
# | `Tensor conversion requested dtype float32 for Tensor with dtype float64` | `make_moons` | [tensor conversion requested dtype float32](#tensor-conversion-requested-dtype-float32) |
# | `TypeError: 'NoneType' object is not callable` | `tfb.Glow()` | [nonetype object is not callable](#nonetype-object-is-not-callable) |
# | `No module named 'tf_keras'`; a layer of TFP that Keras refuses | `tfp.layers` | [tfp layers in a keras model](#tfp-layers-in-a-keras-model) |
# | the loss of a flow does not move; `not enough values to unpack (expected 2, got 0)`; `does not have any trainable weights`; `No gradients provided` | templates, Keras 3 networks | [a flow that is not tracked](#a-flow-that-is-not-tracked) |
# | 0 variables, then 6 | `AutoregressiveNetwork` | [variables that are not there yet](#variables-that-are-not-there-yet) |
# | six flows learn as badly as one | one network in a list | [one network for several bijectors](#one-network-for-several-bijectors) |
# | an inverse is exact, to 0.0 | `b.inverse(b.forward(x))` | [the cache passes every inverse](#the-cache-passes-every-inverse) |
# | a loss falls below what is possible; `log_prob` does not follow its variables | an eager loop | [the cache keeps an old loss](#the-cache-keeps-an-old-loss) |
# | samples are shifted or scaled twice | `tfb.Chain` | [the order of a chain](#the-order-of-a-chain) |
# | `log_prob` has a column too many; a loss is half of what it should be | a base of two normals | [a log density with a column too many](#a-log-density-with-a-column-too-many) |
# | a flow whose outputs see their own inputs after training | a step written by hand | [a mask that wears off](#a-mask-that-wears-off) |
# | a loss that rises while training; samples do not fit; a density depends on its batch | `tfb.BatchNormalization` | [batch normalisation while training](#batch-normalisation-while-training) |
# | one coordinate of the samples stays standard normal | couplings without `Permute` | [a coordinate that never changes](#a-coordinate-that-never-changes) |
# | NaN, infinity | `Sigmoid`, `Exp`, log-scales | [a loss that is nan](#a-loss-that-is-nan) |
# | a flow of images starts at 22 bits; the first batch was noise | `tfb.Glow` | [tfb glow starts at 22 bits](#tfb-glow-starts-at-22-bits) |
# | a seed does not repeat; loaded weights are not those | `seed=3`, `save_weights` | [seeds and saving](#seeds-and-saving) |

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
if course.backend() != "tensorflow":
    raise course.CourseError(
        "This appendix is about TensorFlow and TensorFlow Probability: unset "
        "KERAS_BACKEND, and restart the kernel."
    )
course.require("tensorflow-probability", "tf_keras", "tensorboard")
import os
import time
import warnings

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from keras import layers, ops

from utils import plots

STARTED = time.perf_counter()
seed = course.seed(42)
tfb, tfd = tfp.bijectors, tfp.distributions


def print_warning(message, category, *place, **more):
    print(f"{category.__name__}: {str(message).strip().splitlines()[0][:80]}")


warnings.showwarning = print_warning  # beside the output, not in red above it
warnings.filterwarnings("ignore", module="tensorflow_probability|tf_keras")
warnings.filterwarnings("ignore", category=DeprecationWarning)

# %% [markdown]
# ## A1.2 To make a notebook of the book run
#
# The shortest way changes no line: before the *first* import of TensorFlow, set `TF_USE_LEGACY_KERAS=1`, with the package `tf_keras` installed.
# Then `tf.keras` is Keras 2, for which the book was written, and the four notebooks of the English repository ran as they are (data and paths aside).
# (It keeps its data in `~/.keras`, wherever `KERAS_HOME` points, and the silent faults of section A1.4 stay.)
#
# To stay with Keras 3, change these lines; each recipe was run to the end.
#
# | notebook | change | see |
# | --- | --- | --- |
# | `autoencoder` | `Dense(int(np.prod(shape_before_flattening)))` | [units](#received-an-invalid-value-for-units) |
# | | `ModelCheckpoint(filepath="./checkpoint.keras", …)`; `autoencoder.save("./models/autoencoder.keras")`, so also `encoder` and `decoder` | [file names](#the-filepath-provided-must-end-in-keras) |
# | `vae_fashion` | `Dense(int(np.prod(shape_before_flattening)))` | [units](#received-an-invalid-value-for-units) |
# | | `ModelCheckpoint(filepath="./checkpoint.weights.h5", save_weights_only=True, monitor="total_loss", …)` | [saving](#non-serializable-argument-values), [two names](#two-names-for-one-loss) |
# | | `vae.save_weights("./models/vae.weights.h5")`; `encoder.save("./models/encoder.keras")`, so also `decoder` | [file names](#the-filepath-provided-must-end-in-keras) |
# | `vae_faces` | as `vae_fashion`, but `monitor="loss"` stays: this `train_step` calls it so | |
# | | `losses.MeanSquaredError(reduction=None)` in place of `losses.mean_squared_error`, twice | [losses](#no-attribute-mean_squared_error) |
# | | with `LOAD_MODEL = True`: call `vae` on one batch, then `vae.load_weights("./models/vae.weights.h5")` | [file names](#the-filepath-provided-must-end-in-keras) |
# | `realnvp` | `Input(shape=(input_dim,))` | [shape](#cannot-convert-2-to-a-shape) |
#
# The Korean notebooks need the same lines, except that `autoencoder` has its `.keras` names already.
# Their `vae_fashion` and `vae_faces` define `get_config` as `return {}`, with which a model is saved and cannot be loaded ([saving](#non-serializable-argument-values)).
# On Colab, or wherever there is the notebook alone, make the folders `./models` and `./output` first.
# The notebooks import `notebooks.utils`, which Python finds in the repository's root folder: start Jupyter there by `PYTHONPATH=. jupyter lab`.

# %% [markdown]
# ### Which Keras is it?
#
# Two versions of Keras live side by side, and some of the trouble is that they meet.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("two_kerases")

# %% [markdown]
# Ask:

# %%
for module in (keras, tf.keras, tf_keras):
    print(f"{module.__name__:24} {module.__version__}")
print("Model is the same class:", keras.Model is tf.keras.Model)

# %% [markdown]
# The switch works in a fresh Python, and only before the first import:


# %%
def fresh_python(code, **variables):
    """The last line that a new Python prints for some code, or its last complaint."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    place = course.output("A1")  # where what it writes goes
    done = subprocess.run(command, cwd=place, env=quiet, capture_output=True, text=True)
    return (done.stdout or done.stderr).strip().splitlines()[-1]


ask = "import tensorflow as tf; print(tf.keras.Model.__module__)"
print(fresh_python(ask, TF_USE_LEGACY_KERAS="1"))

# %% [markdown]
# ## A1.3 Keras: what raises
#
# Each example catches its error with `course.expect`, which prints the type and the first line of the message, and would fail if nothing were raised.
# The types are the same on TensorFlow 2.20 and 2.21 with Keras 3.13 and 3.15; the words of a message may differ.
# Run the notebook from the top: later examples use names of earlier ones.
#
# ### received an invalid value for units
#
# **Where:** `Dense(np.prod(shape_before_flattening))`, all three decoders of chapter 3.

# %%
size = np.prod((4, 4, 128))
with course.expect(ValueError):
    layers.Dense(size)

print(type(size), layers.Dense(int(size)).units)

# %% [markdown]
# **Why:** `np.prod` gives NumPy's `int64`, and `Dense` wants Python's `int`.
# The number in the message looks right, since it is; its type is not.
#
# ### cannot convert 2 to a shape
#
# **Where:** `layers.Input(shape=input_dim)`, `realnvp`.

# %%
with course.expect(ValueError):
    keras.Input(shape=2)

print(keras.Input(shape=(2,)).shape)

# %% [markdown]
# **Why:** a shape is a tuple, and `(2)` is a number in brackets; the comma makes it one.
#
# ### the filepath provided must end in keras
#
# **Where:** `ModelCheckpoint("./checkpoint")` and `model.save("./models/vae")` in the three notebooks of chapter 3; `load_weights("./models/vae")` with `LOAD_MODEL = True`, `vae_faces`.

# %%
folder = course.output("A1")
network = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
with course.expect(ValueError):
    keras.callbacks.ModelCheckpoint("./checkpoint")
with course.expect(ValueError):
    keras.callbacks.ModelCheckpoint("a.keras", save_weights_only=True)
with course.expect(ValueError):
    network.save("./models/network")
with course.expect(ValueError):
    network.load_weights("./models/network")

# %%
network.save(folder / "network.keras")  # architecture, weights, optimizer
network.save_weights(folder / "network.weights.h5")  # weights alone
again = keras.models.load_model(folder / "network.keras")
again.load_weights(folder / "network.weights.h5")
print(again.name, [w.shape for w in again.weights])

# %% [markdown]
# **Why:** Keras 3 writes one file of its own, and its name says which kind it is.
# It no longer makes a folder (a "SavedModel"), nor the folders above: make `./models` first, or the error is `FileNotFoundError`, at the end of an epoch.
# A model that is a class of its own must be built, by calling it on one batch, before `load_weights`; else that says `You are loading weights into a model that has not yet been built`.
# An old SavedModel folder can be used, as one layer, with `keras.layers.TFSMLayer`; to train on, Adam stopped at the names of its weights when we tried (Keras 3.15, a folder of `model.export`).
#
# ### non-serializable argument values
#
# **Where:** `vae.save`, `vae_fashion` and `vae_faces`; *inside* `fit`, at the end of the first epoch, by the checkpoint.


# %%
class Bare(keras.Model):
    def __init__(self, network, **more):
        super().__init__(**more)
        self.network = network

    def call(self, x):
        return self.network(x)


class Empty(Bare):
    def get_config(self):
        return {}


x = np.ones((4, 3), "float32")
for kind, error in ((Bare, NotImplementedError), (Empty, TypeError)):
    model = kind(network)
    model(x)
    with course.expect(error, show="non-serializable"):
        model.save(folder / "model.keras")
        keras.models.load_model(folder / "model.keras", {kind.__name__: kind})

# %% [markdown]
# **Why:** a `.keras` file holds the arguments from which the model is made again, and Keras does not know how to write down a network that is an argument.
# The first cannot be saved, and leaves an empty file, which is "not found" later.
# The second, with `return {}`, is saved, and cannot be made again without its network.
#
# **Cure:** keep the weights alone, or tell how the argument is written and read:


# %%
@keras.saving.register_keras_serializable("A1")
class Whole(Bare):
    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return super(Bare, self).get_config() | {"network": network}

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config.pop("network"))
        return cls(network, **config)


model = Whole(network)
y = model(x)
model.save(folder / "model.keras")
assert np.allclose(keras.models.load_model(folder / "model.keras")(x), y)

# %% [markdown]
# Registered so, it needs no `custom_objects`, either; without both, loading says `Could not locate class`.
# The book's `encoder.keras` needs `custom_objects={"Sampling": Sampling}`, and says without it that the model `could not be deserialized properly`.
#
# ### no attribute mean_squared_error
#
# **Where:** `losses.mean_squared_error`, with `from tensorflow.keras import losses`, `vae_faces`; it comes inside `fit`.

# %%
with course.expect(AttributeError):
    print(tf.keras.losses.mean_squared_error)

a, b = np.zeros((2, 5)), np.ones((2, 5))
print(keras.losses.mean_squared_error(a, b).numpy())
print(tf.keras.losses.MeanSquaredError(reduction=None)(a, b).numpy())

# %% [markdown]
# **Why:** `tf.keras.losses` and `keras.losses` are two lists of names for the same functions.
# The class is in both; `reduction=None` keeps one number for each row.
#
# ### no attribute int_shape
#
# **Where:** `K.int_shape(x)`, `K.random_normal(…)`, `K.shape(x)`.
# They work while `K` is `tensorflow.keras.backend`, as in the book, and are gone once one modernises the import.

# %%
from keras import backend as K

h = keras.Input((8, 8, 3))
for name in ("int_shape", "random_normal", "shape", "exp"):
    with course.expect(AttributeError):
        getattr(K, name)

print(h.shape[1:], ops.shape(h), ops.exp(0.0).numpy(), keras.random.normal((2,)).shape)

# %% [markdown]
# **Cure:** `x.shape`, `keras.ops.shape`, `keras.ops.exp`, `keras.random.normal`.
# Gone from both: `K.learning_phase`, `K.function`, `K.get_session`, `K.placeholder`.
#
# ### a kerastensor cannot be used
#
# **Where:** articles that write `tf.exp(z_log_var / 2)` or `tf.shape(z_mean)` between two layers.

# %%
z_mean = layers.Dense(2)(keras.Input((4,)))
with course.expect(ValueError):
    tf.exp(z_mean)


class Noisy(layers.Layer):
    def call(self, mean):
        return mean + tf.random.normal(tf.shape(mean))


print(ops.exp(z_mean).shape, Noisy()(z_mean).shape)

# %% [markdown]
# **Why:** between layers there is no number yet, only the promise of a tensor.
# **Cure:** `keras.ops`, or any function of TensorFlow *inside* a layer's `call`, as in the book's `Sampling`.
# A `Lambda` layer around `tf` works, too, until it is loaded from a file.
#
# ### expects 1 input but received 2
#
# **Where:** `vae.fit(x, x)` with the book's `train_step`, which does not take its argument apart.


# %%
class Stepping(Bare):
    def train_step(self, data):
        return {"size": ops.mean(self(data))}


into = keras.Input((3,))
model = Stepping(keras.Model(into, layers.Dense(2)(into), name="encoder"))
model.compile()
with course.expect(ValueError, show="expects 1"):
    model.fit(x, x, verbose=0)
print(model.fit(x, verbose=0).history.keys())

# %% [markdown]
# **Why:** with a target, `data` is a pair, and the encoder gets both.
# (The message speaks of `1 named input(s) with keys` and advises to pass a dictionary, which does not help.)
# **Cure:** `fit(x)`; or `if isinstance(data, tuple): data = data[0]`, as the book's `test_step` has it.
#
# ### notimplementederror without a word
#
# **Where:** `model.add_loss(tensor)` on a model that was joined from layers; articles of the time of Keras 2.


# %%
class Penalty(layers.Layer):
    def call(self, z):
        self.add_loss(ops.mean(z**2))
        return z


with course.expect(NotImplementedError):
    keras.Model(into, network(into)).add_loss(ops.mean(network(into)))

model = keras.Model(into, Penalty()(network(into)))
model.compile("adam")
print(model.fit(x, verbose=0).history.keys())

# %% [markdown]
# **Cure:** a layer that adds the loss, as above, or a `compute_loss` as in [chapter 4](04_realnvp.ipynb).
# `add_metric` is gone likewise: keep a `keras.metrics.Mean`.
#
# ### tuple has no attribute rank
#
# **Where:** a layer of `tf_keras`, or of `tfp.layers`, on an `Input` of Keras 3.
# And without an error: a network of the one inside a model of the other.


# %%
class Mixed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = tf_keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


with course.expect(AttributeError):
    tf_keras.layers.Dense(2)(keras.Input((4,)))

mixed = Mixed()
mixed(x)
print(
    f"weights that the model sees: {len(mixed.weights)} of {len(mixed.dense.weights)}"
)
assert len(mixed.weights) == 0

# %% [markdown]
# **Why:** they share no class, so neither takes the other's layers for layers.
# **Cure:** all of one kind; with TFP, `tf_keras` or the variables by hand (section A1.5).
# An optimizer of the wrong kind says `Could not interpret optimizer identifier`.
#
# ### invalidargumenterror under jit_compile
#
# **Where:** `jit_compile=True` with `tf.linalg.slogdet`, `tf.linalg.det` or `tf.py_function` on a CPU.

# %%
matrix = tf.constant([[2.0, 1.0], [0.0, 3.0]])
with course.expect(tf.errors.InvalidArgumentError):
    tf.function(tf.linalg.slogdet, jit_compile=True)(matrix)


@tf.function(jit_compile=True)
def log_det(matrix):
    return tf.reduce_sum(
        tf.math.log(tf.abs(tf.linalg.diag_part(tf.linalg.qr(matrix)[1])))
    )


print(log_det(matrix).numpy(), np.linalg.slogdet(matrix)[1])

# %% [markdown]
# **Why:** XLA, the compiler, has no such operation on a CPU, but it has the QR decomposition, whose diagonal gives the same number.
# Without an error, `jit_compile=True` makes *convolutions* slower on a CPU; small dense networks gain once many steps are one graph ([A2](A2_faster.ipynb)).
#
# ### tensorboard is not installed
#
# **Where:** `callbacks.TensorBoard(…)`, all notebooks; it comes inside `fit`.
# TensorFlow 2.21 no longer brings TensorBoard along.

# %%
without = """
import sys; sys.modules["tensorboard"] = None
import keras, numpy as np
net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
net.compile("sgd", "mse")
x = np.ones((2, 1))
net.fit(x, x, verbose=0, callbacks=[keras.callbacks.TensorBoard("logs")])
"""
print(fresh_python(without))

# %% [markdown]
# **Cure:** `pip install tensorboard`, or leave the callback out.
#
# ### names that are gone
#
# `make_axes_locatable`, `train_dist_routine`, `num_maksed`: some articles use a name that they neither import nor define, or spell in two ways.
# The first is `from mpl_toolkits.axes_grid1 import make_axes_locatable`; of the others, look up how the article's own definition is spelt.
# These belong to Keras and NumPy, and were there once:

# %%
optimizer = keras.optimizers.Adam(1e-3)
gone = {
    "optimizer.lr": AttributeError,  # optimizer.learning_rate
    "keras.optimizers.Adam(lr=1e-3)": ValueError,  # Adam(1e-3)
    "layers.Dense(2).output_shape": AttributeError,  # of a model: it is there
    "keras.metrics.Mean().reset_states()": AttributeError,  # reset_state()
    "model.fit(x, workers=2)": TypeError,  # leave it out
    "keras.Input(batch_input_shape=(1, 2))": TypeError,  # batch_shape
    "np.float": AttributeError,  # float; np.bool is back since NumPy 2
    "np.ones(3).ptp()": AttributeError,  # np.ptp(…), with NumPy 2
}
for line, error in gone.items():
    print(line, end="   ")
    with course.expect(error):
        eval(line)

# %% [markdown]
# ## A1.4 Keras: what is silently wrong
#
# No error, and a figure that means something else.
# Each fault is made visible by a number.
#
# ### a regulariser that does nothing
#
# **Where:** `kernel_regularizer=l2(0.01)` and a `train_step` of one's own, `realnvp`.


# %% tags=["nbval-check-output"]
penalty = keras.regularizers.L2(10.0)
dense = layers.Dense(1, kernel_initializer="ones", kernel_regularizer=penalty)
with tf.GradientTape(persistent=True) as tape:
    as_typed = tf.reduce_mean(dense(x) ** 2)
    meant = as_typed + sum(dense.losses)  # in a model: self.losses

for name, loss in {"as typed": as_typed, "as meant": meant}.items():
    gradient = tape.gradient(loss, dense.kernel)
    print(f"{name}: loss {loss:.0f}, gradient {gradient.numpy().ravel()}")

# %% [markdown]
# The loss of the book's `train_step` is the first: the gradient is the same as without a regulariser, whatever its strength.
# **Why:** layers keep their penalties in `model.losses`; whoever writes the loss must add them.
#
# ### val_loss of the last batch
#
# **Where:** `test_step` returns tensors, `vae_fashion`; `vae_faces` has the same `test_step`, and no validation data.


# %%
class Measured(keras.Model):
    def __init__(self):
        super().__init__()
        self.tracker = keras.metrics.Mean("mean")

    def test_step(self, x):
        self.tracker.update_state(ops.mean(x))
        return {"as typed": ops.mean(x), "tracked": self.tracker.result()}


thirty = np.repeat([[1.0], [2.0], [9.0]], 10, axis=0)  # three batches; the mean is 4
model = Measured()
model.compile()
figures = model.evaluate(thirty, batch_size=10, verbose=0, return_dict=True)
print({name: float(value) for name, value in figures.items()})


# %%
class Untracked(keras.Model):
    def test_step(self, x):
        return {"loss": ops.mean(x)}


model = Untracked()
model.compile()
print("loss", model.evaluate(thirty, batch_size=10, verbose=0))

# %% [markdown]
# 9 is the last batch.
# 0 is worse: Keras 3 has a tracker of its own that is called `loss`; a tensor that is returned under the name of a tracker is thrown away, and the tracker, which nobody updated, is shown.
# **Cure:** update a `keras.metrics.Mean` and return its `result()`, in `test_step` as in `train_step`.
#
# ### two names for one loss
#
# **Where:** `train_step` returns `total_loss`, `test_step` returns `loss`, and the checkpoint watches `loss`, `vae_fashion`.


# %%
class Named(keras.Model):
    def train_step(self, x):
        return {"total_loss": ops.mean(x)}

    def test_step(self, x):
        return {"loss": ops.mean(x)}


for name in ("val_total_loss", "val_loss"):
    model = Named()
    model.compile()
    stop = keras.callbacks.EarlyStopping(name, patience=1, mode="min")
    more = {"callbacks": [stop], "epochs": 6, "verbose": 0}
    fitted = model.fit(x, validation_data=(x,), **more)
    print(f"{name}: {len(fitted.epoch)} epochs; history: {list(fitted.history)}")

# %% [markdown]
# The figure never improves, so training should end after two epochs.
# Watched under the name that only training has, it never ends; there is a warning, which is easily missed among others.
# A `ModelCheckpoint(save_best_only=True)` that watches a missing name writes its file after every epoch in Keras 3, better or not, and in Keras 2 it wrote none.
# **Cure:** one name in both steps; or, as in the recipe above, at least the name that is there.
#
# ### a mean against a sum
#
# **Where:** `500 * reduce_mean(binary_crossentropy(…))` beside a KL that is a sum, `vae_fashion`; 2000 times the mean squared error, `vae_faces`.

# %%
images = np.random.default_rng(0).random((4, 32, 32, 1)).astype("float32")
answer = np.full_like(images, 0.4)
mean = ops.mean(keras.losses.binary_crossentropy(images, answer))
total = ops.sum(keras.losses.binary_crossentropy(images, answer)) / len(images)
print(f"500 × mean {500 * mean:.1f}, sum over pixels {total:.1f} nats an image")
print(f"the KL counts {total / (500 * mean):.3f} times: 1024 / 500")

# %% [markdown]
# A mean over 1,024 pixels times 500 is the sum over pixels divided by 2.05, so the KL term has 2.05 times the weight that the bound gives it: the book's VAE is a β-VAE with β = 2.05.
# [Section 2.10](02_vae.ipynb) tells what follows.
# (For the faces the 2000 can be read as a σ: [section 3.4](03_vae_faces.ipynb).)
# Whoever changes the size of the images changes β, if the 500 stays.
#
# ### another network than its own
#
# **Where:** `call` of the book's VAE uses the global names `encoder` and `decoder`; run the encoder's cell again, and they are other networks.


# %% tags=["nbval-check-output"]
def new_network():
    return keras.Sequential([keras.Input((3,)), layers.Dense(3)])


encoder = new_network()


class Global(keras.Model):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def call(self, x):
        return encoder(x)  # self.encoder(x)


model = Global(encoder)
encoder = new_network()  # the cell of the encoder, run again
x = np.ones((4, 3), "float32")
print("its own network:", np.allclose(model(x), model.encoder(x)))
print("the other one:  ", np.allclose(model(x), encoder(x)))
assert not np.allclose(model(x), model.encoder(x))

# %% [markdown]
# The model saves and would train `self.encoder`, and computes with another.
# Where all its networks were replaced, `fit` raises `No gradients provided for any variable`; where some were, it warns that `Gradients do not exist` for these.
# **Cure:** `self.` before every network in `call`.
#
# ### white tiles at the edge
#
# **Where:** `norm.ppf(np.linspace(0, 1, 15))`, `vae_fashion`.

# %%
from scipy.stats import norm

hidden, last = layers.Dense(64, "relu"), layers.Dense(9, "sigmoid")
ends, middles = np.linspace(0, 1, 15), (np.arange(15) + 0.5) / 15
for name, p in {"0 to 1": ends, "middles": middles}.items():
    z = np.stack(np.meshgrid(norm.ppf(p), norm.ppf(p)), axis=-1).reshape(-1, 2)
    wrong = np.isnan(last(hidden(z.astype("float32")))).any(axis=1)
    print(f"{name}: {wrong.sum()} of 225 tiles are no numbers")

# %% [markdown]
# **Why:** the normal quantiles of 0 and 1 are infinite, and infinity minus infinity is no number.
# **Cure:** the middles of fifteen intervals.
#
# ### predict goes the other way
#
# **Where:** `call(self, x, training=True)` of `realnvp`, which takes `training` for the direction.


# %% tags=["nbval-check-output"]
class Direction(keras.Model):
    def call(self, x, training=True):
        return x + (1.0 if training else -1.0)


model, zero = Direction(), np.zeros((1, 1), "float32")
called, predicted = float(model(zero)[0, 0]), model.predict(zero, verbose=0)[0, 0]
print("model(x):", called, "  model.predict(x):", predicted)
assert called != predicted

# %% [markdown]
# `model(x)` leads to latent space, `model.predict(x)` to data.
# The log-determinant that the book's model returns on the way to data is 0 besides, since its `gate` is 0 there; training, which goes the other way, is right.
# **Cure:** two methods, `inverse` and `forward` ([chapter 4](04_realnvp.ipynb)).
#
# ### an epoch that waits
#
# **Where:** `fit` and `predict` on TensorFlow (2.20 and 2.21).
# Here an epoch is a hundred steps of one layer on zeros, twenty-five times, and `tf.data` may or may not tune the pipeline that brings the batches.

# %%
idle = np.zeros((100, 64, 64), "float32")


def epochs_of_fit(tuned):
    """Milliseconds of each epoch, from the second one on."""
    options = tf.data.Options()
    options.autotune.enabled = tuned
    data = tf.data.Dataset.from_tensor_slices((idle, idle)).with_options(options)
    ends, model = [], keras.Sequential([layers.Dense(64)])
    model.compile("sgd", "mse")
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter())
    )
    model.fit(data, epochs=25, verbose=0, shuffle=False, callbacks=[note])
    return 1000 * np.diff(ends)


for tuned in (True, False):
    least, middle, most = np.quantile(epochs_of_fit(tuned), [0, 0.5, 1])
    print(f"tuned: {tuned}, {least:.0f} to {most:.0f} ms, the median {middle:.0f}")

# %% [markdown]
# **Why:** a thread of `tf.data` looks at the pipeline, to tune it, and then sleeps: 10 ms, 20, 40, up to a minute.
# At the end of the data TensorFlow takes the pipeline down, and in many cases waits until that thread wakes up: 70, 150, 310, 630 ms and so on after the epoch's start, so that an epoch of 6.5 s may take 10.2 s.
# **Cure:** `options.autotune.enabled = False`, as in the function above, where batches are cut from arrays and there is nothing to tune.
# `course.start` does it for all data sets that do not ask otherwise, and for arrays.
#
# ### a normalisation that does nothing
#
# **Where:** a model whose own `call` runs networks with `BatchNormalization`, or `Dropout`, in them: on any backend if `call` has no argument `training`, and on JAX also if it has one and does not hand it on.
#
# **Why:** on TensorFlow `fit` calls `model(x, training=True)` if `call` takes `training`, and Keras then tells all networks inside; if not, it calls `model(x)`, and nobody is told.
# On JAX it goes to `call` directly (Keras 3.15), and networks inside take themselves for being used.
# There is no error: `moving_mean` stays at 0, and nothing is normalised.
# **Cure:** `def call(self, x, training=None)`, and `self.encoder(x, training=training)` in it, as in [chapter 3](03_vae_faces.ipynb), which checks that the means have moved.
#
# ### and in one line each
#
# - `optimizer.lr = 5e-4` is taken without an error and does nothing (only reading it raises one); so does `Adam(decay=1e-4)`, with a warning.
# - `tf.random.set_seed(1)` does not seed Keras' initial weights; `keras.utils.set_random_seed(1)` does.
# - `keras.random.normal(shape, seed=1)` gives the same noise at each call; give it a `keras.random.SeedGenerator(1)`.
# - A checkpoint with `save_best_only=True` is written, and no notebook of the book loads it: what goes on is the last epoch.
# - `BatchNormalization` in a `train_step` of one's own that does not pass `training=True` uses its running mean and variance and never moves them; where it is passed, they need some hundred batches to arrive.
# - The "test" faces of `vae_faces` come from the folder that it trains on; `image_dataset_from_directory` with `validation_split` and one seed keeps them apart.
# - `RealNVP`'s loss is in units of the normalised data: the density of the data themselves differs by the logarithms of the deviations.

# %%
rate = keras.optimizers.Adam(1e-3)
rate.lr = 5e-4
firsts = {}
for seed_it in (tf.random.set_seed, keras.utils.set_random_seed):
    seed_it(1)
    one = float(new_network().layers[0].kernel[0, 0])
    seed_it(1)
    firsts[seed_it.__name__] = one == float(new_network().layers[0].kernel[0, 0])
same = ops.all(keras.random.normal((2,), seed=1) == keras.random.normal((2,), seed=1))
print(
    f"rate {float(rate.learning_rate)}, same weights {firsts}, same noise {bool(same)}"
)

# %% [markdown]
# ## A1.5 TensorFlow Probability: what raises
#
# The examples share a base, a little network, and points that a flow has to move.

# %%
base = tfd.Sample(tfd.Normal(0.0, 1.0), [2])
spread = np.random.default_rng(0).normal([3, 0], [0.5, 2], (1_000, 2))
points = spread.astype("float32")


def made(width=16):
    shape = {"params": 2, "event_shape": [2], "hidden_units": [width, width]}
    return tfb.AutoregressiveNetwork(activation="relu", **shape)


def maf():
    return tfb.MaskedAutoregressiveFlow(made())


# %% [markdown]
# ### a kerastensor in a tfp function
#
# **Where:** `Model(x_, distribution.log_prob(x_))` with `x_ = Input(shape=(2,))`, then `fit`: the articles that train flows by a function such as `train_dist_routine`.

# %%
flow = tfd.TransformedDistribution(base, maf())
with course.expect(ValueError, show="KerasTensor"):
    flow.log_prob(keras.Input((2,)))

# %% [markdown]
# Further down the message says: `A KerasTensor cannot be used as input to a TensorFlow function`.
# **Why:** TFP's functions are TensorFlow's, and an `Input` of Keras 3 is no tensor of TensorFlow.
# (The message advises to wrap the function in a layer; then it runs, and trains nothing: [below](#a-flow-that-is-not-tracked).)
#
# **Cure 1:** the article as it is, with `tf_keras` for every `tf.keras`, for a MAF.

# %%
x_ = tf_keras.Input((2,))
model = tf_keras.Model(x_, flow.log_prob(x_))
model.compile(tf_keras.optimizers.Adam(0.01), loss=lambda _, log_prob: -log_prob)
fitted = model.fit(points, np.zeros((1_000, 0)), epochs=20, verbose=0)
print([round(loss, 2) for loss in fitted.history["loss"][::19]])
assert fitted.history["loss"][-1] < fitted.history["loss"][0] - 1

# %% [markdown]
# **Cure 2**, which works for every flow: a model of Keras 3 whose step takes the flow's own variables.


# %%
class FlowModel(keras.Model):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def call(self, x):
        return self.flow.log_prob(x)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(self(x))
        variables = self.flow.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"nll": loss}


# %%
model = FlowModel(tfd.TransformedDistribution(base, tfb.Invert(maf())))
model.compile(keras.optimizers.Adam(0.01))
nll = model.fit(points, epochs=20, verbose=0).history["nll"]
print([round(value, 2) for value in nll[::19]])
assert nll[-1] < nll[0] - 1

# %% [markdown]
# That one is an IAF, for which cure 1 raises a `TypeError`, as it does for TFP's templates; and for bijectors made of bare `tf.Variable`s cure 1 trains nothing.
# The figure is not called `loss`: under that name Keras 3 would show its own, which nobody updates, and which is 0.
#
# ### unexpected keyword argument event_shape
#
# **Where:** `TransformedDistribution(Normal(0, 1), bijector, event_shape=[2])`, articles before 2021.

# %%
with course.expect(TypeError):
    tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), maf(), event_shape=[2])

two_normals = tfd.TransformedDistribution(tfd.Normal([0.0, 0.0], 1.0), maf())
with course.expect(ValueError):
    two_normals.log_prob(points)

print(tfd.TransformedDistribution(base, maf()).log_prob(points).shape)

# %% [markdown]
# **Why:** the argument is gone, and two normals side by side are a batch of two numbers, not one vector.
# **Cure:** `tfd.Sample(tfd.Normal(0.0, 1.0), [2])`, or `tfd.MultivariateNormalDiag([0.0, 0.0])`.
#
# ### unexpected keyword argument num_maksed
#
# **Where:** a misspelling that was copied from article to article.
# And what else `tfb.RealNVP` will not take:


# %%
def still(kept, moved, **more):
    return tf.zeros([moved]), None


for wrong in ({"num_maksed": 1}, {"fraction_masked": 1}, {"num_masked": 0.5}, {}):
    print(wrong, end="   ")
    with course.expect(TypeError):
        tfb.RealNVP(shift_and_log_scale_fn=still, **wrong)

for many in (3, 5):
    half = tfb.RealNVP(fraction_masked=0.5, shift_and_log_scale_fn=still)
    half.forward(tf.zeros([many]))
    print(f"fraction 0.5 of {many} numbers keeps {half._masked_size}")

# %% [markdown]
# `num_masked` is a whole number; `fraction_masked` is a float, and a half is rounded to the even number, not down as [TFP's documentation](https://www.tensorflow.org/probability/api_docs/python/tfp/bijectors/RealNVP) says.
# (`_masked_size` is TFP's own name, shown here for that alone.)
#
# ### tensor conversion requested dtype float32
#
# **Where:** data of `make_moons`, which are float64, as a tensor or in a `tf.data` pipeline.

# %%
flow = tfd.TransformedDistribution(base, maf())
with course.expect(ValueError, TypeError):
    flow.log_prob(tf.constant(spread))

print(flow.log_prob(spread).dtype, flow.log_prob(tf.constant(points)).dtype)

# %% [markdown]
# **Why:** a NumPy array is converted without a word, a tensor never.
# **Cure:** `.astype("float32")`, once, where data are loaded.
#
# ### nonetype object is not callable
#
# **Where:** `tfb.Glow()` with its defaults; its documentation shows networks, which must be given.

# %%
with course.expect(TypeError):
    tfb.Glow()

# %% [markdown]
# **Cure:** give `coupling_bijector_fn` and `exit_bijector_fn`; [below](#tfb-glow-starts-at-22-bits) are two that work.
#
# ### tfp layers in a keras model
#
# **Where:** `tfp.layers.DistributionLambda`, `AutoregressiveTransform` and their kind in a model of Keras 3.

# %%
last = tfp.layers.DistributionLambda(lambda t: tfd.Normal(t, 1.0))
with course.expect(ValueError):
    keras.Sequential([keras.Input((2,)), last])

model = tf_keras.Sequential([tf_keras.Input((2,)), last])
print(type(model(points[:3])).__name__)

# %% [markdown]
# **Why:** they are layers of `tf_keras`.
# Without that package, TFP's first use says `No module named 'tf_keras'`: install the one of TensorFlow's version, `pip install "tf_keras==2.21.*"` with TensorFlow 2.21.
# On Python 3.12 and later TFP also needs `setuptools`, and everywhere `numpy<2.4`.

# %% [markdown]
# ## A1.6 TensorFlow Probability: what is silently wrong
#
# ### a flow that is not tracked
#
# **Where:** `tfb.real_nvp_default_template`, as in the documentation of `tfb.RealNVP` and many articles (TFP issues [645](https://github.com/tensorflow/probability/issues/645), [1439](https://github.com/tensorflow/probability/issues/1439)); any network of Keras 3 in a bijector; a flow wrapped in a layer of Keras 3.


# %%
class Split(tf.Module):
    """A network as RealNVP wants it: (kept, how many are moved) -> shift, log-scale."""

    def __init__(self, kind):
        super().__init__()
        first, second = kind.layers.Dense(16, "relu"), kind.layers.Dense(2)
        self.network = kind.Sequential([kind.layers.Input((1,)), first, second])

    def __call__(self, kept, moved, **more):
        return tf.split(self.network(kept), 2, axis=-1)


# %%
template = tfb.real_nvp_default_template([16, 16])
networks = {"template": template, "tf_keras": Split(tf_keras), "Keras 3": Split(keras)}
flows, tracked = {}, {}
for name, network in networks.items():
    coupling = tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=network)
    flows[name] = tfd.TransformedDistribution(base, coupling)
    flows[name].log_prob(points)  # builds what is not built yet
    tracked[name] = len(flows[name].trainable_variables)
print("variables that the flow tracks:", tracked)
print("that the template has:", len(template.trainable_variables))
assert tracked == {"template": 0, "tf_keras": 4, "Keras 3": 0}

# %% [markdown]
# Training such a flow by its `trainable_variables` changes nothing.
# `optimizer.apply` says nothing of it; `optimizer.apply_gradients(zip(gradients, variables))` raises an error that is hard to read:

# %%
with course.expect(ValueError):
    keras.optimizers.Adam().apply_gradients(
        zip([], flows["template"].trainable_variables)
    )

# %% [markdown]
# **Why:** TFP looks for `tf.Variable`s in `tf.Module`s; a template is none, and a variable of Keras 3 is none.
# They exist, they have gradients, and they can be trained: collect them yourself, and count them.


# %%
def trained(flow, variables, epochs=200):
    """The NLL before and after training these variables."""
    adam = keras.optimizers.Adam(0.01)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        adam.apply(tape.gradient(loss, variables), variables)
        return loss

    losses = [float(step(points)) for _ in range(epochs)]
    return [round(losses[0], 2), round(losses[-1], 2)]


# %%
of_keras = [v.value for v in networks["Keras 3"].network.trainable_variables]
ends = {
    "template": trained(flows["template"], template.trainable_variables),
    "Keras 3": trained(flows["Keras 3"], of_keras),
}
print(ends)
assert all(last < first - 0.5 for first, last in ends.values())

# %% [markdown]
# [Chapter 5](05_tfp_flows.ipynb) keeps a guard, `variables_of`, that refuses a flow without variables.
# Likewise `tfb.Scale(keras.Variable(2.0))` keeps the 2 for ever; give it a `tf.Variable`.
#
# ### variables that are not there yet

# %%
network = made()
before = len(network.trainable_variables)
network.build([None, 2])
print("variables:", before, "then", len(network.trainable_variables))
assert before == 0

# %% [markdown]
# **Where:** `tfb.AutoregressiveNetwork`, a MADE: its variables are made at its first call.
# Collect them before, and there is nothing to train.
# **Cure:** call the flow on one batch, or `build`, first.
#
# ### one network for several bijectors

# %% tags=["nbval-check-output"]
counts = {}
for name, parts in {"shared": [made()] * 6, "own": [made() for _ in range(6)]}.items():
    chain = tfb.Chain([tfb.MaskedAutoregressiveFlow(part) for part in parts])
    chain.inverse(points[:1])
    counts[name] = len(chain.trainable_variables)
print(counts)
assert counts == {"shared": 6, "own": 36}

# %% [markdown]
# Six bijectors that share one network have one set of weights ([TFP issue 787](https://github.com/tensorflow/probability/issues/787)): make one for each.
# (`[made()] * 6` is six times the same one.)
#
# ### a mask that wears off
#
# **Where:** a training step by hand, `weight.assign_sub(rate * gradient)`, on a MADE of TFP's.


# %%
def slope_by_itself(update):
    """The largest slope of an output by its own coordinate, after three steps."""
    network = made()
    network(points)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((network(points)[..., 0] - points) ** 2)
        gradients = tape.gradient(loss, network.trainable_variables)
        update(gradients, network.trainable_variables)
    with tf.GradientTape() as tape:
        tape.watch(x := tf.constant(points[:, :2]))
        second = network(x)[:, 1, 0]
    return float(tf.reduce_max(tf.abs(tape.gradient(second, x)[:, 1])))


def by_hand(gradients, weights):
    for weight, gradient in zip(weights, gradients):
        weight.assign_sub(0.1 * gradient)


descent = keras.optimizers.SGD(0.1)
worn, kept = slope_by_itself(by_hand), slope_by_itself(descent.apply)
print(f"by hand {worn:.3f}, by an optimizer of Keras {kept:.3f}")
assert worn > 1e-3 and kept == 0

# %% [markdown]
# **Why:** TFP keeps the mask as a *constraint* of the weights.
# Keras' optimizers apply it after each step; a step by hand does not, cut weights come back, and the log-determinant is wrong from then on.
# **Cure:** an optimizer of Keras, or `weight.assign(weight.constraint(weight))` after the step.
#
# ### the cache passes every inverse
#
# **Where:** checks such as `b.inverse(b.forward(x))`.


# %% tags=["nbval-check-output"]
class Wrong(tfb.Shift):
    def _inverse(self, y):
        return y  # should subtract the shift


x, b = tf.constant([1.0, 2.0]), Wrong(1.0)
errors = [
    tf.abs(b.inverse(fresh(b.forward(x))) - x) for fresh in (lambda y: y, tf.identity)
]
print("as typed:", errors[0].numpy(), "  with tf.identity:", errors[1].numpy())

# %% [markdown]
# **Why:** a bijector remembers for each tensor where it came from, and `inverse` returns that tensor itself.
# **Cure:** `tf.identity` between the two, which makes a new tensor.
#
# ### the cache keeps an old loss
#
# **Where:** a training loop that is not compiled, and gives the same tensor at each step (TFP issues [1190](https://github.com/tensorflow/probability/issues/1190), [1510](https://github.com/tensorflow/probability/issues/1510)).

# %%
scale = tf.Variable(1.0)
flow = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), tfb.Scale(scale))
one = tf.constant(1.0)
flow.log_prob(one)
scale.assign(5.0)
values = float(flow.log_prob(one)), float(flow.log_prob(tf.identity(one)))
truth = float(tfd.Normal(0.0, 5.0).log_prob(1.0))
print(f"the same tensor {values[0]:.3f}, a new one {values[1]:.3f}, truth {truth:.3f}")
assert values[0] != values[1] and np.isclose(values[1], truth)

# %% [markdown]
# **Why:** the log-determinant is kept with the tensor, and is not computed again when a variable has changed.
# A loss that leaves out what the determinant now costs falls without end.
# **Cure:** `@tf.function` around the step, NumPy arrays, or new batches; `tf.identity` at least.
#
# ### the order of a chain

# %%
chain = tfb.Chain([tfb.Shift(1.0), tfb.Scale(2.0)])
print(chain.forward(3.0).numpy(), "= 2 · 3 + 1, not 2 · (3 + 1)")
lognormal = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), tfb.Exp())
print(float(lognormal.log_prob(2.0)), float(tfd.LogNormal(0.0, 1.0).log_prob(2.0)))
assert chain.forward(3.0) == 7.0

# %% [markdown]
# The *last* of a chain is applied first, as in a product of functions.
# `forward` leads from the base to the data; a bijector that was meant the other way needs `tfb.Invert`.
#
# ### a log density with a column too many
#
# **Where:** a base of independent normals under bijectors that act on each number by itself.

# %%
move = tfb.Chain([tfb.Shift([1.0, -1.0]), tfb.Scale([2.0, 0.5])])
pair = tfd.Normal([0.0, 0.0], 1.0)
for name, start in {"batch": pair, "vector": tfd.Independent(pair, 1)}.items():
    log_prob = tfd.TransformedDistribution(start, move).log_prob(points)
    print(f"{name}: shape {log_prob.shape}, mean {tf.reduce_mean(log_prob):.2f}")

# %% [markdown]
# A log density of a point is one number, the sum; the mean over a table of two columns is half of it.
#
# ### batch normalisation while training

# %%
x = tf.constant(points)
norm = tfb.BatchNormalization()
back = norm.forward(tf.identity(norm.inverse(tf.identity(x))))
print(f"training: forward undoes inverse up to {tf.reduce_max(abs(back - x)):.2f}")
for _ in range(500):
    norm.inverse(tf.identity(x))  # its running means arrive
still_norm = tfb.BatchNormalization(norm.batchnorm, training=False)
back = still_norm.forward(tf.identity(still_norm.inverse(tf.identity(x))))
print(f"training=False: {tf.reduce_max(abs(back - x)):.0e}")

# %% [markdown]
# **Why:** while it trains, `inverse` uses the batch's mean and `forward` the running one: they do not undo each other, and the density of a point depends on its batch.
# Even `log_prob` mixes the two: the batch's statistics for the latent point, the running ones for the log-determinant; [section 5.8](05_tfp_flows.ipynb#58-batch-normalisation) shows it, and a formula to train with.
# **Cure:** after training, a bijector of the same layer with `training=False`.
# The layer must be one of `tf_keras`: another says `batchnorm_layer must be an instance of tf_keras.layers.BatchNormalization`.
#
# ### a coordinate that never changes
#
# **Where:** couplings one after the other without a `Permute` between: one coordinate of the samples stays standard normal, however long one trains.


# %% tags=["nbval-check-output"]
def bent(kept, moved, **more):
    return ops.sin(3 * kept), ops.cos(3 * kept)


def coupling():
    return tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=bent)


z = tf.constant(points)
for name, between in {
    "two couplings": [],
    "with Permute": [tfb.Permute([1, 0])],
}.items():
    x = tfb.Chain([coupling(), *between, coupling()]).forward(z)
    moved = [not np.allclose(x[:, i], z[:, 0]) for i in (0, 1)]
    print(f"{name}: the first coordinate of z is changed: {all(moved)}")

# %% [markdown]
# **Why:** each coupling keeps the same coordinate.
# **Cure:** `tfb.Permute([1, 0])` between, or masks that take turns ([chapter 4](04_realnvp.ipynb)).
#
# ### a loss that is nan
#
# **Where:** data at the edge of what a bijector can give, such as pixels of exactly 0 and 1 under a sigmoid; a log-scale without a bound; a rate that is too high.

# %%
print(
    "sigmoid:", tfb.Sigmoid().inverse(1.0).numpy(), tfb.Sigmoid().inverse(1.5).numpy()
)
print("exp:", tfb.Exp().inverse(-1.0).numpy())
u = tf.constant([0.5, 5.0, 100.0])
print("e^u:", tf.exp(u).numpy(), "  e^tanh(u):", tf.exp(tf.tanh(u)).numpy().round(2))

# %% [markdown]
# `validate_args=True` finds the negative number under `Exp`, and not what is wrong under `Sigmoid`.
# **Cure:** keep data inside, as $0.01 + 0.98\,x$ does for $x$ in $[0, 1]$; bound the log-scale ([section 4.4](04_realnvp.ipynb)); cut long gradients, `Adam(rate, global_clipnorm=5.0)`; lower the rate.
#
# ### tfb glow starts at 22 bits
#
# **Where:** `tfb.Glow` with `GlowDefaultNetwork` and `GlowDefaultExitNetwork`, as in its documentation.


# %%
def small(shape):
    return tfb.GlowDefaultNetwork(shape, num_hidden=8)


def unit_exit(shape, output_chan):
    """Like the default, with a scale of 1 in place of e² to begin with."""
    bias = tf_keras.initializers.Constant(np.repeat([-2.0, 0.0], output_chan))
    start = {"kernel_initializer": "zeros", "bias_initializer": bias}
    last = tf_keras.layers.Conv2D(2 * output_chan, 3, padding="same", **start)
    return tf_keras.Sequential([tf_keras.layers.Input(shape), last])


# %%
noise = tf.random.stateless_uniform([16, 8, 8, 3], (0, 1)) - 0.5  # 8 bits are right
flat = tfd.Sample(tfd.Normal(0.0, 1.0), [192])
for exit_network in (tfb.GlowDefaultExitNetwork, unit_exit):
    glow = tfb.Glow((8, 8, 3), 2, 2, small, exit_network)
    nats = -tf.reduce_mean(tfd.TransformedDistribution(flat, glow).log_prob(noise))
    print(
        f"{exit_network.__name__}: {8 + nats / 192 / np.log(2):.1f} bits per dimension"
    )

# %% [markdown]
# **Why:** the default network gives the scale as $e^{u + 2}$ and starts with $u = 0$, so half of the numbers are stretched by $e^2$.
# It is trained away, in time.
# Only `grab_after_block=0.5` works with it; another fraction needs an exit that returns a bijector.
#
# And its ActNorm takes its first batch for data, in whichever direction that goes:

# %%
shifted = noise + 5.0
for first in ("log_prob", "sample"):
    glow = tfb.Glow((8, 8, 3), 1, 1, small, tfb.GlowDefaultExitNetwork)
    flow = tfd.TransformedDistribution(flat, glow)
    flow.sample(16) if first == "sample" else flow.log_prob(shifted)
    z = glow.inverse(tf.identity(shifted))
    print(f"{first} first: mean of z {tf.reduce_mean(z):.2f}")

# %% [markdown]
# **Cure:** `log_prob` of a batch of data before the first `sample`.
# It is initialised once, by the first batch, and never again: it does not normalise every sample by its own statistics.
#
# ### seeds and saving

# %%
normal = tfd.Normal(0.0, 1.0)
for seed_given in (3, (0, 3)):
    print(
        f"seed={seed_given}:", *[f"{normal.sample(seed=seed_given):.3f}" for _ in "ab"]
    )


# %%
place = str(folder / "flow")
models = [FlowModel(tfd.TransformedDistribution(base, maf())) for _ in "ab"]


def difference():
    """Largest difference of the two models' log densities."""
    return float(tf.reduce_max(abs(models[0](points) - models[1](points))))


before = difference()
models[0].save_weights(place + ".weights.h5")
models[1].load_weights(place + ".weights.h5")
by_keras = difference()
tf.train.Checkpoint(flow=models[0].flow).write(place)
tf.train.Checkpoint(flow=models[1].flow).read(place)
print(f"before {before:.2f}, save_weights {by_keras:.2f}, Checkpoint {difference()}")
assert by_keras == before > 0 == difference()

# %% [markdown]
# An integer as `seed` starts a sequence, a pair is stateless and repeats.
# `save_weights` of a Keras 3 model writes what *it* tracks: of a flow of TFP nothing, and loading says nothing, either.
# **Cure:** `tf.train.Checkpoint`, for flows with `tf_keras` networks.
#
# ## Summary
#
# - Know which Keras a name belongs to, and keep to one.
# - Count the variables before you train: there is a number to expect, and it is not 0.
# - A figure of an epoch is the result of a tracker, under one name in training and in validation; a raw number is that of one batch.
# - Know what is summed and what is averaged.
# - Break TFP's cache before you believe an inverse or a loss.
# - A call and `predict`, training and evaluation, may be different functions: try both.

# %%
from utils import results

rows = [
    {"model": f"{name}, tracked by TFP", "variables": count}
    for name, count in tracked.items()
]
seconds = time.perf_counter() - STARTED
results.record("A1_breaks", data="none", seconds=seconds, rows=rows)

# %% [markdown]
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Find the bug.**
# The weights of this model move, and its history says that the loss is 0 in every epoch.
# Why, and what would you change?


# %%
class Zero(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def train_step(self, x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self.dense(x) - 5.0) ** 2)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


ones = np.ones((64, 3), "float32")
model = Zero()
model.compile(keras.optimizers.SGD(0.01))
print(model.fit(ones, epochs=3, verbose=0).history, model.dense.bias.numpy())

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# `loss` is the name of a tracker that every model of Keras 3 has. A plain tensor under
# that name is thrown away, and the tracker, which nobody updated, shows 0. Keep a
# tracker of your own and return its result, which is also the mean over the batches.
# (`return {"mse": loss}` would do in one line, and shows the last batch alone.)


class Tracked(Zero):
    def __init__(self):
        super().__init__()
        self.tracker = keras.metrics.Mean("loss")

    def train_step(self, x):
        loss = super().train_step(x)["loss"]
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


model = Tracked()
model.compile(keras.optimizers.SGD(0.01))
losses = model.fit(ones, epochs=3, verbose=0).history["loss"]
print(losses)
assert losses[0] > losses[-1] > 0

# %% [markdown]
# **2. Find the bug.**
# This flow runs, and training it changes nothing.
# Which number shows it, and what are the two reasons?
# Train it: keep the network, and write anew what is around it.
# (A bijector that is called on another makes a chain of the two.)

# %%
network = keras.Sequential(
    [keras.Input((2,)), layers.Dense(16, "relu"), layers.Dense(4)]
)
inner = tfb.Shift(network(tf.zeros([1, 2]))[0, :2])
flow = tfd.TransformedDistribution(base, tfb.Scale([1.0, 2.0])(inner))
print("log density", float(tf.reduce_mean(flow.log_prob(points))))

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# The number is len(flow.trainable_variables), which is 0. There are two reasons. The
# network belongs to Keras 3, which TFP does not track; and it was called once, when the
# bijector was made, so that the shift is a constant. Make the bijector anew in every
# step, and collect the variables yourself.
print("tracked:", len(flow.trainable_variables))
variables = [v.value for v in network.trainable_variables]


class Fresh:
    def log_prob(self, x):
        shift = tfb.Shift(network(tf.zeros([1, 2]))[0, :2])
        start = tfb.Scale([1.0, 2.0])(shift)
        return tfd.TransformedDistribution(base, start).log_prob(x)


ends = trained(Fresh(), variables)
print("NLL", ends)
assert ends[1] < ends[0] - 1

# %% [markdown]
# **3. Predict.**
# A chain is `Chain([Scale(2.0), Shift(3.0), Exp()])` over a standard normal base.
# Above which value do all its samples lie?
# And what is its `inverse` of that value?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# The last is applied first: x = 2 (3 + e^z) > 6. At 6 the inverse is log 0, minus
# infinity, which no check of the arguments prevents.
chain = tfb.Chain([tfb.Scale(2.0), tfb.Shift(3.0), tfb.Exp()])
many = tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), chain).sample(10_000)
print(f"smallest of 10,000: {tf.reduce_min(many):.3f}, inverse {chain.inverse(6.0)}")
assert tf.reduce_min(many) > 6

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023; [its code](https://github.com/davidADSP/Generative_Deep_Learning_2nd_Edition), and that of [the Korean edition](https://github.com/rickiepark/Generative_Deep_Learning_2nd_Edition), 만들면서 배우는 생성 AI 2판.
# - C. Kang. [AutoRegressive flows and RealNVP](https://goodboychan.github.io/python/coursera/tensorflow_probability/icl/2021/09/08/01-AutoRegressive-flows-and-RealNVP.html). 2021. The article whose experiment chapter 5 repeats.
# - [Keras 3's guide to migrating](https://keras.io/guides/migrating_to_keras_3/).
# - [TensorFlow Probability's bijectors](https://www.tensorflow.org/probability/api_docs/python/tfp/bijectors), and its issues named above.
