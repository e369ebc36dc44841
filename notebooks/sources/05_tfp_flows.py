# %% [markdown]
# # Chapter 5 · Flows from TensorFlow Probability
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/05_tfp_flows.ipynb)
#
# **What if every coordinate of a point were drawn given all those before it?**
# A coupling layer keeps one half of a point to change the other.
# An *autoregressive* flow goes further: coordinate after coordinate, each with a Gaussian of its own.
# We build its network (MADE) from masks, and two flows of it (MAF and IAF), each with a loop of five lines.
# Then we take the same from TensorFlow Probability (TFP), repeat an article's experiment, and use IAF for what it was made for: a density that comes without data.

# %% [markdown]
# **You will learn**
# - to cut a network's connections so that one pass gives all conditional densities;
# - why MAF is fast in one direction and IAF in the other, and which you need when;
# - to build chains of TFP's bijectors, and to make sure that their weights are found and trained;
# - what over-fitting looks like in a flow, and what cures it;
# - to approximate a posterior that is known up to a constant, and how a flow may lose half of it.
#
# **In the book**: chapter 6 (노멀라이징 플로) names other flows at its end.
# The experiment of section 5.6 is that of [an article by C. Kang](https://goodboychan.github.io/python/coursera/tensorflow_probability/icl/2021/09/08/01-AutoRegressive-flows-and-RealNVP.html) on TFP's bijectors.
#
# **Needs**: [chapter 4](04_realnvp.ipynb), TensorFlow, and nothing to download.
# About 3 minutes on two CPU cores (Intel Xeon with AVX-512); about twice as long on older ones.

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

# %%
import time

STARTED = time.perf_counter()
TRAIN_POINTS = course.choose(full=30_000, quick=6_000)
LAYERS = course.choose(full=6, quick=2)  # in a chain of MAFs or IAFs
COUPLINGS = course.choose(full=8, quick=2)  # in a chain of couplings
PLAIN_EPOCHS = course.choose(full=30, quick=3)
EPOCHS = course.choose(full=40, quick=3)
BATCH = course.choose(full=512, quick=128)
FEW_POINTS, FEW_EPOCHS = 1_000, course.choose(full=600, quick=40)
WIDE = course.choose(full=256, quick=64)  # hidden units of the article's large networks
DIMENSIONS = course.choose(full=(2, 4, 8, 16, 32, 64), quick=(2, 4))
DENSITY_STEPS = course.choose(full=4_000, quick=300)
seed = course.seed(42)

# %% [markdown]
# TFP is built on Keras 2, which lives on under the name `tf_keras`: networks inside its bijectors come from there.
# What we write ourselves is Keras 3, as in the other chapters.

# %%
course.require("tensorflow-probability", "tf_keras")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils import checks, moons, plots, results, training

data = moons.load(TRAIN_POINTS)
truth, rng = data.truth, np.random.default_rng(seed)
floor = -truth.log_prob(data.x_validation).mean()

# %% [markdown]
# ## 5.1 One coordinate after another
#
# Any density of a point $x = (x_1, \dots, x_D)$ is a product of conditional densities, each coordinate given those before it:
#
# $$p(x) = p(x_1)\; p(x_2 \mid x_1)\; p(x_3 \mid x_1, x_2) \cdots = \prod_{i=1}^{D} p(x_i \mid x_{<i}), \tag{5.1}$$
#
# where $x_{<i}$ stands for $x_1, \dots, x_{i-1}$.
# That is no assumption; it is how conditional densities are defined.
# Each factor is a density of a *single* number, and one number is easy.
# For two moons there are two factors:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
line = np.linspace(-2.6, 2.6, 400)
at = (-1.0, 0.0, 1.0)
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.1))
plots.draw_points(axes[0], data.x_test[:3_000], limit=2.6)
axes[0].set(title="two moons", xlabel="x₁", ylabel="x₂")
square, _ = checks.square(2.6, 400)
joint = np.exp(truth.log_prob(square)).reshape(400, 400)
first = joint.sum(axis=0) * (line[1] - line[0])
axes[1].plot(line, first, color="0.2")
axes[1].set(title="p(x₁)", xlabel="x₁", ylim=(0, None))
styles = dict(zip(at, ("-", "--", ":"), strict=True))
for (value, style), colour in zip(styles.items(), plots.COLOURS):
    column = joint[:, np.abs(line - value).argmin()]
    column = column / column.sum() / (line[1] - line[0])
    axes[0].axvline(value, color=colour, linestyle=style)
    axes[2].plot(line, column, style, color=colour, label=f"x₁ = {value:.0f}")
axes[2].set(title="p(x₂ | x₁)", xlabel="x₂")
axes[2].legend(frameon=False, fontsize=9)
figure.tight_layout()
plots.show(
    figure,
    alt="Two moons with three vertical lines; the density of x₁; and that of "
    "x₂ on each of the lines: one or two narrow peaks",
)

# %% [markdown]
# The three lines on the left are cuts, and the right panel shows the density along each.
# At $x_1 = 0$ the line meets both moons, and the density of $x_2$ has two peaks; at $x_1 = \pm 1$ it has one that matters.
# A product of such curves is the whole picture on the left.
#
# So a model needs, for each coordinate, the parameters of its conditional density as functions of the coordinates before it.
# $D$ networks would do.
# One is enough.

# %% [markdown]
# ## 5.2 MADE: one network for all conditionals
#
# MADE (Germain et al., 2015) is an ordinary network with two outputs for each coordinate, from which some connections have been cut.
# (The two will be a mean $\mu_i$ and a log-deviation $\alpha_i$, section 5.3.)
# They are cut so that the outputs for coordinate $i$ can see $x_1, \dots, x_{i-1}$ and nothing else.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("made")

# %% [markdown]
# Every unit has a *degree*.
# Input $j$ has degree $j$.
# A hidden unit of degree $m$ may see the inputs $1, \dots, m$, and later hidden units may see those of their own degree or a lower one.
# The outputs for coordinate $i$ may see hidden units of a degree *below* $i$.
# Follow any path from left to right in the drawing: degrees never fall on the way, and rise at the last step.
# So no path leads from $x_j$ to an output $i \le j$.
#
# To cut a connection is to multiply its weight by 0, and a layer's zeros and ones are its mask.

# %% tags=["definitions"]
from itertools import pairwise

import keras
import numpy as np
from keras import layers, ops


def made_degrees(dim, hidden):
    """The degrees of a MADE's units, one array a layer: inputs first."""
    degrees = [np.arange(1, dim + 1)]
    for width in hidden:
        spread = np.arange(1, width + 1) * (dim - 1) / (width + 1)
        degrees.append(np.ceil(spread).astype(int))
    return degrees


def made_masks(dim, hidden):
    """The masks of a MADE, one for each layer of weights: (from, to), 0 where cut."""
    degrees = made_degrees(dim, hidden)
    masks = [before[:, None] <= after for before, after in pairwise(degrees)]
    masks.append(degrees[-1][:, None] < degrees[0])
    return [mask.astype("float32") for mask in masks]


# %% [markdown]
# `made_degrees` spreads the degrees $1, \dots, D - 1$ evenly over the units of each hidden layer, as TFP does.
# For the network of the drawing:

# %% tags=["nbval-check-output"]
masks = made_masks(4, [6])
print("degrees of the hidden units:", made_degrees(4, [6])[1])
print("inputs (rows) to hidden units:", masks[0].astype(int), sep="\n")
print("hidden units (rows) to outputs:", masks[1].astype(int), sep="\n")

# %% [markdown]
# The product of the masks counts paths.
# With three hidden layers of six units, in how many ways do the outputs of coordinate $i$ (row) reach back to $x_j$ (column)?

# %% tags=["nbval-check-output"]
paths = np.linalg.multi_dot(made_masks(4, [6, 6, 6])).T
print(paths.astype(int))
assert not np.triu(paths).any() and (paths[np.tril_indices(4, -1)] > 0).all()

# %% [markdown]
# The zeros are where they must be, on the diagonal and above: no output sees its own coordinate or a later one.
# The network itself is a stack of dense layers with masks.


# %% tags=["definitions"]
class Masked(layers.Dense):
    """A dense layer with cut connections: `mask` (inputs, outputs) is 0 where cut."""

    def __init__(self, mask, **settings):
        super().__init__(mask.shape[1], **settings)
        self.mask = mask

    def call(self, x):
        return self.activation(ops.matmul(x, self.kernel * self.mask) + self.bias)


def build_made(dim, hidden, start="zeros"):
    """x -> two numbers for each coordinate, of those before it: (batch, dim) to
    (batch, dim, 2).
    """
    x = h = keras.Input((dim,))
    *inner, last = made_masks(dim, hidden)
    for mask in inner:
        h = Masked(mask, activation="relu")(h)
    twice = np.repeat(last, 2, axis=1)  # both numbers of a coordinate see the same
    h = Masked(twice, kernel_initializer=start)(h)
    return keras.Model(x, layers.Reshape((dim, 2))(h))


# %% [markdown]
# The weights are one thing, and what the function does is another.
# Automatic differentiation gives the slope of each output by each input, at many points.
# Where the output of coordinate $i$ must not see $x_j$, it has to be exactly 0.

# %% tags=["definitions"]
from utils import checks


def dependency(network, points):
    """The largest slope of the outputs of coordinate i by input j over all points:
    (count, dim) to (dim, dim).
    """
    slopes = [
        checks.jacobian(lambda x, k=k: network(x)[..., k], points) for k in (0, 1)
    ]
    return np.abs(slopes).max(axis=(0, 1))


