# %% [markdown]
# # Chapter 4 · RealNVP
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/04_realnvp.ipynb)
#
# **Can a network say how likely a point is, exactly?** The VAE of chapter 2 could only bound it. A *normalizing flow*
# (노멀라이징 플로) gives the number itself, because it is a function that can be undone. This chapter builds one by hand,
# trains it on two moons, and does what the book could not: it compares the flow with the truth. The density of two moons
# is known, so we can say how far the model is from it, in nats (the unit of natural logarithms).

# %% [markdown]
# **You will learn**
# - how a density changes when space is stretched, and why a determinant repairs it;
# - how a coupling layer (커플링 층) makes a function that is easy to undo and has an easy determinant;
# - how to check a flow so that an error cannot hide: inverse, log-determinant, integral, entropy;
# - which of the book's settings cost it accuracy and time, one by one;
# - when a flow is worth it, and when a mixture of Gaussians does better.
#
# **In the book**: sections 6.1 to 6.3, normalizing flows and RealNVP (노멀라이징 플로, RealNVP).
#
# **Needs**: nothing for the moons; section 4.11 uses Fashion-MNIST (30 MB, downloaded once), or its stand-in. On two
# CPU cores it took 4 minutes; on a slower machine up to 9. On a GPU: not measured.

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
    raise FileNotFoundError(f"no utils/ of the course here: git clone {address}, open this there")
sys.path.insert(0, str(root))

from utils import course

course.start(edition=2)

# %% [markdown]
# The hyper-parameters. Where two values stand, the second is for `COURSE_PROFILE=quick`, a short run for tests; the text quotes the first.

# %%
import time

STARTED = time.perf_counter()
COUPLINGS = course.choose(full=16, quick=6)
WIDTH, DEPTH = 32, 2
BOUND = 5.0
EPOCHS = course.choose(full=120, quick=6)
BATCH = course.choose(full=256, quick=64)
PEAK_LEARNING_RATE = 5e-3
TRAIN_POINTS = course.choose(full=30_000, quick=8_000)
FIT_EPOCHS = course.choose(full=6, quick=2)
STEP_EPOCHS = course.choose(full=60, quick=2)
BOOK_WIDTH = course.choose(full=256, quick=32)
IMAGES = course.choose(full=50_000, quick=2_000)
IMAGE_STEPS = course.choose(full=4_000, quick=300)
seed = course.seed(42)

# %% [markdown]
# What is not the lesson comes from the helper package: the data, the checks, the loop of training, and the pictures.

# %%
import matplotlib.pyplot as plt
import numpy as np

from utils import checks, datasets, moons, plots, results, training

# %% [markdown]
# ## 4.1 A density is a density of something per something
#
# A probability density says how much probability there is *per unit of length*. So it changes when lengths do. Take a
# standard normal $z$ and let $x = g(z) = e^z$. Where does the density of $x$ come from? Undo the function, $z = f(x) =
# \log x$, and look up the density there. But around $x$ a small interval $dx$ was an interval $dz = |f'(x)|\, dx$ before, and
# it holds the same probability:
#
# $$p_X(x)\, dx = p_Z(z)\, dz \qquad\Rightarrow\qquad p_X(x) = p_Z(f(x)) \, |f'(x)|, \qquad f'(x) = 1/x.$$
#
# This is the change of variables (변수 변환) in one dimension. Here it is beside a histogram of a hundred thousand draws, with the
# factor and without it.

# %% tags=["nbval-check-output"]
from scipy.stats import norm

x = np.linspace(0.001, 6, 2_000)
without = norm.pdf(np.log(x))
with_factor = without / x
draws = np.exp(np.random.default_rng(seed).normal(size=100_000))

figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
bins = np.linspace(0, 6, 61)
axis.hist(draws, bins, weights=np.full(len(draws), 10 / len(draws)), color="0.85", label="draws")
axis.plot(x, with_factor, color=plots.COLOURS[0], label="p(f(x)) |f′(x)|")
axis.plot(x, without, "--", color=plots.COLOURS[1], label="p(f(x)) alone")
axis.set(xlabel="x", ylabel="density", xlim=(0, 6))
axis.legend(frameon=False)
plots.show(figure, alt="The density with the factor follows the histogram; without it, it does not")

# %% [markdown]
# The dashed line is not even a density: its integral over all $x > 0$ is not 1.

# %% tags=["nbval-check-output"]
from scipy.integrate import quad

area_with, _ = quad(lambda x: norm.pdf(np.log(x)) / x, 0, np.inf)
area_without, _ = quad(lambda x: norm.pdf(np.log(x)), 0, np.inf)
print(f"with the factor {area_with:.4f}   without {area_without:.4f}")
assert abs(area_with - 1) < 1e-6 and abs(area_without - 1) > 0.5

# %% [markdown]
# ### Two dimensions: a rectangle that shrinks
#
# The book's example: points spread evenly over a rectangle, $1 \le x_1 \le 4$ and $0 \le x_2 \le 2$. Its area is 6, so the
# density is $p_X = 1/6$. Now bring it to the unit square:
#
# $$f(x_1, x_2) = \left(\frac{x_1 - 1}{3},\; \frac{x_2}{2}\right).$$
#
# If we carried the value 1/6 over to the square, the square would hold a probability of only 1/6. Areas have shrunk to a
# sixth, so the density there must be six times as high.

# %%
from keras import ops


def to_square(x):
    return ops.stack([(x[:, 0] - 1) / 3, x[:, 1] / 2], axis=1)


corners = np.float32([[1, 0], [4, 0], [4, 2], [1, 2]])
J = checks.jacobian(to_square, corners[:1])[0]
print(J.round(3), f"\ndeterminant {np.linalg.det(J):.4f} = 1/{1 / np.linalg.det(J):.0f}")
assert np.isclose(np.linalg.det(J), 1 / 6)

# %% [markdown]
# The matrix of all derivatives, $J_{ij} = \partial f_i / \partial x_j$, is the Jacobian. Its determinant (야코비 행렬식) says by
# which factor areas grow. It takes the place of $f'$.

