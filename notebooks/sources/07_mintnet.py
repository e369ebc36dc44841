# %% [markdown]
# # Chapter 7 · MintNet
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/07_mintnet.ipynb)
#
# **May a layer move every number at once, and still be undone?**
# A coupling leaves half of a point alone; that half is the key with which the other half is unlocked.
# MintNet, the *masked invertible network* (Song, Meng and Ermon, 2019), leaves nothing alone.
# Its layers are three masked matrices in a row whose Jacobian is triangular, with a diagonal that never touches zero.
# That is enough for an inverse to exist and for a cheap determinant.
# It is not enough for a formula: the way back, from latent points to data, has to be searched for.
# This chapter builds the layer, shows why it can be undone, undoes it, and measures what that costs.

# %% [markdown]
# **You will learn**
# - what the matrix of a convolution looks like, and what a mask makes of it;
# - why tied signs make a layer invertible, and what a fold looks like;
# - how to undo a layer by a five-line iteration, what its step size does, and what helps when it does not arrive;
# - what a layer cannot see, and why lower and upper layers come in pairs;
# - where MintNet stands beside NICE, RealNVP and MAF, how it does beside Glow, and what a sample costs.
#
# **In the book**: not there; chapter 6 (노멀라이징 플로) stops before it.
#
# **Needs**: [chapter 4](04_realnvp.ipynb), [chapter 6](06_glow.ipynb), of [chapter 5](05_tfp_flows.ipynb) what a MAF is, and Fashion-MNIST for the last part (31 MB, downloaded once).
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

# %%
import time

STARTED = time.perf_counter()
TRAIN_POINTS = course.choose(full=30_000, quick=6_000)
LAYERS = course.choose(full=8, quick=4)  # for points
UNITS = course.choose(full=16, quick=8)  # for each coordinate
EPOCHS = course.choose(full=100, quick=6)
BATCH = course.choose(full=256, quick=128)
PEAK_RATE = 3e-3
PAIRS = course.choose(full=4, quick=1)  # of a lower and an upper layer, for images
IMAGE_UNITS = course.choose(full=16, quick=4)  # for each channel
IMAGE_EPOCHS = course.choose(full=3, quick=1)
IMAGES = course.choose(full=60_000, quick=1_024)
IMAGE_PEAK_RATE = 4e-2
TEST_IMAGES = course.choose(full=10_000, quick=300)
TEMPERATURE = 0.8
seed = course.seed(42)

# %%
course.require("keras")

import matplotlib.pyplot as plt
import numpy as np
from keras import ops

from utils import checks, moons, plots, results

data = moons.load(TRAIN_POINTS)
truth, rng = data.truth, np.random.default_rng(seed)

# %% [markdown]
# ## 7.1 A kernel is a matrix
#
# A convolution is linear: the output of a sum of inputs is the sum of their outputs, and a doubled input doubles it.
# So on signals of a fixed length it is a matrix.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("kernel_matrix")

# %% [markdown]
# Every row of the matrix holds the same three weights, one place further on (the first and the last row lose one at the edge).
# Row 3 is what the kernel does while its middle lies on $x_3$.
# Here is Keras' convolution beside that matrix:

# %% tags=["nbval-check-output"]
a, b, c = 1.0, 2.0, -1.0
W = a * np.eye(5, k=-1) + b * np.eye(5) + c * np.eye(5, k=1)
x = np.float32([1, 3, 2, 5, 4])
kernel = np.float32([a, b, c])
by_keras = ops.conv(x.reshape(1, 5, 1), kernel.reshape(3, 1, 1), padding="same")
by_keras = ops.convert_to_numpy(by_keras).ravel()
print("by the kernel:", by_keras)
print("by the matrix:", W @ x)
assert np.allclose(by_keras, W @ x)

# %% [markdown]
# Without $c$ the matrix is **lower triangular**: output $i$ depends on inputs up to $i$ alone.
# Its determinant is the product of its diagonal.

# %% tags=["nbval-check-output"]
W[np.triu_indices(5, 1)] = 0
print(W.astype(int))
print(f"determinant {np.linalg.det(W):.0f}, and b⁵ = {b**5:.0f}")

# %% [markdown]
# The same holds for images, once their pixels are numbered row by row.
# To find the matrix of any linear function, ask what it makes of each single pixel:


# %%
def matrix_of(kernel, side=4):
    """The matrix (side², side²) of a convolution of images (side, side)."""
    pixels = np.eye(side**2, dtype="float32").reshape(-1, side, side, 1)
    kernel = kernel.reshape(3, 3, 1, 1).astype("float32")
    outputs = ops.conv(pixels, kernel, padding="same")
    return ops.convert_to_numpy(outputs).reshape(side**2, side**2).T


kernel = np.arange(1, 10).reshape(3, 3)
before = np.array(
    [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
)  # earlier pixels and the pixel itself
plain, masked = matrix_of(kernel), matrix_of(kernel * before)
assert np.triu(plain, 1).any() and not np.triu(masked, 1).any()
assert np.isclose(np.linalg.det(masked.astype("float64")), 5.0**16)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(
    1, 4, figsize=(plots.WIDTH, 3.2), width_ratios=[1, 2.4, 1, 2.4]
)
for left, right, weights, matrix, title in (
    (*axes[:2], kernel, plain, "a convolution"),
    (*axes[2:], kernel * before, masked, "a masked one"),
):
    left.imshow(weights, cmap="Blues", vmin=0, vmax=12)
    for (row, column), value in np.ndenumerate(weights):
        left.text(column, row, value, ha="center", va="center")
    left.set(xticks=[], yticks=[], title="kernel")
    shown = np.where(matrix == 0, np.nan, matrix)
    right.imshow(shown, cmap="Blues", vmin=0, vmax=12)
    ticks = {"xticks": [0, 5, 10, 15], "yticks": [0, 5, 10, 15]}
    right.set(xlabel="pixel of the input", ylabel="pixel of the output", **ticks)
    right.set_title(title)
figure.tight_layout()
plots.show(
    figure,
    alt="Two kernels and their matrices of 16 by 16; the second is lower triangular",
)

# %% [markdown]
# On the left three bands instead of one, for the three rows of the kernel; the gaps in them are the edges of the image.
# (Pixels are counted from 0 here.)
# On the right nothing is left above the diagonal, and the determinant is $5^{16}$.
# A determinant of $d$ rows costs about $d^3$ operations; this one costs $d$.
#
# A flow of masked matrices would be cheap, and useless: all of them together are one matrix.
# It must bend, and bending is where invertibility is won or lost.

# %% [markdown]
# ## 7.2 One number: a fold, and how tied signs prevent it
#
# Take one number $x$ and a small network of three layers with a straight part beside it:
#
# $$f(x) = |t|\,x + \sum_{s} c_{3,s}\, h\Big(\sum_r c_{2,sr}\, h(c_{1,r}\, x + b_{1,r}) + b_{2,s}\Big).$$
#
# The $m$ hidden units of the first layer are numbered by $r$, those of the second by $s$; the $c$ are weights, $b_1$ and $b_2$ biases, $t$ is a slope.
# The nonlinearity $h$ is an ELU: $h(u) = u$ for $u > 0$ and $e^u - 1$ for the rest, so its own slope $h'$ is 1, or $e^u$: positive everywhere.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops


def elu_slope(u):
    """h'(u) of ELU: 1 for positive numbers, e^u for the others."""
    return ops.exp(ops.minimum(u, 0.0))


# %% [markdown]
# By the chain rule, $f'(x) = |t| + \sum_{r,s} c_{3,s}\, h'\, c_{2,sr}\, h'\, c_{1,r}$: one term for each way through the network.
# With free weights some ways count negative, the slope may change its sign, and $f$ **folds**: two numbers $x$ have the same $z$, and nobody can say from which one it came.
# But the sign of a term is the sign of $c_{3,s}\, c_{2,sr}\, c_{1,r}$ alone.
# So give $c_2$ the sign of $c_3 c_1$, and no term is ever negative.
# That is the whole trick:


# %% tags=["definitions"]
def tied(c1, w2, c3):
    """w2 (…, n, n) with signs such that no c3[s] w2[s, r] c1[r] is negative."""
    return ops.abs(w2) * ops.sign(c3)[:, None] * ops.sign(c1)


# %% [markdown]
# The same random weights, with free signs and with tied ones:


# %%
def one_number(x, c1, c2, c3, b1, b2, t=0.2, h=ops.elu):
    """f(x) of numbers x (count,)."""
    h1 = h(x[:, None] * c1 + b1)
    h2 = h(ops.matmul(h1, ops.transpose(c2)) + b2)
    return t * x + ops.matmul(h2, c3)


draws = np.random.default_rng(1466)  # chosen among many, for a clear fold
c1, c3, b1, b2 = draws.normal(size=(4, 6)).astype("float32")
c2, b1 = draws.normal(size=(6, 6)).astype("float32"), 2 * b1
line = np.linspace(-4, 4, 801, dtype="float32")
folded = ops.convert_to_numpy(one_number(line, c1, c2, c3, b1, b2))
rising = ops.convert_to_numpy(one_number(line, c1, tied(c1, c2, c3), c3, b1, b2))
assert (np.diff(folded) < 0).any() and (np.diff(rising) > 0).all()

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
with_relu = one_number(line, c1, tied(c1, c2, c3), c3, b1, b2, h=ops.relu)
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.2))
axes[0].plot(line, folded, color=plots.COLOURS[1])
level = np.median(folded) + 1e-3
crossing = line[:-1][np.diff(np.sign(folded - level)) != 0]
axes[0].axhline(level, color="grey", linewidth=1)
axes[0].plot(crossing, np.full(len(crossing), level), "o", color="black")
axes[0].set(
    title=f"free signs: {len(crossing)} x for one z", xlabel="x", ylabel="z = f(x)"
)
axes[1].plot(line, rising, color=plots.COLOURS[0])
axes[1].set(title="tied signs: one x for each z", xlabel="x")
middles = (line[1:] + line[:-1]) / 2
for values, name, colour, style in (
    (rising, "ELU", plots.COLOURS[0], "-"),
    (ops.convert_to_numpy(with_relu), "ReLU", plots.COLOURS[1], "--"),
):
    slope = np.diff(values) / np.diff(line)
    axes[2].plot(middles, slope, style, color=colour, label=name)
