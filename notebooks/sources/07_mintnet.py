# %% [markdown]
# # Chapter 7 · MintNet
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/07_mintnet.ipynb)
#
# **How far from a coupling may an invertible layer be?** A coupling can be undone because it leaves half of a point alone. MintNet (Song et al., 2019) leaves nothing alone. Its layers are masked convolutions whose Jacobian is triangular with a positive diagonal. That is enough for an inverse to exist, and
# for a cheap determinant. It is not enough for a formula: the way back, from latent points to data, has to be searched for. This chapter builds the layer, checks the claims in numbers, and measures what the search costs.

# %% [markdown]
# **You will learn**
# - what the matrix of a convolution looks like, and what a mask makes of it;
# - which functions with a triangular Jacobian can be undone, and what ReLU would spoil;
# - how to undo a layer by a fixed-point iteration, when it converges, and why "near the solution" promises little;
# - how NICE, RealNVP and MintNet differ in the diagonal of their Jacobians;
# - what a layer that moves everything buys on two moons and on images.
#
# **In the book**: not there; chapter 6 (노멀라이징 플로) stops before it.
#
# **Needs**: Fashion-MNIST for the last part (30 MB, downloaded once). On two CPU cores it took 5 minutes; on a slower machine up to 10. On a GPU: not measured.

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
LAYERS, WIDTH = (
    course.choose(full=8, quick=2),
    course.choose(full=16, quick=8),
)  # WIDTH units for each coordinate
EPOCHS = course.choose(full=100, quick=2)
BATCH = course.choose(full=256, quick=128)
PEAK_LEARNING_RATE = 3e-3
GLOW_LEARNING_RATE, MINT_LEARNING_RATE = 2e-3, 1e-2  # for images
IMAGES_SEEN = course.choose(full=40_000, quick=1_280)
PAIRS = course.choose(full=4, quick=1)  # of a lower and an upper layer, for images
IMAGE_WIDTH, GLOW_WIDTH = course.choose(full=16, quick=4), course.choose(full=64, quick=16)
TEST_IMAGES = course.choose(full=10_000, quick=500)
seed = course.seed(42)

# %% [markdown]
# The flow of this chapter is written in Keras alone and runs on TensorFlow and on JAX.

# %%
course.require("keras")

import matplotlib.pyplot as plt
import numpy as np

from utils import checks, moons, plots, results

data = moons.load(TRAIN_POINTS)
truth, rng = data.truth, np.random.default_rng(seed)

# %% [markdown]
# ## 7.1 A convolution is a matrix
#
# A convolution is linear, so on images of a fixed size it is a matrix: row $i$ says how much each pixel counts for pixel $i$ of the output. Here are 4 × 4 images, pixels numbered row by row, and a kernel of 3 × 3. We get its matrix by asking what it makes of each single pixel.

# %%
from keras import ops


def matrix_of(kernel, side=4):
    """The matrix of a 'same' convolution of side × side images: (side², side²)."""
    pixels = np.eye(side * side, dtype="float32").reshape(-1, side, side, 1)
    outputs = ops.conv(pixels, kernel.reshape(3, 3, 1, 1).astype("float32"), padding="same")
    return ops.convert_to_numpy(outputs).reshape(side * side, side * side).T