# %% tags=["nbval-check-output"]
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
# For a function $f$ that can be undone, $z = f(x)$, with a density $p_Z$ on the latent points $z$ (잠재 변수),
#
# $$\log p_X(x) = \log p_Z(f(x)) + \log \left| \det \frac{\partial f}{\partial x} \right|. \tag{4.1}$$
#
# A mirror turns an area over, and then the determinant is negative. No probability is negative: hence the absolute value. And
# which way round does the determinant go? Where $f$ *spreads* points out, the data must have been dense: a large determinant
# raises $p_X$. For the inverse function the determinant is the reciprocal, so that the sign of its logarithm flips.

# %% tags=["nbval-check-output"]
def mirrored(x):
    return to_square(x) * np.float32([-1, 1])


print(f"mirrored: determinant {np.linalg.det(checks.jacobian(mirrored, corners[:1])[0]):.4f}")
log_det = checks.log_det_error(mirrored, lambda x: ops.zeros(len(x)) + np.log(1 / 6), corners)
assert log_det < 1e-5  # the check takes the absolute value

# %% [markdown]
# **Directions.** In this course `inverse` goes from data to latent points, x → z, and `forward` from latent points to data, z →
# x, as in TensorFlow Probability: forward is the way in which data are made. The book calls $f$: x → z "forward". In formulas
# $f$ is x → z and $g = f^{-1}$ is z → x, as in the book.

# %% [markdown]
# ## 4.2 Two problems
#
# Equation 4.1 suggests a plan. Take a network for $f$, the standard normal for $p_Z$, and maximise $\log p_X$ of the
# data. Two things stand in the way.
#
# 1. The determinant of a $D \times D$ matrix costs of the order of $D^3$ operations. A picture of 64 × 64 pixels in colour has $D =
#    12288$, and we need the determinant for each picture at every step.
# 2. To make new data, we need $g = f^{-1}$. A network of dense layers has no inverse that we could write down, often none at all.
#
# Both go away if the Jacobian is *triangular* and every layer is simple enough to undo. The determinant of a triangular matrix is
# the product of its diagonal, $D$ multiplications.

# %%
sizes = np.array([64, 128, 256, 512, 1024])
rng = np.random.default_rng(seed)
matrices = [
    np.tril(rng.normal(size=(n, n)) / n, -1) + np.diag(rng.uniform(0.5, 1.5, n)) for n in sizes
]
general = [results.milliseconds(lambda m=m: np.linalg.slogdet(m), 7) for m in matrices]
triangular = [
    results.milliseconds(lambda m=m: np.log(np.abs(np.diag(m))).sum(), 7) for m in matrices
]

for m in matrices:
    assert np.isclose(np.linalg.slogdet(m)[1], np.log(np.abs(np.diag(m))).sum())

# %% [markdown]
# On logarithmic axes a power of $D$ is a straight line, and the power is its slope. (Small matrices take longer than their $D^3$ says: starting costs time too.)

# %%
figure, axis = plt.subplots(figsize=(plots.WIDTH * 0.7, 3.4))
axis.loglog(sizes, general, "o-", color=plots.COLOURS[0], label="any matrix")
axis.loglog(sizes, triangular, "s-", color=plots.COLOURS[1], label="triangular")
axis.loglog(sizes, general[-1] * (sizes / sizes[-1]) ** 3, ":", color="0.4", label="D³")
axis.set(xlabel="D", ylabel="milliseconds")
axis.legend(frameon=False)
plots.show(
    figure, alt="Time of a determinant against size: that of any matrix grows towards D cubed"
)

# %% [markdown]
# ## 4.3 A yardstick: two moons
#
# Why test on two moons? Not because they need a flow, but because we know the answer. `make_moons` draws a point on one of two
# half circles and adds Gaussian noise of standard deviation 0.05. So its density is an average of Gaussians that sit along
# the arcs. That is one integral over the angle, and `utils/moons.py` computes it to many digits. The points are
# then divided by their standard deviations, as the book does with a `Normalization` layer. (We use the exact ones. Those of a sample
# would make the truth a little uncertain.)

# %%
data = moons.load(train=TRAIN_POINTS)
truth = data.truth
LIMIT, CELLS = 2.6, 300
square, cell_area = checks.square(LIMIT, CELLS)


def image(log_prob):
    """A density over the square as an image."""
    return np.exp(np.asarray(log_prob, "float64")).reshape(CELLS, CELLS)


exact = image(truth.log_prob(square))
plots.density_panels(
    {"the exact density": exact}, alt="Two thin crescents, densest along their middles", limit=LIMIT
)

# %% [markdown]
# How good is a model $q$ of the truth $p$? (For a flow, $q$ is the $p_X$ of equation 4.1.) Training minimises the *negative log-likelihood* (NLL), the mean of $-\log q(x)$ over data. It
# splits into two parts:
#
# $$\underbrace{\mathbb{E}_p[-\log q(x)]}_{\text{NLL}} = \underbrace{\mathbb{E}_p[-\log p(x)]}_{\text{entropy}} +
# \underbrace{\mathbb{E}_p[\log p(x) - \log q(x)]}_{\mathrm{KL}(p \,\|\, q)\, \ge\, 0}.$$
#
# The entropy is that of the data, and no model's expected NLL can go below it. The KL divergence is the model's own fault. Here both are known.

# %% tags=["nbval-check-output"]
entropy = truth.entropy()
kl_normal = np.log(2 * np.pi) + 1 - entropy
print(f"entropy of the two moons {entropy:.5f} nats")
print(f"KL of the standard normal {kl_normal:.4f} nats: where an untrained flow starts")

# %% [markdown]
# An expected NLL of 1.16 sounds like nothing in particular. Now we know what it is: 0.03 above the best that there can be.
# On a test set we estimate the KL divergence as the mean of $\log p(x) - \log q(x)$ over the same points. For a model near the truth the
# two vary together, so that their difference is known much better than either. (For the standard normal below they do not.)

# %%
model = -0.5 * (data.x_test**2).sum(axis=1) - np.log(2 * np.pi)
kl, kl_error = truth.kl(data.x_test, model)
print(f"N(0, I) on {len(data.x_test):,} test points: KL {kl:.3f} ± {kl_error:.3f} nats")
assert abs(kl - kl_normal) < 5 * kl_error


