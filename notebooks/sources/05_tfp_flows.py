# %% [markdown]
# # Chapter 5 · Flows from TensorFlow Probability
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/05_tfp_flows.ipynb)
#
# **How far can a flow bend space, and what does it pay for it?** A coupling keeps half of a point to move the other half. Other flows keep
# less and bend more. TensorFlow Probability (TFP) has the parts for all of them, so this chapter builds MADE, MAF, IAF, NICE, RealNVP and a spline
# flow from the same box, and measures each against the exact density of two moons. TFP has traps, and most of them raise no error: a flow that has nothing to
# train, a check that cannot fail, a mask that wears off. Each is shown here, with the line that notices it.

# %% [markdown]
# **You will learn**
# - what a bijector is, and how TFP makes a density of one;
# - how a network with masks gives all conditional densities of a point in one pass (MADE, MAF);
# - why MAF is fast one way and IAF the other, in numbers from 2 to 64 dimensions;
# - what over-fitting looks like in a flow, and what cures it;
# - which flow to pick today, by exact distance from the truth.
#
# **In the book**: chapter 6 (노멀라이징 플로) ends with other flows in a few lines; the experiments here follow the
# tutorials of TFP's bijectors, which use the same two moons.
#
# **Needs**: no download, and TensorFlow. On two CPU cores it took 7 minutes; on a slower machine 12. On a GPU: not measured.

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
TRAIN_POINTS = course.choose(full=30_000, quick=6_000)
LAYERS = course.choose(full=6, quick=2)  # in a chain of MAFs, IAFs or splines
COUPLINGS = course.choose(full=8, quick=2)  # in a chain of affine or additive couplings
EPOCHS = course.choose(full=80, quick=2)
BATCH = course.choose(full=512, quick=128)
PEAK_LEARNING_RATE = 1e-2
FEW_POINTS, FEW_EPOCHS = 1_000, course.choose(full=600, quick=60)
DIMENSIONS = course.choose(full=(2, 4, 8, 16, 32, 64), quick=(2, 8))
seed = course.seed(42)

# %% [markdown]
# TFP is built on Keras 2, which lives on under the name `tf_keras`. The networks inside its bijectors come from there. The rest of this course is
# Keras 3, and both can be used side by side.

# %%
course.require("tensorflow-probability", "tf_keras")

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from utils import checks, moons, plots, results, training

tfb, tfd = tfp.bijectors, tfp.distributions
data = moons.load(TRAIN_POINTS)
truth, rng = data.truth, np.random.default_rng(seed)

# %% [markdown]
# ## 5.1 A bijector
#
# A bijector is a function that can be undone, with the logarithm of the absolute determinant of its Jacobian. In TFP `forward` goes from latent points $z$ to data $x$, and `inverse`
# from $x$ to $z$, as in [chapter 4](04_realnvp.ipynb). (The book calls the way from $x$ to $z$ forward. The name does not matter; to mix the two up does.)
# A `TransformedDistribution` draws $z$ from a base distribution and sends it forward. Its density is the change of variables of chapter 4:
#
# $$\log p(x) = \log p(z) - \log\left|\det \frac{\partial x}{\partial z}\right|, \qquad z = f(x).$$
#
# The simplest case: $x = \mu + \sigma z$, coordinate by coordinate, with a vector $\mu$ and a vector $\sigma$. `Chain` lists its parts as one writes functions, the last one first.

# %% tags=["nbval-check-output"]
from scipy.stats import norm

mu, sigma = np.float32([1.0, -2.0]), np.float32([2.0, 0.5])
base = tfd.Sample(tfd.Normal(0.0, 1.0), [2])
gaussian = tfd.TransformedDistribution(base, tfb.Chain([tfb.Shift(mu), tfb.Scale(sigma)]))

by_tfp = gaussian.log_prob(data.x_test[:3]).numpy()
by_hand = norm.logpdf(data.x_test[:3], mu, sigma).sum(axis=1)
print(by_tfp.round(4), by_hand.round(4))
assert np.allclose(by_tfp, by_hand, atol=1e-4)


# %% [markdown]
# ### A check that cannot fail
#
# Does `inverse` undo `forward`? One is tempted to write `b.inverse(b.forward(z)) - z`. Here is a bijector whose inverse is wrong on purpose.

# %%
class Wrong(tfb.Shift):
    """Shifts forward by some number, and back by half of it."""

    def _inverse(self, x):
        return x - self.shift / 2


wrong = Wrong([1.0, 1.0])
z = tf.constant(data.x_test[:5])
print("as one writes it: error", float(tf.reduce_max(tf.abs(wrong.inverse(wrong.forward(z)) - z))))
error = float(tf.reduce_max(tf.abs(wrong.inverse(wrong.forward(z) + 0.0) - z)))
print("with a fresh tensor: error", error)
assert abs(error - 0.5) < 1e-5

# %% [markdown]
# The first error is exactly zero, and it would be for any bijector: TFP remembers which $z$ gave this $x$ and hands it back. An exact 0.0 in floating point is a reason to be
# suspicious. `checks.inverse_error` of this course hands over a fresh tensor, so that the inverse is really computed.

# %%
try:
    checks.inverse_error(wrong.forward, wrong.inverse, data.x_test[:5])
except checks.CheckFailed as failure:
    print(failure)
else:
    raise AssertionError("the check let a wrong inverse pass")

# %% [markdown]
# ## 5.2 A flow that learns nothing
#
# A bijector gets its bend from a network. TFP's documentation offers `real_nvp_default_template` for that. It runs, it has a density, it makes samples:

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it warns of an old layer, and not of what follows
    template = tfb.real_nvp_default_template(hidden_layers=[16, 16])
    silent = tfd.TransformedDistribution(
        base, tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=template)
    )
    silent.log_prob(data.x_test[:3])
print("variables that training would see:", len(silent.trainable_variables))

# %% [markdown]
# None. The network was made inside a function, where nothing keeps track of it. Training with these variables would move nothing, and print a loss all the same. Our loop refuses:

# %%
try:
    training.fit_density(silent, data.x_train, optimizer=None, epochs=1, batch=BATCH)
except course.CourseError as problem:
    print(problem)
else:
    raise AssertionError("a flow without variables was trained")

# %% [markdown]
# The cure is an object that owns its network. TensorFlow finds the variables of a `tf.Module` by its attributes, and those of a `tf_keras` network among them. (A Keras 3
# network is not found: it keeps its variables in a wrapper of its own. That is a second way to learn nothing.) This one is for couplings: from the coordinates that are kept
# it gives shift and log-scale of the others. (TFP also tells it how many are moved, which it knows already. `**condition` is for section 5.12.)

# %% tags=["definitions"]
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

tfb, tfd = tfp.bijectors, tfp.distributions


def dense_network(inputs, outputs, width, depth=2):
    """(batch, inputs) to (batch, outputs), zero at the start: the flow starts as the identity."""
    hidden = [tf_keras.layers.Dense(width, activation="relu") for _ in range(depth)]
    last = tf_keras.layers.Dense(outputs, kernel_initializer="zeros")
    return tf_keras.Sequential([tf_keras.Input((inputs,)), *hidden, last])


class ShiftAndLogScale(tf.Module):
    """For `tfb.RealNVP`: kept (batch, kept) to shift and log-scale of the `moved` others."""

    def __init__(self, kept, moved, width, bound=5.0):
        super().__init__()
        self.network = dense_network(kept, 2 * moved, width)
        self.bound = bound

    def __call__(self, x_kept, moved, **condition):
        shift, u = tf.split(self.network(x_kept), 2, axis=-1)
        return shift, self.bound * tf.tanh(u / self.bound)


# %% [markdown]
# Six variables, three matrices and three biases, and TensorFlow finds them all. From here on every flow is counted before it is trained.

# %% tags=["nbval-check-output"]
module = ShiftAndLogScale(kept=1, moved=1, width=16)
coupling = tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=module)
by_function = tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=lambda x, units: module(x, units))
found = len(coupling.trainable_variables), len(by_function.trainable_variables)
print("owned:", found[0], "  the same module called by a function:", found[1])
assert found == (6, 0)