def shaken(flow, rng, scale=0.3):
    """Adds random numbers to all weights: the identity would pass every test."""
    for weight in flow.trainable_variables:
        changed = weight + scale * rng.normal(size=weight.shape).astype("float32")
        held = getattr(weight, "constraint", None)  # TFP keeps its masks there
        weight.assign(held(changed) if held else changed)
    return flow


# %%
made = shaken(build_made(4, (16, 16)), rng)
points = rng.normal(size=(200, 4)).astype("float32")
slopes = dependency(made, points)
print("largest slope of output i (row) by input j (column):", slopes.round(2), sep="\n")
assert not np.triu(slopes).any() and (slopes[np.tril_indices(4, -1)] != 0).all()

# %% [markdown]
# (`shaken` adds random numbers to the weights: with the zeros that the last layer starts from, all slopes would be 0, and the check would prove nothing.)

# %% [markdown]
# ## 5.3 MAF: a Gaussian for each coordinate
#
# Let every conditional be a Gaussian, with mean $\mu_i$ and standard deviation $e^{\alpha_i}$, both functions of $x_{<i}$.
# To draw from it, take standard normal $z_i$ and stretch and shift them:
#
# $$x_i = \mu_i(x_{<i}) + e^{\alpha_i(x_{<i})}\, z_i, \qquad\text{and back:}\qquad z_i = \left(x_i - \mu_i(x_{<i})\right) e^{-\alpha_i(x_{<i})}. \tag{5.2}$$
#
# That is a function from $z$ to $x$ that can be undone, a flow: the *masked autoregressive flow* (MAF; Papamakarios et al., 2017), with $\mu$ and $\alpha$ from a MADE.
# $z_i$ depends on $x_1, \dots, x_i$ alone, so that the Jacobian of $x \to z$ is triangular, with $e^{-\alpha_i}$ on its diagonal, and
#
# $$\log p(x) = \log p_Z(z) - \sum_{i=1}^{D} \alpha_i(x_{<i}). \tag{5.3}$$
#
# (In chapter 4, $s$ and $t$ belong to the way x → z.
# Here $\alpha$ and $\mu$ belong to the way z → x, as in the paper and in TFP.
# Hence the minus.)
#
# Two directions, and two prices:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("maf_iaf")

# %% [markdown]
# For a density, all of $x$ is known: one pass of the network gives every $\mu_i$ and $\alpha_i$ at once (upper left).
# For a sample, $x_2$ needs $x_1$, and $x_3$ needs both: $D$ passes, one after another (upper right).
# The lower row belongs to section 5.4.
#
# As a layer, with the log-scale bounded by 1, as the rule of [section 4.11](04_realnvp.ipynb) has it (larger ones can throw rare points out by powers of ten):


# %% tags=["definitions"]
class MAF(layers.Layer):
    """x_i = mu_i(x_<i) + e^alpha_i(x_<i) z_i, with a MADE that gives mu and alpha."""

    def __init__(self, made, bound=1.0):
        super().__init__()
        self.made, self.bound = made, bound

    def mu_and_alpha(self, x):
        mu, u = ops.unstack(self.made(x), axis=-1)
        return mu, self.bound * ops.tanh(u / self.bound)

    def inverse(self, x):
        """x -> z and log |det dz/dx|, in one pass of the network."""
        mu, alpha = self.mu_and_alpha(x)
        return (x - mu) * ops.exp(-alpha), -ops.sum(alpha, axis=-1)

    def forward(self, z):
        """z -> x, in as many passes as there are coordinates."""
        x = ops.zeros_like(z)
        for _ in range(z.shape[-1]):
            mu, alpha = self.mu_and_alpha(x)
            x = mu + ops.exp(alpha) * z
        return x


# %% [markdown]
# The loop of `forward` looks as if it forgot something: where does coordinate $i$ come in?
# It need not.
# Each pass computes all coordinates from what is there.
# After pass 1, $x_1$ is right, since it needs no other; pass 2 then gets $x_2$ right, and so on.
# What stands further right is overwritten until its turn has come:

# %%
maf = MAF(made)
x_true = points[:1]
z, _ = maf.inverse(x_true)
x, steps = ops.zeros_like(z), []
for _ in range(4):
    mu, alpha = maf.mu_and_alpha(x)
    x = mu + ops.exp(alpha) * z
    steps.append(ops.convert_to_numpy(x)[0])
columns = ["x₁", "x₂", "x₃", "x₄"]
names = ["the point", *(f"after pass {k}" for k in (1, 2, 3, 4))]
pd.DataFrame([x_true[0], *steps], index=names, columns=columns).round(3)

# %% [markdown]
# From row to row one more coordinate is that of the point, and stays.
# The two checks of chapter 4, inverse and log-determinant by automatic differentiation:

# %%
errors = checks.flow_errors(maf, points, tolerance=1e-4)
print({name: f"{error:.0e}" for name, error in errors.items()})
for k, row in enumerate(steps):
    assert np.allclose(row[: k + 1], x_true[0, : k + 1], atol=1e-4)
assert not np.allclose(steps[0], x_true[0], atol=1e-2), "right too early"

# %% [markdown]
# ### One layer is not enough
#
# One MAF makes $x_1$ a Gaussian, whatever its network says, and $x_2$ a Gaussian for each $x_1$.
# In section 5.1 neither $p(x_1)$ nor, where both moons are met, $p(x_2 \mid x_1)$ is one.
# So layers are stacked, and after each the order of the coordinates is turned round: what came first comes last.
# `Flow` is chapter 4's: given two directions, it has a density, samples and a loss.

# %% tags=["definitions"]
from utils.chapters import definitions

Flow = definitions("04_realnvp", "Flow")


class Autoregressive(Flow):
    """A stack of MAF or IAF layers; the order of the coordinates is turned round after
    each.
    """

    def __init__(self, stack, dim):
        super().__init__()
        self.stack, self.dim = stack, dim
        self.built = True  # its networks are built already

    def inverse(self, x):
        log_det = 0.0
        for layer in self.stack:
            x, layer_log_det = layer.inverse(x)
            x, log_det = ops.flip(x, axis=-1), log_det + layer_log_det
        return x, log_det

    def forward(self, z):
        for layer in reversed(self.stack):
            z = layer.forward(ops.flip(z, axis=-1))
        return z


def build_autoregressive(kind, dim, count, hidden):
    """A flow of `count` layers of `kind`, MAF or IAF, each with a MADE of its own."""
    return Autoregressive([kind(build_made(dim, hidden)) for _ in range(count)], dim)


# %% [markdown]
# Plain Keras trains it: build, compile, fit.

# %%
from utils.training import Progress


def fit_plain(count, label):
    """A stack of MAFs, trained on two moons by `fit`."""
    flow = build_autoregressive(MAF, 2, count, (64, 64))
    steps = PLAIN_EPOCHS * int(np.ceil(len(data.x_train) / BATCH))
    rate = keras.optimizers.schedules.CosineDecay(5e-3, decay_steps=steps)
    flow.compile(keras.optimizers.Adam(rate), jit_compile=True)
    settings = {"epochs": PLAIN_EPOCHS, "batch_size": BATCH, "verbose": 0}
    flow.fit(data.x_train, callbacks=[Progress(label)], **settings)
    kl = truth.integrate_kl(training.compiled(flow.log_prob, flow))
    print(f"{label}: KL {kl.plane:.3f} over the plane, {kl.bulk:.3f} over the bulk")
    return flow, kl


one_layer, one_kl = fit_plain(1, "one MAF")
by_hand, by_hand_kl = fit_plain(LAYERS, "a stack of MAFs")
assert by_hand_kl.plane < one_kl.plane - course.choose(full=0.3, quick=0.02)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.points_panels(
    {
        "data": data.x_test[:3_000],
        "one MAF": ops.convert_to_numpy(one_layer.sample(3_000, seed=1)),
        f"{LAYERS} MAFs": ops.convert_to_numpy(by_hand.sample(3_000, seed=1)),
    },
    limit=2.8,
    columns=3,
    alt="Two moons; samples of one MAF, a broad band; samples of a stack, two moons",
)

# %% [markdown]
# In the middle is one Gaussian after another: where $x_1$ has both moons above it, the second covers both and the gap between them.
# At the sides, where there is one moon, it is too wide: with the bound of 1, one layer can make no deviation below $1/e$.
# Without a bound, the best of its kind has a KL of 0.84 (computed from the truth: two Gaussians with its own deviations, less its entropy).
# On the right every layer has bent the plane a little, and there are two moons.
# (KL(truth ‖ model) in nats, integrated over the plane and over the bulk, is the yardstick of [section 4.7](04_realnvp.ipynb).)

# %% [markdown]
# ## 5.4 IAF: the same, turned round
#
# Let the network read $z_{<i}$ in place of $x_{<i}$:
#
# $$x_i = \mu_i(z_{<i}) + e^{\alpha_i(z_{<i})}\, z_i. \tag{5.4}$$
#
# That is the *inverse autoregressive flow* (IAF; Kingma et al., 2016), the lower row of the drawing.
# Now all of $z$ is known when a sample is made, and it takes one pass.
# That pass also gives the density of the sample, $\log p_Z(z) - \sum_i \alpha_i$.
# The density of a point from elsewhere, whose $z$ must be found first, takes $D$.


# %% tags=["definitions"]
class IAF(MAF):
    """x_i = mu_i(z_<i) + e^alpha_i(z_<i) z_i: the network reads z in place of x."""

    def forward(self, z):
        """z -> x, in one pass of the network."""
        mu, alpha = self.mu_and_alpha(z)
        return mu + ops.exp(alpha) * z

    def inverse(self, x):
        """x -> z and log |det dz/dx|, in as many passes as there are coordinates."""
        z = ops.zeros_like(x)
        for _ in range(x.shape[-1]):
            mu, alpha = self.mu_and_alpha(z)
            z = (x - mu) * ops.exp(-alpha)
        return z, -ops.sum(alpha, axis=-1)


