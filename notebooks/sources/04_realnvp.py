# %% [markdown]
# # Chapter 4 · RealNVP
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/04_realnvp.ipynb)
#
# **Can a network say how likely a point is, exactly?**
# The VAE of chapter 2 could only bound it.
# A *normalizing flow* (노멀라이징 플로) gives the number itself, because it is a function that can be undone.
# We draw its one building block, write it in twenty lines, train it on two moons, and look at what it has learned.
# Then we do what the book does not: the density of two moons is known, so we can say how far the model is from the truth, in nats (the unit of natural logarithms).

# %% [markdown]
# **You will learn**
# - how a density changes when space is stretched, and why a determinant repairs it;
# - how a coupling layer (커플링 층) makes a function that is easy to undo and has an easy determinant;
# - to read what a trained flow has learned, curve by curve;
# - how to check a flow, what the checks do not see, and why ten thousand test points are not enough;
# - when a flow is worth it, and when a mixture of Gaussians does better.
#
# **In the book**: sections 6.1 to 6.3, normalizing flows and RealNVP (노멀라이징 플로, RealNVP).
#
# **Needs**: nothing to download.
# About 2 minutes on two CPU cores (Intel Xeon with AVX-512); about twice as long on older ones.

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
TRAIN_POINTS = course.choose(full=30_000, quick=8_000)
PLAIN_EPOCHS = course.choose(full=40, quick=3)
COUPLINGS = course.choose(full=16, quick=4)
WIDTH, DEPTH, BOUND = 32, 2, 1.0
EPOCHS = course.choose(full=120, quick=6)
BATCH = course.choose(full=256, quick=64)
PEAK_RATE = 5e-3
MIXTURES = course.choose(full=(10, 30, 100, 300), quick=(2,))
DIGIT_EPOCHS = course.choose(full=40, quick=2)
OWN_EPOCHS = course.choose(full=60, quick=5)
seed = course.seed(42)

# %% [markdown]
# What is not the lesson comes from the helper package: the data, the checks, the pictures.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from utils import checks, datasets, moons, plots, results, training

# %% [markdown]
# ## 4.1 A density is so much per unit of length
#
# A probability density says how much probability there is *per unit of length*.
# So it changes when lengths do.
# Take a standard normal $z$ and let $x = g(z) = e^z$.
# Where does the density of $x$ come from?
# Undo the function, $z = f(x) = \log x$, and look up the density $p_Z$ there.
# But a small interval $dx$ around $x$ was an interval $dz = |f'(x)|\, dx$ before, and it holds the same probability:
#
# $$p_X(x)\, dx = p_Z(z)\, dz \qquad\Rightarrow\qquad p_X(x) = p_Z(f(x)) \, |f'(x)|, \qquad f'(x) = 1/x.$$
#
# This is the change of variables (변수 변환) in one dimension.

# %%
from scipy.integrate import quad
from scipy.stats import norm


def without_factor(x):
    return norm.pdf(np.log(x))


def with_factor(x):
    return without_factor(x) / x


# %% tags=["hide-input", "nbval-check-output"] jupyter={"source_hidden": true} cellView="form"
x = np.linspace(0.001, 6, 2_000)
draws = np.exp(np.random.default_rng(seed).normal(size=100_000))
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
bins, weight = np.linspace(0, 6, 61), np.full(len(draws), 10 / len(draws))
axis.hist(draws, bins, weights=weight, color="0.85", label="draws of x")
axis.plot(x, with_factor(x), color=plots.COLOURS[0], label="p(f(x)) |f′(x)|")
axis.plot(x, without_factor(x), "--", color=plots.COLOURS[1], label="p(f(x)) alone")
axis.set(xlabel="x", ylabel="density", xlim=(0, 6))
axis.legend(frameon=False)
plots.show(figure, alt="With the factor the density follows the histogram of draws")

# %% [markdown]
# The solid line, with the factor, lies on the histogram of a hundred thousand draws.
# The dashed one, without, is not even a density: its integral is not 1.

# %%
areas = [quad(density, 0, np.inf)[0] for density in (with_factor, without_factor)]
print(f"with the factor {areas[0]:.4f}, without {areas[1]:.4f}")
assert abs(areas[0] - 1) < 1e-6 and abs(areas[1] - 1) > 0.5

# %% [markdown]
# ### Two dimensions: a rectangle that shrinks
#
# The book's example: points spread evenly over a rectangle, $1 \le x_1 \le 4$ and $0 \le x_2 \le 2$.
# Its area is 6, so the density is $p_X = 1/6$.
# Now bring it to the unit square:
#
# $$f(x_1, x_2) = \left(\frac{x_1 - 1}{3},\; \frac{x_2}{2}\right).$$
#
# If we carried the value 1/6 over to the square, the square would hold a probability of only 1/6.
# Areas have shrunk to a sixth, so the density there must be six times as high.

# %%
from keras import ops


def to_square(x):
    return ops.stack([(x[:, 0] - 1) / 3, x[:, 1] / 2], axis=1)


corners = np.float32([[1, 0], [4, 0], [4, 2], [1, 2]])
J = checks.jacobian(to_square, corners[:1])[0]
print(J.round(3), f"\ndeterminant 1/{1 / np.linalg.det(J):.0f}")
assert np.isclose(np.linalg.det(J), 1 / 6)

# %% tags=["hide-input", "nbval-check-output"] jupyter={"source_hidden": true} cellView="form"
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3))
shapes = {
    "x: density 1/6 on an area of 6": corners,
    "z: density 1 on an area of 1": to_square(corners),
}
for axis, (title, shape) in zip(axes, shapes.items(), strict=True):
    axis.fill(*np.transpose(shape), color=plots.COLOURS[0], alpha=0.35, edgecolor="0.2")
    axis.set(xlim=(-0.5, 4.5), ylim=(-0.5, 2.5), aspect="equal", title=title)
axes[0].set(xlabel="x₁", ylabel="x₂")
axes[1].set(xlabel="z₁", ylabel="z₂")
figure.subplots_adjust(wspace=0.25)
plots.show(figure, alt="A rectangle of 3 by 2, and the unit square that f makes of it")

# %% [markdown]
# ### The equation, and its sign
#
# The matrix of all derivatives, $J_{ij} = \partial f_i / \partial x_j$, is the Jacobian.
# The absolute value of its determinant (야코비 행렬식) says by which factor areas grow; a negative determinant says that $f$ also turns them over, as a mirror does.
# It takes the place of $f'$.
# For a function $f$ that can be undone, $z = f(x)$, and a density $p_Z$ of the latent points $z$ (잠재 변수),
#
# $$\log p_X(x) = \log p_Z(f(x)) + \log \left| \det \frac{\partial f}{\partial x} \right|. \tag{4.1}$$
#
# Which way round does the determinant go?
# Where $f$ *spreads* points out, the data must have been dense: a large determinant raises $p_X$.
# For the inverse function it is the reciprocal, and its logarithm changes sign.
#
# **Directions.**
# In this course `inverse` goes from data to latent points, x → z, and `forward` from latent points to data, z → x, as in TensorFlow Probability: forward is the way in which data are made.
# The book calls x → z "forward".
# In formulas $f$ is x → z and $g = f^{-1}$ is z → x, as in the book.

# %% [markdown]
# ## 4.2 Two problems
#
# Equation 4.1 suggests a plan.
# Take a network for $f$ and the standard normal for $p_Z$, and maximise $\log p_X$ of the data.
# Two things stand in the way.
#
# 1. The determinant.
#    To fill a $D \times D$ matrix with derivatives takes $D$ backward passes through the network, and its determinant then takes of the order of $D^3$ operations.
#    A colour picture of 64 × 64 pixels has $D = 12288$, and we need this for each picture at every step.
# 2. To make new data, we need $g = f^{-1}$.
#    A network of dense layers has no inverse that we could write down, often none at all.
#
# Both go away if the Jacobian is *triangular* and every layer is simple enough to undo.
# The determinant of a triangular matrix is the product of its diagonal, $D$ multiplications.

# %%
rng = np.random.default_rng(seed)
matrix = np.tril(rng.normal(size=(1_024, 1_024)) / 1_024) + np.eye(1_024)
whole = results.milliseconds(lambda: np.linalg.slogdet(matrix), 7)
diagonal = results.milliseconds(lambda: np.log(np.abs(np.diag(matrix))).sum(), 7)
print(f"D = 1024: for any matrix {whole:.0f} ms, from the diagonal {diagonal:.3f} ms")
assert np.isclose(np.linalg.slogdet(matrix)[1], np.log(np.diag(matrix)).sum())

# %% [markdown]
# The matrix is triangular, so both give the same number; the first way does not use that.

# %% [markdown]
# ## 4.3 A coupling layer
#
# The trick of RealNVP (Dinh et al., 2017): keep one part of the point, and change the other by a scale and a shift that are computed from the part that stays.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("coupling")