axes[2].set(title="slope of f, tied signs", xlabel="x")
axes[2].set_ylim(0)
axes[2].legend(frameon=False)
figure.tight_layout()
plots.show(
    figure,
    alt="Left a curve that falls and rises, with a level that it crosses three times. "
    "Middle a curve that climbs everywhere. Right the slopes of the climbing curve "
    "with ELU, which is continuous, and with ReLU, a staircase with jumps",
)

# %% [markdown]
# Left, three numbers $x$ share one $z$: the fold.
# In the middle the same weights, signs tied: $f$ climbs everywhere.
# It is also nowhere flatter than $|t| = 0.2$, so it reaches every $z$, and reaches it once.
#
# Right, what ReLU would spoil: its slope is 0 or 1, so the slope of $f$ is a staircase.
# A density, which contains the logarithm of that slope, would have a cliff at each step, and between the steps the slope could not bend with $x$ at all.
# ELU, tanh and sigmoid have slopes that are positive and change without a jump.
#
# (A slope that is nowhere 0 is enough for an inverse, but it is not necessary: $x^3$ can be undone, though it is flat at 0.
# As a flow it would put the density 0 there, whose logarithm is $-\infty$.)

# %% [markdown]
# ## 7.3 Two numbers, by hand
#
# Now two coordinates, one hidden unit for each ($m = 1$), and all three matrices lower triangular:


# %%
def h(u):
    return np.where(u > 0, u, np.expm1(np.minimum(u, 0)))


def h_slope(u):
    return np.exp(np.minimum(u, 0))


W1 = np.array([[1.0, 0.0], [0.7, -1.5]])  # rows: to, columns: from
W2 = np.array([[0.8, 0.0], [-2.0, 0.9]])
W3 = np.array([[0.6, 0.0], [1.1, -0.5]])
t, x = np.array([1.0, 1.0]), np.array([0.5, 1.0])

# %% [markdown]
# The first coordinate of $z = |t| \odot x + W_3\, h(W_2\, h(W_1 x))$ depends on $x_1$ alone, the second on both ($\odot$ multiplies number by number).
# Its Jacobian is a product of five matrices, three of them triangular and two diagonal, plus $|t|$ on the diagonal.
# So it is triangular:

# %% tags=["nbval-check-output"]
u1 = W1 @ x
u2 = W2 @ h(u1)
z = np.abs(t) * x + W3 @ h(u2)
by_hand = (
    np.diag(np.abs(t)) + W3 @ np.diag(h_slope(u2)) @ W2 @ np.diag(h_slope(u1)) @ W1
)
print("z =", z.round(3))
print(by_hand.round(3))

# %% [markdown]
# Take the second number on the diagonal with pencil and paper.
# The first sum of coordinate 2 is $0.7 \cdot 0.5 - 1.5 \cdot 1 = -1.15$, where $h$ has the slope $e^{-1.15} = 0.317$.
# Its second sum is $-2 \cdot h(0.5) + 0.9 \cdot h(-1.15) = -1.615$, where the slope is $e^{-1.615} = 0.199$.
# So
#
# $$\frac{\partial z_2}{\partial x_2} = |t_2| + c_3\, h'\, c_2\, h'\, c_1 = 1 + (-0.5) \cdot 0.199 \cdot 0.9 \cdot 0.317 \cdot (-1.5) = 1.043.$$
#
# As factors only the weights that lead from a coordinate to itself are in it, the **centre weights** $c_1, c_2, c_3$.
# All other weights stand below the diagonal and may be anything: they carry what a later coordinate learns from an earlier one, and they only move the slopes $h'$, which stay positive.
# The signs of the centre weights are tied, $(-0.5) \cdot 0.9 \cdot (-1.5) > 0$, so the slope is above 1 whatever $x$ is.
# Automatic differentiation finds the same matrix:


# %%
def by_two(x):
    """The same function for many points, (count, 2), in Keras."""
    w1, w2, w3 = (w.T.astype("float32") for w in (W1, W2, W3))
    h2 = ops.elu(ops.matmul(ops.elu(ops.matmul(x, w1)), w2))
    return x + ops.matmul(h2, w3)


by_autodiff = checks.jacobian(by_two, x[None].astype("float32"))[0]
assert np.allclose(by_autodiff, by_hand, atol=1e-5)
assert by_hand[0, 1] == 0 and by_autodiff[0, 1] == 0

# %% [markdown]
# **Why this can be undone** (the paper's first theorem): if a Jacobian is triangular and its diagonal never touches 0, then $z_1$ depends on $x_1$ alone and climbs (or falls) all the way, so $z_1$ fixes $x_1$.
# With $x_1$ known, $z_2$ depends on $x_2$ alone and climbs, and so on to the last coordinate.
# So there is at most one $x$ for a $z$; that there is one for *every* $z$ follows from $|t| > 0$, as in section 7.2.
#
# **And it may be stacked** (the first proposition): if the Jacobians of $f$ and $g$ are lower triangular everywhere, so are those of $\lambda f + \mu g$, for any numbers $\lambda$ and $\mu$, and of $f(g(x))$.
# The diagonal of the composition at $x$ is that of $f$ at $g(x)$ times that of $g$ at $x$, so a composition of layers that can be undone can be undone.
# A sum can be undone if its diagonal never touches 0, for instance if $\lambda$, $\mu$ and both diagonals are positive.
# Take the function above for $f$, and for $g$ once tanh, in the sum $2f + 3g$, and once itself, in the composition:

# %%
points = rng.normal(size=(50, 2)).astype("float32")
of_sum = checks.jacobian(lambda x: 2 * by_two(x) + 3 * ops.tanh(x), points)
of_both = checks.jacobian(lambda x: by_two(by_two(x)), points)
assert not np.triu(of_sum, 1).any() and not np.triu(of_both, 1).any()
assert np.diagonal(of_sum, axis1=1, axis2=2).min() > 0
inner, outer = (
    np.diagonal(checks.jacobian(by_two, x), axis1=1, axis2=2)
    for x in (points, ops.convert_to_numpy(by_two(points)))
)
assert np.allclose(np.diagonal(of_both, axis1=1, axis2=2), outer * inner, rtol=1e-4)

# %% [markdown]
# ## 7.4 The Mint layer
#
# With $d$ coordinates and $m$ hidden units for each, every entry becomes a block:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("mint_layer")

# %% [markdown]
# $$f(x) = |t| \odot x + W_3\, h\!\left(W_2\, h(W_1 x + b_1) + b_2\right) + b_3.$$
#
# $W_1$ has $dm$ rows and $d$ columns, $W_2$ has $dm$ and $dm$, $W_3$ has $d$ and $dm$; $b_1$, $b_2$ and $b_3$ are biases.
# A block holds the weights from the units of coordinate $j$ (columns) to those of coordinate $i$ (rows).
# Blocks with $j > i$ are 0. Blocks with $j = i$ are the centre weights, and the signs of $c_2$ are tied to those of $c_3$ and $c_1$, as in section 7.2.
# The diagonal is the sum of section 7.2 for each coordinate $i$, over its own units $r$ and $s$ alone:
#
# $$\frac{\partial f_i}{\partial x_i} = |t_i| + \sum_{r, s} c_{3,s}\; h'(u_{2,s})\; c_{2,sr}\; h'(u_{1,r})\; c_{1,r},$$
#
# with the sums $u_1$ and $u_2$ that enter the two nonlinearities.
# The masks are a pattern of blocks:


# %% tags=["definitions"]
def blocks(pattern, rows, columns):
    """Each 1 of a pattern (d, d) as a block (rows, columns) of ones, each 0 as one of
    zeros.
    """
    return np.kron(pattern, np.ones((rows, columns))).astype("float32")


# %% tags=["nbval-check-output"]
print(blocks(np.tril(np.ones((3, 3))), 2, 1).astype(int))

# %% [markdown]
# That is the mask of $W_1$ in the drawing: three coordinates, two units each.
#
# (Training sees no gradient through a sign: the size of $c_2$ is learned, and its sign follows those of $c_1$ and $c_3$.)
#
# As in all chapters `inverse` goes from data to latent points, x → z, and `forward` back.
# Here it is `inverse` that has a formula; for `forward` there is the search of section 7.5, `iterate`.
# An **upper** layer is a lower one with the numbers in reverse order:


# %% tags=["definitions"]
def backwards(x):
    """The numbers of each point, (batch, …), in reverse order."""
    for axis in range(1, len(x.shape)):
        x = ops.flip(x, axis)
    return x


# %% [markdown]
# The logarithm of the determinant is the sum of the diagonal's logarithms, in any layer with a triangular Jacobian and a positive diagonal:


# %% tags=["definitions"]
class Triangular(layers.Layer):
    """A layer whose Jacobian is triangular: a subclass has `lower(x)`, which gives f(x)
    and the Jacobian's diagonal, positive, both of the shape of x, (batch, …).
    """

    def __init__(self, upper):
        super().__init__()
        self.upper = upper

    def random(self, shape, deviation):
        """A weight that starts with random numbers of this deviation."""
        start = keras.initializers.RandomNormal(stddev=deviation)
        return self.add_weight(shape=shape, initializer=start)

    def value_and_diagonal(self, x):
        if not self.upper:
            return self.lower(x)
        f, diagonal = self.lower(backwards(x))
        return backwards(f), backwards(diagonal)

    def inverse(self, x):
        """x -> z and log |det dz/dx|."""
        z, diagonal = self.value_and_diagonal(x)
        return z, ops.sum(ops.log(diagonal), axis=tuple(range(1, len(x.shape))))

    def forward(self, z):
        """z -> x, as far as the search of section 7.5 gets."""
        return iterate(self, z)[0]


# %% [markdown]
# The formula, for layers that have the weights and the masks:


# %% tags=["definitions"]
def times(w, x):
    """The matrix w (to, from) times the numbers on the last axis of x (…, from)."""
    return ops.tensordot(x, w, [[-1], [1]])


class Mint(Triangular):
    """f(x) = |t| ⊙ x + W₃ h(W₂ h(W₁ x + b₁) + b₂) + b₃."""

    times = staticmethod(times)
    centre = staticmethod(lambda w: w)

    def matrices(self):
        """W₁, W₂ and W₃, masked and tied, and the centre weights c₁, c₂ and c₃."""
        c1 = ops.sum(self.centre(self.w1 * self.own1), axis=1)
        c3 = ops.sum(self.centre(self.w3 * self.own3), axis=0)
        w2 = tied(c1, self.w2, c3) * self.own2 + self.w2 * (1 - self.own2)
        w2 = w2 * self.mask2
        c2 = self.centre(w2 * self.own2)
        return self.w1 * self.mask1, w2, self.w3 * self.mask3, c1, c2, c3

    def lower(self, x):
        w1, w2, w3, c1, c2, c3 = self.matrices()
        t = ops.maximum(ops.abs(self.t), 1e-6)
        u1 = self.times(w1, x) + self.b1
        u2 = self.times(w2, ops.elu(u1)) + self.b2
        f = t * x + self.times(w3, ops.elu(u2)) + self.b3
        ways = times(c2, elu_slope(u1) * c1) * elu_slope(u2) * c3
        return f, t + times(self.centre(self.own3), ways)


# %% [markdown]
# `mask1`, `mask2` and `mask3` have a 1 for each weight that there is, `own1`, `own2` and `own3` for each centre weight.
# The vectors $c_1$ and $c_3$ hold one number for each unit.
# `ways` is the part of the diagonal that comes through each unit $s$ of the second layer; the last line adds up the units of each coordinate.
# $|t|$ is kept from coming to 0.
# (`self.times` and `self.centre` are named here because convolutions, in section 7.8, replace them; the bare `times` stays, since the diagonal never leaves its pixel.)
#
# What is left are the weights and masks for points.
# With a small $W_3$ and $t = 1$ a layer starts near $f(x) = x$.


# %% tags=["definitions"]
class MintLayer(Mint):
    """Points (batch, d) to points, with m hidden units for each coordinate."""

    def __init__(self, d, m, upper=False):
        super().__init__(upper)
        lower, eye, n = np.tril(np.ones((d, d))), np.eye(d), d * m
        self.mask1, self.own1 = blocks(lower, m, 1), blocks(eye, m, 1)
        self.mask2, self.own2 = blocks(lower, m, m), blocks(eye, m, m)
        self.mask3, self.own3 = blocks(lower, 1, m), blocks(eye, 1, m)
        self.w1, self.b1 = self.random((n, d), 1.0), self.random((n,), 1.0)
        self.w2, self.b2 = self.random((n, n), n**-0.5), self.random((n,), 0.0)
        self.w3, self.b3 = self.random((d, n), 0.1 / n), self.random((d,), 0.0)
        self.t = self.add_weight(shape=(d,), initializer="ones")
        self.built = True


# %% [markdown]
# ### Is it right?
#
# Automatic differentiation has to find exact zeros above the diagonal (below it, for an upper layer), and on the diagonal what the formula says.
# The layer needs random weights for that: near the identity almost any mistake would pass.

# %%
from utils.chapters import definitions

shaken = definitions("06_glow", "shaken")  # adds random numbers to all weights


def jacobian_of(layer, x):
    """The Jacobians (count, d, d) of a layer at x by automatic differentiation."""
    return checks.jacobian(lambda x: layer.value_and_diagonal(x)[0], x)


points = rng.normal(size=(100, 5)).astype("float32")
for upper in (False, True):
    layer = shaken(MintLayer(5, 8, upper), rng, 0.5)
    jacobian = jacobian_of(layer, points)
    wrong_side = np.tril(jacobian, -1) if upper else np.triu(jacobian, 1)
    diagonal = np.diagonal(jacobian, axis1=1, axis2=2)
    claimed = ops.convert_to_numpy(layer.value_and_diagonal(points)[1])
    assert not wrong_side.any() and diagonal.min() > 0
    assert np.allclose(claimed, diagonal, rtol=1e-4)
    name = "upper" if upper else "lower"
    print(f"{name} layer: slopes from {diagonal.min():.2f} to {diagonal.max():.0f}")

# %% [markdown]
# And the layer itself, with $d = 4$ and $m = 3$: its three matrices, and at one point $x$ the product of section 7.3 beside the Jacobian of automatic differentiation.