# %% [markdown]
# ## 5.3 MADE: all conditionals in one pass
#
# Any density of $D$ coordinates is a product of conditional densities, each coordinate given those before it:
#
# $$p(x) = \prod_{i=1}^{D} p(x_i \mid x_{<i}).$$
#
# $x_{<i}$ stands for $x_1, \dots, x_{i-1}$. A network that is to give the parameters of all $D$ conditionals at once may let output $i$ see inputs $1, \dots, i-1$ and nothing else.
# MADE (Germain et al., 2015) cuts the connections that would break this. Each hidden unit gets a degree $m$: it may see the inputs $1, \dots, m$, and hidden units of degree $m$ or less. Output $i$ may see hidden
# units of a degree below $i$. To cut is to multiply the weights by a mask of zeros and ones.
#
# TFP calls it `AutoregressiveNetwork`. Ours has four inputs, two hidden layers of six, and two parameters for each coordinate, so eight outputs.

# %%
made = tfb.AutoregressiveNetwork(params=2, event_shape=[4], hidden_units=[6, 6], activation="relu")
print("variables before its first call:", len(made.trainable_variables))
made(tf.zeros([1, 4]))
print("after:", len(made.trainable_variables))
assert len(made.trainable_variables) == 6

# %% [markdown]
# Another edge: the network has no variables before it has seen a point. Whoever collects them too early trains nothing.
#
# The masks, read off the weights: a weight that was cut is zero, and white. In the third panel each coordinate has two rows, one for each parameter; the last panel shows the first parameter.

# %%
masks = [w.numpy() != 0 for w in made.trainable_variables if len(w.shape) == 2]
paths = (masks[0].astype(int) @ masks[1] @ masks[2]).reshape(4, 4, 2)[
    ..., 0
]  # from input to output

figure, axes = plt.subplots(1, 4, figsize=(plots.WIDTH, 2.6))
titles = (
    "inputs to hidden 1",
    "hidden 1 to hidden 2",
    "hidden 2 to outputs",
    "paths, input to output",
)
for axis, mask, title in zip(axes, [*masks, paths > 0], titles, strict=True):
    axis.imshow(mask.T, cmap="Greys", vmin=0, vmax=1.4)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=range(mask.shape[0]), yticks=range(mask.shape[1]), xlabel="from", ylabel="to")
    axis.set_xticklabels(range(1, mask.shape[0] + 1), fontsize=7)
    axis.set_yticklabels(range(1, mask.shape[1] + 1), fontsize=7)
figure.tight_layout()
plots.show(figure, alt="Masks of MADE; in the last, output i is reached from inputs below i alone")

# %% [markdown]
# The weights are one thing; what the function does is another. Automatic differentiation gives $\partial\, \text{output}_i / \partial x_j$ at some points. Every entry with $j \ge i$ must be exactly 0.

# %% tags=["definitions"]
from utils import checks


def dependency(network, points):
    """The largest slope of output i by input j over all points: (count, dim) to (dim, dim)."""
    slopes = [checks.jacobian(lambda x, k=k: network(x)[..., k], points) for k in (0, 1)]
    return np.abs(slopes).max(axis=(0, 1))


# %% [markdown]
# The order in which the coordinates come is our choice: $p(x_1)\, p(x_2 \mid x_1)$ and $p(x_2)\, p(x_1 \mid x_2)$ are the same density. `input_order` takes any: its $k$-th number is the place at which $x_k$ comes. Row $i$ of the matrix below is output $i$, column $j$ is input $j$. Sorted by the
# order, it is strictly triangular again.

# %%
points = rng.normal(size=(200, 4)).astype("float32")
order = [3, 1, 4, 2]  # x₂ comes first, then x₄, x₁, x₃
permuted = tfb.AutoregressiveNetwork(
    params=2, event_shape=[4], hidden_units=[6, 6], activation="tanh", input_order=order
)
straight = dependency(made, points)
by_order = dependency(permuted, points)
first_to_last = np.argsort(order)
assert (
    not np.triu(straight).any()
    and not np.triu(by_order[np.ix_(first_to_last, first_to_last)]).any()
)
assert np.triu(by_order).any(), "in the usual order it is not triangular"
print(by_order.round(3))


# %% [markdown]
# ### A mask that wears off
#
# Where is the mask kept? Not in the network's arithmetic. TFP hands it to `tf_keras` as a *constraint*. Keras' optimizers apply it after each step. A training step
# that is written by hand, `weight.assign_sub(rate * gradient)`, does not: after some steps the weights that were cut are no longer zero, an output can see its own coordinate, and the
# log-determinant is wrong from then on. Nothing raises an error.

# %%
def steps_on_made(update):
    """Three steps on some loss by an update of ours; the largest slope that should be 0."""
    network = tfb.AutoregressiveNetwork(
        params=2, event_shape=[4], hidden_units=[6, 6], activation="tanh"
    )
    network(points)
    for _ in range(3):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((network(points)[..., 0] - points) ** 2)
        update(network.trainable_variables, tape.gradient(loss, network.trainable_variables))
    return np.triu(dependency(network, points)).max()


def by_hand(variables, gradients):
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)


descent = keras.optimizers.SGD(0.1)
worn = steps_on_made(by_hand)
kept = steps_on_made(lambda variables, gradients: descent.apply(gradients, variables))
print(f"largest slope that should be 0: by hand {worn:.3f}, by the optimizer {kept:.3f}")
assert worn > 0.01 and kept == 0


# %% [markdown]
# ## 5.4 MAF: a Gaussian for each coordinate
#
# Let every conditional be a Gaussian. A masked autoregressive flow (MAF, Papamakarios et al., 2017) is the function that draws from it:
#
# $$x_i = \mu_i(x_{<i}) + e^{\alpha_i(x_{<i})} z_i, \qquad z_i = \left(x_i - \mu_i(x_{<i})\right) e^{-\alpha_i(x_{<i})}.$$
#
# $\mu_i$ and $\alpha_i$ are MADE's two outputs for coordinate $i$; $\alpha_i$ is the logarithm of a standard deviation (the code says shift and log-scale). Mind the direction: here scale and shift lead from $z$ to $x$, as everywhere in TFP; in chapter 4 $s$ and $t$ lead from $x$ to $z$. Hence the other sign below. The Jacobian of $x \to z$ is triangular, and the logarithm of its
# determinant is $-\sum_i \alpha_i$. To find $z$, all of $x$ is known, and MADE runs once. To find $x$ one coordinate must follow another, and MADE runs $D$ times.
#
# As in chapter 4, the log-scale is bounded smoothly by 5, so that one wild value cannot overflow.

# %% tags=["definitions"]
class MaskedShiftAndLogScale(tf.Module):
    """A MADE with a shift and a log-scale for each coordinate: (batch, dim) to two (batch, dim)."""

    def __init__(self, dim, hidden, bound=5.0, **settings):
        super().__init__()
        self.made = tfb.AutoregressiveNetwork(
            params=2, event_shape=[dim], hidden_units=list(hidden), activation="relu", **settings
        )
        self.made(tf.zeros([1, dim]))  # before this call it has no variables
        self.bound = bound

    def __call__(self, x, **condition):
        shift, u = tf.unstack(self.made(x), axis=-1)
        return shift, self.bound * tf.tanh(u / self.bound)


def masked_flow(dim, hidden, unroll_loop=False, **settings):
    """MAF's bijector with a MADE of its own: `hidden` lists the widths of its layers."""
    made = MaskedShiftAndLogScale(dim, hidden, **settings)
    return tfb.MaskedAutoregressiveFlow(made, unroll_loop=unroll_loop)


# %% [markdown]
# One such layer makes $x_1$ a Gaussian, whatever its network says, and the $x_1$ of two moons is not Gaussian. So layers are chained, with the coordinates swapped in between. Each layer must get a
# network of its own: one network that is handed to six layers is one set of weights.

# %% tags=["definitions"]
def density(bijector, dim=2):
    """The density of points that a bijector makes of standard normal ones."""
    return tfd.TransformedDistribution(tfd.Sample(tfd.Normal(0.0, 1.0), [dim]), bijector)


def chain(make, count, dim=2):
    """The density of a chain of `count` bijectors made by `make`, the order reversed in between."""
    parts = []
    for _ in range(count):
        parts += [make(), tfb.Permute(list(reversed(range(dim))))]
    return density(tfb.Chain(parts[:-1]), dim)


def log_det(bijector):
    """The function x (count, dim) to log |det dz/dx| (count,), also where TFP gives one for all."""
    return lambda x: bijector.inverse_log_det_jacobian(x, 1) + tf.zeros(len(x))


def variables_of(flow, expected):
    """The number of weights in a flow; an error unless it has as many variables as expected."""
    found = len(flow.trainable_variables)
    assert found == expected > 0, (
        f"{found} variables, expected {expected}: is each network owned and built?"
    )
    return int(sum(np.prod(v.shape) for v in flow.trainable_variables))