# %% [markdown]
# In formulas, for a point of $D = 2$ coordinates of which the first $d = 1$ is kept,
#
# $$z_1 = x_1, \qquad z_2 = x_2 \cdot e^{s(x_1)} + t(x_1), \tag{4.2}$$
#
# where $s$, the log of the scale (스케일 계수), and $t$, the shift (이동 계수), may be *any* functions of $x_1$.
# The way back needs no inverse of $s$ or $t$.
# They saw only $x_1$, which has arrived unchanged, so the same numbers are computed again and taken away:
#
# $$x_1 = z_1, \qquad x_2 = (z_2 - t(z_1)) \cdot e^{-s(z_1)}. \tag{4.3}$$
#
# Later $s$ and $t$ will be networks.
# Here they are made by hand, so that we can see what a coupling does.


# %%
def s(x1):
    return 0.7 * ops.sin(2 * x1)


def t(x1):
    return 0.6 * ops.cos(2 * x1)


def couple(x1, x2):
    return x1, x2 * ops.exp(s(x1)) + t(x1)


# %% [markdown]
# One point goes there and back:

# %%
x1, x2 = np.float32(0.5), np.float32(-1.2)
z1, z2 = couple(x1, x2)
x2_again = (z2 - t(z1)) * ops.exp(-s(z1))
print(f"x = ({x1:.2f}, {x2:.2f}),  s = {s(x1):.3f}, t = {t(x1):.3f}")
print(f"z = ({z1:.2f}, {z2:.2f}),  and back x₂ = {x2_again:.2f}")
assert np.isclose(x2, x2_again, atol=1e-6)

# %% [markdown]
# Now a whole grid goes through it, and then through a second coupling with the same $s$ and $t$ that keeps the *other* coordinate.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm

edge, step = np.linspace(-1.2, 1.2, 17, retstep=True)
low1, low2 = (low.reshape(-1, 1) for low in np.meshgrid(edge[:-1], edge[:-1]))
x1, x2 = low1 + [0, step, step, 0], low2 + [0, 0, step, step]  # corners of each cell
y1, y2 = (ops.convert_to_numpy(y) for y in couple(x1, x2))
z2, z1 = (ops.convert_to_numpy(z) for z in couple(y2, y1))
once = np.exp(s(x1.mean(axis=1)))
stages = {
    "a grid": (x1, x2, np.ones(len(x1))),
    "x₁ kept, x₂ changed": (y1, y2, once),
    "then x₂ kept, x₁ changed": (z1, z2, once * np.exp(s(y2.mean(axis=1)))),
}
figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.3))
for axis, (title, (c1, c2, growth)) in zip(axes, stages.items(), strict=True):
    cells = PolyCollection(np.stack([c1, c2], axis=-1), edgecolors="0.5", cmap="PuOr_r")
    cells.set(array=growth, norm=LogNorm(1 / 5, 5), linewidths=0.25)
    axis.add_collection(cells)
    axis.set(xlim=(-2.7, 2.7), ylim=(-2.7, 2.7), aspect="equal")
    axis.set_title(title, fontsize=10)
bar = figure.colorbar(cells, ax=axes, shrink=0.8, fraction=0.03, pad=0.02)
bar.set_ticks([1 / 4, 1 / 2, 1, 2, 4], labels=["1/4", "1/2", "1", "2", "4"])
bar.ax.minorticks_off()
bar.set_label("growth of area")
words = (
    "A square grid; after one coupling its columns are stretched and shifted, each as "
)
plots.show(figure, alt=words + "a whole; after a second both directions are bent")

# %% [markdown]
# After the first coupling every column of cells is still a straight column: $x_1$ was kept.
# Within a column all cells have been stretched by the same factor $e^s$ and moved by the same $t$, since both depend on $x_1$ alone.
# Orange cells have grown, violet ones have shrunk; they are also sheared, which changes no area.
# Two couplings bend both directions, and their factors multiply.
#
# Is $e^s$ really the growth of an area?
# Tiny squares at random places become parallelograms.
# Their sides $v$ and $w$ give the area, $|v_1 w_2 - v_2 w_1|$:

# %%
at, h = rng.uniform(-1.2, 1.2, size=(2, 100)), 1e-3
corner, right, top = (
    np.stack([ops.convert_to_numpy(z) for z in couple(at[0] + right, at[1] + up)])
    for right, up in ((0, 0), (h, 0), (0, h))
)
v, w = right - corner, top - corner
grown = np.abs(v[0] * w[1] - v[1] * w[0]) / h**2
e_to_s = np.exp(ops.convert_to_numpy(s(at[0])))
print("areas grow by", grown[:4].round(3), "\ne^s          ", e_to_s[:4].round(3))
assert np.allclose(grown, e_to_s, rtol=5e-3)

# %% [markdown]
# So both problems are gone.
# The Jacobian is triangular, since $z_1$ does not depend on $x_2$; its diagonal is 1 and $e^s$, and the log-determinant is $s$ itself, a number that we have already.

# %% [markdown]
# ### Three coordinates, two of them kept
#
# Nothing above needs $D = 2$.
# Any part may be kept, and the networks read all of it.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("coupling_three")

# %% [markdown]
# The same in numbers, with $s = x_1 x_2 / 2$ and $t = x_1 + x_2$:


# %%
def couple_three(x):
    x1, x2, x3 = ops.unstack(x, axis=1)
    return ops.stack([x1, x2, x3 * ops.exp(x1 * x2 / 2) + x1 + x2], axis=1)


x = np.float32([[0.5, 1.0, -1.2]])
J = checks.jacobian(couple_three, x)[0]
print("z =", ops.convert_to_numpy(couple_three(x))[0].round(3))
print(J.round(3))
assert np.isclose(np.log(np.linalg.det(J)), 0.5 * 1.0 / 2, atol=1e-6)

# %% [markdown]
# The first two rows are those of the unit matrix, as in the drawing, and the corner is $e^{s} = e^{0.25} = 1.284$.
# What the two stars happen to be plays no part in the determinant.

# %% [markdown]
# ## 4.4 The layer in Keras
#
# One network gives both $u$ and $t$, and $s$ is made of $u$.
# It gets the kept coordinates and has an output for each coordinate; those for kept ones are thrown away.
# Its last layer starts at zero, so that every coupling starts as the identity.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops


def coupling_network(dim, width, depth, start="zeros"):
    """x -> (u, t) side by side: (batch, dim) to (batch, 2 dim)."""
    x = keras.Input((dim,))
    h = x
    for _ in range(depth):
        h = layers.Dense(width, activation="relu")(h)
    return keras.Model(x, layers.Dense(2 * dim, kernel_initializer=start)(h))


# %% [markdown]
# An exponential is a dangerous thing to hand to a network: one wild value of $u$, and the loss is infinite.
# So the log-scale is bounded, smoothly: $s = b \tanh(u / b)$ is close to $u$ while $|u|$ is small, and never exceeds the bound $b$.
# As in the book, $b = 1$: no coupling makes areas grow by more than $e$.
# Section 4.11 shows what happens with $b = 5$.
#
# The mask (마스크) is 1 for coordinates that are kept and 0 for those that change.
# Where it is 1, $s = t = 0$, so that equations 4.2 and 4.3 may be applied to all coordinates at once.


# %% tags=["definitions"]
class Coupling(layers.Layer):
    """An affine coupling; `mask` (dim,) is 1 for coordinates that are kept, else 0."""

    def __init__(self, mask, network, bound=1.0):
        super().__init__()
        self.mask = np.asarray(mask, "float32")
        self.network, self.bound = network, bound

    def log_scale_and_shift(self, x):
        u, t = ops.split(self.network(x * self.mask), 2, axis=-1)
        s = self.bound * ops.tanh(u / self.bound)
        return s * (1 - self.mask), t * (1 - self.mask)

    def inverse(self, x):
        """x -> z and log |det dz/dx|: (batch, dim) to (batch, dim) and (batch,)."""
        s, t = self.log_scale_and_shift(x)
        return x * ops.exp(s) + t, ops.sum(s, axis=-1)

    def forward(self, z):
        """z -> x."""
        s, t = self.log_scale_and_shift(z)
        return (z - t) * ops.exp(-s)


# %% [markdown]
# A layer that starts as the identity passes every test, right or wrong.
# So we test it with random numbers in its last layer.
# Does `forward` undo `inverse`?
# Is the log-determinant that of the matrix which automatic differentiation finds?


# %%
def shaken(coupling, scale=0.5):
    """The same coupling, random numbers in the last layer of its network."""
    last = coupling.network.layers[-1]
    last.set_weights([rng.normal(0, scale, w.shape) for w in last.get_weights()])
    return coupling


trial = shaken(Coupling([1, 0], coupling_network(2, WIDTH, DEPTH)))
points = rng.normal(size=(500, 2)).astype("float32")
errors = checks.flow_errors(trial, points, tolerance=1e-5)
print({name: f"{error:.0e}" for name, error in errors.items()})