# %%
layer = shaken(MintLayer(4, 3), rng, 0.5)
w1, w2, w3, *_ = (ops.convert_to_numpy(w) for w in layer.matrices())
b1, b2, t = (ops.convert_to_numpy(w) for w in (layer.b1, layer.b2, layer.t))
x = rng.normal(size=4).astype("float32")
u1 = w1 @ x + b1
u2 = w2 @ h(u1) + b2
product = (
    np.diag(np.abs(t)) + w3 @ np.diag(h_slope(u2)) @ w2 @ np.diag(h_slope(u1)) @ w1
)
by_autodiff = jacobian_of(layer, x[None])[0]
assert np.allclose(product, by_autodiff, atol=1e-4)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(
    1, 5, figsize=(plots.WIDTH, 3.0), width_ratios=[9, 9, 3, 4, 4]
)
titles = "$W_3$", "$W_2$", "$W_1$", "the product", "autodiff"
for axis, matrix, title in zip(axes, (w3, w2, w1, product, by_autodiff), titles):
    shown = np.where(matrix == 0, np.nan, matrix / np.abs(matrix).max())
    axis.imshow(shown, cmap="PRGn", vmin=-1, vmax=1)
    rows, columns = (size // 4 for size in matrix.shape)
    for k in range(4):
        corner = columns * k - 0.5, rows * k - 0.5
        axis.add_patch(plt.Rectangle(corner, columns, rows, fill=False, linewidth=2))
    axis.set(xticks=[], yticks=[], title=title)
figure.tight_layout()
plots.show(
    figure,
    alt="Three matrices that are lower triangular in blocks, with the blocks on the "
    "diagonal framed, and two equal 4 by 4 matrices, lower triangular, whose "
    "diagonals are green, which is positive",
)

# %% [markdown]
# White is 0, green positive, purple negative, the darker the larger; the blocks on the diagonal are framed.
# The centre weights have both signs in every matrix, and yet the diagonal of the product is green throughout.
# The last two pictures are the same matrix, found in two ways.

# %% [markdown]
# ## 7.5 The way back is a search
#
# There is no formula for the way from z to x.
# One could follow the proof: find $x_1$ by bisection, then $x_2$, and so on, one search after another.
# A better way moves all coordinates at once.
# Guess $x$, and see by how much $f(x)$ misses $z$; the diagonal of the Jacobian says how fast each output moves with its own input, so divide by it:
#
# $$x \leftarrow x + \alpha\, \frac{z - f(x)}{\mathrm{diag}\, J(x)}.$$
#
# With $\alpha = 1$ and one coordinate this is Newton's method.
# In code it is five lines, and two more to keep all guesses:


# %%
def search(layer, z, x, steps, alpha=1.0):
    """All guesses on the way from x to the point that the layer sends to z."""
    guesses = [x]
    for _ in range(steps):
        f, diagonal = layer.value_and_diagonal(x)
        x = ops.convert_to_numpy(x + alpha * (z - f) / diagonal)
        guesses.append(x)
    return guesses


flat = shaken(MintLayer(2, 16), rng, 0.3)
x = rng.normal(size=(200, 2)).astype("float32")
z = ops.convert_to_numpy(flat.inverse(x)[0])
for step, guess in enumerate(search(flat, z, z, 8)):
    print(f"after {step} steps x is off by at most {np.abs(guess - x).max():.0e}")
assert np.abs(guess - x).max() < 1e-3

# %% [markdown]
# The first guess was $z$ itself.
# The first step made it worse, and yet after seven all 200 points are back but for rounding.
#
# **Near the solution** $x^*$, let the guess be $x^* + e$.
# Then $f(x^* + e) \approx z + J e$ with the Jacobian $J$, and the step takes $\alpha D^{-1} J e$ away, with $D$ the diagonal of $J$ alone, as a matrix.
# So one step multiplies the error $e$ by the matrix $I - \alpha D^{-1} J$.
#
# That matrix is lower triangular, and all along its diagonal stands $1 - \alpha$.
# So what a coordinate gets wrong by itself shrinks by $|1 - \alpha|$ in each step, and $|1 - \alpha| < 1$ for $0 < \alpha < 2$.
# What stands below the diagonal are the mistakes of earlier coordinates, handed on to later ones.
# With $\alpha = 1$ and a linear $f$, each coordinate would be right one step after all earlier ones.
# A bent $f$ needs a few steps more.
# Here are 24 coordinates on their way:

# %%
wide = shaken(MintLayer(24, 4), rng, 0.2)
x24 = rng.normal(size=(1, 24)).astype("float32")
z24 = ops.convert_to_numpy(wide.inverse(x24)[0])
off = [np.abs(guess - x24)[0] for guess in search(wide, z24, z24, 20)]


# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
def draw_errors(axis, step):
    axis.bar(np.arange(1, 25), np.maximum(off[step], 1e-7), color=plots.COLOURS[0])
    axis.set(yscale="log", ylim=(1e-6, 1e3), xlabel="coordinate")
    axis.set(ylabel="x is off by", title=f"steps: {step}")
    axis.figure.tight_layout()


plots.animation(
    draw_errors,
    len(off),
    alt="The errors of 24 coordinates on a logarithmic axis, step after step: they "
    "vanish from the first coordinate to the last, while later ones at first grow",
    milliseconds=500,
)

# %% [markdown]
# The first coordinates are right within a few steps, and then rightness travels to the right.
# Meanwhile the others are still fed with mistakes, and some, such as coordinates 21 and 22, get worse before they get better.
#
# How long it takes depends on $\alpha$.
# In two dimensions, from a start that is off by about a hundredth in each number (0.04 at most):

# %%
near = x + 0.01 * rng.normal(size=x.shape).astype("float32")
alphas = (0.5, 1.0, 1.5, 1.9, 2.1)


def worst(layer, x, z, start, alphas, steps):
    """For each alpha the largest error of x after each step."""
    ways = {alpha: search(layer, z, start, steps, alpha) for alpha in alphas}
    return {a: [np.abs(guess - x).max() for guess in way] for a, way in ways.items()}


in_2d = worst(flat, x, z, near, alphas, 150)
assert all(in_2d[alpha][-1] < 1e-3 for alpha in alphas[:4]) and in_2d[2.1][-1] > 0.1

# %% [markdown]
# And in 64 dimensions:

# %%
deep = shaken(MintLayer(64, 4), rng, 0.05)
x64 = rng.normal(size=(20, 64)).astype("float32")
z64 = ops.convert_to_numpy(deep.inverse(x64)[0])
start = x64 + 0.01 * rng.normal(size=x64.shape).astype("float32")
in_64d = worst(deep, x64, z64, start, alphas[:4], 400)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.6), sharey=True)
panels = {"2 dimensions": in_2d, "64 dimensions": in_64d}
for axis, (title, traces) in zip(axes, panels.items()):
    for (alpha, trace), marker, colour in zip(traces.items(), "osD^v", plots.COLOURS):
        style = {"marker": marker, "markevery": len(trace) // 10, "markersize": 5}
        axis.semilogy(trace, color=colour, label=f"α = {alpha}", **style)
    axis.set(title=title, xlabel="steps", ylim=(1e-8, 1e4))
axes[0].set_ylabel("largest error of x")
axes[0].legend(frameon=False, fontsize=9)
figure.tight_layout()
plots.show(
    figure,
    alt="Errors against steps. In 2 dimensions they fall for alpha 0.5, 1, 1.5 and 1.9 "
    "and grow for 2.1; fastest for 1. In 64 dimensions they grow at first for 1.5 "
    "and 1.9, by orders of magnitude for 1.9",
)

# %% [markdown]
# With $\alpha = 1$ three steps are enough in two dimensions; with 0.5 and 1.5 it takes twenty.
# With 1.9 the error first grows tenfold and then falls for a hundred steps, and with 2.1 it only grows.
# Where a curve turns flat, rounding has taken over: the numbers have 32 bits.
#
# In 64 dimensions the same number, $1 - \alpha$, stands on the diagonal.
# But a mistake of the first coordinates is handed on through 63 others, and with 1.9 the error grows more than a thousandfold before it falls.
# It stays at 0.3, since each rounding error goes through the same growth; computed apart, with numbers of 64 bits, it arrives after 600 steps.
# So the rule $0 < \alpha < 2$ speaks of the limit, in exact numbers, near the solution.
#
# **Far from the solution** all this promises nothing, not even in one dimension.
# Here is a layer of one coordinate and one unit, steep in the middle and nearly flat outside.
# With $\alpha = 1$ each step follows the tangent to the height $z$, with $\alpha = 0.5$ half of that way.
# The layer's three weights are $-2$, 1, which the tie turns to $-1$, and 2, and $t = 0.2$:

# %%
steep = MintLayer(1, 1)
values = -2.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.2  # W₁, b₁, W₂, b₂, W₃, b₃, t
for weight, value in zip(steep.weights, values):
    weight.assign(np.full(weight.shape, value))
start, one = np.float32([[4.0]]), np.float32([[1.0]])
whole_steps = search(steep, one, start, 40)
half_steps = search(steep, one, start, 40, alpha=0.5)
print("α = 1:  ", *(f"{x.item():.2f}" for x in whole_steps[:8]), "…")
print("α = 0.5:", *(f"{x.item():.2f}" for x in half_steps[:8]), "…")
assert np.abs(whole_steps[-1] - whole_steps[-2]) > 10
assert np.abs(half_steps[-1] - half_steps[-2]) < 1e-4

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
line = np.linspace(-8, 18, 1_000, dtype="float32")[:, None]
curve = ops.convert_to_numpy(steep.inverse(line)[0])
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.6), sharey=True)


def f_at(x):
    return ops.convert_to_numpy(steep.inverse(x)[0]).item()


for axis, alpha, way in zip(axes, (1, 0.5), (whole_steps[:4], half_steps[:4])):
    axis.plot(line, curve, color="0.35", label="f")
    axis.axhline(1, color="0.35", linestyle=":", label="z")
    for number, (x_k, x_next) in enumerate(zip(way, way[1:])):
        y, colour = f_at(x_k), plots.COLOURS[number % 2]
        end = (x_next.item(), y + alpha * (1 - y))
        arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.5}
        axis.annotate("", end, (x_k.item(), y), arrowprops=arrow)
        axis.plot([end[0]] * 2, [end[1], f_at(x_next)], ":", color=colour)
        axis.plot(x_k, y, "o", color=colour)
        axis.annotate(
            str(number), (x_k.item(), y), (4, -12), textcoords="offset points"
        )
    axis.set(title=f"α = {alpha}", xlabel="x", xlim=(-8, 18), ylim=(-4.5, 6.5))
axes[0].set_ylabel("f(x)")
axes[0].legend(frameon=False, loc="upper left")
figure.tight_layout()
plots.show(
    figure,
    alt="A curve, steep in the middle and flat outside, and steps along its tangents "
    "to the height z: with alpha 1 they jump from one flat side to the other forever, "
    "with alpha one half they come to the crossing",
)

# %% [markdown]
# The dots are the guesses, numbered from the start at 4.
# With $\alpha = 1$ they jump from one flat side to the other, from −5 to 15 and back, forever.
# With half a step guess 1 lands at the steep part, and from there it converges.
# Such jumps may be what stops a trained layer of images in section 7.9.
#
# ### The same with guards
#
# So the search for everyday use watches itself.
# It stops when the largest residual $|z - f(x)| / (1 + |z|)$ is at most `TOLERANCE`.
# Numbers that fit to a tenth of that are left alone, since another step would only add rounding errors, which later coordinates then amplify.
# And after each `patience` steps $\alpha$ becomes smaller: $\alpha$, $\alpha/2$, $\alpha/3$ and so on.
# (The authors start at $z / |t|$ and take a hundred steps with a fixed $\alpha$, in their [code](https://github.com/ermongroup/mintnet) $1/3.5$ for MNIST; the guards are ours.)
# The loop runs inside one compiled graph:

# %% tags=["definitions"]
TOLERANCE, MOST_STEPS = 1e-5, 500