# %% [markdown]
# The mistake of sharing, and the line that notices it:

# %% tags=["nbval-check-output"]
shared = masked_flow(2, (16, 16))
mistaken = chain(lambda: shared, 6)
right = chain(lambda: masked_flow(2, (16, 16)), 6)
print(f"six layers with one network: {variables_of(mistaken, 6):,} weights")
print(f"six layers with six networks: {variables_of(right, 36):,} weights")

# %% [markdown]
# ### A thousand points
#
# A tutorial of TFP's bijectors has a thousand points, keeps 20 % of them for validation, and trains for 600 epochs, on all points at once. It reports a validation NLL of 2.15 for one MAF with layers of 16 and 16 units,
# and of 1.52 for six with 256 and 256. (Its points have noise and scale of their own, so compare these with care.) We repeat it. The loop is that of chapter 4, whole epochs in one compiled graph.

# %%
few = moons.load(FEW_POINTS)
x_few, x_held = few.x_train[: FEW_POINTS * 4 // 5], few.x_train[FEW_POINTS * 4 // 5 :]


def train_on_few(flow, label, rate=1e-3, **settings):
    """Trains on the 800 points, all of them in each step, and gives the history."""
    return training.fit_density(
        flow,
        x_few,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0, **settings.pop("adam", {})),
        epochs=FEW_EPOCHS,
        batch=len(x_few),
        validation=x_held,
        label=label,
        **settings,
    )


# %% [markdown]
# First one MAF:

# %%
one = density(masked_flow(2, (16, 16)))
variables_of(one, 6)
one_history = train_on_few(one, "one MAF")

# %% [markdown]
# Then six of them in a chain, and far more weights:

# %%
six = chain(lambda: masked_flow(2, (256, 256)), LAYERS)
parameters = variables_of(six, 6 * LAYERS)
six_history = train_on_few(six, f"chain of MAFs, {parameters:,} weights")

# %% [markdown]
# What both losses do, epoch by epoch:

# %%
plots.curves(
    {
        "one MAF, validation": (range(1, FEW_EPOCHS + 1), one_history["val_loss"]),
        "chain of MAFs, training": (range(1, FEW_EPOCHS + 1), six_history["loss"]),
        "chain of MAFs, validation": (range(1, FEW_EPOCHS + 1), six_history["val_loss"]),
    },
    x_label="epoch",
    y_label="NLL (nats)",
    y_limits=(1.1, 2.9),
    marks=False,
    alt="The chain's training loss goes on down, and its validation loss does not follow",
)


# %% [markdown]
# From about epoch 100 on the two losses of the chain part. Training goes on falling. Validation soon stops and jumps up and down, so that its best epoch, in the table below, is a lucky one: the chain fits what is special about these 800 points. (The spikes are steps that went too far. In a chain of exponentials a small
# change of the weights can change the loss a lot.) Let us see the numbers that the tutorial prints, and one that it cannot print, the KL on ten thousand fresh points:

# %%
def judged(flow):
    """KL to the truth on the test points, in nats, with its standard error."""
    log_prob = training.compiled(flow.log_prob, flow)
    return truth.kl(data.x_test, log_prob(data.x_test))


def row_on_few(name, history, kl):
    best = int(np.argmin(history["val_loss"]))
    return {
        "model": name,
        "training": history["loss"][-1],
        "validation, last": history["val_loss"][-1],
        "validation, best": history["val_loss"][best],
        "at epoch": best + 1,
        "KL": kl[0],
        "±": kl[1],
    }


few_rows = [row_on_few("one MAF", one_history, judged(one))]
few_rows.append(row_on_few("chain of MAFs", six_history, judged(six)))
results.table(few_rows)

# %% [markdown]
# Both are at least as good as the tutorial's, at their best epochs, and the chain's training loss is far below its validation loss:

# %%
if course.profile() == "full":
    assert min(one_history["val_loss"]) <= 2.15 and min(six_history["val_loss"]) <= 1.52
    assert six_history["loss"][-1] < six_history["val_loss"][-1] - 0.1, "no over-fitting to see?"


# %% [markdown]
# ## 5.5 MAF and IAF: two directions, two prices
#
# MAF needs one pass of its network for the density and $D$ passes for a sample. Turn it round, and the prices change places. In an inverse autoregressive flow (IAF, Kingma et
# al., 2016) $\mu_i$ and $\alpha_i$ look at $z_{<i}$ in place of $x_{<i}$:
#
# $$x_i = \mu_i(z_{<i}) + e^{\alpha_i(z_{<i})} z_i.$$
#
# Now a sample takes one pass and a density takes $D$. In TFP it is `tfb.Invert` of MAF, which writes $x_i = (z_i - \mu_i)\, e^{-\alpha_i}$: the same functions, with other $\mu_i$ and $\alpha_i$. A coupling is in between: it is the autoregressive flow in which one half of the coordinates comes
# before the other. Both of its directions take one pass.
#
# Claims about costs can be counted. This network counts how often it is called by the inverse, which a density needs, and by a sample. (The log-determinant asks once more; a compiled graph merges it with a call that asked the same.)

# %%
class Counting(tf.Module):
    """A network that counts its calls."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def __call__(self, *inputs, **settings):
        self.calls += 1
        return self.network(*inputs, **settings)


def calls(function, counter, x):
    """How often `function(x)` calls the network."""
    counter.calls = 0
    function(x)
    return counter.calls


# %% [markdown]
# Both directions of the three, for each dimension:

# %%
def counted(dim):
    """Calls of the network for a density and for a sample of MAF, IAF and RealNVP."""
    counters = [Counting(tfb.AutoregressiveNetwork(2, [dim], hidden_units=[8])) for _ in range(2)]
    counters.append(Counting(ShiftAndLogScale(dim // 2, dim - dim // 2, 8)))
    maf, iaf = (tfb.MaskedAutoregressiveFlow(counter) for counter in counters[:2])
    nvp = tfb.RealNVP(num_masked=dim // 2, shift_and_log_scale_fn=counters[2])
    flows = {"MAF": maf, "IAF": tfb.Invert(iaf), "RealNVP": nvp}
    x = tf.zeros([5, dim])
    return {
        name: (calls(flow.inverse, counter, x), calls(flow.forward, counter, x + 0.0))
        for (name, flow), counter in zip(flows.items(), counters, strict=True)
    }


for dim in DIMENSIONS:
    assert counted(dim) == {"MAF": (1, dim), "IAF": (dim, 1), "RealNVP": (1, 1)}
print("calls for a density and for a sample, D =", dim, counted(dim))


# %% [markdown]
# Calls are not seconds, so we also measure: a thousand points, both directions, compiled, one layer with 64 units.

# %%
def times(dim, points=1_000):
    """Milliseconds of both directions of one layer of each kind."""
    kept = dim // 2
    network = ShiftAndLogScale(kept, dim - kept, 64)
    flows = {
        "MAF": masked_flow(dim, (64, 64)),
        "IAF": tfb.Invert(masked_flow(dim, (64, 64))),
        "RealNVP": tfb.RealNVP(num_masked=kept, shift_and_log_scale_fn=network),
    }
    x = rng.normal(size=(points, dim)).astype("float32")
    measured = {"D": dim}
    for name, flow in flows.items():
        directions = {"density": density(flow, dim).log_prob, "sample": flow.forward}
        for what, function in directions.items():
            run = training.compiled(function, flow)
            measured[f"{name}, {what}"] = results.milliseconds(lambda f=run: f(x), 7)
    return measured


import pandas as pd

costs = pd.DataFrame([times(dim) for dim in DIMENSIONS]).set_index("D")
costs.round(2)

# %% [markdown]
# On logarithmic axes a cost of $D^k$ is a line of slope $k$. We fit it over the upper half of the dimensions, where the passes outweigh the overhead of starting.

# %%
upper = costs[costs.index >= DIMENSIONS[len(DIMENSIONS) // 2]] if len(DIMENSIONS) > 2 else costs
slopes = {
    name: np.polyfit(np.log(upper.index), np.log(upper[name]), 1)[0] for name in costs.columns
}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 4))
for (name, values), marker, colour in zip(costs.items(), "osD^vP", plots.COLOURS, strict=False):
    style = "-" if "density" in name else "--"
    label = f"{name}: slope {slopes[name]:.1f}"
    axis.loglog(
        costs.index, values, style, marker=marker, fillstyle="none", color=colour, label=label
    )
axis.set(xlabel="dimension D", ylabel="milliseconds for 1,000 points")
axis.set_xticks(costs.index, costs.index)
axis.set_yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
axis.minorticks_off()
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(
    figure,
    alt="Times against dimension: MAF's samples and IAF's densities climb, the others hardly",
)

# %% [markdown]
# Slow and fast directions, held against each other:

# %%
if course.profile() == "full":
    slow = min(slopes["MAF, sample"], slopes["IAF, density"])
    fast = max(
        slopes[name]
        for name in ("MAF, density", "IAF, sample", "RealNVP, density", "RealNVP, sample")
    )
    print(f"slow directions: slope at least {slow:.2f}; fast ones: at most {fast:.2f}")
    assert slow > fast + 0.2
    last = costs.iloc[-1]
    assert (
        last["MAF, sample"] > 5 * last["MAF, density"]
        and last["IAF, density"] > 5 * last["IAF, sample"]
    )


# %% [markdown]
# The network's calls are 1 against $D$. In the times, overhead hides most of the difference in few dimensions; at 64 the slow direction took 17 times (MAF) and 20 times (IAF) as long as the fast one in this run, and 14 to 30 times in others. A model whose density is needed for training takes MAF or couplings; a model that must make samples fast takes IAF or
# couplings.

# %% [markdown]
# ## 5.6 Couplings as special cases: RealNVP and NICE
#
# `tfb.RealNVP` keeps the first `num_masked` coordinates, or the share `fraction_masked` of them, and moves the others by what our `ShiftAndLogScale` says. In three dimensions a swap is not enough to give each coordinate its turn. `Permute([1, 2, 0])` shifts
# the coordinates in a circle, and after three layers each has been kept once. Does every output then depend on every input? The Jacobian at some random points says so, with random weights in the networks.

# %% tags=["definitions"]
def affine_coupling(dim=2, kept=1, width=64):
    """RealNVP's bijector with a network of its own."""
    return tfb.RealNVP(
        num_masked=kept, shift_and_log_scale_fn=ShiftAndLogScale(kept, dim - kept, width)
    )