# %% [markdown]
# ### With the book open
#
# The book has one method for both directions, `call(x, training)`, and two numbers in it that make it hard to read.
# This is what they stand for; $s$ and $t$ are the outputs of its networks, with zeros where the mask keeps.
#
# | in the book | value | stands for |
# | --- | --- | --- |
# | `training=True`, `direction` | −1 | x → z, our `inverse`; couplings from the last to the first |
# | `training=False`, `direction` | +1 | z → x, our `forward`; couplings from the first to the last |
# | `gate = (direction - 1) / 2` | −1 for x → z | the shift, too, is divided by $e^s$, and $\log\|\det\| = -\sum s$ |
# | | 0 for z → x | the shift is added as it is; no determinant is needed |
# | `x * exp(direction * s) + direction * t * exp(gate * s)` | x → z | $z = (x - t)\, e^{-s}$ |
# | | z → x | $x = z\, e^{s} + t$ |
#
# So the book subtracts and divides on the way from data to latent points, where we (and the paper) multiply and add.
# As two methods, its coupling reads:


# %% tags=["definitions"]
class BookCoupling(Coupling):
    """The book's form of it: s and t are those of the way z -> x."""

    def inverse(self, x):
        s, t = self.log_scale_and_shift(x)
        return (x - t) * ops.exp(-s), -ops.sum(s, axis=-1)

    def forward(self, z):
        s, t = self.log_scale_and_shift(z)
        return z * ops.exp(s) + t


# %% [markdown]
# Here is the one method with `direction` and `gate`, for one coupling and in our words, beside the two.


# %%
def both_directions(coupling, x, training):
    direction = -1 if training else 1
    gate = (direction - 1) / 2
    s, t = coupling.log_scale_and_shift(x)
    moved = x * ops.exp(direction * s) + direction * t * ops.exp(gate * s)
    return moved, gate * ops.sum(s, axis=-1)


book = shaken(BookCoupling([1, 0], coupling_network(2, WIDTH, DEPTH)))
z, log_det = both_directions(book, points, training=True)
x, _ = both_directions(book, z, training=False)
assert np.allclose(z, book.inverse(points)[0], atol=1e-5)
assert np.allclose(log_det, book.inverse(points)[1], atol=1e-5)
assert np.allclose(x, book.forward(z), atol=1e-5) and np.allclose(x, points, atol=1e-5)

# %% [markdown]
# The same numbers, but for rounding.
# And it is the same family as ours: with $s' = -s$ and $t' = -t\, e^{-s}$ our coupling is the book's.
# What the two can express is alike, and what a network must learn for it differs.

# %% [markdown]
# ## 4.5 A stack of couplings
#
# One coupling changes one coordinate, so the next one has the opposite mask, and so on.
# (With more coordinates any masks will do that change each of them in turn, such as [1, 1, 0], [0, 1, 1], [1, 0, 1] for $D = 3$.)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("coupling_stack")

# %% [markdown]
# The determinant of a product of matrices is the product of the determinants.
# In logarithms, the log-determinants of the layers add up:
#
# $$\log p_X(x) = \log p_Z(z) + \sum_k \log\left|\det \frac{\partial f_k}{\partial h_k}\right|,$$
#
# where $h_k$ is the point as it enters layer $k$ on its way from $x$ to $z$, and $f_k$ is that layer's function.
# We write the model in two steps.
# The first is what every flow of this course shares: given its two directions, it has a density, makes new points, and knows its loss.
# Keras' `fit` calls `compute_loss` with what `call` gave, here log densities, as `y_pred`; the loss is the mean of their negatives, and `self.losses` are penalties that layers may declare.


# %% tags=["definitions"]
class Flow(keras.Model):
    """A density of points (batch, dim), for a subclass with `dim` and two methods:

    `inverse(x)` gives z and log |det dz/dx|, and `forward(z)` gives x.
    """

    def log_prob(self, x):
        """log p(x) in nats: (batch, dim) to (batch,)."""
        z, log_det = self.inverse(x)
        return -0.5 * ops.sum(z**2 + np.log(2 * np.pi), axis=-1) + log_det

    def call(self, x):
        return self.log_prob(x)

    def sample(self, count, seed=None):
        """New points (count, dim)."""
        return self.forward(keras.random.normal((count, self.dim), seed=seed))

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return -ops.mean(y_pred) + sum(self.losses)


# %% [markdown]
# The second is the stack.
# From data to latent points it goes through the couplings in order, adding up; back, in reverse order.


# %% tags=["definitions"]
class RealNVP(Flow):
    """A flow that is a stack of couplings."""

    def __init__(self, couplings):
        super().__init__()
        self.couplings = couplings
        self.dim = len(couplings[0].mask)
        self.built = True  # its networks are built already

    def inverse(self, x):
        log_det = 0.0
        for coupling in self.couplings:
            x, layer_log_det = coupling.inverse(x)
            log_det = log_det + layer_log_det
        return x, log_det

    def forward(self, z):
        for coupling in reversed(self.couplings):
            z = coupling.forward(z)
        return z


# %% [markdown]
# Each coupling gets a network of its own: one network in two couplings would be one set of weights.
# The first mask is [0, 1] here and [1, 0] in the drawing; which comes first makes no difference.


# %% tags=["definitions"]
def build_realnvp(dim, couplings, width, depth, bound=1.0):
    """A RealNVP whose masks keep every other coordinate, now the odd and now the even
    ones.
    """
    stack = []
    for k in range(couplings):
        mask = [(i + k) % 2 for i in range(dim)]
        stack.append(Coupling(mask, coupling_network(dim, width, depth), bound))
    return RealNVP(stack)


# %% [markdown]
# ## 4.6 Two moons, the plain way
#
# The data: `make_moons` draws a point on one of two half circles and adds Gaussian noise of standard deviation 0.05.
# From each coordinate its mean is then subtracted, and it is divided by its standard deviation: those of the distribution itself, where the book takes the sample's, by a `Normalization` layer.

# %%
data = moons.load(train=TRAIN_POINTS)
floor = -data.truth.log_prob(data.x_validation).mean()  # section 4.7 says what it is
print(data.x_train.shape, data.x_validation.shape, data.x_test.shape)

# %% [markdown]
# What somebody who knows Keras would write: build, compile, fit.
# Adam's rate starts at 0.005 and falls to 0 along a cosine.

# %%
plain = build_realnvp(2, couplings=8, width=64, depth=2)
steps = PLAIN_EPOCHS * int(np.ceil(len(data.x_train) / 256))
rate = keras.optimizers.schedules.CosineDecay(5e-3, decay_steps=steps)
plain.compile(keras.optimizers.Adam(rate))

# %% [markdown]
# Two callbacks watch: one shows progress and notes the seconds, the other writes the loss to a file for TensorBoard.

# %%
clock = training.Progress("plain RealNVP")
watch = [clock]
if course.backend() == "tensorflow":
    course.require("tensorboard")
    now = time.strftime("%Y-%m-%d-%H-%M-%S")
    logs = course.output("two_moons", "tensorboard", now)
    watch.append(keras.callbacks.TensorBoard(str(logs)))
else:
    print("The callback that writes TensorBoard's files needs TensorFlow: none here.")

check = {"validation_data": (data.x_validation,), "callbacks": watch}
fitted = plain.fit(
    data.x_train, batch_size=256, epochs=PLAIN_EPOCHS, verbose=0, **check
)

# %% [markdown]
# Did it learn anything?
# New points come from `sample`, and `inverse` sends data to latent space.

# %%
moon = data.moon_test[:3_000]
made = ops.convert_to_numpy(plain.sample(3_000, seed=1))
z, _ = plain.inverse(data.x_test[:3_000])

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.points_panels(
    {
        "data": (data.x_test[:3_000], moon),
        "made by the flow": made,
        "data, sent to latent space": (ops.convert_to_numpy(z), moon),
    },
    limit=3.2,
    columns=3,
    classes=moons.NAMES,
    alt="Two moons; points made by the plain flow, which lie on two moons, too; and "
    "the data in latent space, a round cloud with each moon in one part",
)

# %% [markdown]
# The points in the middle were made from Gaussian noise, and lie on two moons; a few stray off them.
# On the right each moon has become one part of a round cloud.
# The flow tore nothing: it bent the plane until the gap between the moons was a thin line.
#
# The curve of the loss is in the event file that TensorBoard reads.
# (`tensorboard --logdir output` shows it in a browser.)
# We read it ourselves:

# %%
read = {}
if course.backend() == "tensorflow":
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    every = {event_accumulator.TENSORS: 0}  # 0: all of them
    for name in ("train", "validation"):
        file = event_accumulator.EventAccumulator(str(logs / name), every).Reload()
        values = [event.tensor_proto for event in file.Tensors("epoch_loss")]
        read[name] = (
            range(1, len(values) + 1),
            list(map(tensor_util.make_ndarray, values)),
        )
    assert len(read["train"][1]) == len(read["validation"][1]) == PLAIN_EPOCHS

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
if read:
    plots.curves(
        read,
        x_label="epochs",
        y_label="loss (nats)",
        levels={"the truth on the validation points": floor},
        marks=False,
        alt="Training and validation loss of the plain flow fall towards a level",
    )