# %%
iaf = IAF(made)
errors = checks.flow_errors(iaf, points, tolerance=1e-4)
print({name: f"{error:.0e}" for name, error in errors.items()})

# %% [markdown]
# A coupling stands between the two: it is the autoregressive layer in which one half of the coordinates comes before the other half, and both of its directions take one pass.
#
# ### What that costs
#
# We count passes, and measure seconds: a thousand points, one layer, its network with two hidden layers of 64, both directions, compiled.


# %%
class Counted:
    """A network that counts its passes."""

    def __init__(self, network):
        self.network, self.passes = network, 0

    def __call__(self, x):
        self.passes += 1
        return self.network(x)


# %%
build_realnvp = definitions("04_realnvp", "build_realnvp")


def costs(dim):
    """Passes and milliseconds of both directions of one layer of each kind."""
    x = rng.normal(size=(1_000, dim)).astype("float32")
    coupling = build_realnvp(dim, couplings=1, width=64, depth=2).couplings[0]
    layer_of = {kind.__name__: kind(build_made(dim, (64, 64))) for kind in (MAF, IAF)}
    row = {}
    for name, layer in {**layer_of, "coupling": coupling}.items():
        network = "network" if name == "coupling" else "made"
        count = Counted(getattr(layer, network))
        setattr(layer, network, count)
        for way, call in {"x → z": layer.inverse, "z → x": layer.forward}.items():
            count.passes = 0
            call(x)
            row[name, way, "passes"] = count.passes
            run = training.compiled(call, count.network)
            row[name, way, "ms"] = results.milliseconds(lambda f=run: f(x))
    return row


cost = pd.DataFrame({dim: costs(dim) for dim in DIMENSIONS})
cost.loc[(slice(None), slice(None), "passes"), :].astype(int)

# %% [markdown]
# The counts are as in the drawing: 1 or $D$.
# And the milliseconds:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.8))
kinds = [(name, way) for name, way, what in cost.index if what == "ms"]
for (name, way), marker in zip(kinds, "osD^vP"):
    style = "-" if name == "MAF" else "--" if name == "IAF" else ":"
    colour = plots.COLOURS[("MAF", "IAF", "coupling").index(name)]
    fill = colour if way == "x → z" else "white"
    axis.loglog(
        DIMENSIONS,
        cost.loc[(name, way, "ms")],
        style,
        color=colour,
        marker=marker,
        markerfacecolor=fill,
        label=f"{name}, {way}",
    )
axis.set(xlabel="dimension D", ylabel="milliseconds for 1,000 points")
axis.set_xticks(DIMENSIONS, labels=DIMENSIONS)
axis.minorticks_off()
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(
    figure,
    alt="Milliseconds against dimension on logarithmic axes: samples of MAF "
    "and densities of IAF climb with D, the other four lines little",
)

# %% [markdown]
# Filled marks are densities, open ones samples.
# Two lines climb, MAF's samples and IAF's densities; the other four at most about double.
# How many times as long does the slow direction take?

# %%
ms = cost.xs("ms", level=2)
slow = {"MAF": ("z → x", "x → z"), "IAF": ("x → z", "z → x")}
ratio = pd.DataFrame(
    {
        name: ms.loc[(name, many)] / ms.loc[(name, one)]
        for name, (many, one) in slow.items()
    }
)
print("slow direction / fast direction:")
print(ratio.round(1).T)
assert list(cost.loc[("MAF", "z → x", "passes")]) == list(DIMENSIONS)
assert (ratio.iloc[-1] > course.choose(full=8, quick=1.0)).all()

# %% [markdown]
# A pass for 64 coordinates costs about twice one for 2, so the fast directions stay fast.
# In few dimensions a fixed cost hides the difference; at 64, with 64 passes in place of one, the slow direction takes more than twenty times as long (not 64 times, since both also pay once for the call itself).
#
# **Which one when?**
# Training on data asks for densities: MAF or couplings.
# Making samples fast asks for IAF or couplings.
# A posterior, where a flow is trained on its own samples, asks for samples *and their* densities: one pass of IAF has both (section 5.9).
# Couplings are fast at everything, but change only a part of the coordinates in each layer.

# %% [markdown]
# ## 5.5 The same from TFP
#
# TFP has all of this in its box of *bijectors*: functions with a `forward`, an `inverse` and a log-determinant.
# `forward` goes from $z$ to $x$, as with us.
# `AutoregressiveNetwork` is a MADE, `MaskedAutoregressiveFlow` makes a MAF of it, and `Invert` turns a bijector round.
# A `TransformedDistribution` sends draws of a base distribution forward, and has the density of what comes out.
#
# `MaskedShiftAndLogScale` keeps the network and bounds the log-scale, as ours does.
# (TFP's first use of the network makes its variables, so it is called once.
# The masks are constraints of the weights, which Keras' optimizers apply after each step.
# TFP hands further arguments on as `**condition`.)

# %% tags=["definitions"]
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras

tfb, tfd = tfp.bijectors, tfp.distributions


class MaskedShiftAndLogScale(tf.Module):
    """A MADE of TFP's for `tfb.MaskedAutoregressiveFlow`, its log-scale bounded."""

    def __init__(self, dim, hidden, bound=1.0, **settings):
        super().__init__()
        settings = {"activation": "relu", **settings}
        self.made = tfb.AutoregressiveNetwork(
            params=2, event_shape=[dim], hidden_units=list(hidden), **settings
        )
        self.made(tf.zeros([1, dim]))  # before this call it has no variables
        self.bound = bound

    def __call__(self, x, **condition):
        shift, u = tf.unstack(self.made(x), axis=-1)
        return shift, self.bound * tf.tanh(u / self.bound)


def masked_flow(dim, hidden, unroll_loop=False, **settings):
    """MAF's bijector with a MADE of its own: `hidden` are the widths of its layers."""
    made = MaskedShiftAndLogScale(dim, hidden, **settings)
    return tfb.MaskedAutoregressiveFlow(made, unroll_loop=unroll_loop)


# %% [markdown]
# Is it the same function?
# We copy the weights of our MADE into TFP's and compare both directions and the log-determinant.
# (The 1 in the last one says that a point is a vector, one axis.)

# %%
network = MaskedShiftAndLogScale(4, (16, 16))
by_tfp = tfb.MaskedAutoregressiveFlow(network)
for target, weight in zip(network.made.trainable_variables, made.trainable_variables):
    target.assign(target.constraint(weight) if target.constraint else weight)


def turned_round(z):
    """mu and alpha for TFP's IAF, x = (z - mu') e^-alpha', that make it ours."""
    mu, alpha = network(z)
    return -mu * tf.exp(-alpha), -alpha


iaf_by_tfp = tfb.Invert(tfb.MaskedAutoregressiveFlow(turned_round))
z_ours, log_det_ours = maf.inverse(points)
pairs = {
    "x → z": (z_ours, by_tfp.inverse(points)),
    "log-det": (log_det_ours, by_tfp.inverse_log_det_jacobian(points, 1)),
    "z → x": (maf.forward(z_ours), by_tfp.forward(z_ours + 0.0)),
    "IAF, z → x": (iaf.forward(points), iaf_by_tfp.forward(points)),
}
for name, (ours, theirs) in pairs.items():
    difference = float(np.abs(np.subtract(ours, theirs)).max())
    print(f"{name}: largest difference {difference:.0e}")
    assert difference < 1e-5

# %% [markdown]
# Equal but for rounding.
# (TFP remembers which $z$ gave an $x$ and hands it back when asked for the inverse; `+ 0.0` makes a fresh tensor, so that it has to compute.
# Its IAF, `Invert` of a MAF, is $x_i = (z_i - \mu'_i)\, e^{-\alpha'_i}$; it is equation 5.4 if $\alpha' = -\alpha$ and $\mu' = -\mu\, e^{-\alpha}$, which is what `turned_round` computes.)
#
# ### A chain, and one guard
#
# `Chain` applies bijectors one after another, the *last* one of its list first, as one writes $f(g(z))$.
# `Permute` puts the coordinates into another order; it is a bijector with log-determinant 0.


# %% tags=["definitions"]
def density(bijector, dim=2):
    """The density of points that a bijector makes of standard normal ones."""
    base = tfd.Sample(tfd.Normal(0.0, 1.0), [dim])
    return tfd.TransformedDistribution(base, bijector)


def chain(make, count, dim=2):
    """The density of a chain of `count` bijectors made by `make`; the order of the
    coordinates is turned round in between.
    """
    turn = list(reversed(range(dim)))
    parts = []
    for _ in range(count):
        parts += [make(), tfb.Permute(turn)]
    return density(tfb.Chain(parts[:-1]), dim)


def variables_of(flow, expected):
    """The number of weights in a flow; an error unless it has as many variables as
    expected.
    """
    found = len(flow.trainable_variables)
    assert found == expected > 0, (
        f"{found} variables, expected {expected}: is each network owned and built?"
    )
    return int(sum(np.prod(v.shape) for v in flow.trainable_variables))


def log_det(bijector):
    """The function x (count, dim) to log |det dz/dx| (count,)."""
    return lambda x: bijector.inverse_log_det_jacobian(x, 1) + tf.zeros(len(x))


# %% [markdown]
# Why does `variables_of` count?
# Because TFP finds what there is to train through the attributes of `tf.Module`s, and what hangs elsewhere it does not find.
# Two mistakes, and what the guard says:

# %%
one_for_all = masked_flow(2, (16, 16))
mistakes = {
    "one network in six layers": chain(lambda: one_for_all, 6),
    "a network called by a function": density(
        tfb.MaskedAutoregressiveFlow(lambda x: network(x)), 4
    ),
}
for name, flow in mistakes.items():
    print(name, end=": ")
    with course.expect(AssertionError):
        variables_of(flow, 6 * (6 if "six" in name else 1))

right = chain(lambda: masked_flow(2, (16, 16)), 6)
print(f"six layers with six networks: {variables_of(right, 36):,} weights")

# %% [markdown]
# The first has a sixth of the weights that one meant it to have.
# The second hides its network in a function, which is no module: there is nothing to train, and a loop of one's own would print a loss all the same.
# From here on every flow is counted before it is trained.
# [Appendix A1](A1_breaks.ipynb#a16-tensorflow-probability-what-is-silently-wrong) has the other traps of TFP, and what of the article's code needs another line today.

# %% [markdown]
# ## 5.6 The article's experiment
#
# [C. Kang's article](https://goodboychan.github.io/python/coursera/tensorflow_probability/icl/2021/09/08/01-AutoRegressive-flows-and-RealNVP.html) draws 1,000 points of two moons with noise 0.05, standardises them, keeps 20 % for validation and trains for 600 epochs:
# first one MAF with hidden layers of 16 and 16 units, then a chain of six with 256 and 256 and `Permute([1, 0])` in between.
# It reports a validation loss of 2.15 for the one and 1.52 for the six, whose training loss is then 1.31.
#
# We do the same, all 800 points in each step, by `training.fit_density`, chapter 4's loop of whole epochs in one compiled graph.
# The article puts no bound on the log-scale, so here it is 5: a layer may scale by $e^5 \approx 150$, which is as good as no bound.
# (Adam has a rate of 0.001, and gradients are cut to length 5.)

# %%
few = moons.load(FEW_POINTS).x_train
few = np.random.default_rng(seed).permutation(few)
x_few, x_held = np.split(few, [FEW_POINTS * 4 // 5])


def train_on_few(flow, label, **more):
    """Trains on the 800 points, all of them in each step, and gives the history."""
    adam = keras.optimizers.Adam(1e-3, global_clipnorm=5.0)
    settings = {"epochs": FEW_EPOCHS, "batch": len(x_few), "validation": x_held}
    return training.fit_density(
        flow, x_few, optimizer=adam, label=label, **settings, **more
    )


free = {"bound": 5.0}  # as good as no bound, as in the article
one = density(masked_flow(2, (16, 16), **free))
six = chain(lambda: masked_flow(2, (WIDE, WIDE), **free), LAYERS)
print(f"{variables_of(one, 6):,} and {variables_of(six, 6 * LAYERS):,} weights")

# %% [markdown]
# The next cell keeps samples and densities of both, trains them, and keeps the same again.

# %%
z_shown = rng.normal(size=(1_000, 2)).astype("float32")
contour_square, _ = checks.square(3.0, 120)


def snapshot(flow):
    """Samples of a flow and its density on a square, for a picture."""
    q = np.exp(training.compiled(flow.log_prob, flow)(contour_square))
    return flow.bijector.forward(z_shown).numpy(), q.reshape(120, 120)


before = {"one MAF": snapshot(one), f"{LAYERS} MAFs": snapshot(six)}
one_history = train_on_few(one, "one MAF")
six_history = train_on_few(six, f"{LAYERS} MAFs")
after = {"one MAF": snapshot(one), f"{LAYERS} MAFs": snapshot(six)}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(2, 5, figsize=(plots.WIDTH, 4.1))
over = np.linspace(-3, 3, 120)
style = {"levels": np.linspace(0.02, 0.6, 9), "cmap": "BuPu", "extend": "max"}
for row, name in zip(axes, before):
    plots.draw_points(row[0], x_few, limit=3)
    titles = ["data"]
    for pair, moment, pictures in ((1, "before", before), (3, "after", after)):
        made_points, q = pictures[name]
        plots.draw_points(row[pair], made_points, limit=3)
        row[pair + 1].contourf(over, over, q, **style)
        row[pair + 1].set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
        titles += [f"{name}, {moment}", "its density"]
    for axis, title in zip(row, titles):
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=6)
figure.tight_layout()
plots.show(
    figure,
    alt="The 800 points; samples and densities of one MAF and of the chain, before and "
    "after training: the one MAF ends as a broad band, the chain as two moons, its "
    "density in uneven streaks",
)

# %% [markdown]
# Untrained, both dent a round cloud a little (TFP's layers do not start as the identity).
# Trained, the one MAF is still a Gaussian for each $x_1$.
# Most of the chain's samples lie on the moons, and a pale arm joins the moons at the right; its density hugs the data in narrow, uneven streaks.
#
# What does each of its bijectors do?
# Points of the base, coloured by quadrant, after one stage after another:

# %%
z_base = np.random.default_rng(seed).normal(size=(3_000, 2)).astype("float32")
quadrant = 2 * (z_base[:, 0] > 0) + (z_base[:, 1] > 0)
stages, x = {"base": (z_base, quadrant)}, tf.constant(z_base)
for number, bijector in enumerate(reversed(six.bijector.bijectors), 1):
    x = bijector.forward(x)
    kind = "swap" if isinstance(bijector, tfb.Permute) else "MAF"
    stages[f"{number}: {kind}"] = (x.numpy(), quadrant)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.points_panels(
    stages,
    limit=3.2,
    columns=4,
    alt="Twelve panels: a round cloud in four colours is stretched, swapped "
    "and bent, stage after stage, into two moons",
)

# %% [markdown]
# Each MAF stretches and shifts $x_2$ as a function of $x_1$, and $x_1$ by one scale and one shift; each swap exchanges the axes, so that the next one does the other.
# Neighbours stay neighbours: a flow bends, and never tears.
#
# ### Over-fitting, seen and cured

# %%
figures = {"one MAF": one_history, f"{LAYERS} MAFs": six_history}
few_rows = []


def judge(name, flow, history):
    """Notes training and validation loss and the KL to the truth, in nats."""
    kl = truth.integrate_kl(training.compiled(flow.log_prob, flow))
    last, best = history["val_loss"][-1], min(history["val_loss"])
    losses = {"training": history["loss"][-1], "validation": last, "its best": best}
    few_rows.append({"model": name, **losses, "kl_bulk": kl.bulk, "kl_plane": kl.plane})


judge("one MAF", one, one_history)
judge(f"{LAYERS} MAFs", six, six_history)
results.table(few_rows)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
epochs = range(1, FEW_EPOCHS + 1)
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.6))
for (name, values), colour, width in (
    (("one MAF, validation", one_history["val_loss"]), 0, 1.5),
    ((f"{LAYERS} MAFs, validation", six_history["val_loss"]), 2, 0.7),
    ((f"{LAYERS} MAFs, training", six_history["loss"]), 1, 1.5),
):
    axis.plot(epochs, values, color=plots.COLOURS[colour], linewidth=width, label=name)
level = {"color": "0.4", "linestyle": "--", "label": "the truth, validation"}
axis.axhline(-truth.log_prob(x_held).mean(), **level)
axis.set(xlabel="epoch", ylabel="NLL (nats)", ylim=(1.0, 4.0))
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(
    figure,
    alt="The chain's training loss goes on falling, and its validation loss leaps up "
    "and down far above it",
)

# %% [markdown]
# The article's numbers come out: about 2.1 for one MAF, still falling, and for the chain mostly 1.3 to 1.7, leaping up and down (some peaks are beyond the frame), with a training loss below.
# The KL is worse than the 200 validation points let one think: in a few places the chain gives the moons next to no density, and 200 points do not fall there.
#
# Three things to try: keep the weights of the best epoch on validation points; bound the log-scale by 1, by chapter 4's rule; more data.
# First the two together, on the same 800 points; then 30,000 points, with a smaller network and the schedule that the rest of the chapter has.

# %%
bounded = chain(lambda: masked_flow(2, (WIDE, WIDE)), LAYERS)
variables_of(bounded, 6 * LAYERS)
name = "best epoch, bound 1"
patience = {"patience": FEW_EPOCHS}  # to the end, then back to the best epoch
judge(name, bounded, train_on_few(bounded, name, **patience))