def shaken(flow, rng, scale=0.3):
    """Adds random numbers to all weights: a flow that is the identity passes every test."""
    for weight in flow.trainable_variables:
        changed = weight + scale * rng.normal(size=weight.shape).astype("float32")
        weight.assign(weight.constraint(changed) if weight.constraint else changed)  # a mask holds
    return flow


# %% [markdown]
# Which output depends on which input (1: it does), after one layer and after three:

# %%
three = [
    affine_coupling(3, 1, 16),
    tfb.Permute([1, 2, 0]),
    affine_coupling(3, 1, 16),
    tfb.Permute([1, 2, 0]),
]
three.append(tfb.RealNVP(fraction_masked=1 / 3, shift_and_log_scale_fn=ShiftAndLogScale(1, 2, 16)))
spatial = shaken(tfb.Chain(three), rng)
in_three = rng.normal(size=(100, 3)).astype("float32")
reached = {}
for name, bijector in {"one layer": three[0], "three layers": spatial}.items():
    reached[name] = np.abs(checks.jacobian(bijector.inverse, in_three)).max(axis=0) > 1e-6
    print(name, "\n", reached[name].astype(int))
assert reached["three layers"].all() and not reached["one layer"].all()
checks.log_det_error(spatial.inverse, log_det(spatial), in_three, 1e-4);


# %% [markdown]
# NICE (Dinh et al., 2015) has a shift and no scale. Its log-determinant is 0 everywhere: it moves volume about and never changes it, so the density can nowhere exceed the normal's
# peak, $1/2\pi = 0.16$; that of the moons goes up to 0.55. The paper adds one scale for each coordinate at the end. The log-determinant is then a constant, and the limit 0.16 times a constant.

# %% tags=["definitions"]
class ShiftAlone(tf.Module):
    """Kept coordinates to a bijector that shifts the others, for `tfb.RealNVP(bijector_fn=…)`."""

    def __init__(self, kept, moved, width):
        super().__init__()
        self.network = dense_network(kept, moved, width)

    def __call__(self, x_kept, moved, **condition):
        return tfb.Shift(self.network(x_kept))


def additive_coupling(dim=2, kept=1, width=64):
    """NICE's bijector with a network of its own."""
    return tfb.RealNVP(num_masked=kept, bijector_fn=ShiftAlone(kept, dim - kept, width))


def nice(count, width=64):
    """Additive couplings in 2-D, and a scale for each coordinate at the end."""
    couplings = chain(lambda: additive_coupling(width=width), count).bijector
    return density(tfb.Chain([tfb.Scale(log_scale=tf.Variable(tf.zeros(2))), couplings]))


# %% [markdown]
# With random weights, at a thousand points:

# %% tags=["nbval-check-output"]
volume = shaken(nice(4, width=16), rng)
without_scale = volume.bijector.bijectors[1]
plain = log_det(without_scale)(data.x_test[:1_000]).numpy()
scaled = log_det(volume.bijector)(data.x_test[:1_000]).numpy()
print("log-determinants without the scale:", np.unique(plain))
print("with it, the same number for all points:", len(np.unique(scaled)) == 1)
assert not plain.any() and len(np.unique(scaled)) == 1 and scaled[0] != 0


# %% [markdown]
# ## 5.7 A spline in place of a line
#
# Given the kept coordinates, an affine coupling moves the others along a straight line: scale and shift. That is why one needs so many of them. Any increasing function
# would do as well, if one can undo it and has its slope. A **neural spline flow** (Durkan et al., 2019) takes a rational-quadratic spline: between two knots it is a quotient of
# two quadratics, increasing, with given slopes at the knots. Its inverse is the solution of a quadratic equation. The network gives, for $K$ bins,
#
# - $K$ widths and $K$ heights, each positive and adding up to the side of the square $[-L, L]^2$: a softmax;
# - $K - 1$ slopes at the inner knots, positive: a softplus.
#
# Outside the square the spline goes on as the identity. With zeros from the network all bins are equal and all slopes should be 1, so that the flow starts as the
# identity. The softplus of $\log(e^a - 1)$ is $a$; with $a$ one minus the least slope this gives the constant `UNIT`. In the code $L$ is `limit` and $K$ is `bins`.

# %% tags=["definitions"]
class Spline(tf.Module):
    """Kept coordinates to a rational-quadratic spline on [-limit, limit] for each moved one."""

    LEAST = 1e-3  # the least share of a bin, and the least slope
    UNIT = float(np.log(np.expm1(1 - LEAST)))  # softplus(UNIT) + LEAST = 1

    def __init__(self, kept, moved, width, bins, limit=5.0):
        super().__init__()
        self.network = dense_network(kept, moved * (3 * bins - 1), width)
        self.moved, self.bins, self.limit = moved, bins, limit

    def __call__(self, x_kept, moved, **condition):
        x_kept = tf.concat([x_kept, *condition.values()], axis=-1)
        u = tf.reshape(self.network(x_kept), [-1, self.moved, 3 * self.bins - 1])
        widths, heights, slopes = tf.split(u, [self.bins, self.bins, self.bins - 1], axis=-1)
        slopes = self.LEAST + tf.nn.softplus(slopes + self.UNIT)
        return tfb.RationalQuadraticSpline(
            self.shares(widths), self.shares(heights), slopes, range_min=-self.limit
        )

    def shares(self, u):
        """Positive numbers (…, bins) that add up to 2 limit."""
        return 2 * self.limit * (self.LEAST + (1 - self.LEAST * self.bins) * tf.nn.softmax(u))


def spline_coupling(dim=2, kept=1, width=16, bins=8):
    """A spline coupling's bijector with a network of its own."""
    return tfb.RealNVP(num_masked=kept, bijector_fn=Spline(kept, dim - kept, width, bins))


# %% [markdown]
# One spline with random weights, its knots and its slope, beside what an affine layer can do:

# %% tags=["nbval-check-output"]
spline = shaken(Spline(1, 1, width=8, bins=8), np.random.default_rng(3), 0.35)([[0.5]], 1)
line = np.linspace(-6, 6, 1_001, dtype="float32")[:, None, None]
bent = spline.forward(line).numpy().ravel()
slope = np.exp(spline.forward_log_det_jacobian(line).numpy().ravel())
knots = np.cumsum(np.r_[-5.0, spline.bin_widths.numpy().ravel()])
knots = np.float32(np.clip(knots, -5, 5))[:, None, None]

figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.6))
left.plot(line.ravel(), bent, color=plots.COLOURS[0], label="spline")
left.plot(
    knots.ravel(), spline.forward(knots).numpy().ravel(), "o", color=plots.COLOURS[0], label="knots"
)
left.plot(
    line.ravel(), 0.6 * line.ravel() + 1, "--", color=plots.COLOURS[1], label="an affine layer"
)
left.set(xlabel="z", ylabel="x", aspect="equal", xlim=(-6, 6), ylim=(-6, 6))
left.legend(frameon=False)
right.plot(line.ravel(), slope, color=plots.COLOURS[0])
slope_at_knots = np.exp(spline.forward_log_det_jacobian(knots).numpy().ravel())
right.plot(knots.ravel(), slope_at_knots, "o", color=plots.COLOURS[0])
right.set(xlabel="z", ylabel="slope dx/dz", xlim=(-6, 6))
figure.tight_layout()
plots.show(figure, alt="A spline of eight bins between -5 and 5, increasing, and its slope")

# %% [markdown]
# It climbs everywhere. And a chain of two such couplings, with random weights, passes both checks:

# %%
assert (np.diff(bent) > 0).all()
trial = shaken(chain(lambda: spline_coupling(width=8, bins=8), 2), rng)
some = data.x_test[:200]
checks.inverse_error(trial.bijector.inverse, trial.bijector.forward, some, 1e-4)
checks.log_det_error(trial.bijector.inverse, log_det(trial.bijector), some, 1e-4);

# %% [markdown]
# ## 5.8 Batch normalisation as a bijector
#
# Deep chains are sometimes trained with batch normalisation between the layers. As a bijector, from data to latent, it subtracts the mean of the batch and divides by its standard
# deviation, multiplies by a learned $\gamma$ and adds a learned shift, so it adds $\sum_i (\log \gamma_i - \tfrac12 \log(v_i + \epsilon))$ to the log-determinant, with the batch's variance $v$ and a small $\epsilon$.
#
# It has a catch. While training, `inverse` uses the mean and variance of *this batch*, and `forward` those that were averaged over past batches. They are not each other's inverse.

# %%
normalise = tfb.BatchNormalization()
batch = tf.constant(data.x_test[:500] * [2.0, 0.5] + [1.0, -3.0], tf.float32)
z = normalise.inverse(batch)
back = normalise.forward(z + 0.0)
disagreement = float(tf.reduce_max(tf.abs(back - batch)))
print(f"while training: inverse error {disagreement:.2f}")
assert disagreement > 0.5

# %% [markdown]
# After some batches, and told that training is over, it is a fixed affine map, and both checks pass.

# %%
for _ in range(1_000):
    normalise.inverse(batch + 0.0)
fixed = tfb.BatchNormalization(batchnorm_layer=normalise.batchnorm, training=False)
checks.inverse_error(fixed.inverse, fixed.forward, batch.numpy(), 1e-4)
checks.log_det_error(fixed.inverse, log_det(fixed), batch.numpy(), 1e-4)

layer = fixed.batchnorm
expected = tf.reduce_sum(
    tf.math.log(layer.gamma) - 0.5 * tf.math.log(layer.moving_variance + layer.epsilon)
)
assert np.isclose(fixed.inverse_log_det_jacobian(batch, 1).numpy(), expected).all()

# %% [markdown]
# Today's flows mostly do without it: it ties the points of a batch together, and the direction it disagrees in is the one that samples.

# %% [markdown]
# ## 5.9 Cures for over-fitting
#
# Back to the 800 points that six large MAFs over-fitted in section 5.4. Four cures:
#
# - **Early stopping.** Keep the weights of the epoch in which validation was best, and stop when it has not improved for a while. The validation points pay for this: they are no longer fresh.
# - **Weight decay.** Pull every weight towards zero a little in each step, by the learning rate times `weight_decay`: here a thousandth.
# - **A smaller network.** Sixteen units in place of 256. (It and the spline flow can take larger steps, and get them.)
# - **Another function.** A spline flow with few weights.
#
# Early stopping costs nothing more, so all four use it.

# %%
PATIENCE = FEW_EPOCHS // 6
cures = {
    "chain, early stopping": (lambda: masked_flow(2, (256, 256)), LAYERS, 1e-3, {}),
    "chain, weight decay": (
        lambda: masked_flow(2, (256, 256)),
        LAYERS,
        1e-3,
        {"weight_decay": 1.0},
    ),
    "chain, 16 units": (lambda: masked_flow(2, (16, 16)), LAYERS, 2e-2, {}),
    "spline flow": (spline_coupling, min(4, LAYERS), 1e-2, {}),
}
for name, (make, count, rate, adam) in cures.items():
    flow = chain(make, count)
    variables_of(flow, 6 * count)
    history = train_on_few(flow, name, rate, adam=adam, patience=PATIENCE)
    few_rows.append(row_on_few(name, history, judged(flow)))

# %% [markdown]
# Beside them two old models, a mixture of 16 Gaussians and a kernel estimate. The width of its kernel is chosen on the validation points.

# %%
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

kernels = {width: KernelDensity(bandwidth=width).fit(x_few) for width in (0.04, 0.06, 0.08, 0.12)}
width = max(kernels, key=lambda w: kernels[w].score(x_held))
mixture = GaussianMixture(16, random_state=seed).fit(x_few.astype("float64"))
for name, old in {"16 Gaussians": mixture, f"kernel, width {width}": kernels[width]}.items():
    kl, kl_error = truth.kl(data.x_test, old.score_samples(data.x_test))
    scores = {"training": -old.score_samples(x_few).mean(), "KL": kl, "±": kl_error}
    few_rows.append(
        {"model": name, **scores, "validation, last": -old.score_samples(x_held).mean()}
    )
results.table(few_rows)

# %% [markdown]
# The first two columns are of the last epoch; KL is of the weights that were kept, for the cures those of the best epoch. Early stopping found that epoch late, and with errors of 0.1 its gain over the plain chain is not certain.
# Weight decay did well here, but in trials with other rates and schedules it gained little or nothing. The small network and the spline flow have less than a hundredth of the weights and are several times closer to the truth than the chain. And 16 Gaussians, a number that we did not tune, beat
# them all, with a kernel estimate as good as the best of the flows: for two dimensions and 800 points one need not make a network. (By two hundred validation points the last rows look alike. The KL sets the 16 Gaussians apart.) The rates of the last two flows were chosen in trial runs that also showed the KL on these test points, so their KL is a little too good. What cures best is more data, in the next section.

# %%
if course.profile() == "full":
    few_kls = {row["model"]: row["KL"] for row in few_rows}
    assert few_kls["chain, early stopping"] < few_kls["chain of MAFs"]
    assert min(few_kls["chain, 16 units"], few_kls["spline flow"]) < 0.6 * few_kls["chain of MAFs"]


# %% [markdown]
# ## 5.10 The contest
#
# Five flows get the same 30,000 points, the same number of epochs, the same batches, and the same schedule. What each costs in time is what we measure. IAF is trained by maximum
# likelihood like the rest, through its slow direction. In two dimensions that costs three passes in place of one: two for the coordinates, and one for the log-determinant. (`unroll_loop=True` writes them out in the graph. TFP's own loop gives the
# same numbers, but XLA, TensorFlow's compiler, takes many minutes for its gradient.)
#
# In two dimensions a layer of MAF or IAF is an affine coupling, and one more scale and shift that are the same for all points. So what tells RealNVP, MAF and IAF apart here is the number of layers and the luck of one seed, not what a layer can express. NICE and the
# spline flow do differ in that.
#
# The contest is not quite fair. The shape of the spline flow was picked from about ten that we tried, by their KL on the test points; the others had a try or two each. It gains little by that: on the validation points three of those shapes (6 couplings of 16 units, 4 of 32, 3 of 64) had KLs of 0.0114, 0.0106 and 0.0120, each ± 0.0017 or so, and cannot be told apart.

# %%
def iaf(count):
    """A chain of IAFs in 2-D, its two passes written out in the graph."""
    return chain(lambda: tfb.Invert(masked_flow(2, (64, 64), unroll_loop=True)), count)


contestants = {
    "NICE": (lambda: nice(COUPLINGS), 6 * COUPLINGS + 1),
    "RealNVP": (lambda: chain(affine_coupling, COUPLINGS), 6 * COUPLINGS),
    "MAF": (lambda: chain(lambda: masked_flow(2, (64, 64)), LAYERS), 6 * LAYERS),
    "IAF": (lambda: iaf(LAYERS), 6 * LAYERS),
    "spline flow": (lambda: chain(spline_coupling, LAYERS), 6 * LAYERS),
}