# %% [markdown]
# It falls fast at first, and then slowly.
# What is the level that it comes down to?
# That is the next question.

# %% [markdown]
# ## 4.7 A yardstick
#
# Why test on two moons?
# Not because they need a flow, but because we know the answer.
# Their density is an average of Gaussians that sit along two arcs, one integral over an angle, and `utils/moons.py` computes it to many digits.

# %%
truth = data.truth
LIMIT, CELLS = 2.6, 240
square, _ = checks.square(LIMIT, CELLS)


def picture(log_prob):
    """Log densities over the square as an image."""
    return np.asarray(log_prob, "float64").reshape(CELLS, CELLS)


exact = picture(truth.log_prob(square))

# %% [markdown]
# How good is a model $q$ of the truth $p$?
# (For a flow, $q$ is the $p_X$ of equation 4.1.)
# Training minimises the *negative log-likelihood* (NLL), the mean of $-\log q(x)$ over data.
# It splits into two parts:
#
# $$\underbrace{\mathbb{E}_p[-\log q(x)]}_{\text{NLL}} = \underbrace{\mathbb{E}_p[-\log p(x)]}_{\text{entropy}} +
# \underbrace{\mathbb{E}_p[\log p(x) - \log q(x)]}_{\mathrm{KL}(p \,\|\, q)\, \ge\, 0}.$$
#
# The entropy is that of the data, and no model's expected NLL goes below it.
# The KL divergence is the model's own fault; it is 0 for the truth alone.
# A KL of 0.03 nats means that a point's density is too low by 3 %, in the geometric mean over points.
# Here both are known.
# (For $\mathcal{N}(0, I)$ the NLL is $\log 2\pi + \mathbb{E}|x|^2/2 = \log 2\pi + 1$, since both coordinates have mean 0 and variance 1.)

# %% tags=["nbval-check-output"]
entropy = truth.entropy()
kl_normal = np.log(2 * np.pi) + 1 - entropy
print(f"entropy of the two moons {entropy:.5f} nats")
print(f"KL of N(0, I) {kl_normal:.4f} nats: where a flow starts that is the identity")

# %% [markdown]
# So an NLL of 1.16, which sounds like nothing in particular, is 0.03 above the best that there can be.
# On *some* points it may be lower: the 5,000 validation points happen to be likelier than most, so that the truth itself scores 1.116 on them (the level in the picture above) and 1.134 on the training points.
# What counts on the same points is the distance to the truth.
#
# There are two ways to compute a KL.
# One is to draw points $x_i$ from $p$ and average $\log p(x_i) - \log q(x_i)$; the spread of the terms gives a standard error.
# The other needs no draws: in two dimensions we can lay a fine lattice over the plane and add up $p\, (\log p - \log q)$ times the area of a cell.
# `integrate_kl` does that, on about a hundred thousand places, and gives two sums: over the *bulk*, where 99.99 % of the truth lie, and over the *plane*, everything up to eight deviations of the noise away from the moons (beyond, there is less than 1e-13 of the truth).


# %%
def both_ways(log_prob):
    by_draws, error = truth.kl(data.x_test, log_prob(data.x_test))
    integral = truth.integrate_kl(log_prob)
    print(f"by {len(data.x_test):,} draws {by_draws:.4f} ± {error:.4f}", end=", ")
    print(f"bulk {integral.bulk:.4f}, plane {integral.plane:.4g} nats")
    return by_draws, error, integral


plain_log_prob = training.compiled(plain.log_prob, plain)
by_draws, error, plain_kl = both_ways(plain_log_prob)
assert plain_kl.plane < kl_normal - course.choose(full=1.5, quick=0.3)
assert abs(by_draws - plain_kl.plane) < 5 * error + 0.1 * plain_kl.plane

# %% [markdown]
# The two agree, and the integral has no error by chance; for networks with kinks, as ReLU makes them, its lattice is good to some percent of the KL.
# `log_prob` is *compiled* here: `training.compiled` turns a function into one graph, which saves time where it is called often.
#
# Where does this KL live?
# The picture shows the terms $p\, (\log p - \log q)$ themselves: their sum over the square, times the area of a cell, is the KL.


# %%
plain_log_q = plain_log_prob(square)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
density = {"cmap": "BuPu", "vmin": 0, "vmax": 0.85}
plots.maps(
    {
        "the truth p": (np.exp(exact), density),
        "the plain flow q": (np.exp(picture(plain_log_q)), density),
        "p (log p − log q)": (
            np.exp(exact) * (exact - picture(plain_log_q)),
            {"cmap": "PuOr_r", "vmin": -0.2, "vmax": 0.2},
        ),
    },
    limit=LIMIT,
    alt="The exact density, that of the plain flow, and a map of the terms of the KL: "
    "orange where the flow has too little density and violet where it has too much",
)

# %% [markdown]
# Orange is where the flow has too little density, violet where it has too much; the KL is what is left when all is added up.
# It sits on the moons themselves, in stretches where the flow's moon is a little too thin, too wide or beside the truth.
# In the middle picture a thin thread leads from one moon to the other; section 4.11 comes back to it.

# %% [markdown]
# ## 4.8 The same, longer and faster
#
# How long did a step take, and what for?
# We train the same kind of model again, with the same size of batches, by another loop: `training.fit_density` puts a whole *epoch* into one compiled graph, the loop over the batches, the gradients and the optimizer's updates.
# Python is asked once an epoch and not once a step.

# %%
again = build_realnvp(2, couplings=8, width=64, depth=2)
adam = keras.optimizers.Adam(1e-3)
graph = training.fit_density(
    again, data.x_train, optimizer=adam, epochs=4, batch=256, label="in one graph"
)
per_epoch = len(data.x_train) / 256
fit_ms = 1000 * np.median(np.diff(clock.seconds)) / np.ceil(per_epoch)
graph_ms = 1000 * np.median(np.diff(graph["seconds"])) / np.floor(per_epoch)
print(f"a step by fit {fit_ms:.1f} ms, within the graph {graph_ms:.1f} ms")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 1.9))
shown, rest = 6, max(0.0, fit_ms - graph_ms)
edge = {"edgecolor": "white", "linewidth": 1.2}
for step in range(shown):
    start = step * fit_ms
    axis.broken_barh([(step * graph_ms, graph_ms)], (0, 0.6), fc="#3f90da", **edge)
    axis.broken_barh([(start, graph_ms)], (1, 0.6), fc="#3f90da", **edge)
    axis.broken_barh([(start + graph_ms, rest)], (1, 0.6), fc="0.82", **edge)
axis.set(yticks=[0.3, 1.3], yticklabels=["one graph", "fit"], ylim=(-0.3, 1.9))
axis.set_xlabel(
    f"milliseconds: {shown} steps of each (blue: as in the graph, grey: beyond)"
)
axis.spines[["top", "right", "left"]].set_visible(False)
plots.show(
    figure,
    alt=f"{shown} steps on a line of time: within one graph they follow each other, by "
    "fit a wait follows each of them",
)

# %% [markdown]
# Each blue bar is a step as it runs within the graph; the grey is what `fit` takes beyond that.
# A step of this flow is hundreds of small operations on 256 points, and starting them one after another takes longer than the arithmetic; `fit` also counts and calls back between two steps.
# In the graph, XLA (the compiler that comes with TensorFlow) has fused them into a few large ones, and nobody waits for Python.
# (On JAX both loops are `fit`, and there is no such difference.
# [Appendix A2](A2_faster.ipynb) takes this apart, one step at a time.)
#
# For the time that is saved we buy depth: sixteen couplings with narrower networks, for 120 epochs.
# While it trains, `draw_epoch` (in the folded cell) keeps a picture of some epochs in files, as the book's callback does.

# %%
EARLY = (0, 1, 2, 3, 5, 8, 12, 18, 25, 35, 50, 70, 90)
FILM = [epoch for epoch in EARLY if epoch < EPOCHS] + [EPOCHS]
folder = course.output("two_moons", "film")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
wide, side = 3.2, 100
film_square, _ = checks.square(wide, side)
latent_grid = plots.grid_lines()


def draw_epoch(epoch):
    if epoch not in FILM:
        return
    figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.3), dpi=72)
    density = np.exp(log_prob(film_square)).reshape(side, side)
    over = np.linspace(-wide, wide, side)
    style = {"levels": np.linspace(0, 0.8, 9), "cmap": "BuPu", "extend": "max"}
    axes[0].contourf(over, over, density, **style)
    axes[0].set_aspect("equal")
    z, _ = to_latent(data.x_test[:1_000])
    plots.draw_points(axes[1], z, data.moon_test[:1_000], limit=wide)
    plots.draw_grid(axes[2], to_data(latent_grid), limit=wide)
    titles = (
        f"epoch {epoch}: density",
        "data in latent space",
        "latent grid in data space",
    )
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=10)
    figure.subplots_adjust(0.04, 0.08, 0.99, 0.9)
    with course.replacing(folder / f"epoch-{epoch:03d}.png") as part:
        figure.savefig(part)
    plt.close(figure)