def iterate(layer, z, alpha=1.0, patience=50, most=MOST_STEPS):
    """x with f(x) = z, the steps, and the largest residual before the last of them."""
    z = ops.convert_to_tensor(z)

    def unfinished(x, step, residual):
        small = residual <= TOLERANCE
        return ops.logical_and(ops.logical_not(small), step < most)

    def improve(x, step, residual):
        f, diagonal = layer.value_and_diagonal(x)
        error = ops.abs(z - f) / (1 + ops.abs(z))
        # What is not a number counts as infinite: a maximum may skip it.
        error = ops.where(ops.isnan(error), np.inf, error)
        rate = alpha / (1 + ops.cast(step // patience, "float32"))
        x_next = x + rate * (z - f) / diagonal
        x_next = ops.where(error > TOLERANCE / 10, x_next, x)
        return x_next, step + 1, ops.max(error)

    start = (z, ops.convert_to_tensor(0), ops.convert_to_tensor(np.float32(np.inf)))
    return ops.while_loop(unfinished, improve, start)


# %% [markdown]
# Inside a compiled graph nothing can be raised.
# So `forward` gives what it has, and whoever needs to be sure asks `solve`, which looks at the residual.
# (Since this search starts at $z$, the steep curve is moved up by 3 below: from $z = 4$ it then has the same way to go.)

# %% tags=["definitions"]
from utils import training


class NotConverged(RuntimeError):
    """The search ran out of steps, or left the numbers."""


def converged(x, steps, residual):
    """x, if the residual is small; NotConverged if it is not, or not a number."""
    if residual <= TOLERANCE:
        return x
    more = ", or more steps (most=…)" if np.isfinite(residual) else ""
    raise NotConverged(
        f"After {steps} steps a residual of {residual:.1e} is left, more than "
        f"{TOLERANCE}: take a smaller alpha{more}."
    )


def solve(layer, z, **settings):
    """x with f(x) = z, (count, …) both. Raises NotConverged."""
    run = training.compiled(lambda z: iterate(layer, z, **settings), layer)
    return converged(*run(z))


# %%
assert np.abs(solve(flat, z) - x).max() < 1e-3
steep.b3.assign([3.0])
four = np.float32([[4.0]])
_, without, left = iterate(steep, four, patience=MOST_STEPS)
_, steps, _ = iterate(steep, four)
print(f"steep: {int(without)} steps without smaller α, and {float(left):.1f} is left")
print(f"with smaller α {int(steps)} steps, and x = {solve(steep, four).item():.4f}")
assert left > 0.1
try:
    solve(flat, z, alpha=2.5, patience=MOST_STEPS)
except NotConverged as problem:
    print(problem)
else:
    raise AssertionError("alpha = 2.5 found a solution")

# %% [markdown]
# ## 7.6 Where it stands
#
# A coupling has a triangular Jacobian too, if the kept coordinates are numbered first; so has a layer of chapter 5's MAF.
# What tells the families apart is the diagonal:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("nested_flows")

# %% [markdown]
# In NICE, RealNVP and MAF the slope of $z_i$ against $x_i$ does not depend on $x_i$: given the rest, each coordinate is only moved and stretched.
# That is why they can be undone by a formula, and why a layer of theirs cannot bend along a coordinate.
# A Mint layer can, and pays with a search.
# (A spline coupling, appendix A4, can too, by a formula.)
# Mint layers do not fill the outermost ring: their slopes lie between $|t|$ and a bound that their centre weights set, wherever $x$ is.
#
# Ties are not the only means: block neural autoregressive flows (De Cao and others, 2019) have the same matrices in blocks and make all centre weights positive.
# And a *pair* of a lower and an upper layer is not triangular any more.
# Only its log-determinants add up.
#
# Plotted for one coordinate, the other held fixed, for a coupling of chapter 4 and a Mint layer, both with random weights:

# %%
Coupling, coupling_network = definitions("04_realnvp", "Coupling", "coupling_network")
coupling = shaken(Coupling([1, 0], coupling_network(2, 16, 2)), rng, 0.5)
line = np.linspace(-3, 3, 301, dtype="float32")
across = np.stack([np.full_like(line, 0.5), line], axis=1)  # x₂ moves, x₁ does not
z2 = {
    name: ops.convert_to_numpy(layer.inverse(across)[0])[:, 1]
    for name, layer in {"a coupling": coupling, "a Mint layer": flat}.items()
}
bends = {name: np.abs(np.diff(values, 2)).max() for name, values in z2.items()}
assert bends["a coupling"] < 1e-5 < 1e-3 < bends["a Mint layer"]

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH * 0.7, 3.2))
for (name, values), style, colour in zip(z2.items(), ("--", "-"), plots.COLOURS):
    axis.plot(line, values, style, color=colour, label=name)
axis.set(xlabel="x₂, with x₁ fixed", ylabel="z₂")
axis.legend(frameon=False)
plots.show(
    figure,
    alt="The second output against the second input: a straight line for a coupling, "
    "a bent curve that climbs everywhere for a Mint layer",
)

# %% [markdown]
# How much could a single triangular layer do, if it could bend in any way?
# Everything.
# For every density that is positive and smooth, and each order of its coordinates, there is exactly one increasing lower triangular map that turns it into a standard normal, the **Knothe–Rosenblatt** map:
#
# $$z_1 = \Phi^{-1}\big(F(x_1)\big), \qquad z_2 = \Phi^{-1}\big(F(x_2 \mid x_1)\big),$$
#
# with the distribution function $F$ of $x_1$, that of $x_2$ given $x_1$, and $\Phi$ that of a standard normal number.
# The density of two moons is known, so their map can be computed on a lattice.
# To test it, 3,000 test points go through: the Kolmogorov–Smirnov distance is the largest difference between the shares of points and of a normal density below a level; 0.025 is exceeded by chance once in twenty.
# ($|z|^2$ is tested too: if $z_1$ and $z_2$ depended on each other, it would usually not have a χ² distribution.)

# %%
from scipy.interpolate import RegularGridInterpolator
from scipy.stats import kstest, norm


def shares(p):
    """The share of a density up to the middle of each cell, along the last axis."""
    return (np.cumsum(p, axis=-1) - p / 2) / np.sum(p, axis=-1, keepdims=True)


ticks = np.linspace(-4, 4, 801)
lattice = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1)
log_p = truth.log_prob(lattice.reshape(-1, 2)).reshape(801, 801)
p = np.exp(log_p) + 1e-300  # no share is 0 / 0
z1 = norm.ppf(shares(p.sum(axis=1)))
z2 = norm.ppf(shares(p))
some = data.x_test[:3_000]
by_lattice = RegularGridInterpolator((ticks, ticks), z2)(some)
mapped = np.stack([np.interp(some[:, 0], ticks, z1), by_lattice], axis=1)
distances = [kstest(z, "norm").statistic for z in mapped.T]
distances.append(kstest((mapped**2).sum(axis=1), "chi2", (2,)).statistic)
print("distances (Kolmogorov–Smirnov) of z₁, z₂ and |z|²:", np.round(distances, 3))
assert max(distances) < 0.03

# %% [markdown]
# How steep is that map?
# Its slope is $\partial z_2 / \partial x_2 = p(x_2 \mid x_1) / \varphi(z_2)$, with $\varphi$ the standard normal density:

# %%
at_0 = ticks.searchsorted(0.0)  # the line x₁ = 0, across both moons
log_slope = log_p[at_0] - np.log(p[at_0].sum() * (ticks[1] - ticks[0]))
log_slope = (log_slope - norm.logpdf(z2[at_0])) / np.log(10)
crossing = (shares(p)[at_0] > 0.01) & (shares(p)[at_0] < 0.99)
least, most = log_slope[crossing].min(), log_slope[crossing].max()
print(f"along it the slope of z₂ goes from 10^{least:.0f} to {10**most:.0f}")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.points_panels(
    {
        "two moons": (some, data.moon_test[:3_000]),
        "after their triangular map": (mapped, data.moon_test[:3_000]),
    },
    limit=3.2,
    columns=2,
    alt="Left two moons in two colours; right the same points after the map: one round "
    "Gaussian cloud, cut into regions of the two colours by sharp edges",
)

# %% [markdown]
# No training was needed, and as far as these tests see the cloud on the right is standard normal: **in principle one triangular map is enough**.
# A stack of lower layers is a triangular map too, so if its layers bend freely enough, nothing is lost without upper ones.
#
# In practice efficiency is lost.
# The line $x_1 = 0$ crosses both moons and the empty gap between them.
# Along it the map has to be steep inside a moon and all but flat in the gap, by nearly seventeen orders of magnitude; and where $x_1$ passes the end of a moon, the picture on the right has a sharp vertical edge.
# (The colours are the two moons.)
# With upper layers $x_1$ may bend too, given $x_2$, and a stack of both kinds shares the work.
#
# Eight Mint layers, 100 epochs, three seeds: KL over the plane in nats, median and range, as `make bench` measured it ([what the plane is](../docs/leaderboard.md)); below them chapter 4's RealNVP, and chapter 5's MAF, trained for twice as many epochs at twice the rate.


# %%
bench = results.benchmarked("moons") | results.benchmarked("ladders")
names = "MintNet (7)", "MintNet (7), lower layers alone", "RealNVP (4)", "MAF (5)"
for name in names:
    print(f"{name:32} {results.spread(bench[name], 'kl_plane')}")

# %% [markdown]
# ## 7.7 Two moons
#
# A flow of Mint layers, lower and upper in turn.
# Density, loss and samples are those of chapter 4's `Flow`.

# %% tags=["definitions"]
from utils.chapters import definitions

Flow = definitions("04_realnvp", "Flow")


class MintFlow(Flow):
    """A density of points (batch, dim) by Mint layers, lower and upper in turn if
    `both`.
    """

    def __init__(self, dim, count, m, both=True):
        super().__init__()
        kinds = [both and k % 2 == 1 for k in range(count)]
        self.dim, self.chain = dim, [MintLayer(dim, m, upper) for upper in kinds]
        self.built = True

    def inverse(self, x):
        """x -> z and log |det dz/dx|: (batch, dim) to (batch, dim) and (batch,)."""
        log_det = 0.0
        for layer in self.chain:
            x, layer_log_det = layer.inverse(x)
            log_det = log_det + layer_log_det
        return x, log_det

    def forward(self, z):
        """z -> x."""
        for layer in reversed(self.chain):
            z = layer.forward(z)
        return z