def train(flow, label, points=data.x_train, epochs=EPOCHS, peak=5e-3):
    """Trains on many points, and keeps the weights of the best epoch."""
    rate = training.warmup_cosine(peak, steps=epochs * (len(points) // BATCH))
    adam = keras.optimizers.Adam(rate, global_clipnorm=5.0)
    settings = {"epochs": epochs, "batch": BATCH, "patience": epochs, "seed": seed}
    held = {"validation": data.x_validation}
    return training.fit_density(
        flow, points, optimizer=adam, label=label, **settings, **held
    )


flows = {"MAF": chain(lambda: masked_flow(2, (64, 64)), LAYERS)}
variables_of(flows["MAF"], 6 * LAYERS)
histories = {"MAF": train(flows["MAF"], "MAF")}
judge(f"64 units, {TRAIN_POINTS:,} points", flows["MAF"], histories["MAF"])
results.table(few_rows)

# %% [markdown]
# KL is what counts, in the last two columns.
# (Losses are of the last epoch, KLs of the weights that are kept; the losses of the last row are of other points.)
# The same network on the same points is far nearer now, and with 30,000 points a smaller one comes to within a few hundredths.
#
# Which of the first two did it?
# One seed cannot say, so `make bench` trained the chain with three (KL over the bulk, median, least and most):

# %%
ladders = results.benchmarked("ladders")


for bound in (5, 1):
    for epoch in ("last", "best"):
        runs = ladders[f"800 points, bound {bound}, {epoch} epoch"]
        print(f"bound {bound}, {epoch} epoch:", results.spread(runs, "kl_bulk", 2))

# %% [markdown]
# The bound did.
# Without it every seed is further off, one by more than a thousand nats at its last epoch, and two at the epoch that validation points like best: 200 points do not see the few places that ruin it.
# With it every seed is at 0.15 to 0.20 nats, at the last epoch and at the best alike.

# %%
if course.profile() == "full":
    kl = {row["model"]: row["kl_bulk"] for row in few_rows}
    assert one_history["val_loss"][-1] < 2.2, "the article has 2.15"
    assert min(six_history["val_loss"]) < 1.6, "the article has 1.52"
    assert six_history["loss"][-1] < six_history["val_loss"][-1] - 0.1
    assert kl["best epoch, bound 1"] < kl[f"{LAYERS} MAFs"]
    assert kl[f"64 units, {TRAIN_POINTS:,} points"] < 0.5 * kl["best epoch, bound 1"]

# %% [markdown]
# ## 5.7 RealNVP and NICE, and what a permutation is for
#
# TFP's `RealNVP` is chapter 4's coupling: it keeps the first `num_masked` coordinates and changes the rest by what a function says of them.
# `ShiftAndLogScale` is that function, with a network that it owns.


# %% tags=["definitions"]
def dense_network(inputs, outputs, width, depth=2):
    """(batch, inputs) to (batch, outputs), zero at the start."""
    hidden = [tf_keras.layers.Dense(width, activation="relu") for _ in range(depth)]
    last = tf_keras.layers.Dense(outputs, kernel_initializer="zeros")
    return tf_keras.Sequential([tf_keras.Input((inputs,)), *hidden, last])


class ShiftAndLogScale(tf.Module):
    """For `tfb.RealNVP`: kept (batch, kept) to shift and log-scale of the others."""

    def __init__(self, kept, moved, width, bound=1.0):
        super().__init__()
        self.network = dense_network(kept, 2 * moved, width)
        self.bound = bound

    def __call__(self, x_kept, moved, **condition):
        shift, u = tf.split(self.network(x_kept), 2, axis=-1)
        return shift, self.bound * tf.tanh(u / self.bound)


def affine_coupling(dim=2, kept=1, width=64):
    """RealNVP's bijector with a network of its own."""
    network = ShiftAndLogScale(kept, dim - kept, width)
    return tfb.RealNVP(num_masked=kept, shift_and_log_scale_fn=network)


# %% [markdown]
# `fraction_masked` gives the same number as a fraction of all coordinates.
# With one network in both, they are one function:

# %%
network = shaken(ShiftAndLogScale(kept=1, moved=2, width=16), rng)
by_number = tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=network)
by_fraction = tfb.RealNVP(fraction_masked=1 / 3, shift_and_log_scale_fn=network)
z3 = rng.normal(size=(100, 3)).astype("float32")
assert np.array_equal(by_number.forward(z3), by_fraction.forward(z3))
assert np.array_equal(by_number.forward(z3)[:, 0], z3[:, 0]), "the first one is kept"

# %% [markdown]
# It always keeps the *first* coordinates, layer after layer.
# So in between somebody has to put others in their place.
# In two dimensions a swap does it; in three, `Permute([1, 2, 0])` moves all of them round in a circle.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("permute_three")

# %% [markdown]
# Follow b: the first coupling changes it, the second keeps it and reads it, the third changes it again.
# Does everything reach everything then?


# %%
def reached(bijector):
    """Which output depends on which input: 1 where some slope is not 0."""
    slopes = checks.jacobian(bijector.forward, z3)
    return (np.abs(slopes).max(axis=0) > 1e-6).astype(int)


parts = [affine_coupling(3, kept=1, width=16) for _ in range(3)]
turn = tfb.Permute([1, 2, 0])
three = {
    "one coupling": tfb.Chain(parts[:1]),
    "three, no permutation": tfb.Chain(parts),
    "three, Permute([1, 2, 0])": tfb.Chain([parts[0], turn, parts[1], turn, parts[2]]),
}
for name, bijector in three.items():
    shaken(bijector, rng)
    print(f"{name}:\n{reached(bijector)}")
checks.log_det_error(bijector.inverse, log_det(bijector), z3, 1e-4)
assert reached(bijector).all() and reached(three["three, no permutation"])[0].sum() == 1

# %% [markdown]
# Rows are outputs, columns inputs.
# Without a permutation, three couplings are no better than one: the first coordinate stays the first coordinate.
# With it, everything depends on everything.
#
# ### NICE
#
# NICE (Dinh et al., 2015) came first: a shift and no scale.
# TFP's `real_nvp_default_template`, a ready-made function of shift and log-scale, has a switch for it, `shift_only=True`; a function of one's own that gives `None` for the log-scale, or a bijector that shifts, is the same.


# %% tags=["definitions"]
class ShiftAlone(tf.Module):
    """Kept coordinates to a bijector that shifts the others."""

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
    scale = tfb.Scale(log_scale=tf.Variable(tf.zeros(2)))
    return density(tfb.Chain([scale, couplings]))


# %% [markdown]
# `nice` adds one scale for each coordinate, next to $x$ (the paper has it next to $z$).
# Three ways to write the coupling, one log-determinant, 0:

# %%
import warnings

warnings.simplefilter("ignore")  # the template warns of an old kind of layer
template = tfb.real_nvp_default_template([16, 16], shift_only=True)
shift = ShiftAlone(kept=1, moved=1, width=16)
ways = {
    "shift_only=True": tfb.RealNVP(num_masked=1, shift_and_log_scale_fn=template),
    "None for the log-scale": tfb.RealNVP(
        num_masked=1, shift_and_log_scale_fn=lambda x, n: (shift.network(x), None)
    ),
    "a bijector": tfb.RealNVP(num_masked=1, bijector_fn=shift),
}
some = data.x_test[:500]
for name, bijector in ways.items():
    largest = np.abs(log_det(bijector)(some)).max()
    found = len(bijector.trainable_variables)
    print(f"{name}: largest log-determinant {largest:.0f}, {found} variables found")
    assert largest == 0

# %% [markdown]
# (The template has variables that are not found, and the function hides its network's, [as in A1](A1_breaks.ipynb): of the three only the last can be trained by `trainable_variables`.)
#
# A log-determinant of 0 everywhere means that NICE's couplings move areas about and never change them.
# [Appendix A4](A4_which.ipynb#a43-what-nice-can-never-do) shows how much that costs, and that no training mends it.
#
# ### Four chains
#
# MAF is trained already.
# The same points, epochs and schedule for IAF, RealNVP and NICE.
# IAF, too, learns from data here, through its slow direction.
# (`unroll_loop=True` writes the passes out in the graph; with TFP's own loop the compiler, XLA, takes minutes.)


# %%
def iaf_layer(hidden=(64, 64)):
    return tfb.Invert(masked_flow(2, hidden, unroll_loop=True))


flows |= {
    "IAF": chain(iaf_layer, LAYERS),
    "RealNVP": chain(affine_coupling, COUPLINGS),
    "NICE": nice(COUPLINGS),
}
counts = {
    name: variables_of(
        flow, 6 * (LAYERS if "AF" in name else COUPLINGS) + (name == "NICE")
    )
    for name, flow in flows.items()
}
for name in ("IAF", "RealNVP", "NICE"):
    histories[name] = train(flows[name], name)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
panels = {"the truth": np.exp(truth.log_prob(contour_square)).reshape(120, 120)}
panels |= {name: snapshot(flow)[1] for name, flow in flows.items()}
figure, axes = plt.subplots(2, 5, figsize=(plots.WIDTH, 4.2))
for column, (name, q) in zip(axes.T, panels.items()):
    column[0].contourf(
        over, over, q, levels=np.linspace(0.02, 0.6, 9), cmap="BuPu", extend="max"
    )
    column[0].set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
    column[0].set_title(name, fontsize=10)
    drawn = (
        data.x_test[:1_500]
        if name == "the truth"
        else flows[name].sample(1_500, seed=(0, 1)).numpy()
    )
    plots.draw_points(column[1], drawn, limit=2.6)
    for axis in column:
        axis.tick_params(labelsize=6)
figure.tight_layout()
plots.show(
    figure,
    alt="Densities and samples of MAF, IAF, RealNVP and NICE beside the truth: "
    "NICE's moons are uneven, with dark specks between them",
)

# %% [markdown]
# MAF, IAF and RealNVP look like the truth, but for a pale band or specks between the moons.
# NICE's moons are dark at the inner ends and faint at the outer ones.
# In numbers, and with the checks of chapter 4:

# %%
rows = []
for name, flow in flows.items():
    log_prob = training.compiled(flow.log_prob, flow)
    kl = truth.integrate_kl(log_prob)
    bijector = flow.bijector
    inverse = checks.inverse_error(bijector.inverse, bijector.forward, some, 1e-2)
    determinant = checks.log_det_error(bijector.inverse, log_det(bijector), some, 1e-2)
    row = {"model": name, "kl_plane": kl.plane, "kl_bulk": kl.bulk}
    row |= {"train_seconds": histories[name]["seconds"][-1]}
    row |= {"parameters": counts[name]}
    rows.append(row | {"inverse_error": inverse, "log_det_error": determinant})
    checks.integral(log_prob, limit=6.0, points=500, tolerance=2e-2)
    assert kl.trouble is None
results.table(rows)

# %% [markdown]
# All four pass: inverse, log-determinant, integral, and a KL that is not below 0.
# NICE is furthest from the truth.
# For the others one seed makes no rank.
# `make bench` has three seeds of each, trained for twice as many epochs at twice the rate (KL over the plane in nats: median, least and most):

# %%
bench = results.benchmarked("moons")
for name in ("RealNVP", "MAF", "IAF", "NICE"):
    print(f"{name:8}", results.spread(bench[f"{name} (5)"], "kl_plane"))

# %% [markdown]
# With three seeds RealNVP (eight couplings), MAF and IAF (six layers) cannot be told apart.
# In two dimensions they are nearly one family, and depth and training matter more: chapter 4's RealNVP, with sixteen couplings and a longer training, is nearer to the truth than all of them.
# A layer of any of them is an affine change of one coordinate by the other, but for one more scale and shift that are the same for all points (exercise 2).
# They part in more dimensions, and [appendix A4](A4_which.ipynb) has the contest.

# %% [markdown]
# ## 5.8 Batch normalisation
#
# RealNVP's paper (section 3.7) trains deep stacks with batch normalisation between the layers, and TFP has it as a bijector.
# From data to latent points it subtracts a mean $m_i$, divides by a deviation $\sqrt{v_i + \epsilon}$ (variance $v_i$, a small $\epsilon$), and learns a scale $\gamma_i$ and a shift after that.
# Its log-determinant is $\sum_i \left(\log \gamma_i - \tfrac12 \log(v_i + \epsilon)\right)$.
#
# But which mean and which variance?
# While training, `inverse` takes those of *this batch*, and `forward` those averaged over past batches.
#
# Even the log-determinant has two answers.
# The density is that of equation 4.1, and we write it out; beside it, TFP's `log_prob` of the same points:


# %%
def log_prob_of_batch(flow, x):
    """log p of the points of a batch, all of it by the statistics of that batch."""
    z = flow.bijector.inverse(x)
    return flow.distribution.log_prob(z) + flow.bijector.inverse_log_det_jacobian(x, 1)


alone = density(tfb.BatchNormalization())
doubled = tf.constant(2 * data.x_train[:BATCH])  # variance 4 in place of 1
for name, log_q in {
    "written out": log_prob_of_batch(alone, doubled),
    "log_prob": alone.log_prob(doubled + 0.0),
}.items():
    print(f"{name}: NLL {-tf.reduce_mean(log_q):.3f}")
written_out = log_prob_of_batch(alone, doubled)
assert abs(-tf.reduce_mean(written_out) - 4.23) < 0.1
assert tf.reduce_mean(alone.log_prob(doubled + 0.0) - written_out) > 0.5

# %% [markdown]
# The points have been spread out to twice their width, so their NLL must be about $2 \log 2 = 1.39$ above that of $\mathcal{N}(0, I)$: the first number is right.
# `log_prob` brings the points to latent space by the batch's statistics, and takes the log-determinant with the averaged ones, which know little of this batch yet.
# (TFP 0.25; it goes by `forward_log_det_jacobian`.)
#
# To train with it would go wrong.
# If a coupling before the normalisation stretches the points, its own log-determinant rises, and the loss falls.
# The normalisation shrinks them again, which should cost as much; but that cost is taken from averages over past batches, which do not depend on the weights, so the gradient does not see it.
# The *value* of the loss sees it later, when the averages have followed.
#
# So we train with the formula written out, and then look at both modes.

# %%
norms = [tfb.BatchNormalization() for _ in range(3)]
inner = [affine_coupling() for _ in range(4)]


def with_norms(training_mode):
    """A chain of couplings with batch normalisation in between; one set of weights."""
    parts = [inner[0]]
    for norm, coupling in zip(norms, inner[1:]):
        normalise = tfb.BatchNormalization(norm.batchnorm, training=training_mode)
        parts += [tfb.Permute([1, 0]), normalise, coupling]
    return density(tfb.Chain(parts))


learning, fixed = with_norms(True), with_norms(False)
log_prob_of_batch(learning, data.x_train[:BATCH])  # makes the variables of the norms
print(f"{variables_of(learning, 4 * 6 + 3 * 2):,} weights")

# %%
adam = keras.optimizers.Adam(2e-3, global_clipnorm=5.0)
weights = learning.trainable_variables


@tf.function
def step(x):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(log_prob_of_batch(learning, x))
    adam.apply(tape.gradient(loss, weights), weights)
    return loss


losses = []
for _ in range(course.choose(full=1_500, quick=400)):
    batch = data.x_train[rng.integers(0, len(data.x_train), BATCH)]
    losses.append(float(step(tf.constant(batch))))
print(f"loss of the first batch {losses[0]:.2f}, of the last {losses[-1]:.2f}")
assert losses[-1] < losses[0] - 0.5

# %%
table = {}
for name, flow in {"afterwards": fixed, "while training": learning}.items():
    bijector, x = flow.bijector, tf.constant(data.x_test[:500])
    back = bijector.forward(bijector.inverse(x) + 0.0)
    twenty = log_prob_of_batch(flow, x[:20])
    table[name] = {
        "inverse error": float(tf.reduce_max(tf.abs(back - x))),
        "NLL of 500 points": float(-tf.reduce_mean(log_prob_of_batch(flow, x))),
        "NLL of 20 of them": float(-tf.reduce_mean(twenty)),
    }
exact_nll = [-truth.log_prob(data.x_test[:n]).mean() for n in (500, 20)]
table["the truth"] = dict(zip(list(table["afterwards"])[1:], exact_nll))
pd.DataFrame(table).T.round(4).fillna("")

# %% [markdown]
# While training, the two directions disagree by far more than rounding, and what is called the density of a point depends on which others are in its batch: with twenty points it is another number altogether.
# (Four couplings, shortly trained, are still some 0.16 nats from the truth; that they are ahead of it on twenty points is the luck of these twenty.)
# Afterwards the statistics are fixed, the chain is an ordinary flow, and the checks pass:

# %%
bijector = fixed.bijector
checks.inverse_error(bijector.inverse, bijector.forward, some, 1e-3)
checks.log_det_error(bijector.inverse, log_det(bijector), some, 1e-3)
errors = pd.DataFrame(table).loc["inverse error"]
assert errors["while training"] > 100 * errors["afterwards"]

# %% [markdown]
# A normalisation that depends on the batch and has two answers is a nuisance in a flow.
# [Chapter 6](06_glow.ipynb) has Glow's cure: the same normalisation, with statistics that are set once and then learned.

# %% [markdown]
# ## 5.9 A density without data
#
# Bayes' rule gives a *posterior*: the density of parameters $\theta$ after seeing data, proportional to likelihood times prior.
# We can compute $\tilde p(\theta)$, the product, for any $\theta$.
# What we cannot do is draw from it, or know its constant, $Z = \int \tilde p(\theta)\, d\theta$ (a number; the $Z$ of $p_Z$ is the latent variable).
# There are no points to train on.
#
# A flow $q$ can be trained all the same, on points that it draws *itself*:
#
# $$\mathrm{KL}(q \,\|\, p) = \mathbb{E}_{z}\left[\log q(\theta) - \log \tilde p(\theta)\right] + \log Z, \qquad \theta = g(z), \tag{5.5}$$
#
# with $p = \tilde p / Z$, standard normal $z$, and $g$ the flow's way z → x, here to $\theta$.
# $\log Z$ is a constant, so it need not be known.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("two_trainings")

# %% [markdown]
# (The drawing says $x$ where we now say $\theta$.)
# For each draw we need $\theta$ *and* $\log q(\theta)$, and one pass of IAF gives both: $\log q(\theta) = \log p_Z(z) - \sum_i \alpha_i(z_{<i})$.
# Couplings would do, too; IAF changes every coordinate in each pass.
#
# ### The smallest neural network
#
# Twelve points $(t_k, y_k)$, and a network with one hidden unit, $y = v \tanh(w t)$, with Gaussian noise of deviation 0.2.
# Its parameters are $\theta = (w, v)$, with the prior $\mathcal{N}(0, 2^2)$ for each.

# %% tags=["definitions"]
T_SEEN = np.linspace(-2, 2, 12).astype("float32")
noise = np.random.default_rng(3).normal(size=12)
Y_SEEN = (np.tanh(0.8 * T_SEEN) + 0.2 * noise).astype("float32")


def log_posterior(theta, beta=1.0, t=T_SEEN, y=Y_SEEN):
    """log p̃(theta), the likelihood to the power beta times the prior, both but for
    a constant: (count, 2) to (count,).
    """
    w, v = theta[:, :1], theta[:, 1:]
    misfit = tf.reduce_sum((y - v * tf.tanh(w * t)) ** 2, axis=1) / 0.2**2
    return -0.5 * beta * misfit - 0.5 * tf.reduce_sum(theta**2, axis=1) / 2**2


# %% [markdown]
# With two parameters we can afford the truth: $\tilde p$ on a grid of 360,000 places, which also gives $Z$.

# %%
LIMIT, CELLS = 6.0, 600
SHOWN = 3.5  # the part of the grid that pictures show
theta, cell = checks.square(LIMIT, CELLS)
log_tilde = log_posterior(theta).numpy().astype("float64")
log_z = np.log(np.exp(log_tilde - log_tilde.max()).sum() * cell) + log_tilde.max()
exact = np.exp(log_tilde - log_z)
print(
    f"log Z = {log_z:.3f}; mass where w > 0: {exact[theta[:, 0] > 0].sum() * cell:.3f}"
)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.6))
t_line = np.linspace(-3, 3, 200)
draws = theta[
    np.random.default_rng(1).choice(
        len(theta), 40, p=exact * cell / (exact * cell).sum()
    )
]
for w, v in draws:
    axes[0].plot(t_line, v * np.tanh(w * t_line), color="0.75", linewidth=0.8)