# %% [markdown]
# The optimizer: Adam, with a rate that climbs for a tenth of the steps and then falls to zero as a cosine.
# Gradients longer than 5 are cut to that length.
# The weights of the epoch with the lowest validation NLL are kept.


# %%
def optimizer(epochs, points=TRAIN_POINTS, peak=PEAK_RATE, batch=BATCH):
    rate = training.warmup_cosine(peak, steps=epochs * (points // batch))
    return keras.optimizers.Adam(rate, global_clipnorm=5.0)


def train(flow, label, each_epoch=None):
    return training.fit_density(
        flow,
        data.x_train,
        optimizer=optimizer(EPOCHS),
        epochs=EPOCHS,
        batch=BATCH,
        validation=data.x_validation,
        patience=EPOCHS,  # to the end; then the weights of the best epoch
        seed=seed,
        label=label,
        each_epoch=each_epoch,
    )


# %%
flow = build_realnvp(2, COUPLINGS, WIDTH, DEPTH, BOUND)
z_start, log_det_start = flow.inverse(points)
assert np.array_equal(z_start, points) and not np.any(log_det_start)  # the identity
log_prob = training.compiled(flow.log_prob, flow)
to_latent = training.compiled(flow.inverse, flow)
to_data = training.compiled(flow.forward, flow)
history = train(flow, "RealNVP", draw_epoch)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.film(
    [folder / f"epoch-{epoch:03d}.png" for epoch in FILM],
    path=folder / "training.png",
    milliseconds=450,
    alt="A film of the training: the density becomes two moons, the data in latent "
    "space a round cloud, and the latent grid is bent until it lies along the moons",
)

# %% [markdown]
# The picture moves, for about eight seconds.
# On the left a Gaussian blob becomes two moons.
# In the middle two moons become a Gaussian cloud, each moon one part of it.
# On the right is the map that does both: a square grid of latent space, seen in data space (blue: lines of constant $z_1$, orange: of constant $z_2$).
# Most happens in the first ten epochs; the rest is finish.
# The pictures are files, in `output/full/two_moons/film`.

# %%
_, _, integral = both_ways(log_prob)
seconds = history["seconds"][-1]
print(f"{seconds:.0f} s of training, compiling included")
assert integral.plane < course.choose(full=0.02, quick=1.0)

# %% [markdown]
# Nearer than the plain flow, and in about as many seconds.
# (The bar above counts more: drawing the film and the validation, too.)
# (Draws and integral differ by less than two standard errors of the draws.)
# This is one seed.
# `make bench`, the course's benchmark, trains every model with three seeds; its figures for this one are in the table of section 4.11.

# %% [markdown]
# ## 4.9 What has it learned?
#
# In two dimensions a coupling *is* two curves: $s$ and $t$ as functions of the coordinate that it keeps.
# Nothing else was trained.
# So here is the whole flow, sixteen couplings, in the order in which noise becomes data.
# In each row four couplings are drawn, and then the latent grid after them.

# %%
value = np.linspace(-3, 3, 300).astype("float32")
curves, stages = [], [latent_grid]
for coupling in reversed(flow.couplings):
    kept = int(coupling.mask.argmax())
    both = coupling.log_scale_and_shift(np.stack([value, value], axis=1))
    curves.append((kept, *(ops.convert_to_numpy(c)[:, 1 - kept] for c in both)))
    stages.append(ops.convert_to_numpy(coupling.forward(stages[-1])))

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
rows = -(-len(curves) // 4)
figure = plt.figure(figsize=(plots.WIDTH, 2.15 * rows))
cells = figure.add_gridspec(rows, 3, width_ratios=(1, 1, 1.02), wspace=0.2, hspace=0.42)
for row in range(rows):
    small = cells[row, :2].subgridspec(1, 4, wspace=0.12)
    for column in range(min(4, len(curves) - 4 * row)):
        number = 4 * row + column
        kept, log_scale, shift = curves[number]
        axis = figure.add_subplot(small[column])
        axis.axhline(0, color="0.8", linewidth=0.8)
        at = stages[number][:, kept]
        low, high = np.quantile(at, [0.02, 0.98])
        axis.axvspan(low, high, color="0.94")
        axis.plot(value, log_scale, color=plots.COLOURS[0], label="s, log-scale")
        axis.plot(value, shift, "--", color=plots.COLOURS[1], label="t, shift")
        axis.set(xlim=(-3, 3), ylim=(-2.2, 2.2), xticks=[-2, 0, 2])
        axis.set_title(f"{len(curves) - number}: keeps x{'₁₂'[kept]}", fontsize=9)
        axis.tick_params(labelsize=7, labelleft=column == 0)
        handles = axis.get_legend_handles_labels()
    last = min(4 * row + 4, len(curves))
    axis = figure.add_subplot(cells[row, 2])
    plots.draw_grid(axis, stages[last], limit=4)
    axis.set_title(f"the grid after {last} couplings", fontsize=9)
place_of_legend = {"loc": "lower center", "bbox_to_anchor": (0.38, 0.92)}
figure.legend(*handles, ncols=2, frameon=False, **place_of_legend)
plots.show(
    figure,
    alt="Sixteen small panels with the curves s and t of every coupling, and the "
    "latent grid after each four of them, bent more and more until it lies along two "
    "moons",
)

# %% [markdown]
# How to read a panel: the title says which coordinate is kept; it runs from left to right.
# On the way from noise to data the other coordinate is multiplied by $e^{-s}$ after $t$ was taken away.
# Where the solid line is below 0, the grid is stretched; where the dashed one is above 0, it is pushed towards smaller values.
# Between the vertical edges of the grey strip lie 96 % of the grid when it arrives there.
#
# No single curve knows of moons.
# Each is a bend or two, with the kinks of ReLU networks (some leave the frame); the moons come of applying them in turn, now to one coordinate and now to the other.
# Two lines of one colour never cross, since the function can be undone.
#
# And the number that the chapter began with?
# Equation 4.1 at work, for a point in the middle of a moon, one at its rim, and one in the gap between the moons:

# %%
places = np.float32([[-0.55, 1.43], [-0.55, 1.65], [0.05, 0.5]])
z, log_det = to_latent(places)
base = -0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi)
table = pd.DataFrame(
    {
        "|z|": np.linalg.norm(z, axis=1),
        "log p_Z(z)": base,
        "sum of s": log_det,
        "log q(x)": base + log_det,
        "the truth, log p(x)": truth.log_prob(places),
    },
    index=["in a moon", "at its rim", "in the gap"],
)
assert np.allclose(table["log q(x)"], log_prob(places), atol=1e-4)
table.round(2)

# %% [markdown]
# In the moon both terms of equation 4.1 are on its side: the latent point is near 0, where the Gaussian is high, and the neighbourhood is spread out on its way there.
# In the gap both are against it: the latent point lies far out, and what is around it was squeezed together.
# Even so the flow gives the gap more than the truth does.

# %% [markdown]
# ## 4.10 Is it right?
#
# A loss that falls proves little: with a wrong log-determinant it falls, too, and with one that is too large further than it should.
# Of these four checks the second finds any such error at the points that it is given, the third one that changes the mass of the whole, and the fourth one that makes the density too large.
#
# 1. The **inverse**: $g(f(x)) = x$ for test points.
# 2. The **log-determinant** is that of the Jacobian from automatic differentiation.
# 3. The **integral** of the density over the plane is 1.
# 4. The **KL** is not below 0.

# %%
errors = checks.flow_errors(flow, data.x_test[:1_000], tolerance=1e-2)
total = checks.integral(log_prob, tolerance=course.choose(full=2e-3, quick=1e-2))
print(errors, total)
assert integral.trouble is None  # a KL below 0, or a density that is not finite

# %% [markdown]
# What would a wrong log-determinant have looked like?
# Suppose that it were counted one and a half times.


# %%
def wrong_log_prob(x):
    z, log_det = flow.inverse(x)
    return -0.5 * ops.sum(z**2 + np.log(2 * np.pi), axis=-1) + 1.5 * log_det


wrong = training.compiled(wrong_log_prob, flow)
wrong_kl = truth.integrate_kl(wrong)
print(wrong_kl.trouble)
try:
    checks.integral(wrong)
except checks.CheckFailed as failure:
    print(failure)
else:
    raise AssertionError("the check let a wrong log-determinant through")
assert wrong_kl.bulk < course.choose(full=0, quick=np.inf)

# %% [markdown]
# Either of these two finds it; the inverse is as right as before.
# What none of the four finds is a flow that is a density, and a bad one where nobody looks.

# %% [markdown]
# ## 4.11 What ten thousand draws did not see
#
# The bound on the log-scale was 1, which looks timid: why not let a coupling scale as much as it likes?
# The same training with $b = 5$, and nothing else changed:

# %%
wild = build_realnvp(2, COUPLINGS, WIDTH, DEPTH, bound=5.0)
assert wild.couplings[0].bound == 5.0
wild_seconds = train(wild, "bound 5")["seconds"][-1]
wild_log_prob = training.compiled(wild.log_prob, wild)
wild_by_draws, wild_error, wild_kl = both_ways(wild_log_prob)
assert wild_by_draws < course.choose(full=0.03, quick=1.5)

# %% [markdown]
# By ten thousand draws it is as good as the other, with a small standard error.
# Over the bulk the integral says the same.
# Over the plane it says something else altogether.
#
# The reason is in the tail of the truth.
# To see it, sum the terms of the KL only where $\log p$ is above some level, and lower the level.
# `lattice` has the places, `log_p` there, and the `mass` of the truth in each cell.

# %%
lattice = truth.quadrature()
order = np.argsort(-lattice.log_p)
levels, sums = lattice.log_p[order], {}
for name, model in {"bound 1": log_prob, "bound 5": wild_log_prob}.items():
    terms = lattice.mass * (lattice.log_p - lattice.evaluate(model))
    sums[name] = np.cumsum(terms[order])
rarest_draw = truth.log_prob(data.x_test).min()
rarer = lattice.mass[lattice.log_p < rarest_draw].sum()
print(f"{rarer:.0e} of the truth is rarer than the rarest of these draws")

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
for index, (name, so_far) in enumerate(sums.items()):
    style = {"linestyle": ("-", "--")[index], "color": plots.COLOURS[index]}
    axis.semilogy(levels[levels < -2], so_far[levels < -2], label=name, **style)
axis.axvline(rarest_draw, color="0.35", linestyle=":")
words = "the rarest of\nten thousand draws"
beside = {"xycoords": ("data", "axes fraction"), "ha": "right", "fontsize": 9}
axis.annotate(words, (rarest_draw + 0.2, 0.45), **beside)
axis.set(xlim=(-2, -30), xlabel="places with log p above this level (rarer →)")
axis.set(ylabel="their sum of p (log p − log q)")
axis.legend(frameon=False, loc="upper left")
plots.show(
    figure,
    alt="The KL summed over places with log p above a level: with bound 1 it stays at "
    "0.01, with bound 5 it rises by powers of ten beyond the rarest draw",
)

# %% [markdown]
# Left of the dotted line the two are alike, and that is all that ten thousand draws can see.
# Beyond it, one flow stays where it is.
# The other climbs by powers of ten: places that hold next to nothing of the truth have so small a $q$ that they outweigh everything else.
# The standard error of the draws did not warn us, since it is made of the same draws.

# %%
for name, model in {"bound 1": flow, "bound 5": wild}.items():
    z, _ = training.compiled(model.inverse, model)(lattice.x)
    far = np.abs(z).max()
    print(f"{name}: the furthest latent point of any place is at {far:,.0f}")

# %% [markdown]
# The latent points tell how it happens.
# Each coordinate is changed by eight couplings; with log-scales up to 5 they may multiply it by $e^{40}$.
# Where there are data, the networks have learned to behave; a little off the moons there are none, and some points are thrown out by powers of ten.
# Their $\log q$ is about $-|z|^2/2$.
#
# A picture of log densities shows where, and a second thing that pictures of densities hide:

# %%
terms = lattice.mass * (lattice.log_p - lattice.evaluate(wild_log_prob))
worst = lattice.x[np.argsort(-terms)[:2_000:40]]  # some of what costs bound 5 most

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
cut_off = {"cmap": "viridis", "vmin": -20, "vmax": 0}
plots.maps(
    {
        "log p, the truth": (exact, cut_off),
        "log q, bound 1": (picture(log_prob(square)), cut_off),
        "log q, bound 5": (picture(wild_log_prob(square)), cut_off),
    },
    limit=LIMIT,
    marks=worst,
    alt="Log densities: the truth falls evenly around both moons; the flows have a "
    "thread of higher density from moon to moon; rings mark where bound 5 loses most",
)

# %% [markdown]
# The truth falls off evenly on all sides.
# Both flows fill the gap between the moons, where the truth has next to nothing: the Gaussian is one piece, a function that can be undone cannot tear it, and so there is always a bridge from moon to moon.
# With bound 5 the rings mark the places that cost most: they lie in two groups, and not even far from a moon.
#
# Three seeds of each, as `make bench` measured them (two Intel Xeon cores; KL in nats: median, least and most), with two other cures for bound 5: latent points with a heavier tail (a Student's t distribution), and linear tails, that is, networks that see coordinates clipped to [−5, 5], so that scale and shift stop changing far out.


# %%
bench = results.benchmarked("moons") | results.benchmarked("ladders")
rows = {"bound 1": bench["RealNVP (4)"]}
rows["bound 5"] = bench["RealNVP (4), log-scale at most 5"]
for name in ("Student base", "linear tails"):
    rows[f"bound 5, {name}"] = bench[f"RealNVP (4), {name}"]
columns = ("kl_plane", "kl_bulk")
pd.DataFrame(
    {n: [results.spread(r, c) for c in columns] for n, r in rows.items()}, columns
).T

# %% [markdown]
# **The rule: bound every log-scale by 1.**
# It costs nothing in the bulk, and the plane is then as good.
# The two others work, too, the Student base perhaps at a price in the bulk.
# The evidence is two moons, three flows and three seeds: [Where data are rare](../docs/tails.md) has it.

# %% [markdown]
# ## 4.12 When is a flow worth it?
#
# On two moons, it is not (three seeds of each are on the [leaderboard](../docs/leaderboard.md)).
# A mixture of thirty Gaussians has 179 numbers and is fitted in about a second:

# %%
from sklearn.mixture import GaussianMixture

started = time.perf_counter()
thirty = GaussianMixture(course.choose(full=30, quick=10), random_state=seed)
thirty.fit(data.x_train)
mixture_seconds = time.perf_counter() - started
mixture_kl = truth.integrate_kl(thirty.score_samples)
print(f"plane {mixture_kl.plane:.4f} nats after {mixture_seconds:.1f} s")
assert mixture_kl.plane < course.choose(full=0.01, quick=0.2)

# %% [markdown]
# A mixture covers data with ellipsoids, and in two dimensions thirty of them cover a lot.
# In more dimensions there is more to cover, and each ellipsoid has a covariance of $D^2/2$ numbers to learn.
#
# ### Sixty-four dimensions
#
# scikit-learn's digits: 1,797 pictures of 8 × 8 pixels with grey levels from 0 to 16.
# Levels are whole numbers, and a density needs a continuum, so each level gets a random number between 0 and 1 added ("dequantisation"; [chapter 6](06_glow.ipynb) says why this is fair), four times for each training picture.
# A logit, $\log(r / (1 - r))$ for a fraction $r$ between 0 and 1, brings them from an interval to the whole line; so that no fraction is too near to 0 or 1, $r$ runs from 0.01 to 0.99.
# All of this is the same for every model.

# %%
from sklearn.datasets import load_digits

grey = rng.permutation(load_digits().data)
parts = np.split(grey, [1_297, 1_547])  # training, validation, test


def spread_out(grey):
    fraction = 0.01 + 0.98 * (grey + rng.random(grey.shape)) / 17
    return np.log(fraction / (1 - fraction))


x_train = np.concatenate([spread_out(parts[0]) for _ in range(4)])
middle, width = x_train.mean(axis=0), x_train.std(axis=0)
x_train, x_validation, x_test = (
    (x - middle) / width for x in (x_train, spread_out(parts[1]), spread_out(parts[2]))
)

# %% [markdown]
# Mixtures of several sizes, with three kinds of covariance: any, one that all components share, and diagonal ones.
# The validation pictures choose; the score is the mean log-likelihood in nats, higher is better.

# %%
tried = {}
for kind in ("full", "tied", "diag"):
    for count in MIXTURES:
        mixture = GaussianMixture(count, covariance_type=kind, reg_covar=0.1, tol=0.01)
        tried[kind, count] = mixture.set_params(random_state=seed).fit(x_train)
scores = pd.Series({key: m.score(x_validation) for key, m in tried.items()})
mixture = tried[scores.idxmax()]
print("chosen:", *scores.idxmax())
scores.unstack().round(1)

# %% [markdown]
# A kernel estimate (a small Gaussian on every training point), its width chosen in the same way, and the flow, with the weights of its best epoch on the validation pictures:

# %%
from sklearn.neighbors import KernelDensity

kernels = [KernelDensity(bandwidth=b).fit(x_train) for b in (0.3, 0.4, 0.5, 0.6, 0.8)]
kernel = max(kernels, key=lambda k: k.score(x_validation))
print("kernel of width", kernel.bandwidth)
of_digits = build_realnvp(64, couplings=8, width=64, depth=1)
adam = optimizer(DIGIT_EPOCHS, len(x_train), peak=1e-3)
fitting = {"epochs": DIGIT_EPOCHS, "batch": BATCH, "optimizer": adam}
keep_best = {"validation": x_validation, "patience": 10, "label": "digits"}
of_epochs = training.fit_density(of_digits, x_train, **fitting, **keep_best)

# %%
log_q = {
    "N(0, I)": -0.5 * (x_test**2 + np.log(2 * np.pi)).sum(axis=1),
    "kernel estimate": kernel.score_samples(x_test),
    "mixture": mixture.score_samples(x_test),
    "RealNVP": training.compiled(of_digits.log_prob, of_digits)(x_test),
}
for name, nats in log_q.items():
    nats = nats - np.log(width).sum()  # of logits, before they were standardised
    print(f"{name:16} {nats.mean():6.1f} ± {nats.std() / len(nats) ** 0.5:.1f} nats")
assert log_q["RealNVP"].mean() > log_q["N(0, I)"].mean() + course.choose(
    full=5, quick=0
)

# %% [markdown]
# (These figures are of logits, those of the table before of standardised logits: by one constant lower, the sum of the logarithms of the widths.)


# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
def as_pictures(x):
    fraction = 1 / (1 + np.exp(-(x * width + middle)))
    return ((fraction - 0.01) / 0.98).clip(0, 1).reshape(-1, 8, 8)


plots.image_rows(
    {
        "digits": parts[2][:14].reshape(-1, 8, 8) / 16,
        "RealNVP": as_pictures(ops.convert_to_numpy(of_digits.sample(14, seed=2))),
        "mixture": as_pictures(mixture.sample(14)[0]),
        "kernel": as_pictures(kernel.sample(14, random_state=seed)),
    },
    alt="Digits of the data, and samples of the flow, the mixture and the kernel",
)

# %% [markdown]
# In the rows of mixture and kernel most digits can be read; the kernel's are training digits with noise on them.
# The flow's are rougher.
# And the mixture wins, by more than four nats: a test image is about $e^{4.4} \approx 80$ times likelier under it than under the flow (in the geometric mean).
#
# Where does a flow begin to win?
# The same contest on clothes: Fashion-MNIST shrunk to 8 × 8 pixels, with more and more of its images.
# It takes too long for this chapter; `make bench PART=images` ran it, and every contestant was chosen among its tries on validation images.
# First the digits again, with three seeds, each a split of its own, so that figures differ from those above by a few nats:

# %%
images = results.benchmarked("images")
names, sizes = ("kernel", "mixture", "RealNVP"), (300, 1_000, 3_000, 10_000)
clothes = {
    name: [images[row] for n in sizes if (row := f"{name}, {n:,} clothes") in images]
    for name in names
}
for name in names:
    print(f"{name} on digits:", results.spread(images[f"{name}, digits"], "nats", 1))

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.6))
for index, (name, rows) in enumerate(clothes.items()):
    nats = [sorted(run["nats"] for run in runs) for runs in rows]
    middle = np.array([np.median(some) for some in nats])
    ends = [middle - [some[0] for some in nats], [some[-1] for some in nats] - middle]
    style = {
        "fmt": ("^:", "s--", "o-")[index],
        "color": plots.COLOURS[(2, 1, 0)[index]],
    }
    axis.errorbar(sizes[: len(nats)], middle, ends, label=name, capsize=3, **style)