# %% [markdown]
# One optimizer and one call for all of them:

# %%
def optimizer(epochs=EPOCHS, peak=PEAK_LEARNING_RATE):
    rate = training.warmup_cosine(peak, steps=epochs * (TRAIN_POINTS // BATCH))
    return keras.optimizers.Adam(rate, global_clipnorm=5.0)


def train(flow, label, **settings):
    return training.fit_density(
        flow,
        data.x_train,
        optimizer=optimizer(),
        epochs=EPOCHS,
        batch=BATCH,
        validation=data.x_validation,
        label=label,
        seed=seed,
        **settings,
    )


# %% [markdown]
# Five trainings take some minutes. With `LOAD = True` they are skipped, and what an earlier run left in the output folder is loaded instead. (`training.save` keeps the weights *and* the history, which the table needs. Section 5.13 shows TensorFlow's own checkpoint, which keeps the weights.)

# %%
LOAD = False
folder = course.output(data.name.replace(" ", "-"), "05_tfp_flows")


def train_or_load(flow, label, fit=train):
    """Trains a flow and keeps its weights, or takes those of an earlier run; the history."""
    if LOAD:
        return training.load(flow, folder / label.replace(" ", "_"))
    history = fit(flow, label)
    training.save(flow, folder / label.replace(" ", "_"), **history)
    return history


# %% [markdown]
# `density_ms` and `sample_ms` are milliseconds for 10,000 points, compiled.

# %%
def contest_row(name, flow, history, parameters):
    log_prob = training.compiled(flow.log_prob, flow)
    sample = training.compiled(flow.bijector.forward, flow)
    log_q = log_prob(data.x_test)
    kl, kl_error = truth.kl(data.x_test, log_q)
    bijector, some = flow.bijector, data.x_test[:500]
    ten_thousand = rng.normal(size=(10_000, 2)).astype("float32")
    return {
        "model": name,
        "kl": kl,
        "kl_se": kl_error,
        "nll": -float(log_q.mean()),
        "train_seconds": history["seconds"][-1],
        "parameters": parameters,
        "density_ms": results.milliseconds(lambda: log_prob(data.x_test), 7),
        "sample_ms": results.milliseconds(lambda: sample(ten_thousand), 7),
        "inverse_error": checks.inverse_error(bijector.inverse, bijector.forward, some, 1e-2),
        "log_det_error": checks.log_det_error(bijector.inverse, log_det(bijector), some, 1e-2),
    }


# %% [markdown]
# Now all five:

# %%
trained, histories, rows = {}, {}, []
for name, (build, variables) in contestants.items():
    flow = trained[name] = build()
    parameters = variables_of(flow, variables)
    if name == "MAF":
        untrained_maf = build()
    histories[name] = train_or_load(flow, name)
    rows.append(contest_row(name, flow, histories[name], parameters))

# %% [markdown]
# Distance from the truth, and what it costs:

# %%
table = results.table(rows)
table[["kl", "kl_se", "train_seconds", "parameters", "density_ms", "sample_ms"]]

# %% [markdown]
# The NLL, and the errors that the checks found:

# %%
table[["nll", "inverse_error", "log_det_error"]]

# %% [markdown]
# Which one to pick? Here the spline flow: it is closest to the truth, has a sixth of the others' weights or less, and takes one pass both ways. It takes longest to compile. (Most of its 27 seconds went into that. The times of the two directions differ from run to run by up to a factor of two.) NICE cannot do better than its constant
# volume lets it.
#
# Now the checks of the chapter.

# %%
kls = {row["model"]: row["kl"] for row in rows}
for row in rows:
    assert row["kl"] > -3 * row["kl_se"], "closer than the truth itself: a wrong log-determinant"
    assert row["inverse_error"] < 1e-3 and row["log_det_error"] < 1e-3
if course.profile() == "full":
    assert kls["MAF"] <= 0.03 and kls["spline flow"] <= 0.016
    assert kls["NICE"] > 5 * kls["RealNVP"]

# %% [markdown]
# The densities beside the exact one, on its scale of colours:

# %%
sides, _ = checks.square(2.8, 160)
panels = {"exact": np.exp(truth.log_prob(sides)).reshape(160, 160)}
for name, flow in trained.items():
    panels[name] = np.exp(training.compiled(flow.log_prob, flow)(sides)).reshape(160, 160)
plots.density_panels(
    panels, limit=2.8, columns=3, alt="The exact density and five flows' densities"
)

# %% [markdown]
# Where do they go wrong? The same densities as contours, at 0.02, 0.2 and 0.4, over those of the truth:

# %%
best = trained["spline flow"]
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.2))
levels = [0.02, 0.2, 0.4]
grid = np.linspace(-2.8, 2.8, 160)
for axis, name in zip(axes, ("NICE", "MAF", "spline flow"), strict=True):
    axis.contour(grid, grid, panels["exact"], levels, colors="0.6", linewidths=2.5)
    axis.contour(grid, grid, panels[name], levels, colors=plots.COLOURS[1], linewidths=1.0)
    axis.set(title=name, aspect="equal", xlim=(-2.4, 2.4), ylim=(-2.4, 2.4))
axes[0].plot([], [], color="0.6", linewidth=2.5, label="exact")
axes[0].plot([], [], color=plots.COLOURS[1], label="flow")
axes[0].legend(frameon=False, loc="lower left", fontsize=9)
figure.tight_layout()
plots.show(figure, alt="Contours of three flows over the exact ones; the spline flow's lie on them")

# %% [markdown]
# And samples of each:

# %%
samples = {name: flow.sample(3_000, seed=(0, seed)).numpy() for name, flow in trained.items()}
plots.points_panels(
    {"test points": data.x_test[:3_000], **samples},
    limit=2.8,
    columns=3,
    alt="Test points beside points that the flows made",
)

# %% [markdown]
# A flow cannot cut a connected cloud in two. A thin thread of density always remains between the moons, and where it shows, as with all but the spline flow, the flow pays for it. NICE also fades at the outer ends of the moons: a density whose values are only moved about
# cannot stay level along an arc.
#
# How they got there: NLL on the validation points against seconds. The line is the NLL of the truth itself on these points.

# %%
plots.curves(
    {name: (history["seconds"], history["val_loss"]) for name, history in histories.items()},
    x_label="seconds of training, compilation included",
    y_label="validation NLL (nats)",
    levels={"the truth": -truth.log_prob(data.x_validation).mean()},
    y_limits=(1.1, 1.6),
    marks=False,
    alt="Validation NLL of five flows against seconds; NICE levels off above the others",
)


# %% [markdown]
# ### Stage by stage
#
# What do the layers of a chain do? The MAF of the contest has six bijectors and five permutations. Points of the base, coloured by quadrant, are sent through one stage after another (points outside the frame are not shown). Before training:

# %%
def stages(flow, z):
    """The points after each bijector of a chain, from the base to the data, by name."""
    panels, x = {"base": z}, tf.constant(z)
    for number, bijector in enumerate(reversed(flow.bijector.bijectors), 1):
        x = bijector.forward(x)
        kind = "swap" if isinstance(bijector, tfb.Permute) else "MAF"
        panels[f"{number}: {kind}"] = x.numpy()
    return panels


def stage_panels(flow, alt):
    z = np.random.default_rng(seed).normal(size=(3_000, 2)).astype("float32")
    quadrant = 2 * (z[:, 0] > 0) + (z[:, 1] > 0)
    panels = {title: (points, quadrant) for title, points in stages(flow, z).items()}
    plots.points_panels(panels, limit=3.2, columns=4, alt=alt)


stage_panels(untrained_maf, "An untrained chain: the cloud is turned and hardly bent")

# %% [markdown]
# After training:

# %%
stage_panels(
    trained["MAF"], "A trained chain: the cloud is stretched, pulled apart and bent into two moons"
)

# %% [markdown]
# The last panel before and after training, against the truth:

# %%
untrained_kl, _ = judged(untrained_maf)
print(f"KL before training {untrained_kl:.2f}, after {kls['MAF']:.4f}")
assert kls["MAF"] < untrained_kl