axes[0].plot(T_SEEN, Y_SEEN, "o", color=plots.COLOURS[1])
axes[0].set(
    xlabel="t", ylabel="y = v tanh(w t)", title="data, and curves of the posterior"
)
style = {"origin": "lower", "extent": (-LIMIT, LIMIT) * 2, "cmap": "BuPu"}
axes[1].imshow(exact.reshape(CELLS, CELLS) ** 0.5, **style)
axes[1].set(xlabel="w", ylabel="v", title="posterior (square root)")
axes[1].set(xlim=(-SHOWN, SHOWN), ylim=(-SHOWN, SHOWN))
figure.tight_layout()
plots.show(
    figure,
    alt="Twelve points with forty curves through them; the posterior, two "
    "curved ridges that mirror each other through the origin",
)

# %% [markdown]
# (The right panel shows the square root of the density, as all pictures of it below do, so that its faint arms are seen.)
# The posterior has two ridges.
# Each is bent, since a steep unit with a small weight and a flat one with a large weight give nearly the same curve.
# And there are two, since $v \tanh(w t) = (-v) \tanh(-w t)$: no data can tell $(w, v)$ from $(-w, -v)$.
#
# ### Fresh draws in every step
#
# The training loop, without data: draw, send forward, ask both densities, step.
# `start` and `beta` will be needed below; they are 1 for now.