axis.set(
    xscale="log", xlabel="training images", ylabel="nats an image (higher: better)"
)
axis.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
axis.minorticks_off()
axis.legend(frameon=False)
plots.show(
    figure,
    alt="Likelihood of test images against the number of training images: the flow "
    "catches up with the mixture at 3,000, and with 10,000 is above it",
)

# %% [markdown]
# A dot is the median of three seeds and its bar their range; with 10,000 images there is one seed, and no kernel.
# With 300 and with 1,000 images the mixture is far ahead.
# With 3,000 the two are level: the mixture at −37.3 (−39.1 to −35.1), the flow at −37.4 (−37.5 to −34.8).
# With 10,000 the flow is ahead by 5.7 nats, −21.6 ± 0.7 against −27.3 ± 0.7 (standard errors over the test images).
#
# One seed and fewer tries make no rank, so what three seeds show is this: the flow catches up with more images, and is level at 3,000.
# Where they meet depends on what was tried: from 3,000 images on the mixture chosen has the smallest `reg_covar` on offer, 0.003, and the flow mostly the largest shape, so a wider search could move the place.
# There is no rule that flows are better in many dimensions.
#
# (Up to 3,000 images there were 29 mixtures to choose from, by their size, their kind of covariance and `reg_covar`, eight widths of the kernel and three shapes of the flow; with 10,000 images only the eleven mixtures and the two flows that had done best.
# [The benchmark's page](../docs/benchmark.md#sixty-four-dimensions) has the table.)