# %% [markdown]
# ## 5.11 The direction that IAF was made for
#
# IAF draws a sample and knows its density in one pass. That is what is needed when there are *no data* but a density to be approximated, as a VAE's posterior or a posterior of Bayesian
# statistics. Then one minimises the divergence the other way round,
#
# $$\mathrm{KL}(q \,\|\, p) = \mathbb{E}_{x \sim q}\left[\log q(x) - \log p(x)\right],$$
#
# with $q$ the flow and $p$ the density, over points that the flow draws itself. Two moons have an exact density, so we can do it here. It is a mixture of Gaussians that sit along two arcs. The Gauss-Legendre rule replaces the integral over each arc by a sum at 200 angles, and a sum of Gaussians is something TFP can write down. It must agree with `utils.moons`.

# %%
angles, weights = np.polynomial.legendre.leggauss(200)
arc = np.stack([np.cos(np.pi / 2 * (angles + 1)), np.sin(np.pi / 2 * (angles + 1))], axis=1)
centres = truth.standardise(np.concatenate([arc, [1.0, 0.5] - arc])).astype("float32")
exact = tfd.MixtureSameFamily(
    tfd.Categorical(logits=np.log(np.tile(weights / 4, 2)).astype("float32")),
    tfd.MultivariateNormalDiag(centres, np.float32(truth.noise / truth.std)),
)
difference = exact.log_prob(data.x_test[:500]).numpy() - truth.log_prob(data.x_test[:500])
print(f"largest difference of the two: {np.abs(difference).max():.0e}")
assert np.abs(difference).max() < 1e-3


# %% [markdown]
# For our loop the "data" are now points $z$ of the base, and the "log-likelihood" of a point is $\beta \log p(x) - \log q(x)$ at the $x$ it is sent to. The number $\beta$ is 1 for now.

# %%
class Reversed(tf.Module):
    """Makes `fit_density` minimise KL(flow ‖ target), with points of the base in place of data."""

    def __init__(self, flow, target):
        super().__init__()
        self.flow, self.target = flow, target
        self.beta = tf.Variable(1.0, trainable=False)

    def log_prob(self, z):
        bijector = self.flow.bijector
        log_q = self.flow.distribution.log_prob(z) - bijector.forward_log_det_jacobian(z, 1)
        return self.beta * self.target.log_prob(bijector.forward(z)) - log_q


# %% [markdown]
# Training is the loop of the contest. Before each epoch it asks for $\beta$:

# %%
z_train = rng.normal(size=(TRAIN_POINTS, 2)).astype("float32")


def train_by_density(flow, label, beta=lambda epoch: 1.0):
    """Minimises the reverse KL, with `beta(epoch)` set before each epoch."""
    reverse = Reversed(flow, exact)
    return training.fit_density(
        reverse,
        z_train,
        optimizer=optimizer(),
        epochs=EPOCHS,
        batch=BATCH,
        each_epoch=lambda epoch: reverse.beta.assign(beta(epoch)),
        label=label,
        seed=seed,
    )


by_density = iaf(LAYERS)
variables_of(by_density, 6 * LAYERS)
reverse_history = train_or_load(by_density, "IAF by the density", train_by_density)

# %% [markdown]
# Here are points of it, beside those of the IAF of the contest:

# %%
made_by_density = by_density.sample(3_000, seed=(0, seed)).numpy()
plots.points_panels(
    {
        "test points": data.x_test[:3_000],
        "by data": samples["IAF"],
        "by the density": made_by_density,
    },
    limit=2.8,
    columns=3,
    alt="Test points, points of the IAF trained on data, and of the one by the density: one moon",
)


# %% [markdown]
# It found one moon and stays there. Look at the formula: the mean is over points of the flow. A point where $p$ is small costs a lot, a region that the flow never visits costs nothing. Half of
# the truth, perfectly modelled, costs $\log 2 = 0.693$ nats, and every way to the other moon leads through places that cost far more. The divergence that we minimised before is the strict one here: it asks at
# every data point, and for half of them this flow has no answer.
#
# ### Start warm
#
# The cure is annealing. Minimise with $p^\beta$ for a small $\beta$ first: at $\beta = 0.02$ the valley between the moons is hardly a valley. Then let $\beta$ rise to 1 while the flow follows.

# %%
def beta(epoch, start=0.02, share=0.6):
    """From `start` to 1 by equal factors, over the first `share` of the epochs."""
    return min(1.0, start ** (1 - epoch / (share * EPOCHS)))


warmed = iaf(LAYERS)
variables_of(warmed, 6 * LAYERS)
warmed_history = train_or_load(
    warmed, "IAF warmed", lambda flow, label: train_by_density(flow, label, beta)
)

# %% [markdown]
# Does it have both?

# %%
made_warm = warmed.sample(3_000, seed=(0, seed)).numpy()
from_upper = truth.log_prob(made_warm, moon=0) > truth.log_prob(made_warm, moon=1)
print(f"{from_upper.mean():.0%} of the warmed flow's points belong to the upper moon")
plots.points_panels(
    {"test points": data.x_test[:3_000], "by the density": made_by_density, "warmed": made_warm},
    limit=2.8,
    columns=3,
    alt="Test points, and points of two IAFs by the density: the warmed one has both moons",
)


# %% [markdown]
# Each IAF, judged by both divergences. The reverse one is estimated on 10,000 points of the flow.

# %%
def reverse_kl(flow):
    """KL(flow ‖ truth) in nats, by points of the flow."""
    z = np.random.default_rng(7).normal(size=(10_000, 2)).astype("float32")
    return -float(training.compiled(Reversed(flow, exact).log_prob, flow)(z).mean())


iafs = {
    "IAF by data": (trained["IAF"], histories["IAF"]),
    "IAF by the density": (by_density, reverse_history),
    "IAF by the density, warmed": (warmed, warmed_history),
}
reverse_rows = [
    {
        "model": name,
        "KL(truth ‖ flow)": judged(flow)[0],
        "KL(flow ‖ truth)": reverse_kl(flow),
        "seconds an epoch": np.median(np.diff(history["seconds"])),
    }
    for name, (flow, history) in iafs.items()
]
results.table(reverse_rows)

# %% [markdown]
# The cold flow's reverse KL is $\log 2$ almost exactly, and its other KL is beyond all measure: half of the test points lie on the moon that it does not know. The warmed flow never saw a data point, and has both moons. It is about a tenth of a nat from the truth either way,
# about half of that because it gives one moon 65 % of its points. (Before it we tried five other pairs of a start for $\beta$ and a share of epochs, or seeds. Four found both moons, with KLs from 0.02 to 1.1. One, from 0.05 over 40 % of the epochs, found one. Annealing helps; it promises nothing.) The IAF that learned from data is closer. An epoch by the density needs one pass of the networks where one by data needs three. It gains less than that (here 0.11 or 0.12 seconds against 0.16, in another run nothing), since the exact density, a sum over 400 Gaussians, has to be computed too. In 64 dimensions it would be one pass against 65.

# %%
if course.profile() == "full":
    assert reverse_rows[2]["KL(flow ‖ truth)"] < 0.5, "less than log 2: both moons"

# %% [markdown]
# ## 5.12 What a density is good for
#
# **The density of a point.** Five points, by the spline flow and by the exact density, in nats:

# %%
places = {
    "on the upper moon": [-0.58, 1.51],
    "on the lower moon": [0.58, -1.51],
    "between them": [0.0, 0.0],
    "just outside the upper moon": [0.58, 0.6],
    "far away": [3.0, 3.0],
}
spots = np.float32(list(places.values()))
best_log_prob = training.compiled(best.log_prob, best)
pd.DataFrame(
    {"exact": truth.log_prob(spots), "flow": best_log_prob(spots)}, index=list(places)
).round(2)

# %% [markdown]
# On the moons the two differ by a tenth of a nat or less, roughly. Elsewhere they do not agree, even midway between the moons: the flow has seen no data there, and nothing tells it how thin to make its thread.
#
# **An anomaly score.** Strange points are those of low density. Here are some that only the shape of the data gives away: they lie between the moons and beside them, in the square where a Gaussian expects most points. How well does each model's $-\log p$ tell them from test points? The area under the ROC curve is the probability that a strange point gets the higher score. The exact density must do well, since it chose the strange points; one Gaussian cannot see them.

# %%
from sklearn.metrics import roc_auc_score, roc_curve

candidates = rng.uniform(-1.5, 1.5, size=(20_000, 2)).astype("float32")
rare = np.quantile(truth.log_prob(data.x_test), 0.001)
strange = candidates[truth.log_prob(candidates) < rare][:2_000]
usual = data.x_test[:2_000]
gauss = GaussianMixture(1).fit(data.x_train.astype("float64"))
scorers = {
    "exact density": truth.log_prob,
    "spline flow": best_log_prob,
    "one Gaussian": gauss.score_samples,
}
is_strange = np.r_[np.zeros(len(usual)), np.ones(len(strange))]