# %% tags=["definitions"]
import time

from utils.training import warmup_cosine


def forward_and_log_q(flow, z):
    """The points that z becomes, and log q there: (count, dim) to the same and
    (count,).
    """
    x = flow.bijector.forward(z)
    log_det_forward = flow.bijector.forward_log_det_jacobian(z, 1)
    return x, flow.distribution.log_prob(z) - log_det_forward


# %% tags=["definitions"]
def fit_to_density(flow, log_density, steps, start=1.0, batch=512, seed=0):
    """Minimises KL(q ‖ p) by fresh draws of the flow, and gives the seconds it took.

    `log_density(x, beta)` is log p̃. Its power beta rises from `start` to 1 by equal
    factors over the first eight tenths of the steps.
    """
    weights = flow.trainable_variables
    adam = keras.optimizers.Adam(warmup_cosine(3e-3, steps), global_clipnorm=5.0)
    adam.build(weights)

    @tf.function(jit_compile=True)
    def step(number, beta):
        z = tf.random.stateless_normal([batch, 2], tf.stack([seed, number]))
        with tf.GradientTape() as tape:
            x, log_q = forward_and_log_q(flow, z)
            loss = tf.reduce_mean(log_q - log_density(x, beta))
        adam.apply(tape.gradient(loss, weights), weights)

    started = time.perf_counter()
    for number in range(steps):
        beta = min(1.0, start ** (1 - number / (0.8 * steps)))
        step(tf.constant(number), tf.constant(beta, tf.float32))
    return time.perf_counter() - started


# %% [markdown]
# Two approximations, trained in the same way: a chain of four IAFs, and a Gaussian with any mean and covariance.


# %% tags=["definitions"]
def posterior_flow(layers=4):
    """A chain of IAFs for two parameters."""
    return chain(lambda: tfb.Invert(masked_flow(2, (32, 32), unroll_loop=True)), layers)


def gaussian():
    """Any Gaussian in the plane: a shift and a triangular matrix, both trained."""
    triangle = tfp.util.TransformedVariable(tf.eye(2), tfb.FillScaleTriL())
    scale = tfb.ScaleMatvecTriL(triangle)
    return density(tfb.Chain([tfb.Shift(tf.Variable([0.5, 0.5])), scale]))


# %%
def reverse_kl(flow, draws=20_000):
    """KL(q ‖ p) in nats by fresh draws, its standard error, fraction with w > 0."""
    z = np.random.default_rng(7).normal(size=(draws, 2)).astype("float32")
    made, log_q = forward_and_log_q(flow, z)
    terms = (log_q - log_posterior(made)).numpy() + log_z
    kl, error = terms.mean(), terms.std() / draws**0.5
    assert kl > -5 * error, "a KL below 0"
    return kl, error, (made.numpy()[:, 0] > 0).mean()


cold = posterior_flow()
flows_of = {"any Gaussian": (gaussian(), 2), "IAF": (cold, 24)}
for name, (flow, variables) in flows_of.items():
    variables_of(flow, variables)
    seconds = fit_to_density(flow, log_posterior, DENSITY_STEPS)
    kl, error, fraction = reverse_kl(flow)
    print(f"{name}: KL(q ‖ p) {kl:.4f} ± {error:.4f}, w > 0 in {fraction:.0%}", end="")
    print(f", {seconds:.0f} s")

few = np.random.default_rng(8).normal(size=(100, 2)).astype("float32")
made_points, log_q = forward_and_log_q(cold, few)
# `+ 0.0` makes new points, whose way back TFP has to compute
assert np.allclose(log_q, cold.log_prob(made_points + 0.0), atol=1e-2)


# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
def draw_posteriors(panels, alt):
    """The exact posterior, and densities of flows on the same square."""
    figure, axes = plt.subplots(1, len(panels) + 1, figsize=(plots.WIDTH, 3.3))
    shown = {"the truth": exact}
    for name, flow in panels.items():
        log_q = training.compiled(flow.log_prob, flow)
        shown[name] = np.exp(
            np.concatenate([log_q(part) for part in np.split(theta, 36)])
        )
    for axis, (name, values) in zip(axes, shown.items()):
        axis.imshow(
            values.reshape(CELLS, CELLS) ** 0.5, vmax=exact.max() ** 0.5, **style
        )
        axis.set_title(name, fontsize=10)
        axis.set(xlabel="w", ylabel="v" if name == "the truth" else "")
        axis.set(xlim=(-SHOWN, SHOWN), ylim=(-SHOWN, SHOWN))
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    plots.show(figure, alt)


draw_posteriors(
    {name: flow for name, (flow, _) in flows_of.items()},
    "The posterior; a Gaussian on one of its two ridges; an IAF that "
    "follows one ridge round its bend",
)

# %% [markdown]
# All share one scale of colours, which ends at the truth's largest density; a flow with twice as much on one ridge reaches beyond it.
# The Gaussian lies along the densest part of one ridge.
# (It starts a little to that side, at (0.5, 0.5); at the origin only chance would tell it which way to go.)
# The IAF, in the run that is stored here, follows one ridge round the bend, and as far as that ridge goes it is almost exact.
# What it misses is the other ridge.
# If $q$ is one half of $p$, then $q = 2p$ where it lives, and $\mathrm{KL}(q \,\|\, p) = \log 2 = 0.693$: that is the price of half of the truth, perfectly modelled, and the IAF pays it to within 0.01.
#
# ### How a flow loses half of the truth
#
# Look at equation 5.5: the mean is over the flow's own points.
# A place where $\tilde p$ is small costs a lot; a place that no draw visits costs nothing.
# At the start the draws are one cloud around the origin, where $\tilde p$ is small, and it pays at once to leave.
# A flow cannot tear the cloud, so to go to both sides would leave a bridge of draws over the valley, which costs; to go to one side does not.
# And once the draws are on one ridge, no gradient tells of the other.
# The divergence of chapter 4, $\mathrm{KL}(p \,\|\, q)$, is strict where this one is lenient: it asks at every point of the truth.
#
# What helps is *tempering*.
# Take the likelihood to a small power $\beta$ first: at $\beta = 0.01$ the misfit counts a hundredth, and the posterior is broad, two wide lobes that meet around the origin.
# Then let $\beta$ rise to 1 while the flow follows, from wide lobes to narrow ridges.

# %%
warm = posterior_flow()
fit_to_density(warm, log_posterior, DENSITY_STEPS, start=0.01)
kl, error, fraction = reverse_kl(warm)
print(f"tempered: KL(q ‖ p) {kl:.4f} ± {error:.4f}, w > 0 in {fraction:.0%}")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
draw_posteriors(
    {"IAF": cold, "IAF, tempered": warm},
    "The posterior, the IAF on one ridge, and the tempered IAF on both, "
    "with a thin bridge",
)

# %% [markdown]
# Both ridges, in the run that is stored here.
# Does it always work?
# `make bench` trained ten seeds of each:

# %%
figures = {
    name: bench[f"posterior, {name}"]
    for name in ("any Gaussian", "IAF", "IAF, tempered")
}
for name, runs in figures.items():
    both = sum(0.05 < run["fraction"] < 0.95 for run in runs)
    said = results.spread(runs, "kl_reverse", 3)
    print(f"{name:14} KL(q ‖ p) {said}, both ridges in {both} of {len(runs)}")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 2.4))
for row, runs in enumerate(figures.values()):
    kls = [run["kl_reverse"] for run in runs]
    height = row + np.linspace(-0.2, 0.2, len(kls))
    axis.plot(kls, height, "os^"[row], color=plots.COLOURS[row], fillstyle="none")
axis.axvline(np.log(2), color="0.5", linestyle=":")
axis.annotate(
    "log 2",
    (np.log(2), 2.45),
    ha="center",
    va="bottom",
    fontsize=9,
    annotation_clip=False,
)
axis.set(
    yticks=range(len(figures)),
    yticklabels=list(figures),
    xlabel="KL(q ‖ p) in nats, a mark a seed",
    xlim=(0, 1.1),
    ylim=(-0.5, 2.4),
)
plots.show(
    figure,
    alt="Marks of ten seeds: Gaussians at 0.93; IAFs, seven at log 2 and three near "
    "0.1; tempered IAFs, nine between 0.1 and 0.4 and one above log 2",
)