# %% [markdown]
# ## 4.13 Your own data
#
# A table with numbers in its columns is all that a flow needs.
# As an example we write one: four measurements of 569 breast tumours, which come with scikit-learn.

# %%
from sklearn.datasets import load_breast_cancer

example = course.output("own", "tumours.csv")
tumours = load_breast_cancer(as_frame=True).data.iloc[:, [0, 1, 4, 5]]
tumours.to_csv(example, index=False)

# %% [markdown]
# For a file of your own, put its path here.
# `datasets.table` keeps the columns of numbers and the rows without gaps, and says what it left out.
# Columns are standardised, so that the density of a row in the units of the table is that of the standardised one divided by all the deviations.
# (Columns of whole numbers are densities only with noise added, as with the digits.)

# %%
path = example  # or "my_table.csv"
table = datasets.table(path).sample(frac=1, random_state=seed)
mean, std = table.mean().to_numpy(), table.std().to_numpy()
x_own = ((table - mean) / std).to_numpy("float32")
held_out = len(x_own) // 5
mine = build_realnvp(x_own.shape[1], couplings=6, width=32, depth=1)
adam = optimizer(OWN_EPOCHS, len(x_own) - held_out, peak=2e-3, batch=32)
fitting = {"epochs": OWN_EPOCHS, "batch": 32, "optimizer": adam, "label": "own table"}
check = {"validation": x_own[:held_out], "patience": 10}
own_epochs = training.fit_density(mine, x_own[held_out:], **fitting, **check)

# %%
table["log density"] = training.compiled(mine.log_prob, mine)(x_own) - np.log(std).sum()
made = ops.convert_to_numpy(mine.sample(500, seed=1)) * std + mean
new = pd.DataFrame(made, columns=table.columns[:-1])

# %% [markdown]
# What for?
# The rows that the flow finds least likely are the ones to look at:

# %%
rare = table.nsmallest(3, "log density")
rare.round(3)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
first, second = table.columns[:2]
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 3.4), sharex=True, sharey=True)
for axis, (title, shown) in zip(axes, {"the table": table, "new rows": new}.items()):
    axis.scatter(shown[first], shown[second], s=6, color=plots.COLOURS[0], alpha=0.6)
    axis.set(title=title, xlabel=first)
axes[0].scatter(rare[first], rare[second], s=60, facecolors="none", edgecolors="0.2")
axes[0].set_ylabel(second)
plots.show(
    figure,
    alt="Two columns of the table, its three least likely rows circled, and new rows "
    "that the flow made, which lie in the same place",
)

# %% [markdown]
# On the right are 500 new rows, in the units of the table; on the left its own, the three least likely circled.
# (A row can look ordinary in two columns and be strange in the others.)
# A model of so few rows is rough: the validation loss is what to trust, not the training loss.

# %% [markdown]
# ## What we measured


# %%
normal = rng.normal(size=(10_000, 2)).astype("float32")
trained = {
    "plain RealNVP": (plain_kl, clock.seconds[-1], plain.count_params()),
    "RealNVP": (integral, seconds, flow.count_params()),
    "RealNVP, bound 5": (wild_kl, wild_seconds, wild.count_params()),
    "30 Gaussians": (mixture_kl, mixture_seconds, 179),
}
names = ("model", "kl_plane", "kl_bulk", "train_seconds", "parameters")
rows = [
    dict(zip(names, (model, kl.plane, kl.bulk, spent, count)))
    for model, (kl, spent, count) in trained.items()
]
density_ms = results.milliseconds(lambda: log_prob(data.x_test))
rows[1] |= errors | {"density_ms": density_ms}
rows[1]["sample_ms"] = results.milliseconds(lambda: to_data(normal))
total = time.perf_counter() - STARTED
results.record("04_realnvp", data=data.name, seconds=total, rows=rows)

# %% [markdown]
# ## Summary
#
# - A flow is a function that can be undone.
#   The density of a data point is that of its latent point times $|\det \partial f/\partial x|$, where $f$ takes data to latent points.
# - A coupling keeps a part of a point, and scales and shifts the rest by functions of the part that stays.
#   Its inverse needs no inverse of a network, and its log-determinant is a sum.
# - In two dimensions a coupling is two curves, and a flow is what a stack of such simple curves can bend.
#
# - Four checks find a wrong flow: inverse, log-determinant by automatic differentiation, integral, and a KL that is not below 0.
# - Test points see only where test points fall.
#   A flow whose log-scales could reach 5 was right for all of them and wrong by powers of ten where data are rare; a bound of 1 cures it.
# - On two moons and on 1,300 digits a mixture of Gaussians is better.
#   On small clothes in 64 dimensions the flow catches up at 3,000 images; with 10,000, by one seed, it was ahead.
#
# [Appendix A2](A2_faster.ipynb) goes from the book's model to this one, one change at a time.
# [Chapter 5](05_tfp_flows.ipynb) builds flows from the parts that TensorFlow Probability offers.