# %% [markdown]
# ## 4.4 A coupling layer by hand
#
# The trick of RealNVP (Dinh et al., 2017): change one part of the point, by a scale and a shift that are computed from the other part,
# which stays as it is. With $D = 2$ and the first $d = 1$ coordinates kept,
#
# $$z_1 = x_1, \qquad z_2 = x_2 \cdot \exp(s(x_1)) + t(x_1), \tag{4.2}$$
#
# where $s$, the log of the scale (스케일 계수), and $t$, the shift (이동 계수), may be *any* functions, networks for example. Let us walk one point
# through. The mask is 1 where a coordinate is kept. Kept coordinates enter the networks; the reverse mask decides where the result
# goes.

# %%
def s(x_kept):
    return ops.tanh(2 * x_kept[:, ::-1])  # a stand-in for a network: it sees x₁, and answers for x₂


def t(x_kept):
    return 3 * x_kept[:, ::-1] ** 2


mask = np.float32([1, 0])
x = np.float32([[0.5, -1.2]])
x_kept = x * mask
log_scale = ops.convert_to_numpy(s(x_kept)) * (1 - mask)
shift = ops.convert_to_numpy(t(x_kept)) * (1 - mask)
z = x_kept + (1 - mask) * (x * np.exp(log_scale) + shift)
print(
    "x       ",
    x[0],
    "\nkept    ",
    x_kept[0],
    "\ns       ",
    log_scale[0],
    "\nshift   ",
    shift[0],
    "\nz       ",
    z[0],
)


# %% [markdown]
# Both problems are gone. The Jacobian is triangular: $z_1$ does not depend on $x_2$. Its diagonal is 1 and $\exp(s)$, so
# the log-determinant is $s$ itself, a number that we have already.

# %% tags=["nbval-check-output"]
def couple(x):
    x_kept = x * mask
    return x_kept + (1 - mask) * (x * ops.exp(s(x_kept)) + t(x_kept))


J = checks.jacobian(couple, x)[0]
print(J.round(4), f"\nlog-determinant {np.log(np.linalg.det(J)):.4f}, s(x₁) {log_scale[0, 1]:.4f}")
assert J[0, 1] == 0 and np.isclose(np.log(np.linalg.det(J)), log_scale[0, 1], atol=1e-5)

# %% [markdown]
# And it can be undone without undoing $s$ or $t$. They saw only $x_1$, which has arrived unchanged, so we compute the very same
# numbers again and take them away:
#
# $$x_1 = z_1, \qquad x_2 = (z_2 - t(z_1)) \cdot \exp(-s(z_1)).$$

# %%
z_kept = z * mask
same_s, same_t = (ops.convert_to_numpy(network(z_kept)) for network in (s, t))
back = z_kept + (1 - mask) * (z - same_t) * np.exp(-same_s)
print("back to", back[0])
assert np.allclose(back, x, atol=1e-6)

# %% [markdown]
# ## 4.5 The layer in Keras
#
# One network gives both $u$ and $t$, where $u$ becomes the log-scale. Its last layer starts at zero, so that every coupling starts
# as the identity, and a stack of them leaves the data alone. Training begins at a KL of 1.71 and not somewhere at random.

# %% tags=["definitions"]
import keras
import numpy as np
from keras import layers, ops

from utils import course


def coupling_network(dim, width, depth, start="zeros"):
    """x -> (u, t) side by side: (batch, dim) to (batch, 2 dim)."""
    x = keras.Input((dim,))
    h = x
    for _ in range(depth):
        h = layers.Dense(width, activation="relu")(h)
    return keras.Model(x, layers.Dense(2 * dim, kernel_initializer=start)(h))


# %% [markdown]
# An exponential is a dangerous thing to hand to a network, since one wild value of $u$ and the loss is infinite. So the log-scale is
# bounded, smoothly: $s = b \tanh(u / b)$, which is close to $u$ while $|u|$ is small and never exceeds $b$. The book has $b = 1$: no layer
# can stretch by more than $e$. Section 4.10 measures what that costs; we take $b = 5$.
#
# As $s = t = 0$ for the coordinates that are kept, equation 4.2 can be applied to all of them.

# %% tags=["definitions"]
@keras.saving.register_keras_serializable(package="course")
class Coupling(layers.Layer):
    """An affine coupling layer; `mask` (dim,) is 1 for coordinates that are kept, else 0."""

    def __init__(self, mask, network, bound=5.0, **kwargs):
        super().__init__(**kwargs)
        self.kept = np.asarray(mask, "float32")
        self.network, self.bound = network, bound

    def log_scale_and_shift(self, x):
        u, t = ops.split(self.network(x * self.kept), 2, axis=-1)
        s = self.bound * ops.tanh(u / self.bound)
        return s * (1 - self.kept), t * (1 - self.kept)

    def inverse(self, x):
        """x -> z and log |det dz/dx|: (batch, dim) to (batch, dim) and (batch,)."""
        s, t = self.log_scale_and_shift(x)
        return x * ops.exp(s) + t, ops.sum(s, axis=-1)

    def forward(self, z):
        """z -> x."""
        s, t = self.log_scale_and_shift(z)
        return (z - t) * ops.exp(-s)

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return {"mask": self.kept.tolist(), "network": network, "bound": self.bound}

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(config["mask"], network, config["bound"])


# %% [markdown]
# A layer that starts as the identity passes every test, right or wrong. So we test it with random weights in the last layer. Is its
# inverse one? Is its log-determinant that of the matrix that automatic differentiation finds?

# %%
def shaken(network, scale=0.5):
    """The same network with random numbers in its last layer."""
    last = network.layers[-1]
    last.set_weights([rng.normal(0, scale, w.shape) for w in last.get_weights()])
    return network


trial = Coupling([1, 0], shaken(coupling_network(2, WIDTH, DEPTH)))
points = data.x_test[:500]
checks.inverse_error(lambda x: trial.inverse(x)[0], trial.forward, points, tolerance=1e-5)
checks.log_det_error(lambda x: trial.inverse(x)[0], lambda x: trial.inverse(x)[1], points, 1e-5);