# %%
def train_on_moons(flow, label, epochs=EPOCHS):
    steps = epochs * (TRAIN_POINTS // BATCH)
    rate = training.warmup_cosine(PEAK_RATE, steps)
    return training.fit_density(
        flow,
        data.x_train,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=epochs,
        batch=BATCH,
        validation=data.x_validation,
        label=label,
        seed=seed,
    )


flow = MintFlow(2, LAYERS, UNITS)
history = train_on_moons(flow, "MintNet")
log_prob = training.compiled(flow.log_prob, flow)
kl = truth.integrate_kl(log_prob)
print(f"KL: plane {kl.plane:.4f} nats, bulk {kl.bulk:.4f}")
print(f"{flow.count_params():,} weights")
assert kl.plane < course.choose(full=0.02, quick=1.5)

# %% [markdown]
# What the layers do: a grid and the points, before the flow and after each layer.

# %%
grid, points = plots.grid_lines(2.4), data.x_test[:2_000]
stages = [(grid, points)]
for layer in flow.chain:
    both = np.concatenate(stages[-1])
    both = ops.convert_to_numpy(layer.inverse(both)[0])
    stages.append((both[: len(grid)], both[len(grid) :]))

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(2, 5, figsize=(plots.WIDTH, plots.WIDTH / 2.2))
kinds = ["the data", *(f"{k + 1}, {('lower', 'upper')[k % 2]}" for k in range(8))]
for axis, (lines, dots), title in zip(axes.flat, stages, kinds):
    plots.draw_grid(axis, lines, limit=4.5)
    axis.scatter(*dots.T, s=1, color="0.2", zorder=0)
    axis.set(title=title, xticks=[], yticks=[])
for axis in axes.flat[len(stages) :]:
    axis.axis("off")
figure.tight_layout()
plots.show(
    figure,
    alt="A square grid and the two moons, and what lower and upper layers make of them "
    "in turn, until the points are one round cloud and the grid is squeezed tightly",
)

# %% [markdown]
# Blue lines are those of constant $x_1$.
# After the first layer, a lower one, they are still vertical, since its $z_1$ depends on $x_1$ alone; the orange ones are bent up and down.
# Then the two kinds take turns, and each of them moves every point in both coordinates, until the points are one round cloud.
# (Grid lines far from the points mean little: no data ever said where they should go.)
#
# Now the density, and samples, each of which was searched for and then checked:

# %%
sides, area = checks.square(2.8, 160)
exact, learned = (
    np.exp(ops.convert_to_numpy(log_p(sides))).reshape(160, 160)
    for log_p in (truth.log_prob, log_prob)
)
normal = rng.normal(size=(10_000, 2)).astype("float32")
to_data = training.compiled(flow.forward, flow)
made = to_data(normal)
found = ops.convert_to_numpy(flow.inverse(made)[0])
assert np.abs(found - normal).max() < 1e-3, "the search did not find the points"
total = checks.integral(log_prob, tolerance=course.choose(full=1e-3, quick=0.05))
errors = checks.flow_errors(flow, data.x_test[:200], 1e-3)
print(f"integral of the density {total:.5f}")
print("largest errors:", *(f"{name} {size:.0e}" for name, size in errors.items()))

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.density_panels(
    {"exact density": exact, "MintNet's": learned},
    limit=2.8,
    columns=2,
    alt="The exact density and that of MintNet",
)
plots.points_panels(
    {"test points": data.x_test[:3_000], "MintNet's": made[:3_000]},
    limit=2.8,
    columns=2,
    alt="Test points, and points that MintNet made",
)

# %% [markdown]
# The gap between the moons is a little too likely, as in chapter 4.
# Nothing forbids a better one, since section 7.6 has the exact map; but that map is flat there, with slopes down to $10^{-16}$, and it seems that layers which start near $f(x) = x$ do not get that far.
#
# This is one seed, and its last epoch.
# In the table of section 7.6, whose rows keep the best epoch by validation points, MintNet's three seeds lie below RealNVP's, with half of its 20,544 weights.
# The [leaderboard](../docs/leaderboard.md) has all models: a mixture of thirty Gaussians is closer still.
# A density costs one pass through each layer, a sample as many as the search takes; what both cost here stands in the table at the end.
#
# ## 7.8 Images
#
# For images the matrices become masked kernels.
# Pixels are numbered row by row, and at each pixel its channels:

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("mint_kernel")

# %% [markdown]
# The kernel sees all channels of the pixels that come earlier: the row above, and the pixel to the left.
# At the pixel itself it is the matrix of section 7.4, lower triangular in blocks, with a centre block for each channel.


# %% tags=["definitions"]
def kernel_masks(c, rows, columns):
    """Masks (3, 3, c rows, c columns): of all weights that there are, and of the centre
    weights.
    """
    mask = np.zeros((3, 3, c * rows, c * columns), "float32")
    own = mask.copy()
    mask[0] = mask[1, 0] = 1  # the row above, and the pixel to the left
    mask[1, 1] = blocks(np.tril(np.ones((c, c))), rows, columns)
    own[1, 1] = blocks(np.eye(c), rows, columns)
    return mask, own


# %% tags=["nbval-check-output"]
mask, own = kernel_masks(2, 1, 1)
print("an earlier pixel:\n", mask[0, 0].astype(int))
print("the pixel itself:\n", mask[1, 1].astype(int))
print("a later pixel:\n", mask[2, 2].astype(int))

# %% [markdown]
# Then the layer is the `Mint` of section 7.4: `times` convolves, and `centre` takes the middle of a kernel.
# (A kernel is kept as [row, column, to, from], as in the drawings; Keras wants the last two the other way round.)
# Each place has its own $t$, $b_1$ and $b_3$, as in chapter 6's networks; $b_2$ is one for all places.


# %% tags=["definitions"]
class MintConvolution(Mint):
    """Images (batch, h, w, c) to images, with m hidden channels for each channel."""

    def __init__(self, shape, m, upper=False):
        super().__init__(upper)
        (h, w, c), n = shape, shape[-1] * m
        self.mask1, self.own1 = kernel_masks(c, m, 1)
        self.mask2, self.own2 = kernel_masks(c, m, m)
        self.mask3, self.own3 = kernel_masks(c, 1, m)
        self.w1, self.b1 = self.random((3, 3, n, c), 0.5), self.random((h, w, n), 0.5)
        self.w2, self.b2 = (
            self.random((3, 3, n, n), 0.3 * n**-0.5),
            self.random((n,), 0),
        )
        self.w3, self.b3 = self.random((3, 3, c, n), 0.1), self.random(shape, 0)
        self.t = self.add_weight(shape=shape, initializer="ones")
        self.built = True

    def times(self, kernel, x):
        return ops.conv(x, ops.transpose(kernel, (0, 1, 3, 2)), padding="same")

    def centre(self, kernel):
        return kernel[1, 1]


# %% [markdown]
# On images of 6 × 6 with two channels, 72 numbers, automatic differentiation agrees:

# %%
images = rng.normal(size=(4, 6, 6, 2)).astype("float32")
for upper in (False, True):
    layer = shaken(MintConvolution((6, 6, 2), 4, upper), rng, 0.1)
    jacobian = jacobian_of(layer, images)
    assert not (np.tril(jacobian, -1) if upper else np.triu(jacobian, 1)).any()
    z, log_det = (lambda x, f=layer.inverse, k=k: f(x)[k] for k in (0, 1))
    error = checks.log_det_error(z, log_det, images, 1e-3)
    print(f"{'upper' if upper else 'lower'} layer: error of log |det| {error:.0e}")

# %% [markdown]
# ### What a layer cannot see
#
# Which pixels does one output depend on?
# The gradient says it: $\partial z / \partial x$ of one pixel in the middle, for layers with random weights.

# %%
Squeeze = definitions("06_glow", "Squeeze")


def seen(kinds, squeeze=False):
    """|∂z/∂x| of the middle pixel of 20 × 20, through layers that are upper or not."""
    shape = (10, 10, 4) if squeeze else (20, 20, 1)
    chain = [shaken(MintConvolution(shape, 4, upper), rng, 0.3) for upper in kinds]
    chain = [Squeeze(), *chain] if squeeze else chain

    def through(x):
        for layer in chain:
            x = layer.inverse(x)[0]
        return Squeeze().forward(x) if squeeze else x

    x = rng.normal(size=(1, 20, 20, 1)).astype("float32")
    return np.abs(checks.jacobian(through, x)[0, 10 * 20 + 10]).reshape(20, 20)


fields = {
    "lower": seen([False]),
    "lower, lower": seen([False, False]),
    "upper": seen([True]),
    "lower, upper": seen([False, True]),
    "the same, squeezed": seen([False, True], squeeze=True),
}

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 5, figsize=(plots.WIDTH, 2.6))
for axis, (title, field) in zip(axes, fields.items()):
    shown = np.where(field == 0, np.nan, np.log10(np.maximum(field, 1e-6)))
    axis.imshow(shown, cmap="Blues", vmin=-6, vmax=1)
    axis.plot(10, 10, "o", color="black", markersize=5)
    axis.set(xticks=[], yticks=[], xlabel=f"{(field > 0).sum()} pixels")
    axis.set_title(title, fontsize=10)
figure.tight_layout()
plots.show(
    figure,
    alt="Which pixels of 20 by 20 an output in the middle depends on: a lower layer "
    "sees a slanted wedge above it, an upper one the same below, a pair everything "
    "around it, and more of it after a squeeze",
)

# %% [markdown]
# A lower layer is three kernels deep, so it sees three rows up and three pixels to the left.
# To the right it gains one pixel with each row up, no more: its view is a wedge with a slanted edge.
# What lies right of that edge comes earlier in the numbering, and might have been used, but no path leads there.
# A second lower layer makes the wedge longer and leaves the edge where it is.
# That is the **blind spot** of masked convolutions (van den Oord and others, 2016); an upper layer has the same one, turned by half a turn.
#
# (A darker pixel counts for more, on a logarithmic scale; white is exactly 0.)
#
# A pair has none.
# The upper layer may look to the right along the row, and what it finds there has already looked up, through its own wedge, at pixels that the lower layer alone could not reach.
# The corners that are still white are out of reach for now, not in a blind spot: the next pair sees further.
# After a squeeze a step of the kernel is two pixels wide, so the same pair looks twice as far in each direction; here the edge of the image cuts some of it off.