# %% [markdown]
# The dotted line is $\log 2$, the price of one lost ridge.
# (A seed has both ridges if more than a twentieth of its draws are on each.)
# Without tempering seven of ten seeds end there, and three happen to keep both, at 0.08 to 0.09 nats.
# With it nine keep both, at 0.12 to 0.35 nats, for a bridge between the ridges and for giving one of them more than its half; one seed lost a ridge all the same.
# So tempering helps to find both ridges, and promises nothing; and the three that found them without it are nearer than any of the nine.
# One has to know, or check, that there is a second ridge, for the loss does not say: the flow on one ridge looks finished.

# %%
if course.profile() == "full":
    assert reverse_kl(cold)[0] < np.log(2) + 0.05 and kl < 1

# %% [markdown]
# ## What we measured

# %%
rows.append({"model": "posterior, IAF", "reverse_kl": reverse_kl(cold)[0]})
rows.append({"model": "posterior, IAF, tempered", "reverse_kl": kl})
total = time.perf_counter() - STARTED
results.record("05_tfp_flows", data=data.name, seconds=total, rows=rows)

# %% [markdown]
# ## Summary
#
# - Every density is a product of conditional densities of single numbers.
#   MADE gives the parameters of all of them in one pass, because paths from $x_j$ to the outputs of $i \le j$ are cut.
# - MAF reads $x$: its density takes one pass, its samples $D$.
#   IAF reads $z$: the other way round.
#   Couplings take one pass both ways and change less in a layer.
# - TFP has them all.
#   Count the variables before training.
# - A flow with many weights and no bound on its log-scales fits 800 points, and may give next to no density to places between them where no validation point happens to fall.
#   A bound of 1 cures that.
#
# - TFP's coupling keeps the first coordinates; a permutation gives the others their turn.
# - While it trains, batch normalisation has two answers for one point, and TFP's `log_prob` mixes them.
# - Trained on its own draws, a flow approximates a density that is known up to a constant.
#   It is content with a part of it; tempering often finds the rest.
#
# [Appendix A4](A4_which.ipynb) asks which flow to take for what.
# [Chapter 6](06_glow.ipynb) takes couplings to images.
#
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.**
# Write the two masks of a MADE for $D = 3$ with one hidden layer of four units on paper: first the degrees, then the zeros and ones.
# How many paths lead from $x_1$ to each of the two outputs of coordinate 3?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# Degrees of the inputs 1, 2, 3 and of the hidden units 1, 1, 2, 2. Input j reaches
# hidden units of degree j and more: rows 1111, 0011, 0000. Hidden units of degree m
# reach outputs above m: 0 1 1 for degree 1, 0 0 1 for degree 2. From x₁ all four
# hidden units lead to output 3.
first, last = made_masks(3, [4])
print(first.astype(int), last.astype(int), (first @ last).astype(int), sep="\n\n")
assert (first @ last)[0, 2] == 4

# %% [markdown]
# **2. Derive.**
# In two dimensions, with the order $x_1, x_2$: write one MAF layer, on its way x → z, as a coupling that keeps $x_1$, followed by one more bijector.
# What is that bijector, and what does it say about MAF, IAF and RealNVP in section 5.7?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# mu_1 and alpha_1 see nothing: they are two constants (biases). x₂ gets scale and shift
# by functions of x₁, and x₁ = mu_1 + e^alpha_1 z₁. So x → z is: first a coupling that
# keeps x₁, then x₁ is shifted by mu_1 and scaled by e^alpha_1, two constants; the code
# below does these in the other order.
# An IAF's mu_2 and alpha_2 read z₁, which is x₁ shifted and scaled by constants. So
# chains of MAFs, IAFs and couplings are one family in 2-D, but for constants; those of
# section 5.7 differ in depth and seed.
layer = MAF(shaken(build_made(2, (16, 16)), rng))
mu, alpha = (ops.convert_to_numpy(v) for v in layer.mu_and_alpha(data.x_test[:200]))
assert np.ptp(mu[:, 0]) == np.ptp(alpha[:, 0]) == 0
z = data.x_test[:200]
x1 = mu[:, 0] + np.exp(alpha[:, 0]) * z[:, 0]  # the constants
mu, alpha = layer.mu_and_alpha(np.stack([x1, 0 * x1], axis=1))
x2 = mu[:, 1] + ops.exp(alpha[:, 1]) * z[:, 1]  # the coupling
assert np.allclose(np.stack([x1, x2], axis=1), layer.forward(z), atol=1e-5)

# %% [markdown]
# **3. Find the bug.**
# Somebody wrote the masks anew.
# A MAF with them trains on two moons, and its loss falls below that of the truth.
# Which checks of this chapter find it, and what is wrong?


# %%
def suspect_masks(dim, hidden):
    degrees = made_degrees(dim, hidden)
    masks = [before[:, None] <= after for before, after in pairwise(degrees)]
    masks.append(degrees[-1][:, None] <= degrees[0])
    return [mask.astype("float32") for mask in masks]


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# The last comparison must be strict. With <=, the outputs of every coordinate but the
# last see their own x_i: the Jacobian's diagonal is then not e^-alpha alone, so
# equation 5.3 is wrong. The paths show it on the diagonal, and `dependency` would, too;
# so would the inverse, the log-determinant, and of a trained one the integral and the
# KL.
suspect, right = (
    np.linalg.multi_dot(masks(4, [6, 6])).T for masks in (suspect_masks, made_masks)
)
print(suspect.astype(int))
assert np.diag(suspect).any() and not np.diag(right).any()

# %% [markdown]
# **4. Predict.**
# Suppose that the model of section 5.9 assumed five times the noise, 1 in place of 0.2, for the same twelve points.
# Does an IAF without tempering still lose a ridge?
# Say why first, then train it.
# (Which power of the likelihood is the same as five times the noise?)


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# The misfit is divided by the variance, so five times the noise is the power 1/25.
# The ridges are then wide and nearly meet at the origin: the valley between them is 3
# nats deep in place of 80. A bridge costs little, nothing drives the draws to one side,
# and no ridge is lost (by one seed, which alone would show little). (log Z is another
# one, and needs a wider grid.)
def log_noisy(theta, beta=1.0):
    return log_posterior(theta, beta / 25)


noisy = posterior_flow()
fit_to_density(noisy, log_noisy, DENSITY_STEPS // 2)
wide_square, wide_cell = checks.square(8.0, CELLS)
log_wide = log_noisy(wide_square).numpy().astype("float64")
log_z_noisy = np.log(np.exp(log_wide).sum() * wide_cell)
z = rng.normal(size=(20_000, 2)).astype("float32")
drawn, log_q = forward_and_log_q(noisy, z)
kl_noisy = float(tf.reduce_mean(log_q - log_noisy(drawn))) + log_z_noisy
both = (drawn.numpy()[:, 0] > 0).mean()
print(f"KL(q ‖ p) {kl_noisy:.4f}, w > 0 in {both:.0%}")
assert -0.02 < kl_noisy < course.choose(full=0.1, quick=0.5)

# %% [markdown]
# **5. Build.**
# The symmetry of the posterior is known, so it can be built in: take the flow of section 5.9 that found one ridge, `cold`, and flip the sign of its draws $(w, v)$ with probability 1/2.
# What is the density of such a mixture, and how close does it come?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 5
# The density is the mean of q at theta and at -theta: log q̄ = log(q(θ) + q(-θ)) -
# log 2. Where q lives on one ridge, q(-θ) is next to 0 there, and log q̄ = log q -
# log 2: the KL of 0.693 + ε becomes ε. Both densities are symmetric, so the flow's own
# draws, not flipped, give the same mean.
z = rng.normal(size=(50_000, 2)).astype("float32")
made_points, _ = forward_and_log_q(cold, z)
both = np.stack([cold.log_prob(made_points + 0.0), cold.log_prob(0.0 - made_points)])
log_mean = np.logaddexp(*both) - np.log(2)
terms = log_mean - log_posterior(made_points).numpy()
kl_flipped, error = terms.mean() + log_z, terms.std() / len(terms) ** 0.5
print(f"with the sign flipped: KL {kl_flipped:.4f} ± {error:.4f}")
assert -5 * error < kl_flipped < course.choose(full=0.25, quick=0.5)

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - C. Kang. [AutoRegressive flows and RealNVP](https://goodboychan.github.io/python/coursera/tensorflow_probability/icl/2021/09/08/01-AutoRegressive-flows-and-RealNVP.html). 2021. The experiment of section 5.6.
# - M. Germain, K. Gregor, I. Murray, H. Larochelle. [MADE: Masked Autoencoder for Distribution Estimation](https://arxiv.org/abs/1502.03509). ICML, 2015. Section 4: the masks.
# - G. Papamakarios, T. Pavlakou, I. Murray. [Masked Autoregressive Flow for Density Estimation](https://arxiv.org/abs/1705.07057). NeurIPS, 2017. Equations 3 and 4.
# - D. P. Kingma, T. Salimans, R. Jozefowicz, X. Chen, I. Sutskever, M. Welling. [Improved Variational Inference with Inverse Autoregressive Flow](https://arxiv.org/abs/1606.04934). NeurIPS, 2016.
#
# - L. Dinh, D. Krueger, Y. Bengio. [NICE: Non-linear Independent Components Estimation](https://arxiv.org/abs/1410.8516). ICLR workshop, 2015.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. [Density estimation using Real NVP](https://arxiv.org/abs/1605.08803). ICLR, 2017. Section 3.7: batch normalisation.
# - D. J. Rezende, S. Mohamed. [Variational Inference with Normalizing Flows](https://arxiv.org/abs/1505.05770). ICML, 2015. A flow as an approximate posterior.
# - J. Dillon et al. [TensorFlow Distributions](https://arxiv.org/abs/1711.10604). 2017. What a bijector is, and how it keeps what it computed.