# %% [markdown]
# ## 4.6 The flow
#
# One coupling changes one coordinate. So the next one has the opposite mask, and so on. The determinant of a product of matrices is the
# product of the determinants; in logarithms, the log-determinants of the layers add up:
#
# $$\log p_X(x) = \log p_Z(z) + \sum_k \log\left|\det \frac{\partial f_k}{\partial x_k}\right|,$$
#
# where $x_k$ is what enters layer $k$. We build the model in two steps. The first is what every flow shares: given the two directions, it
# has a density, makes new points, and knows its loss. `compute_loss` is the mean of $-\log p_X$, for training and for validation alike.

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

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -ops.mean(y_pred) + sum(self.losses)


# %% [markdown]
# The second is the stack of couplings. From data to latent points it goes through them in order, adding up; back, in reverse order.

# %% tags=["definitions"]
@keras.saving.register_keras_serializable(package="course")
class RealNVP(Flow):
    """A flow that is a stack of couplings."""

    def __init__(self, couplings, **kwargs):
        super().__init__(**kwargs)
        self.couplings = couplings
        self.dim = len(couplings[0].kept)
        self.built = True  # its networks are

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

    def get_config(self):
        return {"couplings": [keras.saving.serialize_keras_object(c) for c in self.couplings]}

    @classmethod
    def from_config(cls, config):
        return cls([keras.saving.deserialize_keras_object(c) for c in config["couplings"]])


# %% [markdown]
# How many couplings, and how wide? Section 4.10 compares. Each network is a new one: a network shared between couplings would share its weights.

# %% tags=["definitions"]
def build_realnvp(dim, couplings, width, depth, bound=5.0):
    """A RealNVP whose masks keep every other coordinate, now the even ones and now the odd ones."""
    masks = [[(i + k) % 2 for i in range(dim)] for k in range(couplings)]
    return RealNVP([Coupling(mask, coupling_network(dim, width, depth), bound) for mask in masks])


# %% [markdown]
# The same two questions to the whole stack, again with random weights. (The error of an inverse grows with the number of layers, as each one
# adds some rounding.)

# %%
trial = build_realnvp(2, COUPLINGS, WIDTH, DEPTH)
for coupling in trial.couplings:
    shaken(coupling.network, 0.2)
inverse_error = checks.inverse_error(lambda x: trial.inverse(x)[0], trial.forward, points, 1e-3)
log_det_error = checks.log_det_error(
    lambda x: trial.inverse(x)[0], lambda x: trial.inverse(x)[1], points, 1e-3
)
print(f"random weights: inverse error {inverse_error:.1e}, log-det error {log_det_error:.1e}")

# %% [markdown]
# The flow that we shall train. Its last layers are zero, so that it must give back what it gets, with a log-determinant of 0.

# %%
flow = build_realnvp(2, COUPLINGS, WIDTH, DEPTH, BOUND)
start_z, start_log_det = flow.inverse(points)
assert np.array_equal(start_z, points) and not np.any(start_log_det)  # it starts as the identity
print(f"{len(flow.couplings)} couplings start as the identity")

# %% [markdown]
# ## 4.7 Training
#
# A step of this flow is some hundred small operations. Starting them one by one from Python would take longer than the arithmetic. So
# `training.fit_density` puts a whole *epoch* into one compiled graph: the loop over the batches, the gradients and the optimizer's updates. Python is
# asked once an epoch.
#
# On the way we keep pictures of both directions: data sent to latent space, and latent points sent to data.