# %% [markdown]
# The picture shows the points, and for each score how many strange points are found at the price of how many usual ones:

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH, 4))
plots.draw_points(
    left, np.concatenate([usual, strange]), is_strange.astype(int), 2.6, ["usual", "strange"]
)
left.legend(frameon=False, markerscale=4)
areas = {}
for (name, log_prob), style, colour in zip(
    scorers.items(), ("-", "--", ":"), plots.COLOURS, strict=False
):
    score = -np.concatenate([log_prob(usual), log_prob(strange)])
    areas[name] = roc_auc_score(is_strange, score)
    right.plot(
        *roc_curve(is_strange, score)[:2], style, color=colour, label=f"{name}: {areas[name]:.3f}"
    )
right.set(
    xlabel="share of usual points called strange",
    ylabel="share of strange points found",
    aspect="equal",
)
right.legend(frameon=False, title="area under the curve")
figure.tight_layout()
plots.show(figure, alt="Usual and strange points, and the ROC curves of three scores")

# %% [markdown]
# The areas under the curves, checked:

# %%
assert areas["exact density"] > 0.99
assert areas["one Gaussian"] < 0.6
if course.profile() == "full":
    assert areas["spline flow"] > 0.98


# %% [markdown]
# **A conditional density.** Which moon does a point come from? Let the flow see the moon as one more input of its networks, and it learns $p(x \mid \text{moon})$. `bijector_kwargs` hands it to each coupling by the coupling's name. For our loop, points and moons travel
# in one array of three columns.

# %%
class ConditionalFlow(tf.Module):
    """p(x | moon), as a chain of spline couplings that see the moon, 0 or 1."""

    def __init__(self, count, width=16, bins=8):
        super().__init__()
        self.names = [f"coupling_{k}" for k in range(count)]
        names = iter(self.names)
        self.flow = chain(
            lambda: tfb.RealNVP(1, bijector_fn=Spline(1 + 1, 1, width, bins), name=next(names)),
            count,
        )

    def log_prob(self, x_and_moon):
        x, moon = tf.split(x_and_moon, [2, 1], axis=-1)
        return self.flow.log_prob(x, bijector_kwargs={name: {"moon": moon} for name in self.names})


conditional = ConditionalFlow(min(4, LAYERS))
variables_of(conditional, 6 * min(4, LAYERS))
pairs = np.concatenate([data.x_train, data.moon_train[:, None]], axis=1).astype("float32")
conditional_history = training.fit_density(
    conditional,
    pairs,
    optimizer=optimizer(),
    epochs=EPOCHS,
    batch=BATCH,
    label="conditional",
    seed=seed,
)

# %% [markdown]
# The loss is lower than before by about $\log 2$, since the moon need not be guessed. The exact density knows its moons, so this has a KL too: the mean of $\log p(x \mid \text{moon}) - \log q(x \mid \text{moon})$ over test points with their moons. And by Bayes' rule, with both moons
# equally likely, the two densities of a point say which moon it is from.

# %%
conditional_log_prob = training.compiled(conditional.log_prob, conditional)
given = np.stack(
    [
        conditional_log_prob(
            np.concatenate([data.x_test, np.full((len(data.x_test), 1), moon, "float32")], axis=1)
        )
        for moon in (0, 1)
    ]
)
truly = np.stack([truth.log_prob(data.x_test, moon=moon) for moon in (0, 1)])
mine = np.arange(len(data.x_test)), data.moon_test
conditional_kl = (truly.T[mine] - given.T[mine]).mean()
agree = (given.argmax(axis=0) == truly.argmax(axis=0)).mean()
print(f"KL given the moon {conditional_kl:.4f}; the same moon as by the exact density: {agree:.2%}")
assert agree > 0.95
if course.profile() == "full":
    assert conditional_kl < 0.03 and agree > 0.999

# %% [markdown]
# ## 5.13 Save and load
#
# A TFP flow is a `tf.Module`, and a checkpoint of it holds its variables. It does not hold its structure: before loading, build the same flow. `assert_consumed` raises an error if anything in the file or in the flow has no partner.

# %%
path = str(folder / "checkpoint")
tf.train.Checkpoint(flow=best).write(path)
loaded = contestants["spline flow"][0]()
before = loaded.log_prob(data.x_test[:100]).numpy()
tf.train.Checkpoint(flow=loaded).read(path).assert_consumed()
after, expected = (
    loaded.log_prob(data.x_test[:100]).numpy(),
    best.log_prob(data.x_test[:100]).numpy(),
)
assert np.array_equal(after, expected) and not np.allclose(before, expected)

# %% [markdown]
# ## What we measured

# %%
parameters = variables_of(warmed, 6 * LAYERS)
row = contest_row("IAF by the density, warmed", warmed, warmed_history, parameters)
rows.append({**row, "reverse_kl": reverse_kl(warmed)})
results.record("05_tfp_flows", data=data.name, seconds=time.perf_counter() - STARTED, rows=rows)

# %% [markdown]
# ## Summary
#
# - A bijector has two directions and a log-determinant, and a density follows. TFP caches: a check of the inverse needs a fresh tensor.
# - A network must be owned by its bijector, be built, and not be shared. Count the variables before training.
# - MADE's masks make all conditionals in one pass. The optimizer puts them back after each step; the network does not.
# - MAF is fast for densities and slow for samples, IAF the reverse; couplings are fast both ways.
# - A spline bends more than a line: the spline flow is closest to the truth, with the fewest weights.
# - With few points a large flow over-fits, and its training loss does not tell. One that is too small does not fit at all.
# - KL(flow ‖ truth) is content with a part of the truth. Annealing often finds the rest.
#
# [Chapter 6](06_glow.ipynb) takes couplings to images.
#
# ## Exercises
#
# The cell below each exercise holds a solution. It is folded: click it to open it.
#
# **1.** Does the order of the coordinates matter? Train one MAF layer on two moons in either order and compare the KL. What does one Gaussian for the second coordinate miss, given the first?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# The first coordinate gets one Gaussian, the other one Gaussian for each value of the first.
# Given x₂ there are often two or more places for x₁, and one Gaussian covers the gap too.
for order in ("left-to-right", "right-to-left"):
    layer = density(masked_flow(2, (64, 64), input_order=order))
    variables_of(layer, 6)
    train(layer, order)
    print(f"{order}: KL {judged(layer)[0]:.3f}")

# %% [markdown]
# **2.** How many bins does a spline need? Train a chain of two spline couplings, once with 4 bins and once with 32.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
by_bins = {}
for bins in (4, 32):
    short = chain(lambda b=bins: spline_coupling(bins=b), 2)
    variables_of(short, 12)
    train(short, f"{bins} bins")
    by_bins[bins], _ = judged(short)
print({bins: round(kl, 4) for bins, kl in by_bins.items()})

# %% [markdown]
# **3.** Sample with the conditional flow: 1,000 points of the lower moon. How many of them does the exact density give to that moon?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
lower = tf.ones([1_000, 1])
kwargs = {name: {"moon": lower} for name in conditional.names}
drawn = conditional.flow.sample(1_000, seed=(1, seed), bijector_kwargs=kwargs).numpy()
share = (truth.log_prob(drawn, moon=1) > truth.log_prob(drawn, moon=0)).mean()
print(f"{share:.1%} belong to the lower moon")
assert share > course.choose(full=0.98, quick=0.6)

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - M. Germain, K. Gregor, I. Murray, H. Larochelle. *MADE: Masked Autoencoder for Distribution Estimation*. ICML, 2015. Section 3: the masks.
# - G. Papamakarios, T. Pavlakou, I. Murray. *Masked Autoregressive Flow for Density Estimation*. NeurIPS, 2017. Equations 3 and 4.
# - D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling. *Improved Variational Inference with Inverse Autoregressive Flow*. NeurIPS, 2016.
# - L. Dinh, D. Krueger, Y. Bengio. *NICE: Non-linear Independent Components Estimation*. ICLR workshop, 2015.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. *Density estimation using Real NVP*. ICLR, 2017. Section 3.7: batch normalisation.
# - C. Durkan, A. Bekasov, I. Murray, G. Papamakarios. *Neural Spline Flows*. NeurIPS, 2019. Equations 4 to 8.
# - J. Dillon et al. *TensorFlow Distributions*. arXiv:1711.10604, 2017. Section 3.4: bijectors.