# %% [markdown]
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
# Several of them train a flow for a few epochs:


# %%
short = course.choose(full=15, quick=2)


def train_short(flow, label):
    fitting = {"optimizer": optimizer(short), "epochs": short, "batch": BATCH}
    training.fit_density(flow, data.x_train, label=label, **fitting)
    return truth.integrate_kl(training.compiled(flow.log_prob, flow))


# %% [markdown]
# **1. Predict.**
# What happens if every coupling has the mask [1, 0]?
# Say first what such a flow can still learn, and what its samples will look like; then train it.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# x₁ is kept by every coupling, so the model of x₁ stays the standard normal. Given x₁,
# all couplings together are one scale and one shift of a normal: a single Gaussian,
# where two moons lie above each other. Samples fill the gap between the moons.
masks = [[1, 0]] * 6
same = RealNVP([Coupling(mask, coupling_network(2, WIDTH, DEPTH)) for mask in masks])
same_kl = train_short(same, "one mask")
print(f"one mask: KL {same_kl.plane:.3f}, section 4.8's flow: {integral.plane:.3f}")
plots.points_panels(
    {"one mask for all": ops.convert_to_numpy(same.sample(3_000, seed=1))},
    columns=2,
    alt="Samples of a flow with one mask: a cloud whose height follows x₁, no moons",
)
assert same_kl.plane > integral.plane

# %% [markdown]
# **2. Derive.**
# NICE (Dinh et al., 2015) came before RealNVP.
# Its couplings only shift: $s = 0$.
# (NICE also scales each coordinate once, next to $z$; leave that out.)
# What is its log-determinant, and how high can its density be?
# That bounds its KL from below, but not tightly.
# For the tight bound, let $A(x)$ be the area of the region where $p$ exceeds $p(x)$.
# A map that keeps areas can bring, as nearly as one likes, any region to any other of the same area.
# Of all densities that such maps make of the Gaussian, which has the least $\mathrm{KL}(p \,\|\, q)$, and how large is it?
# (`lattice.mass` has the probability of each place of section 4.11, `lattice.level_area` its $A(x)$.)

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# The log-determinant is 0 everywhere: areas are moved about and keep their size. So
# q(x) = p_Z(z) is at most 1/2π, and KL ≥ log 2π − H = 0.71, H being the entropy of p.
#
# Tight: a map that keeps areas can bring any region to any other of the same area.
# E_p[log q] is largest if q is high where p is: the regions where q exceeds a level are
# then those where p exceeds one. A Gaussian's density at radius r is e^{−r²/2}/2π, and
# the disc where it is higher has the area A = πr². So the best q at x has r² = A(x)/π:
#   log q(x) = −log 2π − A(x)/2π,  KL = log 2π + E_p[A]/2π − H.
mean_area = (lattice.mass * lattice.level_area).sum()
tight = np.log(2 * np.pi) + mean_area / (2 * np.pi) - entropy
print(f"easy bound {np.log(2 * np.pi) - entropy:.3f}, tight bound {tight:.3f} nats")


class Additive(Coupling):
    def log_scale_and_shift(self, x):
        s, t = super().log_scale_and_shift(x)
        return 0 * s, t


masks = [[k % 2, 1 - k % 2] for k in range(6)]
nice = RealNVP([Additive(mask, coupling_network(2, WIDTH, DEPTH)) for mask in masks])
nice_kl = train_short(nice, "NICE")
print(f"NICE after {short} epochs: KL {nice_kl.plane:.3f}")
assert np.isclose(tight, truth.nice_floor(scaled=False), atol=1e-3)
assert nice_kl.plane > tight

# %% [markdown]
# **3. Find the bug.**
# This coupling trains, and its loss falls below the entropy within an epoch or two.
# Which checks of section 4.10 find it, and which line is wrong?


# %%
class Suspect(Coupling):
    def log_scale_and_shift(self, x):
        u, t = ops.split(self.network(x), 2, axis=-1)
        s = self.bound * ops.tanh(u / self.bound)
        return s * (1 - self.mask), t * (1 - self.mask)


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# The network sees x, not x * mask: s and t depend on the coordinate that they change.
# The Jacobian is still triangular, but its diagonal is no longer e^s, since s and t
# also change with x₂: the log-det is wrong, and `forward`, which asks the network about
# z, is not the inverse. Checks 1 and 2 find it in any such coupling that is not the
# identity, as in the shaken one below; in a trained one 3 and 4 do, too.
suspect = shaken(Suspect([1, 0], coupling_network(2, WIDTH, DEPTH)))
to_z, to_x = lambda x: suspect.inverse(x)[0], suspect.forward
for name, check in {
    "inverse": lambda: checks.inverse_error(to_z, to_x, points, 1e-4),
    "log-determinant": lambda: checks.log_det_error(
        to_z, lambda x: suspect.inverse(x)[1], points, 1e-4
    ),
}.items():
    try:
        check()
    except checks.CheckFailed as failure:
        print(f"{name}: {failure}")
    else:
        raise AssertionError(f"the check of the {name} let it through")

# %% [markdown]
# **4. Find the bug, again.**
# Here somebody tidied `log_prob` up.
# Inverse and log-determinant pass their checks.
# What is wrong, what happens to samples of a flow trained with it, and which checks find it?


# %%
class Tidied(RealNVP):
    def log_prob(self, x):
        z, log_det = self.inverse(x)
        return log_det - 0.5 * ops.mean(z**2 + np.log(2 * np.pi), axis=-1)


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# A mean where a sum belongs: the log density of independent coordinates is a sum.
# With the mean the base counts half, so e^(log_prob) does not integrate to 1. Training
# then cares too little for |z|: it lets z spread, for the log-determinant's sake, to a
# cloud about √2 times as wide as N(0, I). Samples from N(0, I) reach its middle only,
# so the moons come out too short and too thin. The integral finds it, at the very start
# already; the loss of the trained flow, below the entropy, does too.
tidied = Tidied(build_realnvp(2, 6, WIDTH, DEPTH).couplings)
try:
    checks.integral(tidied.log_prob, limit=12.0)
except checks.CheckFailed as failure:
    print(failure)
else:
    raise AssertionError("the integral let it through")
train_short(tidied, "tidied")
z, _ = tidied.inverse(data.x_test)
print(f"spread of z: {ops.convert_to_numpy(z).std():.2f}, where it should be 1")

# %% [markdown]
# **5. Build.**
# Data with $D = 3$: scikit-learn's `make_swiss_roll(30_000, noise=0.3)`, standardised; its second coordinate is the roll's width.
# Choose masks that keep two coordinates, so that each is changed in turn.
# Train, and look at the samples from the side on which the roll is seen.
# Would masks that keep one coordinate do?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 5
# The masks [1, 1, 0], [0, 1, 1], [1, 0, 1] in turn, as in section 4.5. Masks that keep
# one and change two, as [1, 0, 0], make a flow as well: s and t then have one input and
# two outputs each, and two coordinates change in a layer, each by its own curve.
from sklearn.datasets import make_swiss_roll

roll = make_swiss_roll(TRAIN_POINTS, noise=0.3, random_state=seed)[0]
roll = ((roll - roll.mean(axis=0)) / roll.std(axis=0)).astype("float32")
masks = np.resize([[1, 1, 0], [0, 1, 1], [1, 0, 1]], (12, 3))
rolled = RealNVP([Coupling(mask, coupling_network(3, WIDTH, DEPTH)) for mask in masks])
long = 3 * short
fitting = {"optimizer": optimizer(long), "epochs": long, "batch": BATCH}
training.fit_density(rolled, roll, label="swiss roll", **fitting)
made = ops.convert_to_numpy(rolled.sample(3_000, seed=1))
plots.points_panels(
    {"the roll, from the side": roll[:3_000, ::2], "made": made[:, ::2]},
    columns=2,
    alt="A spiral of points, and the spiral that the flow made",
)
print(checks.flow_errors(rolled, roll[:200], tolerance=1e-3))

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6; [its code](https://github.com/davidADSP/Generative_Deep_Learning_2nd_Edition). In Korean: 만들면서 배우는 생성 AI 2판.
# - L. Dinh, D. Krueger, Y. Bengio. [NICE: Non-linear Independent Components Estimation](https://arxiv.org/abs/1410.8516). ICLR workshop, 2015. Section 3.2: additive couplings.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. [Density estimation using Real NVP](https://arxiv.org/abs/1605.08803). ICLR, 2017. Equations 2 and 3: the change of variables; 7 and 8: affine couplings and their inverse.
# - G. Papamakarios, E. Nalisnick, D. J. Rezende, S. Mohamed, B. Lakshminarayanan. [Normalizing Flows for Probabilistic Modeling and Inference](https://arxiv.org/abs/1912.02762). JMLR, 2021.