kernel = np.arange(1, 10).reshape(3, 3)
before = np.array(
    [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
)  # pixels that come earlier, and the pixel itself
plain, masked = matrix_of(kernel), matrix_of(kernel * before)
assert not np.triu(masked, 1).any() and np.triu(plain, 1).any()
assert np.isclose(np.linalg.det(masked.astype("float64")), 5.0**16)

# %% [markdown]
# With weights only for pixels that come earlier in the numbering, and for the pixel itself, the matrix is **lower triangular**. Its determinant is the product of the diagonal: the centre weight, 5, sixteen times.

# %%
figure, axes = plt.subplots(1, 4, figsize=(plots.WIDTH, 3.2), width_ratios=[1, 2.4, 1, 2.4])
for left, right, weights, matrix, title in (
    (*axes[:2], kernel, plain, "a convolution"),
    (*axes[2:], kernel * before, masked, "a masked one"),
):
    left.imshow(weights, cmap="Blues", vmin=0, vmax=12)
    for (row, column), value in np.ndenumerate(weights):
        left.text(column, row, value, ha="center", va="center")
    left.set(xticks=[], yticks=[], title="kernel")
    right.imshow(np.where(matrix == 0, np.nan, matrix), cmap="Blues", vmin=0, vmax=12)
    right.set(
        xticks=[0, 5, 10, 15],
        yticks=[0, 5, 10, 15],
        xlabel="pixel of the input",
        ylabel="pixel of the output",
        title=title,
    )
figure.tight_layout()
plots.show(
    figure, alt="Two kernels and their matrices of 16 by 16; the masked one's is lower triangular"
)


# %% [markdown]
# ## 7.2 What stays triangular
#
# Sums of lower triangular matrices are lower triangular, and so are products, and the diagonal of a product is the product of the diagonals. By the chain rule the same holds for functions: if the Jacobians of $f$ and $g$ are lower triangular everywhere, so are those of $f + g$ and of $f \circ g$
# (the paper's first proposition), and the diagonal of $f \circ g$ at $x$ is that of $f$ at $g(x)$ times that of $g$ at $x$. A nonlinearity that works on each number alone has a diagonal Jacobian, so it may come in between. In numbers:

# %% tags=["nbval-check-output"]
def lower_function(rng):
    """A function of points (count, 4) with a triangular Jacobian: a matrix, tanh, a matrix."""
    a, b = (np.tril(rng.normal(size=(4, 4))).astype("float32") for _ in range(2))
    return lambda x: ops.matmul(ops.tanh(ops.matmul(x, a.T)), b.T)


f, g = lower_function(rng), lower_function(rng)
points = rng.normal(size=(50, 4)).astype("float32")
of_sum = checks.jacobian(lambda x: f(x) + g(x), points)
of_both = checks.jacobian(lambda x: f(g(x)), points)
above = [float(np.abs(np.triu(jacobian, 1)).max()) for jacobian in (of_sum, of_both)]
print(f"largest number above the diagonal: {above[0]} for the sum, {above[1]} for the composition")
assert above == [0, 0]
inner = ops.convert_to_numpy(g(points))
diagonals = np.diagonal(checks.jacobian(f, inner), axis1=1, axis2=2) * np.diagonal(
    checks.jacobian(g, points), axis1=1, axis2=2
)
assert np.allclose(np.diagonal(of_both, axis1=1, axis2=2), diagonals, atol=1e-5)

# %% [markdown]
# When can such a function be undone? **If its Jacobian is triangular and no number on its diagonal is ever 0** (the paper's first theorem): the first output depends on the first input alone, and its slope never changes sign, so it climbs or falls all the way and no value is taken twice. Given the first input, the same holds for the second, and so on.
#
# The converse is false. $x^3$ can be undone, and its slope at 0 is 0. Such a function is awkward for a flow: at that point the density is 0 and its logarithm $-\infty$.

# %% tags=["nbval-check-output"]
line = np.linspace(-1, 1, 2_001)
cube = line**3
print("climbs everywhere:", bool((np.diff(cube) > 0).all()), "  slope at 0:", 3 * line[1_000] ** 2)

# %% [markdown]
# ## 7.3 The Mint layer
#
# So we build a function with a triangular Jacobian and a diagonal that is positive everywhere. One masked matrix would do, but a flow of matrices is a matrix. Three with a nonlinearity $h$ in between can bend (the paper's Mint layer):
#
# $$f(x) = |t| \odot x + W_3\, h\!\left(W_2\, h(W_1 x + b_1) + b_2\right) + b_3.$$
#
# Here $t$ is a slope for each coordinate, not the shift of chapter 4, and $\odot$ multiplies number by number. Each coordinate $i$ gets $m$ hidden units in both hidden layers. All three matrices are lower triangular in *blocks*, a block being the weights from the units of coordinate $j$ to those of coordinate $i$: blocks with $j > i$ are zero. The blocks with $j = i$ are the **centre weights** $c_1$, $c_2$, $c_3$. Only they reach the diagonal of the Jacobian:
#
# $$\frac{\partial f_i}{\partial x_i} = |t_i| + \sum_{a, b} c_{3, ib}\; h'(u_{2, ib})\; c_{2, iab}\; h'(u_{1, ia})\; c_{1, ia},$$
#
# with the sums $u_1$, $u_2$ that enter the two nonlinearities, the slope $h'$ of $h$, and $a$ and $b$ for the hidden units of coordinate $i$ in the first and the second layer. It is positive if $h' > 0$ and no product $c_{3,ib}\, c_{2,iab}\, c_{1,ia}$ is negative. It is enough that $c_2$ has the sign of $c_3 c_1$, and this is all that we give up. And since the slope is nowhere below $|t_i| > 0$, every value is reached. (The code keeps $|t_i|$ at $10^{-6}$ or more.)
#
# ReLU would leave $|t_i|$ alone wherever its units are off, and its slope jumps: the density would have edges, and the theorem, which needs a derivative, says nothing. ELU, tanh and sigmoid have a slope above 0 everywhere that changes without a jump. We take ELU, $h(u) = u$ for $u > 0$ and $e^u - 1$ otherwise.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops


def elu_slope(u):
    """h'(u) of ELU: 1 for positive numbers, e^u for the others."""
    return ops.exp(ops.minimum(u, 0.0))


def tied(c1, w2, c3):
    """The centre weights c₂ (dim, width, width): w2 with signs that make the products positive."""
    return ops.abs(w2) * ops.sign(c1)[:, :, None] * ops.sign(c3)[:, None, :]


# %% [markdown]
# An **upper** layer is the same with the numbers in reverse order:

# %% tags=["definitions"]
def backwards(x):
    """The numbers of each point, (batch, …), in reverse order."""
    for axis in range(1, len(x.shape)):
        x = ops.flip(x, axis)
    return x


# %% [markdown]
# As in all chapters, `inverse` goes from data to latent points, x → z, and `forward` back, z → x. Here it is `inverse` that has a formula; for `forward` there is the iteration of section 7.4. All this holds for every layer with a triangular Jacobian, and is written once:

# %% tags=["definitions"]
class Triangular(layers.Layer):
    """A layer with a triangular Jacobian; `lower(x)` gives f(x) and the Jacobian's diagonal."""

    def __init__(self, upper):
        super().__init__()
        self.upper = upper

    def value_and_diagonal(self, x):
        """f(x) and the diagonal of its Jacobian, both of the shape of x, (batch, …)."""
        if not self.upper:
            return self.lower(x)
        f, diagonal = self.lower(backwards(x))
        return backwards(f), backwards(diagonal)

    def inverse(self, x):
        """x -> z and log |det dz/dx|."""
        z, diagonal = self.value_and_diagonal(x)
        return z, ops.sum(ops.log(diagonal), axis=tuple(range(1, len(x.shape))))

    def forward(self, z):
        """z -> x, by the iteration of section 7.4."""
        return iterate(self, z)[0]

    def least_slope(self):
        """|t|, which must not come to 0."""
        return ops.maximum(ops.abs(self.t), 1e-6)


# %% [markdown]
# The layer for points keeps each matrix as blocks: `w1[j, i]` are the weights from coordinate $j$ to the units of coordinate $i$. Masks take out the blocks with $j > i$, and in `w2` also those with $j = i$, which `tied` puts in. With a small $W_3$ the layer starts near $f(x) = x$.

# %% tags=["definitions"]
class MintLayer(Triangular):
    """Points (batch, dim) to points, with `width` hidden units for each coordinate."""

    def __init__(self, dim, width, upper=False):
        super().__init__(upper)
        d, m, normal = dim, width, keras.initializers.RandomNormal
        usual, small = normal(stddev=(d * m) ** -0.5), normal(stddev=0.1 / (d * m))
        self.w1 = self.add_weight(shape=(d, d, m), initializer=normal(stddev=1.0), name="w1")
        self.w2 = self.add_weight(shape=(d, m, d, m), initializer=usual, name="w2")
        self.w3 = self.add_weight(shape=(d, m, d), initializer=small, name="w3")
        self.b1 = self.add_weight(shape=(d, m), initializer=normal(stddev=1.0), name="b1")
        self.b2 = self.add_weight(shape=(d, m), initializer="zeros", name="b2")
        self.b3 = self.add_weight(shape=(d,), initializer="zeros", name="b3")
        self.t = self.add_weight(shape=(d,), initializer="ones", name="t")
        self.earlier = np.triu(np.ones((d, d), "float32"), 1)  # [j, i] is 1 for j < i
        self.up_to = np.triu(np.ones((d, d), "float32"))  # [j, i] is 1 for j ≤ i
        self.built = True

    def centre_weights(self):
        """c₁ (dim, m), c₂ (dim, m, m) and c₃ (dim, m)."""
        c1, c3 = ops.einsum("iia->ia", self.w1), ops.einsum("ibi->ib", self.w3)
        return c1, tied(c1, ops.einsum("iaib->iab", self.w2), c3), c3

    def lower(self, x):
        c1, c2, c3 = self.centre_weights()
        w1, w3 = self.w1 * self.up_to[:, :, None], self.w3 * self.up_to[:, None, :]
        w2 = self.w2 * self.earlier[:, None, :, None]
        u1 = ops.einsum("nj,jia->nia", x, w1) + self.b1
        h1 = ops.elu(u1)
        u2 = ops.einsum("nja,jaib->nib", h1, w2) + ops.einsum("nia,iab->nib", h1, c2) + self.b2
        f = self.least_slope() * x + ops.einsum("njb,jbi->ni", ops.elu(u2), w3) + self.b3
        bend = ops.einsum("nia,iab,nib->ni", elu_slope(u1) * c1, c2, elu_slope(u2) * c3)
        return f, self.least_slope() + bend


# %% [markdown]
# The check that matters: the matrix of automatic differentiation has exact zeros above the diagonal (below it, for an upper layer), its diagonal is the one that the formula says, and positive. It needs random weights, since a layer near the identity would pass almost any check:

# %% tags=["definitions"]
from utils.chapters import definitions

shaken = definitions("06_glow", "shaken")  # adds random numbers to all weights of a layer


# %% [markdown]
# In five dimensions, at a hundred points:

# %%
def jacobian_of(layer, x):
    """The Jacobians (count, dim, dim) of a layer at x by automatic differentiation."""
    return checks.jacobian(lambda x: layer.value_and_diagonal(x)[0], x)


points = rng.normal(size=(100, 5)).astype("float32")
for upper in (False, True):
    layer = shaken(MintLayer(5, 8, upper), rng, 0.5)
    jacobian = jacobian_of(layer, points)
    other_side = np.tril(jacobian, -1) if upper else np.triu(jacobian, 1)
    assert not other_side.any(), "exact zeros"
    diagonal = np.diagonal(jacobian, axis1=1, axis2=2)
    assert diagonal.min() > 0
    claimed = ops.convert_to_numpy(layer.value_and_diagonal(points)[1])
    assert np.allclose(claimed, diagonal, rtol=1e-4)
    print("upper" if upper else "lower", f"layer: the diagonal is at least {diagonal.min():.3f}")


# %% [markdown]
# What would happen without the tie? The same layer with $c_2$ of free signs:

# %%
class Free(MintLayer):
    def centre_weights(self):
        c1, c3 = ops.einsum("iia->ia", self.w1), ops.einsum("ibi->ib", self.w3)
        return c1, ops.einsum("iaib->iab", self.w2), c3


free = shaken(Free(5, 8), rng, 1.0)
free_diagonal = ops.convert_to_numpy(free.value_and_diagonal(points)[1])
both = (free_diagonal < 0).any(axis=0) & (free_diagonal > 0).any(axis=0)
print(f"free signs: {both.sum()} of 5 coordinates have slopes of both signs")
assert both.any()

# %% [markdown]
# Where a slope is negative and elsewhere positive, the layer folds: two points have the same image, and there is no way back.

# %% [markdown]
# ## 7.4 Undoing it by iteration
#
# There is no formula for the way back, from z to x, which is `forward` in the code. One could follow the argument of section 7.2 and find one coordinate after another, by bisection: a search in each of many coordinates, one after the other. An iteration moves all of them at once. The diagonal $d(x)$ of the Jacobian is known, so a wrong guess (we start from $x = z$) can be corrected (the paper's fixed-point iteration):
#
# $$x \leftarrow x + \alpha\, \frac{z - f(x)}{d(x)}.$$
#
# Where $f$ gives $z$ already, nothing changes. Near the solution, each step multiplies the error by $I - \alpha D^{-1} J$, with the Jacobian $J$ and the matrix $D$ of its diagonal alone. On the diagonal of that matrix stands $1 - \alpha$: the error that a coordinate has by itself is multiplied by $|1 - \alpha|$ in each step, which is below 1 for $0 < \alpha < 2$. The errors of
# earlier coordinates are handed on to later ones. They all die out in the end; before that they may grow.
#
# This promises less than it seems. It holds near the solution only: far from it, where the slope changes a lot, a step may overshoot again and again. And it speaks of the limit, not of the steps before.
#
# The loop runs inside one compiled graph, until the largest residual $|z - f(x)| / (1 + |z|)$ is small enough or the steps are used up. Numbers that fit already are left alone. After each `patience` steps the step becomes smaller, as $\alpha$, $\alpha/2$, $\alpha/3$ and so on, which is there to end overshooting. (This rule, and that numbers which fit to a tenth of the tolerance are left alone, are ours.) Inside a compiled graph nothing can be raised, so `forward` gives what it has: `solve` and `converged` check the residual.

# %% tags=["definitions"]
from utils import training

TOLERANCE, MOST_STEPS = 1e-5, 500


def iterate(layer, z, alpha=1.0, patience=50):
    """x with f(x) = z, the steps taken and the largest residual before the last of them."""
    z = ops.convert_to_tensor(z)

    def unfinished(x, step, residual):
        return ops.logical_and(ops.logical_not(residual <= TOLERANCE), step < MOST_STEPS)

    def improve(x, step, residual):
        f, diagonal = layer.value_and_diagonal(x)
        error = ops.abs(z - f) / (1 + ops.abs(z))
        # What is not a number counts as infinite: a maximum may skip it.
        error = ops.where(ops.isnan(error), np.inf, error)
        rate = alpha / (1 + ops.cast(step // patience, "float32"))
        x_next = ops.where(error > TOLERANCE / 10, x + rate * (z - f) / diagonal, x)
        return x_next, step + 1, ops.max(error)

    start = (z, ops.convert_to_tensor(0), ops.convert_to_tensor(np.float32(np.inf)))
    return ops.while_loop(unfinished, improve, start)


# %% [markdown]
# And the check, outside the graph:

# %% tags=["definitions"]
class NotConverged(RuntimeError):
    """The iteration ran out of steps, or left the numbers."""


def converged(x, steps, residual):
    """x, if the residual is small; raises NotConverged if it is not, or not a number."""
    if residual <= TOLERANCE:
        return x
    cure = "a smaller alpha, or more steps" if np.isfinite(residual) else "a smaller alpha"
    left = f"After {steps} steps a residual of {residual:.1e} is left, more than {TOLERANCE}"
    raise NotConverged(f"{left}: take {cure}.")


def solve(layer, z, **settings):
    """x with f(x) = z, (count, …) both. Raises NotConverged."""
    return converged(*training.compiled(lambda z: iterate(layer, z, **settings), layer)(z))


# %% [markdown]
# Here and back. Then an iteration that must fail, and says so: with $\alpha = 2.5$ the error is multiplied by $|1 - 2.5| = 1.5$ in each step, and `patience` is set so that $\alpha$ stays as it is.

# %%
flat = shaken(MintLayer(2, 16), rng, 0.3)
some = rng.normal(size=(200, 2)).astype("float32")
goal = ops.convert_to_numpy(flat.inverse(some)[0])
error = np.abs(solve(flat, goal) - some).max()
print(f"largest error of x: {error:.0e}")
assert error < 1e-3
try:
    solve(flat, goal, alpha=2.5, patience=MOST_STEPS)
except NotConverged as problem:
    print(problem)
else:
    raise AssertionError("alpha = 2.5 found a solution")


# %% [markdown]
# The residual against the number of steps, for five values of $\alpha$, in two dimensions, from a start close to the solution, which is where the promise holds (here $|z - f(x)|$ itself):

# %%
def residuals(layer, z, start, alphas, steps):
    """For each α the largest residual |z − f(x)| before each step of the plain iteration."""

    def improve(x, z, alpha):
        f, diagonal = layer.value_and_diagonal(x)
        return x + alpha * (z - f) / diagonal, ops.max(ops.abs(z - f))

    improve, found = training.compiled(improve, layer), {}
    for alpha in alphas:
        x, found[f"α = {alpha}"] = start, []
        for _ in range(steps):
            x, residual = improve(x, z, np.float32(alpha))
            found[f"α = {alpha}"].append(float(residual))
    return found


# %% [markdown]
# They are drawn on a logarithmic axis:

# %%
def draw_residuals(traces, alt):
    figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.6))
    for (name, trace), marker, colour in zip(traces.items(), "osD^v", plots.COLOURS, strict=False):
        step = len(trace) // 10
        axis.semilogy(trace, marker=marker, markevery=step, markersize=5, color=colour, label=name)
    axis.set(xlabel="steps", ylabel="largest residual |z − f(x)|")
    axis.set_xscale("symlog", linthresh=20)  # even steps up to 20, then ever denser
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    plots.show(figure, alt=alt)


# %% [markdown]
# The start is off by about a hundredth in each coordinate:

# %%
near = some + 0.01 * rng.normal(size=some.shape).astype("float32")
traces = residuals(flat, goal, near, (0.5, 1.0, 1.5, 1.9, 2.1), steps=150)
draw_residuals(
    traces, "Residuals in 2-D fall for alpha up to 1.9 and not for 2.1; fastest for alpha 1"
)

# %% [markdown]
# With $\alpha = 1$ three steps are enough: one for the diagonal's part of the error, one for what it handed on, one for the bend of $f$. (From about step 20 on the curve of 0.5 is hidden behind it.) With 0.5 and 1.5 it takes about twenty. With 1.9 the residual first grows and then needs a hundred steps, and with 2.1 it still grows after 150. Where a curve turns flat, rounding has taken over: each step makes new rounding errors, which are multiplied like any other error. So the curve of 1.9, which multiplies most, stays highest.

# %%
ends = {name: trace[-1] for name, trace in traces.items()}
assert all(ends[f"α = {alpha}"] < 1e-3 for alpha in (0.5, 1.0, 1.5, 1.9))
assert not ends["α = 2.1"] < 1e-2

# %% [markdown]
# And in 64 dimensions? On the diagonal stands the same $1 - \alpha$. But what the first coordinates get wrong is handed on to the later ones, multiplied by what lies below the diagonal, and it can grow before it dies.

# %%
deep = shaken(MintLayer(64, 4), rng, 0.05)
some_64 = rng.normal(size=(20, 64)).astype("float32")
goal_64 = ops.convert_to_numpy(deep.inverse(some_64)[0])
near_64 = some_64 + 0.01 * rng.normal(size=some_64.shape).astype("float32")
traces_64 = residuals(deep, goal_64, near_64, (0.5, 1.0, 1.5, 1.9), steps=600)
draw_residuals(
    traces_64,
    "Residuals in 64 dimensions: for alpha 1.9 they first grow by three orders of magnitude",
)
for name, trace in traces_64.items():
    print(f"{name}: starts at {trace[0]:.1g}, at worst {max(trace):.1g}, ends at {trace[-1]:.1g}")

# %% [markdown]
# With 1.9 the residual grows a thousandfold before it falls, and it does not arrive: rounding errors go through the same growth, and, we think, hold it at 0.2. The promise was about the limit, in exact numbers. With $\alpha = 1$ nothing grows here.

# %% [markdown]
# ## 7.5 NICE, RealNVP, MintNet
#
# A coupling, too, has a triangular Jacobian, if the kept coordinates are numbered first. On its diagonal are ones for what is kept. For what is moved NICE has a 1 there, and RealNVP the scale $e^s$, which depends on the kept coordinates alone. A Mint layer moves everything, and its diagonal may be any number above $|t_i|$ that depends on the coordinates up to its own.
#
# | | diagonal of the Jacobian | below the diagonal | from z back to x |
# | --- | --- | --- | --- |
# | NICE | $= 1$ | from kept to moved alone | a formula |
# | RealNVP | $> 0$, may depend on what is kept | from kept to moved alone | a formula |
# | MintNet | $> 0$, may depend on its own coordinate too | from any earlier coordinate | an iteration |
#
# Let us look at the diagonals of a layer of each. The couplings are those of [chapter 6](06_glow.ipynb), which take images; a point is an image of one pixel.

# %%
MaskedCoupling = definitions("06_glow", "MaskedCoupling")


def diagonal_of(to_latent, dim, points=200):
    """All numbers on the diagonal of the Jacobian at random points of this dimension."""
    jacobian = checks.jacobian(to_latent, rng.normal(size=(points, dim)).astype("float32"))
    return np.diagonal(jacobian, axis1=1, axis2=2).ravel()


def as_points(coupling, dim):
    """A layer of images as a function of points."""
    return lambda x: ops.reshape(coupling.inverse(ops.reshape(x, (-1, 1, 1, dim)))[0], (-1, dim))


# %% [markdown]
# With random weights, at 200 points:

# %% tags=["nbval-check-output"]
half, mint = np.float32([[[1, 1, 0, 0]]]), shaken(MintLayer(4, 8), rng, 0.5)
families = {
    "NICE": as_points(shaken(MaskedCoupling(half, 8, bound=0), rng, 0.5), 4),
    "RealNVP": as_points(shaken(MaskedCoupling(half, 8), rng, 0.5), 4),
    "MintNet": lambda x: mint.inverse(x)[0],
}
for name, to_latent in families.items():
    diagonal = diagonal_of(to_latent, 4)
    print(f"{name:8} {(diagonal == 1).mean():4.0%} are 1, {(diagonal > 0).mean():.0%} are positive")
    assert diagonal.min() > 0
    assert (name == "NICE") == bool((diagonal == 1).all())

# %% [markdown]
# ## 7.6 Two moons
#
# A flow of Mint layers, lower and upper in turn. Density, loss and samples are those of [chapter 4](04_realnvp.ipynb). It is trained by the loop of the earlier chapters, and judged by the same points. (Eight layers with 16 units for each coordinate were the first size that we tried, and we kept it.)

# %% tags=["definitions"]
Flow = definitions("04_realnvp", "Flow")  # density, loss and samples of a flow, by its two ways


class MintFlow(Flow):
    """A density of points (batch, dim) by Mint layers, lower and upper in turn if `both`."""

    def __init__(self, dim, count, width, both=True):
        super().__init__()
        self.dim = dim
        self.chain = [MintLayer(dim, width, upper=both and k % 2 == 1) for k in range(count)]
        self.built = True

    def inverse(self, x):
        """x -> z and log |det dz/dx|: (batch, dim) to (batch, dim) and (batch,)."""
        log_det = 0.0
        for layer in self.chain:
            x, layer_log_det = layer.inverse(x)
            log_det = log_det + layer_log_det
        return x, log_det

    def iterate(self, z):
        """z -> x, and the most steps and the largest residual of any layer."""
        steps, residual = 0, 0.0
        for layer in reversed(self.chain):
            z, layer_steps, layer_residual = iterate(layer, z)
            steps, residual = ops.maximum(steps, layer_steps), ops.maximum(residual, layer_residual)
        return z, steps, residual

    def forward(self, z):
        """z -> x."""
        return self.iterate(z)[0]


# %% [markdown]
# The whole flow with random weights passes both checks:

# %%
trial = shaken(MintFlow(2, 4, 8), rng, 0.2)
checks.log_det_error(
    lambda x: trial.inverse(x)[0], lambda x: trial.inverse(x)[1], data.x_test[:200]
)
checks.inverse_error(lambda x: trial.inverse(x)[0], trial.forward, data.x_test[:200], 1e-3);


# %% [markdown]
# Now train:

# %%
def train_on_moons(flow, label, epochs=EPOCHS):
    rate = training.warmup_cosine(PEAK_LEARNING_RATE, epochs * (TRAIN_POINTS // BATCH))
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


flow = MintFlow(2, LAYERS, WIDTH)
history = train_on_moons(flow, "MintNet")


# %% [markdown]
# The same figures as in chapters 4 and 5; `density_ms` and `sample_ms` are milliseconds for 10,000 points, compiled.

# %%
def moons_row(name, flow, seconds, invert):
    """A row for the table of the course; `invert(z)` gives x and is timed for samples."""
    log_prob = training.compiled(flow.log_prob, flow)
    kl, kl_se = truth.kl(data.x_test, log_q := log_prob(data.x_test))
    noise = rng.normal(size=(10_000, 2)).astype("float32")

    def to_latent(x):
        return flow.inverse(x)[0]

    return {
        "model": name,
        "kl": kl,
        "kl_se": kl_se,
        "nll": -float(log_q.mean()),
        "train_seconds": seconds,
        "parameters": flow.count_params(),
        "density_ms": results.milliseconds(lambda: log_prob(data.x_test), 7),
        "sample_ms": results.milliseconds(lambda: invert(noise), 3),
        "inverse_error": checks.inverse_error(to_latent, flow.forward, data.x_test[:500], 1e-3),
        "log_det_error": checks.log_det_error(
            to_latent, lambda x: flow.inverse(x)[1], data.x_test[:200], 1e-2
        ),
    }


# %% [markdown]
# Beside MintNet stand the affine couplings of chapter 4, trained here with the same loop, schedule and number of epochs.

# %%
build_realnvp = definitions("04_realnvp", "build_realnvp")
nvp = build_realnvp(2, couplings=16, width=32, depth=2)
nvp_history = train_on_moons(nvp, "RealNVP of chapter 4")
undo = training.compiled(flow.iterate, flow)
rows = [
    moons_row("RealNVP", nvp, nvp_history["seconds"][-1], training.compiled(nvp.forward, nvp)),
    moons_row("MintNet", flow, history["seconds"][-1], lambda z: converged(*undo(z))),
]
results.table(rows)

# %% [markdown]
# A tie: 0.0074 and 0.0089 nats, with standard errors of 0.001. (In chapter 4 the same couplings had 120 epochs, a higher peak and the weights of the best epoch, and ended at 0.0090. In the benchmark, over three seeds, they ended between 0.0075 and 0.0221. One training each cannot rank these two.) MintNet has half of the parameters. It pays in time. In the run stored here it took 1.5 times as long to train, 1.8 times as long for a density and 10 times as long for a sample. In four other runs the factors were 1.2 to 2 for training, 1.9 to 3 for a density and 12 to 19 for a sample. (The times of training are the least certain, since the machine's speed changes.) A sample is slow because each layer takes up to eight steps to undo.

# %%
kl, kl_se = rows[1]["kl"], rows[1]["kl_se"]
kl_of_normal = np.log(2 * np.pi) + 1 - truth.entropy()  # of a standard normal density
assert -3 * kl_se < kl < kl_of_normal
if course.profile() == "full":
    assert kl <= 0.02

# %% [markdown]
# The density beside the exact one, and its integral:

# %%
sides, area = checks.square(2.8, 160)
exact = np.exp(truth.log_prob(sides)).reshape(160, 160)
learned = np.exp(training.compiled(flow.log_prob, flow)(sides)).reshape(160, 160)
plots.density_panels(
    {"exact": exact, "MintNet": learned},
    limit=2.8,
    columns=2,
    alt="The exact density and that of MintNet",
)
total = checks.integral(
    training.compiled(flow.log_prob, flow), tolerance=course.choose(full=1e-3, quick=0.05)
)
print(f"integral of the density {total:.5f}")

# %% [markdown]
# And points that it made, by iteration:

# %%
z = np.random.default_rng(seed).normal(size=(3_000, 2)).astype("float32")
x_made, steps, residual = undo(z)
print(f"{steps} steps at most in a layer, largest residual {residual:.0e}")
plots.points_panels(
    {"test points": data.x_test[:3_000], "MintNet": converged(x_made, steps, residual)},
    limit=2.8,
    columns=2,
    alt="Test points, and points that MintNet made",
)


# %% [markdown]
# ## 7.7 Images
#
# The same layer for images. The pixels are numbered row by row, and the channels of a pixel one after another. A kernel of 3 × 3 sees all channels of the pixels that come before, in the row above and to the left. At its centre it sees the pixel itself. There the units of a channel may see all units of earlier channels, and those of their own channel through the centre weights. Everything else stays as it was.

# %% tags=["definitions"]
def centre_of(kernel, c):
    """The weights of a kernel (3, 3, c·a, c·b) from a channel to itself at a pixel, (c, a, b)."""
    _, _, a, b = kernel.shape
    return ops.einsum("iaib->iab", ops.reshape(kernel[1, 1], (c, a // c, c, b // c)))


def masked(kernel, centre):
    """The kernel (3, 3, c·a, c·b) without what comes later, with these centre weights (c, a, b)."""
    c, a, b = centre.shape
    mask = np.zeros((3, 3, c, c), "float32")
    mask[0], mask[1, 0] = 1, 1  # the row above, and the pixel to the left
    mask[1, 1] = np.triu(np.ones((c, c)), 1)  # the pixel itself: earlier channels
    own = ops.reshape(
        ops.einsum("iab,ij->iajb", centre, np.eye(c, dtype="float32")), (1, 1, c * a, c * b)
    )
    return kernel * np.repeat(np.repeat(mask, a, 2), b, 3) + ops.pad(
        own, [[1, 1], [1, 1], [0, 0], [0, 0]]
    )


def convolve(h, kernel):
    return ops.conv(h, kernel, padding="same")


# %% [markdown]
# The layer itself is the one of section 7.3, with convolutions in place of matrices. Each place has its own slope $t$ and, as in chapter 6, its own biases $b_1$ and $b_3$. ($W_3$ does not start as small as in section 7.3, so these layers do not start near the identity.)

# %% tags=["definitions"]
class MintConvolution(Triangular):
    """Images (batch, h, w, c) to images, with `width` hidden channels for each channel."""

    def __init__(self, shape, width, upper=False):
        super().__init__(upper)
        (h, w, c), m, normal = shape, width, keras.initializers.RandomNormal
        usual, small = normal(stddev=0.3 * (c * m) ** -0.5), normal(stddev=0.1)
        self.w1 = self.add_weight(shape=(3, 3, c, c * m), initializer=normal(stddev=0.5), name="w1")
        self.w2 = self.add_weight(shape=(3, 3, c * m, c * m), initializer=usual, name="w2")
        self.w3 = self.add_weight(shape=(3, 3, c * m, c), initializer=small, name="w3")
        self.b1 = self.add_weight(shape=(h, w, c * m), initializer=normal(stddev=0.5), name="b1")
        self.b2 = self.add_weight(shape=(c * m,), initializer="zeros", name="b2")
        self.b3 = self.add_weight(shape=shape, initializer="zeros", name="b3")
        self.t = self.add_weight(shape=shape, initializer="ones", name="t")
        self.built = True

    def lower(self, x):
        c1, c2, c3 = (centre_of(w, x.shape[-1]) for w in (self.w1, self.w2, self.w3))
        c2 = tied(c1[:, 0], c2, c3[:, :, 0])
        u1 = convolve(x, masked(self.w1, c1)) + self.b1
        u2 = convolve(ops.elu(u1), masked(self.w2, c2)) + self.b2
        f = self.least_slope() * x + convolve(ops.elu(u2), masked(self.w3, c3)) + self.b3
        by_channel = (-1, *x.shape[1:], c2.shape[1])
        slope1, slope2 = (ops.reshape(elu_slope(u), by_channel) for u in (u1, u2))
        products = c1[:, 0, :, None] * c2 * c3[:, None, :, 0]
        bend = ops.einsum("nyxia,iab,nyxib->nyxi", slope1, products, slope2)
        return f, self.least_slope() + bend


# %% [markdown]
# On images of 6 × 6 with two channels: the matrix of automatic differentiation has zeros where they must be, and its determinant is the product of the diagonal.

# %%
def on_image(layer, shape, images=4):
    """Both checks and the largest number on the wrong side of the diagonal, on random images."""
    x = rng.normal(size=(images, *shape)).astype("float32")
    jacobian = jacobian_of(layer, x)
    wrong = np.tril(jacobian, -1) if layer.upper else np.triu(jacobian, 1)
    error = checks.log_det_error(
        lambda x: layer.inverse(x)[0], lambda x: layer.inverse(x)[1], x, 1e-3
    )
    return np.abs(wrong).max(), error


for upper in (False, True):
    wrong, error = on_image(shaken(MintConvolution((6, 6, 2), 4, upper), rng, 0.1), (6, 6, 2))
    print(
        "upper" if upper else "lower", f"layer: wrong side {wrong:.0f}, log-det error {error:.0e}"
    )
    assert wrong == 0

# %% [markdown]
# And on real images: Fashion-MNIST at 14 × 14, means of 2 × 2 pixels as in chapter 6, after a squeeze. The matrix has 196 × 196 numbers.

# %%
from utils import datasets

ActNorm, Squeeze, Scale, ImageFlow, dequantise, build_glow, halved = definitions(
    "06_glow", "ActNorm", "Squeeze", "Scale", "ImageFlow", "dequantise", "build_glow", "halved"
)
images = datasets.fashion_mnist()
print(images)
small_train, small_test = halved(images.x_train[:IMAGES_SEEN]), halved(images.x_test[:TEST_IMAGES])
real = ops.convert_to_numpy(Squeeze().inverse(dequantise(small_test[:2], seed))[0])
layer = shaken(MintConvolution((7, 7, 4), 4), rng, 0.1)
error = checks.log_det_error(
    lambda x: layer.inverse(x)[0], lambda x: layer.inverse(x)[1], real, 1e-3
)
print(f"log-det error on 14 × 14 images: {error:.0e}")


# %% [markdown]
# A model of small images: a squeeze, and pairs of a lower and an upper layer, each layer after one of chapter 6's ActNorms, and at the end chapter 6's `Scale`, a shift and a scale for each number. Beside it stands a Glow of chapter 6 with eight steps. Both see the same images in the same number, in batches of 64, by the same schedule with a peak of its own for each. (About half of MintNet's weights are masked, and counted all the same.)

# %%
def mint_images(pairs, width):
    """MintNet for images of 14 × 14."""
    chain, shape = [Squeeze()], (7, 7, 4)
    for _ in range(pairs):
        for upper in (False, True):
            chain += [ActNorm(4), MintConvolution(shape, width, upper)]
    return ImageFlow([*chain, Scale(shape)], (14, 14, 1))


def train_on_images(flow, label, peak):
    """Trains on all small images once; the seconds."""
    steps = len(small_train) // 64
    rate = training.warmup_cosine(peak, steps)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=5.0)
    flow.compile(optimizer, jit_compile=training.jit_compile("convolutions"))
    progress = training.Progress(label)
    watch = [progress, training.StopOnBadLoss()]
    flow.fit(small_train[: steps * 64], batch_size=64, epochs=1, verbose=0, callbacks=watch)
    return progress.seconds[-1]


def test_bits(flow):
    """Bits per dimension of the small test images and the standard error, one draw of the noise."""
    log_prob = training.compiled(flow.log_prob, flow, kind="convolutions")
    pieces = range(0, len(small_test), 500)
    nats = np.concatenate([log_prob(dequantise(small_test[i : i + 500], seed + i)) for i in pieces])
    bits = 8 - nats / (196 * np.log(2))
    return float(bits.mean()), float(bits.std() / np.sqrt(len(bits)))


# %% [markdown]
# What 100 samples at temperature 0.8 cost, once the iteration is known to have found them:

# %%
def samples_ms(flow, count=100):
    """Milliseconds for samples, compiled, and the samples."""
    z = [0.8 * rng.normal(size=(count, 7, 7, 4)).astype("float32")]
    draw = training.compiled(lambda z: flow.forward([z]), flow, kind="convolutions")
    made = draw(*z)
    back = training.compiled(lambda y: flow.inverse(y)[0][0], flow, kind="convolutions")(made)
    assert np.abs(back - z[0]).max() < 1e-2, "the iteration did not find the images"
    return results.milliseconds(lambda: draw(*z), 3), made


# %% [markdown]
# Train both, and measure:

# %%
glow = build_glow((14, 14, 1), scales=1, steps=2 * PAIRS, width=GLOW_WIDTH)
image_flows = {
    "Glow of chapter 6, 14 × 14": (glow, GLOW_LEARNING_RATE),
    "MintNet, 14 × 14": (mint_images(PAIRS, IMAGE_WIDTH), MINT_LEARNING_RATE),
}
image_rows, drawn = [], {}
for name, (model, peak) in image_flows.items():
    seconds = train_on_images(model, name, peak)
    bits, bits_se = test_bits(model)
    ms, drawn[name] = samples_ms(model)
    image_rows.append(
        {
            "model": name,
            "bits_per_dim": bits,
            "bits_per_dim_se": bits_se,
            "train_seconds": seconds,
            "parameters": model.count_params(),
            "sample_ms": ms,
        }
    )
results.table(image_rows)


# %% [markdown]
# How many steps does each of MintNet's layers take for that, from the last to the first?

# %%
def undo_layer(layer, z):
    """x with layer(x) = z, and the steps."""
    run = training.compiled(lambda z: iterate(layer, z), layer, kind="convolutions")
    x, steps, residual = run(z)
    return converged(x, steps, residual), int(steps)


mint, counted = image_flows["MintNet, 14 × 14"][0], []
z = 0.8 * rng.normal(size=(100, 7, 7, 4)).astype("float32")
for layer in reversed(mint.chain):
    if isinstance(layer, MintConvolution):
        z, steps = undo_layer(layer, z)
        counted.append(steps)
    else:
        z = ops.convert_to_numpy(layer.forward(z))
print("steps:", counted)

# %% [markdown]
# Six layers are undone in 10 to 18 steps, one takes 36 and one 94: a layer stops when the worst number of all hundred images is right.
#
# So MintNet needs 4.47 bits, this Glow 4.93, and independent pixels 5.08. The ladder of section 6.11 has models with checkerboards, between 4.2 and 4.4 bits after four and a half times as many images; so this is no proof that MintNet is better. Against this Glow it has four times the parameters and took nearly twice as long. And a hundred samples cost 1.4 seconds, 65 times as much as Glow's (in other runs 1.2 to 3 seconds and 40 to 100 times as much).
#
# Each was trained once, and MintNet was tuned for this, in trial runs of 12,800 images that were judged on training images left out:
#
# | | peak of the rate | bits per dimension |
# | --- | --- | --- |
# | MintNet, 8 units, smaller starting weights | 0.002 | 6.7 |
# | MintNet, 8 units | 0.01 | 5.6 |
# | MintNet, 16 units | 0.01 | 5.2 |
# | Glow, with chapter 6's rate | 0.002 | 5.4 |
#
# Glow draws no clothes yet: its samples, at temperature 0.8, are blotches in the middle of the picture. Some of MintNet's look like shirts and coats, others are pale or half empty.

# %%
plots.image_rows(
    {
        "test images": small_test[:10, ..., 0] / 255,
        **{name.split(",")[0]: np.clip(x[:10, ..., 0] + 0.5, 0, 1) for name, x in drawn.items()},
    },
    alt="Small test images, and samples of Glow and of MintNet at temperature 0.8",
)

# %% [markdown]
# ## What we measured

# %%
results.record(
    "07_mintnet",
    data=f"{data.name}, {images.name}",
    seconds=time.perf_counter() - STARTED,
    rows=[rows[1], *image_rows],
)

# %% [markdown]
# ## Summary
#
# - A convolution is a matrix. With a mask it is a triangular one, and its determinant is a product.
# - Sums and compositions of functions with lower triangular Jacobians have one too. If that Jacobian is nowhere singular, the function can be undone.
# - A Mint layer ties the signs of its centre weights, and has a positive diagonal that may depend on the coordinate itself and on all before it.
# - Its `forward`, from z to x, is an iteration. In exact numbers it converges near the solution for 0 < α < 2. In many dimensions the residual may grow first, and then rounding can keep it from arriving.
# - On two moons eight Mint layers did as well as sixteen couplings, with half of the parameters. A sample took nineteen times as long: in each layer it costs as many passes as the iteration takes steps.
#
# [Chapter 8](08_ffjord.ipynb) lets the layers become infinitely many.
#
# ## Exercises
#
# The cell below each exercise holds a solution. It is folded: click it to open it.
#
# **1.** How many steps does the iteration take in each layer of the trained flow, and does α = 0.8 or α = 1.2 need fewer steps than α = 1? (The answer is below the cell.)

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
for alpha in (0.8, 1.0, 1.2):
    x, steps = data.x_test[:500], []
    for layer in flow.chain:
        z = ops.convert_to_numpy(layer.inverse(x)[0])
        _, count, residual = iterate(layer, z, alpha)
        steps.append(int(count) if float(residual) <= TOLERANCE else "not converged")
        x = z
    print(f"α = {alpha}: {steps}")

# %% [markdown]
# No: α = 1 takes 5 to 7 steps, α = 0.8 takes 10 or 11, and 1.2 takes 10 to 17. In another run two layers did not arrive within 50 steps with 1.2; they did once `patience` had halved the step.
#
# **2.** With α = 1 a triangular layer is undone exactly after some number of steps, if each coordinate alone converges at once. Take a layer of matrices (no nonlinearity) in 8 dimensions: after how many steps is the residual zero up to rounding, and why?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# With D the diagonal of J, as in section 7.4, (I − D⁻¹J)⁸ = 0: a triangular matrix with a
# zero diagonal is zero after as many powers as it has rows.
matrix = (np.tril(rng.normal(size=(8, 8)), -1) + np.diag(rng.uniform(0.5, 1.5, 8))).astype(
    "float32"
)
z = rng.normal(size=(1, 8)).astype("float32")
x = z
for step in range(1, 10):
    x = x + (z - x @ matrix.T) / np.diag(matrix)
    print(step, f"{np.abs(z - x @ matrix.T).max():.1e}")

# %% [markdown]
# **3.** What is lost without the upper layers? Train a flow of lower layers alone on two moons, for a quarter of the epochs, beside one with both.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
for both in (True, False):
    short = MintFlow(2, LAYERS, WIDTH, both)
    train_on_moons(short, "both" if both else "lower alone", max(2, EPOCHS // 4))
    kl_short, _ = truth.kl(data.x_test, training.compiled(short.log_prob, short)(data.x_test))
    print(f"{'both kinds' if both else 'lower alone'}: KL {kl_short:.3f}")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - Y. Song, C. Meng, S. Ermon. *MintNet: Building Invertible Neural Networks with Masked Convolutions*. NeurIPS, 2019. The triangular Jacobians, the Mint layer and the iteration are all there.
# - L. Dinh, D. Krueger, Y. Bengio. *NICE: Non-linear Independent Components Estimation*. ICLR workshop, 2015.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. *Density estimation using Real NVP*. ICLR, 2017.
# - D. P. Kingma, P. Dhariwal. *Glow: Generative Flow with Invertible 1×1 Convolutions*. NeurIPS, 2018.