# %%
rows, columns = np.indices((20, 20))
beyond = (rows < 10) & (columns - 10 > 10 - rows)  # right of the slanted edge
assert not fields["lower"][beyond].any()
assert not fields["lower, lower"][beyond].any()
assert (fields["lower, upper"][7:14, 7:14] > 0).all()  # what two 7 × 7 kernels reach
print(f"{beyond.sum()} of {10 * 20 + 10} earlier pixels lie in the blind spot")

# %% [markdown]
# ## 7.9 Clothes
#
# The model of small images is as in chapter 6: a squeeze, then ActNorm and a Mint layer in turn, lower and upper, and at the end a mean and a deviation for each number.

# %% tags=["definitions"]
ActNorm, Squeeze, squeezed, Scale, ImageFlow = definitions(
    "06_glow", "ActNorm", "Squeeze", "squeezed", "Scale", "ImageFlow"
)


def build_mintnet(image_shape, pairs, m, seed=0):
    """A flow of images (h, w, c) of pairs of a lower and an upper layer."""
    keras.utils.set_random_seed(seed)
    shape = squeezed(image_shape)
    chain = [Squeeze()]
    for _ in range(pairs):
        for upper in (False, True):
            chain += [ActNorm(shape[-1]), MintConvolution(shape, m, upper)]
    return ImageFlow([*chain, Scale(shape)], image_shape, seed)


# %% [markdown]
# Fashion-MNIST, 2 × 2 pixels averaged into one:

# %%
from utils import datasets

halved, bits_of = definitions("06_glow", "halved", "bits_of")
clothes = datasets.fashion_mnist()
print(clothes)
x_train, x_test = halved(clothes.x_train[:IMAGES]), halved(clothes.x_test[:TEST_IMAGES])

mint = build_mintnet((14, 14, 1), PAIRS, IMAGE_UNITS, seed)
rate = training.warmup_cosine(IMAGE_PEAK_RATE, IMAGE_EPOCHS * (len(x_train) // 64))
adam = keras.optimizers.Adam(rate, global_clipnorm=5.0)
mint.compile(adam, jit_compile=training.jit_compile("convolutions"))
progress = training.Progress("MintNet")
watch = [progress, training.StopOnBadLoss()]
mint.fit(x_train, batch_size=64, epochs=IMAGE_EPOCHS, verbose=0, callbacks=watch)
log_prob_of = training.compiled(mint.log_prob, mint, kind="convolutions")
bits = bits_of(log_prob_of, x_test)
bits_se = bits.std() / np.sqrt(len(bits))
print(f"{mint.count_params():,} weights, {bits.mean():.3f} ± {bits_se:.3f} bits")
assert 3 < bits.mean() < course.choose(full=4.2, quick=7.6)


# %% [markdown]
# (One training; section 7.10 has three.)
#
# New clothes, at temperature 0.8: one search after another, from the last layer to the first.

# %%
noise = TEMPERATURE * rng.normal(size=(40, 7, 7, 4)).astype("float32")
draw = training.compiled(lambda z: mint.forward([z]), mint, kind="convolutions")
new = draw(noise)
back = ops.convert_to_numpy(mint.inverse(new)[0][0])
assert np.abs(back - noise).max() < 1e-2, "the search did not find the images"

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
shown = {"test images": x_test[:10, ..., 0] / 255}
drawn = np.clip(new[..., 0] + 0.5, 0, 1)
names = "MintNet", " ", "  ", "   "
shown |= {name: drawn[10 * k : 10 * k + 10] for k, name in enumerate(names)}
plots.image_rows(
    shown, alt="Ten small test images, and forty samples of MintNet at temperature 0.8"
)

# %% [markdown]
# Tops, coats, shoes, a bag or two: many of these can be named, though sleeves run together and some shoes dissolve.
# (At 14 × 14 pixels the test images, in the top row, are hard enough to name.)
# How hard was the search?


# %%
given, z = [], noise  # of each Mint layer: z, the x that was found, the steps
for layer in reversed(mint.chain):
    if not isinstance(layer, Mint):
        x = layer.forward(z)
    else:
        x, count, _ = iterate(layer, z)
        given.append((layer, z, ops.convert_to_numpy(x), int(count)))
    z = ops.convert_to_numpy(x)
steps = [count for *_, count in given]
print("steps of each layer, from the last to the first:", steps)

# %% [markdown]
# In the run that is stored here, six layers took 7 to 16 steps, one took 38, and the last one, which is the first layer after the squeeze, 126.
# What happened there?
# Let us run the plain search of section 7.5 on each layer, with $\alpha = 1$ throughout:

# %%
plain_off = []
for layer, z, x, _ in given:
    guesses = search(layer, z, z, 60)
    plain_off.append([np.abs(guess - x).max() for guess in guesses])

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.6))
for trace in plain_off:
    trace = np.clip(np.nan_to_num(trace, nan=1e6), 1e-7, 1e6)
    slow = trace[-1] > 1e-3
    style = {"color": plots.COLOURS[1] if slow else "0.6", "linewidth": 1 + slow}
    label = "does not arrive" if slow else "arrives"
    axis.semilogy(trace, "-" if slow else "--", label=label, **style)
axis.set(xlabel="steps with α = 1", ylabel="largest error of x")
handles, labels = axis.get_legend_handles_labels()
of_each = dict(zip(labels, handles))
axis.legend(of_each.values(), of_each.keys(), frameon=False)
plots.show(
    figure,
    alt="Errors of the plain search in each of the trained layers against its steps",
)

# %% [markdown]
# Seven layers arrive.
# In the eighth the error climbs to $10^5$, comes down to about a hundred, and stays there.
# It looks as if some of the numbers jump back and forth, like the one number of section 7.5, and those that depend on them never settle.
# With the guards it arrived all the same.
# For 50 steps $\alpha$ was 1, then a half, and from step 100 on a third.
# Was it the smaller step, or that numbers which fit are left alone?
# The same search once more, with the numbers that fit left alone, and without smaller steps:

# %%
slowest = int(np.argmax(steps))
layer, z, *_ = given[slowest]
x_plain, count, left = iterate(layer, z, patience=MOST_STEPS)
print(f"with α = 1 throughout: {int(count)} steps, and a residual of {float(left):.1e}")
wrong = np.abs(ops.convert_to_numpy(x_plain) - given[slowest][2]) > 1e-3
of_images = wrong.any(axis=(1, 2, 3)).sum()
print(f"{wrong.sum():,} of {wrong.size:,} numbers wrong, in {of_images} images")

# %% [markdown]
# Without the smaller steps it never arrives, and more than half of the numbers stay wrong: **the smaller steps were needed**, as for the steep curve.
# In another training another layer may need it, or none.
#
# And this is how an image comes back in the layer that took second longest, all numbers at once, and yet in order:

# %%
second = int(np.argsort(steps)[-2])
layer, z, x, _ = given[second]
one = slice(0, 1)
guesses = search(layer, z[one], z[one], 40)[::2]
kind = "upper" if layer.upper else "lower"
wrong = [Squeeze().forward(np.abs(guess - x[one])) for guess in guesses]
wrong = [ops.convert_to_numpy(image)[0, ..., 0] for image in wrong]


# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
def draw_wrong(axis, step):
    shown = np.log10(np.maximum(wrong[step], 1e-6))
    axis.imshow(shown, cmap="OrRd", vmin=-5, vmax=2)
    axis.set(xticks=[], yticks=[], title=f"{kind} layer, steps: {2 * step}")


plots.animation(
    draw_wrong,
    len(wrong),
    alt="The errors of the pixels of one image in a layer that is being undone: they "
    "vanish row by row, from the side where the layer's numbering begins",
    milliseconds=400,
)

# %% [markdown]
# Dark is wrong by a hundred, white is right to five digits.
# In a lower layer the top left corner is right first, and rightness moves down row by row; in an upper layer it begins at the bottom right.
# It moves along a slanted front, not strictly from pixel to pixel: a pixel has to wait only for those in its wedge of section 7.8.
#
# ## 7.10 Beside Glow
#
# Is that good?
# Chapter 6's Glow, with one scale and 16 steps of flow, whose networks are 64 channels wide, takes about as long for a step of training.
# Both get the 60,000 images four times in batches of 64, and the best of four peaks of the learning rate; these were tried with one seed and one pass over 32,000 images, 500 steps where the trainings have 3,750, and judged by 5,000 training images left out.
# Three seeds, median and range, as `make bench` measured them; samples are at temperature 0.8.
# (These are trainings of their own: four passes, where the one above had three.
# How MintNet's weights start, and the sizes of both, had been chosen before by tries of the same kind, eleven settings of each; a wider Glow, 96 channels, was 0.03 bits better there, but takes longer for a step.)

# %%
import pandas as pd

images_bench = results.benchmarked("images")
columns = {
    "bits per dimension": ("bits_per_dim", 3),
    "training (s)": ("train_seconds", 0),
    "100 samples (ms)": ("sample_ms", 0),
}
table = {}
for row in ("MintNet, 14 × 14 (7)", "Glow, 14 × 14 (7)"):
    runs = images_bench[row]
    table[row] = {said: results.spread(runs, *of) for said, of in columns.items()}
    table[row]["weights"] = f"{runs[0]['parameters']:,}"
pd.DataFrame(table)