# %%
early = max(1, EPOCHS // 8)
SHOWN = {"start": 0, f"epoch {early}": early, "end": EPOCHS}
latent_points = rng.normal(size=(3_000, 2)).astype("float32")
snapshots = {}


def keep_pictures(epoch):
    if epoch in SHOWN.values():
        z, _ = flow.inverse(data.x_test[:3_000])
        made = flow.forward(latent_points)
        snapshots[epoch] = ops.convert_to_numpy(z), ops.convert_to_numpy(made)


# %% [markdown]
# The optimizer is Adam, with a rate that climbs and then falls to zero as a cosine. Gradients longer than 5 are cut to that length.

# %%
def optimizer(epochs, points=TRAIN_POINTS, peak=PEAK_LEARNING_RATE):
    rate = training.warmup_cosine(peak, steps=epochs * (points // BATCH))
    return keras.optimizers.Adam(rate, global_clipnorm=5.0)


history = training.fit_density(
    flow,
    data.x_train,
    optimizer=optimizer(EPOCHS),
    epochs=EPOCHS,
    batch=BATCH,
    validation=data.x_validation,
    patience=EPOCHS,  # train to the end, and keep the best epoch's weights
    seed=seed,
    label="RealNVP",
    each_epoch=keep_pictures,
)

# %% [markdown]
# How the loss fell. (The first epochs lie above the picture: one wild batch is enough to spoil the mean of an epoch.)

# %%
epochs = range(1, EPOCHS + 1)
floor = -truth.log_prob(data.x_validation).mean()
plots.curves(
    {"training": (epochs, history["loss"]), "validation": (epochs, history["val_loss"])},
    x_label="epochs",
    y_label="NLL (nats)",
    levels={"the truth on the validation points": floor},
    y_limits=(floor - 0.1, floor + 1.0),
    marks=False,
    alt="Training and validation loss fall towards the likelihood of the truth",
)

# %% [markdown]
# The line at the bottom is what the *exact* density scores on the validation points. (On the training points it scores a little more, 1.134, and so their curve lies higher. It ends at about that figure or just below: a flow of this size learns a little of its training points by heart.) On points that it was not trained on, no honest model stays below the truth. Now the picture of the book: on
# top data → latent, which should become a round Gaussian cloud; below latent → data, which should become two moons.

# %%
moon = data.moon_test[:3_000]
up = {f"x → z: {name}": (snapshots[epoch][0], moon) for name, epoch in SHOWN.items()}
panels = {"data": (data.x_test[:3_000], moon), **up, "Gaussian": latent_points}
panels |= {f"z → x: {name}": snapshots[epoch][1] for name, epoch in SHOWN.items()}
plots.points_panels(
    panels,
    limit=3.2,
    classes=moons.NAMES,
    alt="Data become a round cloud with each moon in one half; Gaussian points become two moons",
)

# %% [markdown]
# Each moon has become one half of the cloud. The flow had to tear nothing: it bent the plane until the gap between the moons was a
# thin line.

# %% [markdown]
# ## 4.8 Is it right?
#
# A loss that falls proves little. A wrong sign in the log-determinant also trains, and the loss falls further than it should. These four
# checks leave no room for that.
#
# 1. The **inverse**: $g(f(x)) = x$ for test points.
# 2. The **log-determinant** is that of the Jacobian from automatic differentiation.
# 3. The **integral** of the density over the plane is 1.
# 4. The **NLL** on test points is not below that of the truth.

# %%
log_prob = training.compiled(flow.log_prob, flow)
inverse_error = checks.inverse_error(lambda x: flow.inverse(x)[0], flow.forward, data.x_test, 1e-3)
log_det_error = checks.log_det_error(
    lambda x: flow.inverse(x)[0], lambda x: flow.inverse(x)[1], data.x_test[:1_000], 1e-3
)
integral = checks.integral(log_prob, tolerance=course.choose(full=2e-3, quick=1e-2))
flow_log_q = log_prob(data.x_test)
kl, kl_error = truth.kl(data.x_test, flow_log_q)
assert kl > -3 * kl_error
print(
    f"inverse error {inverse_error:.1e}, log-det error {log_det_error:.1e}, integral {integral:.4f}"
)

# %% [markdown]
# And the figure that we came for:

# %%
print(f"KL(truth || flow) = {kl:.4f} ± {kl_error:.4f} nats")
print(f"after {history['seconds'][-1]:.0f} s of training, compilation included")
assert kl < course.choose(full=0.020, quick=1.0)


# %% [markdown]
# What would a wrong log-determinant have looked like? Suppose that it were counted one and a half times. The KL of this "model" is far below zero, and
# its integral far from 1. Either of these two would have caught it; the inverse check would not.

# %%
def wrong_log_prob(x):
    z, log_det = flow.inverse(x)
    return -0.5 * ops.sum(z**2 + np.log(2 * np.pi), axis=-1) + 1.5 * log_det


wrong = training.compiled(wrong_log_prob, flow)
wrong_kl, _ = truth.kl(data.x_test, wrong(data.x_test))
try:
    checks.integral(wrong)
except checks.CheckFailed as failure:
    print(f"KL {wrong_kl:.2f} nats, and {failure}")
else:
    raise AssertionError("the check let a wrong log-determinant through")

# %% [markdown]
# ## 4.9 Watching the layers
#
# The flow's density beside the exact one, with the same colours, and what is left between them.

# %% tags=["nbval-check-output"]
learned = image(log_prob(square))
plots.density_panels(
    {"exact": exact, "RealNVP": learned, "absolute difference": np.abs(learned - exact)},
    limit=LIMIT,
    columns=3,
    alt="Exact and learned density look alike; the difference is a thin trace along the moons",
)

# %% [markdown]
# How do sixteen stretches and shifts, each along one axis, bend a Gaussian into moons? We follow points from $z$ to $x$ and keep them after every layer.

# %%
stages = [latent_points]
for coupling in reversed(flow.couplings):
    stages.append(ops.convert_to_numpy(coupling.forward(stages[-1])))
ends_in = np.stack([truth.log_prob(stages[-1], moon=m) for m in (0, 1)]).argmax(axis=0)


def draw_stage(axis, frame, frames_per_layer=2):
    layer, part = divmod(frame, frames_per_layer)
    after = stages[min(layer + 1, len(stages) - 1)]
    share = part / frames_per_layer
    between = (1 - share) * stages[layer] + share * after
    plots.draw_points(axis, between[:1_500], ends_in[:1_500], limit=3.2)
    axis.set_title(f"after {layer} of {len(flow.couplings)} couplings", fontsize=10)


plots.animation(
    draw_stage,
    frames=2 * len(flow.couplings) + 1,
    alt="An animation: layer by layer a Gaussian cloud is stretched and shifted into two moons",
)

# %% [markdown]
# The colours say in which moon a point will end. Every move is along one axis only, because a coupling keeps the other coordinate. A grid laid
# over latent space shows the same: lines may bend and crowd together, but two lines of one direction (one colour) never cross, since the function can be undone.

# %%
ticks, fine = np.linspace(-2.5, 2.5, 21), np.linspace(-2.5, 2.5, 400)
lines = [np.stack([np.full(400, tick), fine], axis=1) for tick in ticks]
lines += [line[:, ::-1] for line in lines]
grid = [np.stack(lines).reshape(-1, 2).astype("float32")]
for coupling in reversed(flow.couplings):
    grid.append(ops.convert_to_numpy(coupling.forward(grid[-1])))

# %% [markdown]
# Six of the stages, from the square grid on the left to the moons:

# %%
shown = np.linspace(0, len(flow.couplings), 6).round().astype(int)
figure, axes = plt.subplots(2, 3, figsize=(plots.WIDTH, 6.4))
for axis, layer in zip(axes.flat, shown, strict=True):
    for number, line in enumerate(grid[layer].reshape(-1, 400, 2)):
        direction, order = divmod(number, len(ticks))  # the two directions drawn in turn
        axis.plot(*line.T, color=plots.COLOURS[direction], linewidth=0.6, zorder=2 + order / 100)
    axis.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", title=f"after {layer} couplings")
figure.subplots_adjust(hspace=0.25)
plots.show(
    figure, alt="A square grid that is bent, layer by layer, until its lines crowd along two moons"
)


# %% [markdown]
# ## 4.10 From the book's model to ours
#
# The book's RealNVP has six couplings. Each has two networks, for $s$ and for $t$, of four layers with 256 units, 2.4 million parameters in all. It
# bounds the log-scale by 1, and trains with Adam at a constant rate of 0.0001 and batches of 256, for 300 epochs. We made it run on today's Keras and trained it three times on two CPU cores. The book's own code took 12 minutes on one machine, and ended at a KL of 0.028 ± 0.003. On a slower machine two trainings by our benchmark (`make bench`, see the README) took half an hour each. With the coupling of this chapter the end was 0.063 ± 0.004. With the book's form of it, $z = (x - t)\, e^{-s}$, it was 0.122 ± 0.006, and over
# the last 30 epochs the KL swung between 0.10 and 0.26. A rate that stays the same leaves the end to chance.
#
# What would change it most? We take one step after the other.
#
# 1. The book's model, with the coupling of this chapter, trained by Keras' `fit`, which starts each batch from Python.
# 2. Thin networks: one for both $u$ and $t$, of two layers with 32 units.
# 3. A whole epoch in one graph. Epochs are now so cheap that we can have ten times as many.
# 4. The schedule, up to a rate of 0.005 in place of 0.0001, with gradients cut to a length of 5.
# 5. A log-scale of up to 5, and a start as the identity.
# 6. Sixteen couplings.

# %%
def book_network():
    """Two networks of four layers, for u and for t."""
    x = keras.Input((2,))
    outputs = []
    for _ in range(2):
        h = x
        for _ in range(4):
            h = layers.Dense(BOOK_WIDTH, activation="relu")(h)
        outputs.append(layers.Dense(2)(h))
    return keras.Model(x, layers.concatenate(outputs))


def stack(networks, bound):
    return RealNVP([Coupling([k % 2, 1 - k % 2], net, bound) for k, net in enumerate(networks)])


def thin(couplings, bound=1.0, start="glorot_uniform"):
    return stack([coupling_network(2, WIDTH, DEPTH, start) for _ in range(couplings)], bound)


# %% [markdown]
# Two ways to train, with the same loss. The first is Keras' own, the second our whole epochs.

# %%
def train_by_fit(flow, optimizer):
    progress = training.Progress("by fit")
    flow.compile(optimizer)
    callbacks = [progress, training.StopOnBadLoss()]
    flow.fit(data.x_train, batch_size=BATCH, epochs=FIT_EPOCHS, verbose=0, callbacks=callbacks)
    return progress.seconds


def train_in_graphs(flow, optimizer):
    settings = {"epochs": STEP_EPOCHS, "batch": BATCH, "label": "in one graph"}
    return training.fit_density(flow, data.x_train, optimizer=optimizer, **settings)["seconds"]


# %% [markdown]
# What we want to know of each step:

# %%
def measured(name, flow, train, optimizer):
    seconds = train(flow, optimizer)
    log_q = training.compiled(flow.log_prob, flow)(data.x_validation)
    kl, kl_error = truth.kl(data.x_validation, log_q)
    return {
        "step": name,
        "KL": kl,
        "±": kl_error,
        "epochs": len(seconds),
        "seconds": seconds[-1],
        "an epoch": np.median(np.diff(seconds)),
        "parameters": flow.count_params(),
    }


def constant_rate():
    return keras.optimizers.Adam(1e-4)


# %% [markdown]
# Now the six steps, each with a fresh model. From one line to the next only what the list above names changes.

# %%
book = stack([book_network() for _ in range(6)], bound=1.0)
steps = [
    measured("1 the book's", book, train_by_fit, constant_rate()),
    measured("2 thin networks", thin(6), train_by_fit, constant_rate()),
    measured("3 in one graph", thin(6), train_in_graphs, constant_rate()),
    measured("4 schedule", thin(6), train_in_graphs, optimizer(STEP_EPOCHS)),
    measured("5 wide bound", thin(6, BOUND, "zeros"), train_in_graphs, optimizer(STEP_EPOCHS)),
    measured("6 deep", thin(COUPLINGS, BOUND, "zeros"), train_in_graphs, optimizer(STEP_EPOCHS)),
]

# %% [markdown]
# KL in nats on the validation points; times in seconds, those of an epoch without the first, which holds the compilation.

# %%
import pandas as pd

ladder = pd.DataFrame(steps).set_index("step").rename_axis(None)
ladder.round({"KL": 3, "±": 3, "seconds": 1, "an epoch": 2})

# %% [markdown]
# An epoch of step 2 and one of step 3 do the same arithmetic. What differs is who runs the loop.

# %%
by_fit, in_one_graph = ladder["an epoch"].iloc[1:3]
print(f"the same epoch in one graph: {by_fit / in_one_graph:.0f} times faster")
assert by_fit > in_one_graph or course.backend() != "tensorflow"  # elsewhere both are `fit`
assert ladder["KL"].iloc[-1] < ladder["KL"].iloc[0]

# %% [markdown]
# - **Thin networks** cost accuracy when epochs are equal, and an epoch costs a seventh here (on another machine a tenth).
# - **One graph** is about ten times faster here, and here alone. For the book's large networks it gains little (about a tenth when we tried), since they
#   spend their time on arithmetic and not on being started. For the price of six epochs by `fit` we get sixty.
# - **The schedule**, with gradients cut, divides the KL by eight, the largest factor of all: the rate of 0.0001 is a fiftieth of our peak.
# - **The wide bound** and the start as the identity help when couplings are few. Six couplings that may each stretch by $e$ can stretch by $e^3$ along an axis. With sixteen of them we found no
#   difference between a bound of 1 and of 5 beyond that between two seeds, which is about 0.005.
# - **Depth** does the rest. In less time than the book's model needs for six of its 300 epochs, the KL is near 0.01. The longer training of section 4.7 gave much the same.

# %% [markdown]
# ### Four faults that raise no error
#
# Old notebooks break in two ways. Some lines raise errors, and one mends them. Others run, and one never knows. Four of that kind are in the book's code, and
# this is where they would have been:
#
# - **A penalty that is never added.** The book's networks carry an L2 penalty of 0.01, but its own `train_step` computes its loss without
#   `self.losses`. Keras adds such penalties only in the loss that it computes itself. `Flow.compute_loss` above adds them, and so does `fit_density`.
# - **A validation loss that is the last batch.** Chapter 3 of the book returns raw tensors from `test_step`. Keras then shows the last batch's, not the mean. With
#   `compute_loss` alone, as here, Keras does the averaging.
# - **Two names for one loss.** There, training reports `total_loss` and validation `loss`. Side by side they cannot be compared. One method gives both here.
# - **A mean where a sum belongs.** A log-likelihood is a *sum* over dimensions. A mean over them, as in the book's VAE, changes the weight between the terms of a loss. In
#   equation 4.1 it would spoil the density: `ops.sum` in `log_prob` and in `Coupling.inverse` is not a matter of taste.
#
# How large would the forgotten penalty have been?

# %%
penalised = keras.Sequential([keras.Input((2,))])
for units in (256, 256, 256, 256, 2):
    penalised.add(layers.Dense(units, kernel_regularizer=keras.regularizers.L2(0.01)))
of_one_network = float(sum(penalised.losses))
print(f"{12 * of_one_network:.0f} nats for twelve networks, beside a loss between 1 and 3 nats")
assert 12 * of_one_network > 20

# %% [markdown]
# Had it been added, the penalty would have outweighed the likelihood many times over.

# %% [markdown]
# ## 4.11 When is a flow worth it?
#
# Three old models get the same points: one Gaussian, a mixture of 30 Gaussians, and a kernel density estimate, whose bandwidth is chosen on the validation points.

# %%
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity


def fitted(build):
    """A fitted model of scikit-learn, and the seconds that it took."""
    started = time.perf_counter()
    model = build().fit(data.x_train.astype("float64"))
    return model, time.perf_counter() - started


def record_of(name, log_q, seconds, **more):
    kl, kl_error = truth.kl(data.x_test, log_q)
    nll = -float(np.mean(log_q))
    return {
        "model": name,
        "kl": kl,
        "kl_se": kl_error,
        "nll": nll,
        "train_seconds": seconds,
        **more,
    }


# %% [markdown]
# One Gaussian has 5 parameters, a mixture of 30 has 179.

# %%
rows = []
for count in (1, 30):
    mixture, seconds = fitted(lambda k=count: GaussianMixture(k, random_state=seed))
    name = f"{count} Gaussians" if count > 1 else "Gaussian"
    density_ms = results.milliseconds(lambda m=mixture: m.score_samples(data.x_test), 3)
    log_q = mixture.score_samples(data.x_test)
    rows.append(record_of(name, log_q, seconds, parameters=6 * count - 1, density_ms=density_ms))

# %% [markdown]
# A kernel estimate puts a small Gaussian on each training point. It has nothing to train, and all the work is left for later. (A width of 0.04, in another run, was worse than 0.02.)

# %%
candidates = {}
for bandwidth in (0.01, 0.02, 0.03):
    candidates[bandwidth] = fitted(lambda b=bandwidth: KernelDensity(bandwidth=b, rtol=1e-4))
scores = {b: kernel.score(data.x_validation[:1_000]) for b, (kernel, _) in candidates.items()}
bandwidth = max(scores, key=scores.get)
kernel, seconds = candidates[bandwidth]
started = time.perf_counter()
log_q = kernel.score_samples(data.x_test)
density_ms = 1000 * (time.perf_counter() - started)
rows.append(record_of(f"kernel, width {bandwidth}", log_q, seconds, density_ms=density_ms))

# %% [markdown]
# The flow's own row, with the times of both directions. `density_ms` and `sample_ms` are for 10,000 points.

# %%
sample = training.compiled(flow.forward, flow)
ten_thousand = rng.normal(size=(10_000, 2)).astype("float32")
rows.append(
    record_of(
        "RealNVP",
        flow_log_q,
        history["seconds"][-1],
        parameters=flow.count_params(),
        density_ms=results.milliseconds(lambda: log_prob(data.x_test)),
        sample_ms=results.milliseconds(lambda: sample(ten_thousand)),
        inverse_error=inverse_error,
        log_det_error=log_det_error,
    )
)
assert np.isclose(rows[-1]["kl"], kl)
results.table(rows)[["kl", "kl_se", "train_seconds", "parameters", "density_ms", "sample_ms"]]


# %% [markdown]
# The mixture of 30 Gaussians has fewer than two hundred numbers, is fitted in about a second, and is closer to the truth than our flow. On two moons it is hard to beat.
# Two moons serve as a yardstick, since their density is known.
#
# So where do flows win? A mixture covers data with ellipsoids. In two dimensions thirty of them cover a lot. In more dimensions there is more to cover than anyone has ellipsoids for, and each has a
# covariance of $D^2/2$ numbers to learn.

# %% [markdown]
# ### Sixty-four dimensions
#
# Now the same contest where data are not drawn by two compasses. We shrink pictures to 8 × 8 grey levels. Grey levels are whole numbers, and a density needs
# a continuum, so each gets a random number between 0 and 1 added ("dequantisation"; [chapter 6](06_glow.ipynb) says why this is fair). A logit brings them from an interval to the whole line.
# All of this is the same for every model, so it cancels in the comparison.

# %%
def shrink(images):
    """Bytes (count, 28, 28) to (count, 64): means of 3 × 3 pixels, noise added, logit."""
    levels = images[:, 2:26, 2:26].reshape(-1, 8, 3, 8, 3).mean(axis=(2, 4)).round()
    share = 0.01 + 0.98 * (levels + rng.random(levels.shape)) / 256
    return np.log(share / (1 - share)).reshape(-1, 64)


pictures = datasets.fashion_mnist()
raw = shrink(pictures.x_train[: IMAGES + 2_000])
middle, spread = raw.mean(axis=0), raw.std(axis=0)
small = ((raw - middle) / spread).astype("float32")
small_train, small_validation = small[:-2_000], small[-2_000:]
small_test = ((shrink(pictures.x_test) - middle) / spread).astype("float32")
print(pictures)


# %% [markdown]
# How much there is to learn from matters too. So both get a tenth of the images, and then all.

# %%
def mixture_score(components, x):
    mixture = GaussianMixture(components, reg_covar=1e-3, tol=0.01, max_iter=300, random_state=seed)
    return mixture.fit(x).score_samples(small_test).mean()


def flow_score(x):
    large = build_realnvp(64, couplings=8, width=128, depth=2, bound=2.0)
    epochs = max(1, IMAGE_STEPS // (len(x) // BATCH))
    training.fit_density(
        large,
        x,
        optimizer=optimizer(epochs, points=len(x), peak=2e-3),
        epochs=epochs,
        batch=BATCH,
        validation=small_validation,
        patience=20,
        label=f"{len(x):,} images",
    )
    return training.compiled(large.log_prob, large)(small_test).mean()


# %% [markdown]
# The score is the mean log-likelihood of test images in nats: higher is better. (The log of a density may be positive. The losses that are shown on the way are negative scores of the last epoch, `loss` on training images and `val_loss` on validation images. The table scores the weights of the best epoch.)

# %%
untrained = -0.5 * (small_test**2 + np.log(2 * np.pi)).sum(axis=1).mean()
contest = {}
for x in (small_train[: len(small_train) // 10], small_train):
    scores = {"untrained flow": untrained}
    scores |= {f"{k} Gaussian{'s' * (k > 1)}": mixture_score(k, x) for k in (1, 10, 30)}
    contest[f"{len(x):,} images"] = scores | {"RealNVP": flow_score(x)}

contest = pd.DataFrame(contest)
contest.round(1)

# %% [markdown]
# We check that with 50,000 images the flow is ahead:

# %%
few, many = contest.columns
assert contest[many]["RealNVP"] > untrained + 5
if course.profile() == "full" and pictures.complete:
    best_mixture = contest[many].iloc[1:4].max()
    assert contest[many]["RealNVP"] > best_mixture
    print(f"{contest[many]['RealNVP'] - best_mixture:.1f} nats an image above the best mixture")

# %% [markdown]
# With a tenth of the images, a mixture of 10 Gaussians is as good as the flow or a little better, and 30 are too many already. With 50,000 the flow wins: by about 4 nats an image, so
# that it finds a test image $e^4 \approx 55$ times as likely as the best of the mixtures does. More than 30 we did not try. A flow needs dimensions, and it needs data.

# %% [markdown]
# ## What we measured

# %%
results.record(
    "04_realnvp",
    data=data.name,
    seconds=time.perf_counter() - STARTED,
    rows=rows,
)


# %% [markdown]
# ## Summary
#
# - A flow is a function that can be undone. The density of a data point is that of its latent point times $|\det \partial f/\partial x|$, where $f$ takes data to latent points.
# - A coupling changes half of a point by a scale and a shift that depend on the other half. Its inverse needs no inverse of a network, and its
#   log-determinant is a sum.
# - Four checks find a wrong flow: inverse, log-determinant by automatic differentiation, integral, and a test NLL that is not below that of the truth on the same points.
# - Many thin couplings, a schedule, and whole epochs in one graph do better in under a minute than the book's model in many.
# - On two moons a mixture of Gaussians is closer to the truth, and fitted in a second. In 64 dimensions, with enough data, the flow is better.
#
# [Chapter 5](05_tfp_flows.ipynb) builds flows from the parts that TensorFlow Probability offers, and meets functions that bend more than a line.

# %% [markdown]
# ## Exercises
#
# The cell below each exercise holds a solution. It is folded: click it to open it.
#
# **1.** NICE (Dinh et al., 2015) came before RealNVP. Its couplings have a shift only: $s = 0$. (Leave out the scaling at its end.) What is its log-determinant? How far can its density rise above
# the standard normal's peak, $1/2\pi$? Train one for a few epochs, and compare.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# The log-determinant is 0 for every point: NICE moves areas about and never changes their size. So
# p(x) = p(z) is at most 1/2π everywhere, and the NLL at least ln 2π = 1.838: a KL of at least 0.71.
class Additive(Coupling):
    def log_scale_and_shift(self, x):
        s, t = super().log_scale_and_shift(x)
        return 0 * s, t


nice = RealNVP([Additive([k % 2, 1 - k % 2], coupling_network(2, WIDTH, DEPTH)) for k in range(6)])
short = course.choose(full=15, quick=2)
training.fit_density(
    nice, data.x_train, optimizer=optimizer(short), epochs=short, batch=BATCH, label="NICE"
)
nice_log_q = training.compiled(nice.log_prob, nice)(data.x_test)
nice_kl, nice_error = truth.kl(data.x_test, nice_log_q)
print(f"NICE: KL {nice_kl:.3f}, lower bound {np.log(2 * np.pi) - entropy:.3f}")
assert nice_log_q.max() <= -np.log(2 * np.pi) + 1e-5
assert nice_kl > np.log(2 * np.pi) - entropy - 3 * nice_error

# %% [markdown]
# **2.** What happens if the mask never changes? Say first what the flow can still learn, then train it.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# x₁ is always kept, so the model of x₁ stays the standard normal. Given x₁, all the couplings are
# together one scale and one shift: one Gaussian, where for a third of the range of x₁ two moons
# lie above each other.
same = RealNVP([Coupling([1, 0], coupling_network(2, WIDTH, DEPTH)) for _ in range(6)])
training.fit_density(
    same, data.x_train, optimizer=optimizer(short), epochs=short, batch=BATCH, label="one mask"
)
same_kl, _ = truth.kl(data.x_test, training.compiled(same.log_prob, same)(data.x_test))
print(f"one mask: KL {same_kl:.3f}, alternating masks: {kl:.3f}")
assert same_kl > kl

# %% [markdown]
# **3.** A continuous function cannot tear one cloud into two. Where does the flow hide the seam? Measure how much of what it makes lies where the truth has almost nothing.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# "Almost nothing" needs a number: a density below that of all but one in a thousand true points.
# The flow has more than a thousandth there, many of them on a thread between the moons: it must
# connect them.
level = np.quantile(truth.log_prob(data.x_test), 0.001)
made = sample(rng.normal(size=(20_000, 2)).astype("float32"))
strays = truth.log_prob(made) < level
print(f"{100 * strays.mean():.2f} % of the flow's points lie where only 0.1 % of true points do")
plots.points_panels(
    {"all": made[:4_000], "strays": made[strays]},
    columns=2,
    limit=2.6,
    alt="Points made by the flow, and those of them that lie off the moons: a few along a thread",
)
assert strays.mean() > 0.001

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - L. Dinh, D. Krueger, Y. Bengio. *NICE: Non-linear Independent Components Estimation*. ICLR workshop, 2015. Section 3.2: additive couplings.
# - L. Dinh, J. Sohl-Dickstein, S. Bengio. *Density estimation using Real NVP*. ICLR, 2017. Equations 2 and 3: the change of variables; 7 and 8: affine couplings and
#   their inverse.
# - G. Papamakarios, E. Nalisnick, D. J. Rezende, S. Mohamed, B. Lakshminarayanan. *Normalizing Flows for Probabilistic Modeling and Inference*. JMLR, 2021.