# %% [markdown]
# MintNet needs 0.1 to 0.3 bits less: its worst seed is better than Glow's best.
# (One of its seeds is 0.15 bits worse than the other two, which lie close together.)
# In this setting it is the better model; we guess that its layers are the reason, since every number moves in each of them, along a curve of its own; no row here parts that from other differences.
# (It stores twice as many weights, nearly half of which are masked: about 200,000 are in use, and Glow has 178,000.)
#
# What this does not say: these are images of one size, one length of training, and four tries of one setting.
# The authors compare the two at full length on CIFAR-10 and find them close, 3.32 bits for MintNet and 3.35 for Glow.
# How much the rate alone can do, the tries show: with chapter 6's peak of 0.002 Glow was 0.3 bits worse than with 0.01 (one seed, 500 steps).
# A rival that nobody tuned is no rival.
#
# **And a sample costs about a hundred times as much.**
# (Both columns of times were measured beside other work.)
# Glow's way back is one pass through each of 16 steps.
# MintNet's is a search in each layer, one layer after the other: as many passes as the slowest number of the whole batch needs, 219 in all for the forty images above.
# A density, x → z, is one pass in both; in the table at the end the forty images are scored in about 20 ms and drawn in about 1,400.
# Whoever wants to score images may like MintNet; whoever wants to draw them, many and soon, will not.
#
# ## What we measured

# %%
moons_row = {
    "model": "MintNet",
    "kl_plane": kl.plane,
    "kl_bulk": kl.bulk,
    "train_seconds": history["seconds"][-1],
    "parameters": flow.count_params(),
    "density_ms": results.milliseconds(lambda: log_prob(data.x_test), 7),
    "sample_ms": results.milliseconds(lambda: to_data(normal), 3),
    **errors,
}

# %%
images_row = {
    "model": "MintNet, 14 × 14",
    "bits_per_dim": bits.mean(),
    "bits_per_dim_se": bits_se,
    "train_seconds": progress.seconds[-1],
    "parameters": mint.count_params(),
    "density_ms": results.milliseconds(lambda: log_prob_of(new), 3),  # forty images
    "sample_ms": results.milliseconds(lambda: draw(noise), 3),
}
total, names = time.perf_counter() - STARTED, f"{data.name}, {clothes.name}"
rows = [moons_row, images_row]
results.record("07_mintnet", data=names, seconds=total, rows=rows)

# %% [markdown]
# ## Summary
#
# - A convolution is a matrix.
#   With a mask it is triangular, and its determinant is a product.
# - A function with a triangular Jacobian whose diagonal never touches 0 can be undone.
#   Sums and compositions stay triangular.
# - A Mint layer has three masked matrices.
#   The signs of its centre weights are tied, so every way from a number to itself has a positive slope, and nothing folds.
#
# - Its way back is a search.
#   Near the solution it converges for 0 < α < 2, the later coordinates after the earlier ones; far away it may jump back and forth, and smaller steps may rescue it.
# - A lower layer sees what came before, less a blind spot; a pair of a lower and an upper layer sees all around.
# - In principle one triangular layer of the right form is enough for any density (Knothe–Rosenblatt).
#   In practice pairs share the work.
# - Densities cost one pass.
#   A sample costs as many passes in each layer as its search takes steps.
#
# [Chapter 8](08_ffjord.ipynb) lets the layers become infinitely many.
#
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.** Which weights of $W_2$ does the mask keep for $d = 2$ and $m = 2$, and which of them are tied?
# Write down the 4 × 4 mask, then look.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# Twelve of sixteen are kept: the units of coordinate 1 hear nothing of coordinate 2.
# The eight in the two blocks on the diagonal are tied.
two_by_two = MintLayer(2, 2)
print(two_by_two.mask2.astype(int))
print("tied:\n", two_by_two.own2.astype(int))

# %% [markdown]
# **2. Derive.** With $\alpha = 1$ a linear triangular layer, $z = Jx$, is undone exactly after some number of steps.
# Show that the error is multiplied by $N = I - D^{-1}J$ in each step, and say after how many steps it is 0 in 5 dimensions.
# Then print the powers of $N$.
# What is left of this with $\alpha = 1/2$?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# With x′ for the guess, z − J x′ = J (x − x′), so the new error is (I − D⁻¹J)(x − x′).
# N has zeros on its diagonal and above, and each product with N moves what is left one
# diagonal further down: N is nilpotent, and its fifth power is 0. With α = 1/2 the
# matrix is I − D⁻¹J/2, which has 1/2 all along its diagonal: the error is never 0, and
# in the end it is halved in each step.
J = np.tril(rng.integers(1, 4, size=(5, 5)), -1) + np.diag([1, 2, 1, 2, 1])
N = np.eye(5) - J / np.diag(J)[:, None]
for power in range(1, 6):
    print(f"N to the power of {power}:")
    print(np.linalg.matrix_power(N, power).round(1))
assert not np.linalg.matrix_power(N, 5).any()

# %% [markdown]
# **3. Find the bug.** Somebody writes `tied` with the sign of $c_1$ alone.
# Which of the chapter's checks still pass, and which fail?
# Try it before you open the solution.


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# Triangular it still is, and its diagonal is the one that is claimed. What fails is
# section 7.4's `diagonal.min() > 0`; then every check of the log-determinant, which is
# not a number where a slope is negative; and the search of section 7.5, since the layer
# folds. (The weights of section 7.2, tied by c₁ alone, happen to give a rising curve.)
# Training would even begin well: with a small W₃ all slopes are near 1. It breaks down
# when one of them passes 0.
class HalfTied(MintLayer):
    """With |W₂| times the sign of c₁, and not of c₃."""

    def matrices(self):
        w1, w2, w3, c1, c2, c3 = super().matrices()
        sign = np.sign(ops.convert_to_numpy(c3))[:, None]
        w2 = ops.where(self.own2 > 0, w2 * sign, w2)
        return w1, w2, w3, c1, w2 * self.own2, c3


wrong = shaken(HalfTied(5, 8), rng, 1.0)
points = rng.normal(size=(100, 5)).astype("float32")
diagonal = np.diagonal(jacobian_of(wrong, points), axis1=1, axis2=2)
claimed = ops.convert_to_numpy(wrong.value_and_diagonal(points)[1])
print("the diagonal is the one claimed:", np.allclose(claimed, diagonal, rtol=1e-3))
print(f"slopes from {diagonal.min():.1f} to {diagonal.max():.1f}")
log_det = ops.convert_to_numpy(wrong.inverse(points)[1])
print(f"log-determinants that are no numbers: {np.isnan(log_det).mean():.0%}")

# %% [markdown]
# **4. Build.** Undo a lower layer, `wide` of section 7.5, as the proof does: one coordinate after another, each by bisection between −100 and 100.
# How many passes through the layer does it take for 24 coordinates, with 25 halvings each, compared with the search?


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# Six hundred passes against about ten, and a larger error, since a mistake in one
# coordinate is handed on to the next. But bisection needs no slope, and cannot fail
# while x lies between the ends it begins with.
def bisect(layer, z, passes=25, low=-100.0, high=100.0):
    """x with layer(x) = z for a lower layer, one coordinate after another."""
    x, count = np.zeros_like(z), 0
    for i in range(z.shape[1]):
        a, b = np.full(len(z), low, "float32"), np.full(len(z), high, "float32")
        for _ in range(passes):
            x[:, i] = (a + b) / 2
            f = ops.convert_to_numpy(layer.inverse(x)[0])[:, i]
            a, b = np.where(f < z[:, i], x[:, i], a), np.where(f < z[:, i], b, x[:, i])
            count += 1
    return x, count


by_bisection, passes = bisect(wide, z24)
print(f"{passes} passes, off by {np.abs(by_bisection - x24).max():.0e}")
found, steps_taken, _ = iterate(wide, z24)
off = np.abs(ops.convert_to_numpy(found) - x24).max()
print(f"the search: {int(steps_taken)} passes, off by {off:.0e}")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - Y. Song, C. Meng, S. Ermon. [*MintNet: Building Invertible Neural Networks with Masked Convolutions*](https://arxiv.org/abs/1907.07945). NeurIPS, 2019. The triangular Jacobians, the Mint layer and the iteration are all there.
# - L. Dinh, D. Krueger, Y. Bengio. [*NICE: Non-linear Independent Components Estimation*](https://arxiv.org/abs/1410.8516). ICLR workshop, 2015.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. [*Density estimation using Real NVP*](https://arxiv.org/abs/1605.08803). ICLR, 2017.
# - G. Papamakarios, T. Pavlakou, I. Murray. [*Masked Autoregressive Flow for Density Estimation*](https://arxiv.org/abs/1705.07057). NeurIPS, 2017.
#
# - D. P. Kingma, P. Dhariwal. [*Glow: Generative Flow with Invertible 1×1 Convolutions*](https://arxiv.org/abs/1807.03039). NeurIPS, 2018.
# - N. De Cao, I. Titov, W. Aziz. [*Block Neural Autoregressive Flow*](https://arxiv.org/abs/1904.04676). UAI, 2019. The same matrices in blocks.
# - A. van den Oord and others. [*Conditional Image Generation with PixelCNN Decoders*](https://arxiv.org/abs/1606.05328). NeurIPS, 2016. The blind spot of masked convolutions.
# - G. Papamakarios, E. Nalisnick, D. J. Rezende, S. Mohamed, B. Lakshminarayanan. [*Normalizing Flows for Probabilistic Modeling and Inference*](https://arxiv.org/abs/1912.02762). JMLR, 2021. Section 2.2 has the Knothe–Rosenblatt map in words.
