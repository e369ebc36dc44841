# %% [markdown]
# # Chapter 8 · FFJORD
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/08_ffjord.ipynb)
#
# **What if a flow had no layers, but time?** A point of the Gaussian drifts along a velocity that a network gives for each place and time, and after one unit of time it is a point of the data. Any smooth network will do: to go back, let time run backwards. And the determinant becomes a trace. This is a continuous flow
# (Chen et al., 2018). FFJORD (Grathwohl et al., 2019) made it cheap in many dimensions, by an estimate of the trace. In two dimensions we take the exact trace. The price of such a flow is that a differential equation has to be solved, and a solver makes errors. This chapter writes a solver, trains a flow through it, and shows how a network can profit from its errors.

# %% [markdown]
# **You will learn**
# - how a log-density changes along a moving point: the instantaneous change of variables;
# - how to solve a differential equation with fixed steps and with adaptive ones, and what "order" means;
# - how to train through a solver, and what an estimated trace does to the loss;
# - how a model can look better than the truth, and which check finds it out;
# - what a penalty on the paths changes, and what it does not.
#
# **In the book**: chapter 6 (노멀라이징 플로) names FFJORD at its end and stops there.
#
# **Needs**: no download, and TensorFlow. On two CPU cores it took 6 minutes, more than three of them for the two trainings of section 8.6; on a slower machine 12. On a GPU: not measured.

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
TRAIN_POINTS = course.choose(full=30_000, quick=4_000)
WIDTH = course.choose(full=64, quick=16)
STEPS = course.choose(full=12, quick=4)  # of the solver, while training
EPOCHS = course.choose(full=30, quick=2)
BATCH = 256
PEAK_LEARNING_RATE = 4e-3
KINETIC = 0.01
CHEAT_STEPS, CHEAT_LEARNING_RATE = 4, 5e-3  # too few, and too fast
FRAMES = course.choose(full=25, quick=5)
seed = course.seed(42)

# %% [markdown]
# The flow of this chapter is trained by TensorFlow's loops and judged by TFP's solver.

# %%
course.require("tensorflow-probability", "tf_keras")

import keras
import matplotlib.pyplot as plt
import numpy as np

from utils import checks, moons, plots, results, training

data = moons.load(TRAIN_POINTS)
truth, rng = data.truth, np.random.default_rng(seed)

# %% [markdown]
# ## 8.1 A density that moves
#
# Let a point move with a velocity that depends on where it is and when: $dz/dt = v(z, t)$. All points of a cloud move like this at the same time. At time 0 a point is a latent point, $z(0) = z$; at time 1 it is a point of the data, $z(1) = x$. So `forward`, z → x, follows it from 0 to 1, and `inverse`, x → z, from 1 to 0. How does $p_t$, the density of the cloud at time $t$, change at a moving point? In a short time $h$ the step is $z \mapsto z + h\, v$, with the Jacobian $I + h\, \partial v/\partial z$. Its
# determinant is $1 + h \operatorname{tr}(\partial v / \partial z)$, up to terms in $h^2$: each product in the determinant that leaves the diagonal has at least two factors $h$. (The *trace* tr is the sum of the numbers on the diagonal.) The change of variables of chapter 4, for such a step and in the limit of short ones, gives
#
# $$\frac{d}{dt} \log p_t(z(t)) = -\operatorname{tr} \frac{\partial v}{\partial z}(z(t), t).$$
#
# This is the instantaneous change of variables (Chen et al., 2018, theorem 1). At time 0 the density $p_0$ is the Gaussian of the latent points; at time 1, $p_1$ is the model's density of data. Paths of two points never meet, if $v$ at two places never differs by more than a constant times their distance. A network of tanh with finite weights meets this condition. Without it, paths may meet or run off to infinity. So such a flow can be undone, by running time backwards.

# %% [markdown]
# ## 8.2 Solvers
#
# Paths have no formula, so they are computed in steps. The classical method of Runge and Kutta (RK4) evaluates the velocity four times in a step and takes a weighted mean:

# %% tags=["definitions"]
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

tfb, tfd = tfp.bijectors, tfp.distributions


def rk4(velocity, state, t0, t1, steps):
    """Follows d state/dt = velocity(t, state) from t0 to t1; `state` is a tuple of tensors.

    `steps` is a whole number of Python, so that XLA knows how much room the gradient needs.
    """
    h = (t1 - t0) / steps

    def moved(state, slope, factor):
        return tuple(s + factor * d for s, d in zip(state, slope, strict=True))

    for step in tf.range(steps):
        t = t0 + h * tf.cast(step, tf.float32)
        k1 = velocity(t, state)
        k2 = velocity(t + h / 2, moved(state, k1, h / 2))
        k3 = velocity(t + h / 2, moved(state, k2, h / 2))
        k4 = velocity(t + h, moved(state, k3, h))
        mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(k1, k2, k3, k4, strict=True))
        state = moved(state, mean, h)
    return state


# %% [markdown]
# A velocity for each place and time is called a *field*. One whose paths are known: $v(z) = A z$ with a matrix $A$. Then $z(1) = e^{A} z(0)$ with the matrix exponential $e^A = I + A + A^2/2 + \dots$, and the log-determinant of this way, from $z(0)$ to $z(1)$, is $\operatorname{tr} A$ for every point; that of `inverse` is $-\operatorname{tr} A$. The error of RK4 against the number of steps, beside that of Euler's method, which makes one evaluation a step:

# %%
from scipy.linalg import expm

A = np.float32([[-0.5, 2.0], [-2.0, 0.3]])
z0 = tf.constant(rng.normal(size=(100, 2)).astype("float32"))
exact = z0.numpy() @ expm(A.astype("float64")).T


def linear(t, state):
    return (tf.matmul(state[0], A, transpose_b=True),)


def euler(velocity, state, t0, t1, steps):
    h = (t1 - t0) / steps
    for step in range(steps):
        state = tuple(s + h * d for s, d in zip(state, velocity(t0 + step * h, state), strict=True))
    return state


counts = np.array([2, 4, 8, 16, 32])
errors = {
    solver.__name__: [
        np.abs(solver(linear, (z0,), 0.0, 1.0, int(n))[0] - exact).max() for n in counts
    ]
    for solver in (euler, rk4)
}

# %% [markdown]
# On logarithmic axes a line of slope $-k$ means: twice the steps, $2^k$ times more exact. This $k$ is the **order** of the method. The slopes are fitted to the first four points. Euler's is not quite −1: its coarse steps are still too coarse for the rule. A step of RK4 costs four evaluations, and is worth them: eight of its steps cost as much as 32 of Euler's.

# %% tags=["nbval-check-output"]
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
for (name, error), marker, colour in zip(errors.items(), "os", plots.COLOURS, strict=False):
    slope = np.polyfit(np.log(counts[:4]), np.log(error[:4]), 1)[0]
    print(f"{name} is of order {-slope:.0f}")
    axis.loglog(counts, error, marker=marker, color=colour, label=f"{name}: slope {slope:.1f}")
    assert abs(slope + {"euler": 1, "rk4": 4}[name]) < 0.5
axis.set(xlabel="steps", ylabel="largest error")
axis.set_xticks(counts, counts)
axis.minorticks_off()
axis.legend(frameon=False)
plots.show(figure, alt="Error against steps: Euler's falls with slope 1, RK4's with slope 4")

# %% [markdown]
# ## 8.3 The flow
#
# The network takes a point and the time and gives a velocity. (It is one of `tf_keras`, since a `tf.Module` does not find the variables of Keras 3: chapter 5.) The time is one more coordinate: `tf.pad` adds a column of zeros, and the single 1 in `np.eye(1, n + 1, n)` puts the time there. Two numbers travel with each point: the sum of the trace so far, which is the change of the log-density with its sign reversed, and the energy of the path, $\int |v|^2\, dt$, which section 8.6 needs. The trace of a 2 × 2 Jacobian is two derivatives, $\partial v_1/\partial z_1 + \partial v_2/\partial z_2$, each by one call of automatic
# differentiation. From data to latent, time runs from 1 to 0.

# %% tags=["definitions"]
import tf_keras


def velocity_network(dim, width):
    """(batch, dim + 1), points and time, to a velocity (batch, dim)."""
    hidden = [tf_keras.layers.Dense(width, activation="tanh") for _ in range(3)]
    return tf_keras.Sequential([tf_keras.Input((dim + 1,)), *hidden, tf_keras.layers.Dense(dim)])


def with_time(z, t):
    """Points (batch, dim) with the time as one more coordinate."""
    return tf.pad(z, [[0, 0], [0, 1]], constant_values=0.0) + t * np.eye(
        1, z.shape[1] + 1, z.shape[1]
    )


def velocity_and_trace(network, t, z):
    """v(z, t), (batch, dim), and the trace of its Jacobian, (batch,), by dim gradients."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        v = network(with_time(z, t))
        parts = tf.unstack(v, axis=1)
    trace = sum(tape.gradient(part, z)[:, i] for i, part in enumerate(parts))
    return v, trace


# %% [markdown]
# At time 0 stands the Gaussian:

# %% tags=["definitions"]
def log_normal(z):
    """Log density of the standard normal, summed over coordinates."""
    return -0.5 * tf.reduce_sum(z**2 + np.log(2 * np.pi), axis=1)


# %% [markdown]
# The class puts network and solver together.

# %% tags=["definitions"]
class ContinuousFlow(tf.Module):
    """A density of points (batch, dim) by a velocity network and a solver with fixed steps."""

    def __init__(self, network, dim, steps):
        super().__init__()
        self.network, self.dim, self.steps = network, dim, steps

    def field(self, t, state):
        v, trace = velocity_and_trace(self.network, t, state[0])
        return v, trace, tf.reduce_sum(v**2, axis=1)

    def inverse(self, x, steps=None):
        """x -> z, log |det dz/dx| and the energy of the path: (batch, dim), (batch,), (batch,)."""
        x = tf.convert_to_tensor(x)
        nothing = tf.zeros(tf.shape(x)[0])
        z, log_det, energy = rk4(self.field, (x, nothing, nothing), 1.0, 0.0, steps or self.steps)
        return z, log_det, -energy

    def forward(self, z, steps=None):
        """z -> x; no trace is needed."""
        z = tf.convert_to_tensor(z)

        def velocity(t, state):
            return (self.network(with_time(state[0], t)),)

        return rk4(velocity, (z,), 0.0, 1.0, steps or self.steps)[0]

    def log_prob(self, x, steps=None):
        """log p(x) in nats, (batch,)."""
        z, log_det, _ = self.inverse(x, steps)
        return log_normal(z) + log_det


# %% [markdown]
# With time running from 1 to 0 the solver adds up $\int_1^0 \operatorname{tr}\, dt = -\int_0^1 \operatorname{tr}\, dt$, which is exactly what has to be added to $\log p_0(z)$. The energy is summed backwards too, so `inverse` turns its sign.
#
# A field with a closed form tests the signs. For $v(z) = A z$ the flow of a Gaussian is a Gaussian: $x = e^A z$ has the covariance $e^A e^{A^\top}$.

# %% tags=["nbval-check-output"]
from scipy.stats import multivariate_normal

linear_network = tf_keras.Sequential(
    [tf_keras.Input((3,)), tf_keras.layers.Dense(2, use_bias=False)]
)
linear_network.layers[-1].kernel.assign(np.vstack([A.T, [[0, 0]]]))  # time plays no part
linear_flow = ContinuousFlow(linear_network, 2, steps=16)
expected = multivariate_normal(cov=expm(A) @ expm(A).T).logpdf(data.x_test[:500])
error = np.abs(linear_flow.log_prob(data.x_test[:500]).numpy() - expected).max()
_, log_det, _ = linear_flow.inverse(data.x_test[:500])
print("log-density right to 0.001:", bool(error < 1e-3))
print(f"log-determinant {log_det.numpy().mean():.4f}, −tr A = {-np.trace(A):.4f}")
assert error < 1e-3 and np.allclose(log_det, -np.trace(A), atol=1e-4)

# %% [markdown]
# And the checks of all flows, with a network of random weights: the way back undoes the way there, and the trace adds up to the log-determinant of the whole Jacobian, which automatic differentiation finds through the solver.

# %% tags=["definitions"]
from utils.chapters import definitions

shaken = definitions("06_glow", "shaken")  # adds random numbers: a velocity near 0 proves nothing

# %% [markdown]
# Both errors:

# %%
trial = ContinuousFlow(shaken(velocity_network(2, 16), rng, 0.3), 2, steps=32)
some = data.x_test[:100]
moved = np.abs(trial.inverse(some)[0] - some).max()
inverse_error = checks.inverse_error(lambda x: trial.inverse(x)[0], trial.forward, some, 1e-3)
log_det_error = checks.log_det_error(
    lambda x: trial.inverse(x)[0], lambda x: trial.inverse(x)[1], some, 1e-3
)
print(f"points move by up to {moved:.1f}")
print(f"inverse error {inverse_error:.0e}, log-det error {log_det_error:.0e}")
assert moved > 0.5


# %% [markdown]
# ## 8.4 A solver that looks where it goes
#
# How many steps are enough? An **adaptive** solver computes each step's result by two formulas of different order from the same evaluations of the velocity, and compares. Where they disagree by more than a tolerance it takes a smaller step, and where they agree well a larger one. Dormand and Prince's method, of order 5, is in TFP. It makes as many evaluations as this field needs, and it says how many. (Its tolerance is one for all points of a batch together, so a single point may be off by more.)
#
# `tfb.FFJORD` wraps a velocity and a solver as a bijector. It drops the solver's diagnostics, so our `solve` keeps the count in a `tf.Variable`. Two things need care. Without `max_num_steps` a wild field runs for ever. And TFP hands a velocity to `trace_augmentation_fn`. From data to latent that is not our $v(z, t)$ but $-v(z, 1 - t)$, since TFP's solver runs forward in time, and the trace must be taken of what is handed over. TFP wants it by coordinate, not summed.

# %% tags=["definitions"]
def with_diagonal(velocity, shape, dtype):
    """For `tfb.FFJORD`: the velocity, and the diagonal of its Jacobian by a gradient for each."""

    def field(t, state):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(state[0])
            v = velocity(t, state[0])
            parts = tf.unstack(v, axis=1)
        return v, tf.stack(
            [tape.gradient(part, state[0])[:, i] for i, part in enumerate(parts)], axis=1
        )

    return field


# %% [markdown]
# The flow with such a solver. Only its density is asked for.

# %% tags=["definitions"]
class Adaptive:
    """The network in `tfb.FFJORD` with Dormand and Prince's solver; counts evaluations."""

    def __init__(self, network, dim, tolerance=1e-5, most=2_000):
        self.evaluations = tf.Variable(0)
        solver = tfp.math.ode.DormandPrince(rtol=tolerance, atol=tolerance, max_num_steps=most)

        def solve(ode_fn, initial_time, initial_state, solution_times, **settings):
            result = solver.solve(ode_fn, initial_time, initial_state, solution_times, **settings)
            self.evaluations.assign(result.diagnostics.num_ode_fn_evaluations)
            return result

        bijector = tfb.FFJORD(
            lambda t, z: network(with_time(z, t)),
            ode_solve_fn=solve,
            trace_augmentation_fn=with_diagonal,
        )
        base = tfd.Sample(tfd.Normal(0.0, 1.0), [dim])
        self.run = tf.function(tfd.TransformedDistribution(base, bijector).log_prob)

    def log_prob(self, x):
        """log p(x) in nats, (count,); raises RuntimeError if the solver runs out of steps."""
        try:
            return self.run(tf.constant(x)).numpy()
        except tf.errors.InvalidArgumentError:
            raise RuntimeError("The adaptive solver ran out of steps: raise `most`.") from None


# %% [markdown]
# The log-density by fixed steps, against 128 steps and against the adaptive solver at a tight tolerance:

# %%
tight = Adaptive(trial.network, 2, tolerance=1e-6)
finest, adaptive = trial.log_prob(some, steps=128).numpy(), tight.log_prob(some)
errors = []
for n in counts:
    log_q = trial.log_prob(some, steps=int(n)).numpy()
    errors.append(np.abs(log_q - finest).max())
    off = np.abs(log_q - adaptive).max()
    print(
        f"{n:3} steps, {4 * n:3} evaluations: off by {errors[-1]:.0e}; from the adaptive {off:.0e}"
    )
slope = np.polyfit(np.log(counts[:4]), np.log(errors[:4]), 1)[0]
print(f"slope over the first four: {slope:.1f}; adaptive: {int(tight.evaluations)} evaluations")
assert errors[-1] < 1e-4 and abs(slope + 4) < 1 and np.abs(adaptive - finest).max() < 1e-3

# %% [markdown]
# RK4 is of order four here, too. The last column does not fall below $2 \cdot 10^{-5}$, however fine the fixed steps are: that is the adaptive solver's error. One reason may be that it steps past the end of the time and interpolates back, which the tolerance does not cover. Its evaluations are those of about 16 fixed steps. The gain is not speed. It is that nobody had to choose a number of steps.

# %% [markdown]
# A solver with too few steps allowed says so:

# %% tags=["nbval-check-output"]
try:
    Adaptive(trial.network, 2, most=2).log_prob(some)
except RuntimeError as problem:
    print(problem)
else:
    raise AssertionError("two steps were enough")

# %% [markdown]
# ## 8.5 The price of a trace
#
# In two dimensions the trace of the Jacobian $J = \partial v/\partial z$ is two derivatives. In $D$ it is $D$ of them, and that is too many for images. Hutchinson's estimator needs one: for a random vector $\varepsilon$ with mean 0 and covariance $I$,
#
# $$\operatorname{tr} J = \mathbb{E}\left[\varepsilon^\top J\, \varepsilon\right],$$
#
# and $\varepsilon^\top J$ is a single gradient. The estimate is right on average. A draw of $\varepsilon$ is called a probe, and the variance falls with the number of probes. It depends on the kind of probe: for probes of $\pm 1$ all $\varepsilon_i^2$ are 1, so that the diagonal enters exactly and only what lies off it makes noise; normal probes add noise from the diagonal too. Measured at one point of a network with 16 coordinates:

# %%
wide = shaken(velocity_network(16, 32), rng, 0.3)
z = rng.normal(size=(1, 16)).astype("float32")
jacobian = checks.jacobian(lambda z: wide(with_time(z, 0.5)), z)[0]
PROBES = (1, 4, 16, 64, 256)


def estimates(kind, probes, repeats=2_000):
    """Hutchinson's estimate with so many probes, repeated."""
    shape = (repeats, probes, 16)
    epsilon = rng.normal(size=shape) if kind == "normal" else rng.choice([-1.0, 1.0], size=shape)
    return np.einsum("rpi,ij,rpj->rp", epsilon, jacobian, epsilon).mean(axis=1)


spread = {kind: [estimates(kind, n).std() for n in PROBES] for kind in ("normal", "±1")}
mean = estimates("±1", 256).mean()
print(f"trace {np.trace(jacobian):.4f}, mean of the estimates {mean:.4f}")
assert abs(mean - np.trace(jacobian)) < 4 * spread["±1"][-1] / np.sqrt(2_000)
assert spread["±1"][0] < spread["normal"][0]

# %% [markdown]
# Four times the probes, half the deviation:

# %%
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
for (kind, deviations), marker, colour in zip(spread.items(), "os", plots.COLOURS, strict=False):
    slope = np.polyfit(np.log(PROBES), np.log(deviations), 1)[0]
    axis.loglog(
        PROBES, deviations, marker=marker, color=colour, label=f"{kind} probes: slope {slope:.2f}"
    )
axis.set(xlabel="probes", ylabel="standard deviation of the estimate")
axis.set_xticks(PROBES, PROBES)
axis.set_yticks([0.5, 1, 2, 5], [0.5, 1, 2, 5])
axis.minorticks_off()
axis.legend(frameon=False)
plots.show(
    figure, alt="The deviation of Hutchinson's estimate falls as one over the root of the probes"
)


# %% [markdown]
# A flow of images is trained with one probe for each image, drawn anew in each step of training, and kept through all steps of the solver. Here, in two dimensions, the exact trace costs two gradients, and we take it.
#
# ## 8.6 Training
#
# A density of data says where points must end. It does not say how they should get there. A field may send them round in circles, which is work for the solver. So the loss gets a term for the energy of the path, with a weight $\lambda$, `kinetic` in the code (one of the two penalties of Finlay et al., 2020):
#
# $$\text{loss} = \mathbb{E}_x\left[-\log p(x) + \lambda \int_0^1 |v(z(t), t)|^2\, dt\right].$$
#
# Between two given ends the cheapest path is straight, at an even pace. (The loss on the progress line includes the penalty, and is no NLL.) We train through our own solver: twelve steps, with automatic differentiation through all of them. (Chen et al. solve a second equation backwards in time in place of that, the adjoint, which needs memory for one step alone. For twelve steps in two dimensions memory is no matter.)

# %% tags=["definitions"]
class Penalised:
    """What `fit_density` maximises: log p(x) less `kinetic` times the energy of the path."""

    def __init__(self, flow, kinetic):
        self.flow, self.kinetic = flow, kinetic
        self.trainable_variables = flow.trainable_variables

    def log_prob(self, x):
        z, log_det, energy = self.flow.inverse(x)
        return log_normal(z) + log_det - self.kinetic * energy


# %% [markdown]
# Training is the loop of the earlier chapters. `watch(flow)` gives a function that looks at the flow. It is called before the first epoch, and ten times on the way. With `LOAD = True` the trainings of this section and the next are skipped, and what an earlier run left in the output folder is loaded.

# %%
LOAD = False
folder = course.output(data.name.replace(" ", "-"), "08_ffjord")


def train_flow(label, kinetic, watch, steps=STEPS, peak=PEAK_LEARNING_RATE):
    """Trains a flow; returns it, the seconds, and what `watch(flow)()` gave by epoch."""
    keras.utils.set_random_seed(seed)
    flow = ContinuousFlow(velocity_network(2, WIDTH), 2, steps)
    assert len(flow.trainable_variables) == 8, "four matrices and four biases"
    path = folder / label.replace(" ", "_")
    if LOAD:
        kept = training.load(flow, path)
        return flow, kept["seconds"], dict(kept["seen"])
    look, seen = watch(flow), {}

    def each_epoch(epoch):
        if epoch % max(1, EPOCHS // 10) == 0:
            seen[epoch] = look()

    rate = training.warmup_cosine(peak, EPOCHS * (TRAIN_POINTS // BATCH))
    history = training.fit_density(
        Penalised(flow, kinetic),
        data.x_train,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=EPOCHS,
        batch=BATCH,
        label=label,
        seed=seed,
        each_epoch=each_epoch,
    )
    seconds = history["seconds"][-1]
    training.save(flow, path, seconds=seconds, seen=list(seen.items()))
    return flow, seconds, seen


# %% [markdown]
# We train twice, with the penalty and without, and watch how many evaluations the adaptive solver needs:

# %%
def evaluations_of(flow):
    """A function that gives the evaluations for 500 points at a tolerance of 10⁻⁴."""
    adaptive = Adaptive(flow.network, 2, tolerance=1e-4)

    def count():
        adaptive.log_prob(data.x_validation[:500])
        return int(adaptive.evaluations)

    return count


flow, seconds, asked = train_flow("FFJORD", KINETIC, evaluations_of)
free_flow, _, free_asked = train_flow("without the penalty", 0.0, evaluations_of)


# %% [markdown]
# Both are judged on the 10,000 test points by the adaptive solver, with a tolerance of $10^{-5}$; beside it stand the KL by the twelve steps of training, and the energy, by the same steps, on 1,000 points:

# %%
def judged(flow):
    """KL, NLL and evaluations by the adaptive solver; KL and energy by the flow's own steps."""
    adaptive = Adaptive(flow.network, 2)
    log_q = adaptive.log_prob(data.x_test)
    own_log_q = training.compiled(flow.log_prob, flow)(data.x_test)
    kl, kl_se = truth.kl(data.x_test, log_q)
    return {
        "kl": kl,
        "kl_se": kl_se,
        "kl_own_steps": truth.kl(data.x_test, own_log_q)[0],
        "nll": -float(log_q.mean()),
        "evaluations": int(adaptive.evaluations),
        "energy": float(tf.reduce_mean(flow.inverse(data.x_test[:1_000])[2])),
    }


with_penalty, without = judged(flow), judged(free_flow)
results.table(
    [{"model": "with the penalty", **with_penalty}, {"model": "without the penalty", **without}]
)

# %% [markdown]
# And what the solver needed as training went on (500 points, tolerance $10^{-4}$):

# %%
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
for (name, by_epoch), marker, colour in zip(
    {"with the penalty": asked, "without the penalty": free_asked}.items(),
    "os",
    plots.COLOURS,
    strict=False,
):
    axis.plot(by_epoch.keys(), by_epoch.values(), marker=marker, color=colour, label=name)
axis.set(xlabel="epochs", ylabel="evaluations of the velocity", ylim=(0, None))
axis.legend(frameon=False)
plots.show(figure, alt="Evaluations that the adaptive solver needs, as training goes on")

# %% [markdown]
# Both densities are 0.02 nats from the truth, and what lies between them is less than a standard error. The twelve steps of training flatter them by less than 0.002. The penalty did what it says: a third less energy, and straighter paths (exercise 2). It hardly changed the solver's work. The evaluations grow from 24 to 156 with it and to 138 without, at a tolerance of $10^{-4}$ (in the picture, where the curves cross on the way). At $10^{-5}$ it is the other way round, 198 and 222 (in the table). One seed and one weight do not make this a rule. Why it helps so little, we did not measure. One reason may be the trace, which the solver has to follow too: points that close in on a thin curve at an even pace have a trace that grows steeply towards $t = 1$, however straight their paths.
#
# Where do these settings come from? From trials that were judged on the validation points:
#
# | batch | solver steps | peak of the rate | $\lambda$ | what happened |
# | --- | --- | --- | --- | --- |
# | 512 | 12 | 0.003 | 0.01 | 0.054 nats after 30 epochs |
# | 512 | 6 | 0.005 | 0.01 | −0.79 nats by its own six steps after 60 epochs, 1.20 by the adaptive solver |
# | 512 | 8 | 0.003 | 0.03 | a loss of 1.00 after 51 epochs, where the entropy is 1.131 |
# | 128 | 12 | 0.004 | 0.01 | 0.019 nats after 20 epochs, but 0.012 by its own twelve steps |
#
# Smaller batches came further in the same time, and needed more steps of the solver. In batches of 128 the twelve steps flatter the flow, so we took batches of 256. The next section is about that.

# %%
assert with_penalty["kl"] > -3 * with_penalty["kl_se"]
if course.profile() == "full":
    assert with_penalty["kl"] <= 0.05 and with_penalty["energy"] < without["energy"]

# %% [markdown]
# The row for the leaderboard. `density_ms` and `sample_ms` are milliseconds for 10,000 points. They and both errors are by fixed steps, four times as many as in training; the KL is that of the adaptive solver.

# %%
FINE = 4 * STEPS
log_prob = training.compiled(lambda x: flow.log_prob(x, FINE), flow)
sample = training.compiled(lambda z: flow.forward(z, FINE), flow)
noise = rng.normal(size=(10_000, 2)).astype("float32")
row = {
    "model": "FFJORD",
    **{key: with_penalty[key] for key in ("kl", "kl_se", "nll")},
    "train_seconds": seconds,
    "parameters": int(sum(np.prod(v.shape) for v in flow.trainable_variables)),
    "density_ms": results.milliseconds(lambda: log_prob(data.x_test), 3),
    "sample_ms": results.milliseconds(lambda: sample(noise), 3),
    "inverse_error": checks.inverse_error(
        lambda x: flow.inverse(x, FINE)[0], lambda z: flow.forward(z, FINE), data.x_test[:500], 1e-2
    ),
    "log_det_error": checks.log_det_error(
        lambda x: flow.inverse(x, FINE)[0],
        lambda x: flow.inverse(x, FINE)[1],
        data.x_test[:100],
        1e-2,
    ),
}
results.table([row])

# %% [markdown]
# Is it a density? Its integral, and its difference from the adaptive solver at a tolerance of $10^{-6}$:

# %%
total = checks.integral(log_prob, tolerance=course.choose(full=2e-3, quick=0.05))
adaptive = Adaptive(flow.network, 2, tolerance=1e-6)
gap = np.abs(log_prob(data.x_test[:1_000]) - adaptive.log_prob(data.x_test[:1_000])).max()
print(f"integral {total:.5f}; largest difference of the two log-densities {gap:.1e}")


# %% [markdown]
# ## 8.7 A solver that is cheated
#
# What if the steps are too few? The loss is computed by the solver, errors and all. The path and the trace along it are solved with different errors. So the sum of the traces need not be the log-determinant of the map that the steps really make, and a network can find a velocity for which the difference looks like a better likelihood. Here is one with four steps, no penalty and a higher rate. We watch two figures: the KL by its own four steps, and the KL by sixteen times as many.

# %%
def both_kls(flow):
    """A function that gives the KL on validation points by the flow's own steps, and by many."""
    own = training.compiled(flow.log_prob, flow)
    fine = training.compiled(lambda x: flow.log_prob(x, 16 * flow.steps), flow)
    return lambda: [
        truth.kl(data.x_validation, log_prob(data.x_validation))[0] for log_prob in (own, fine)
    ]


cheat, _, kls = train_flow("too few steps", 0.0, both_kls, CHEAT_STEPS, CHEAT_LEARNING_RATE)
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
names = (f"by its own {CHEAT_STEPS} steps", f"by {16 * CHEAT_STEPS} steps")
for name, kl, marker, colour in zip(
    names, zip(*kls.values(), strict=True), "os", plots.COLOURS, strict=False
):
    axis.plot(kls.keys(), kl, marker=marker, color=colour, label=name)
axis.axhline(0, color="0.4", linestyle="--", label="the truth: no density is below")
axis.set(xlabel="epochs", ylabel="KL (nats)", ylim=(-1.0, 2.0))
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
plots.show(
    figure, alt="By its own steps the KL falls below zero, while by many steps it climbs again"
)

# %% [markdown]
# For six epochs the two agree; at nine they have parted. By its own steps the KL of the validation points is below zero then, swings up to 1.0, and ends at −0.7; by many steps it leaves the top of the picture, comes back once and is gone. Anyone who looks at the last loss alone sees a success. On the test points, and by other checks (the integral is a sum over the square [−4, 4]²; `checks.integral` raises an error where the integral is not 1):

# %%
claim, seen = training.compiled(cheat.log_prob, cheat), judged(cheat)
places, area = checks.square(4.0, 400)
total = float(np.exp(claim(places).astype("float64")).sum() * area)
some = data.x_test[:200]
log_det_error = checks.log_det_error(
    lambda x: cheat.inverse(x)[0], lambda x: cheat.inverse(x)[1], some, np.inf
)
inverse_error = checks.inverse_error(lambda x: cheat.inverse(x)[0], cheat.forward, some, np.inf)
print(f"KL by its own steps {seen['kl_own_steps']:.3f}, by the adaptive solver {seen['kl']:.3f}")
print(f"integral {total:.3f}; log-det error {log_det_error:.2f}, inverse error {inverse_error:.2f}")
if course.profile() == "full":
    assert seen["kl_own_steps"] < -0.05 < 0.05 < seen["kl"], "nothing was cheated"
    assert abs(total - 1) > 0.05 and log_det_error > 0.05

# %% [markdown]
# A KL of −0.70 is impossible, and so is a density whose integral is 11. The density that the velocity really stands for is at 2.9 nats, further from the truth than a single Gaussian (1.6). Two moons give it away, because their entropy is known. Elsewhere the checks of chapter 4 are left. The log-determinant that the four steps report is off by up to 6.8 from that of the map that they make, and the way back misses the start by up to 3.4. In a few dimensions there is the integral, and in any number the same log-density by more steps.

# %% [markdown]
# ## 8.8 Watching it flow
#
# **The field** at five times, on the density of that time. (The density at time $t$ follows from the same equation, with the way from $t$ back to 0.) All arrows have one scale, and so have the greys. Where it is white hardly any point passes, and the arrows mean little.

# %%
SIDE, LIMIT = 80, 2.8
grid, _ = checks.square(LIMIT, SIDE)


def log_density_at(points, t):
    """log p of points (count, 2) at time t between 0, the Gaussian, and 1, the moons."""
    nothing = tf.zeros(tf.shape(points)[0])
    z, log_det, _ = rk4(flow.field, (points, nothing, nothing), t, 0.0, 32)
    return log_normal(z) + log_det


compiled_log_density = training.compiled(log_density_at, flow)


def density_picture(t):
    """The density at time t on the grid, (SIDE, SIDE)."""
    return np.exp(compiled_log_density(grid, np.float32(t))).reshape(SIDE, SIDE)


# %% [markdown]
# The picture:

# %%
times = (0.0, 0.25, 0.5, 0.75, 1.0)
by_time = {t: density_picture(t) for t in times}
coarse, _ = checks.square(LIMIT, 13)

figure, axes = plt.subplots(1, 5, figsize=(plots.WIDTH, 2.4))
for axis, (t, density) in zip(axes, by_time.items(), strict=True):
    axis.imshow(density, extent=[-LIMIT, LIMIT] * 2, origin="lower", cmap="Greys", vmin=0, vmax=0.5)
    v = flow.network(with_time(tf.constant(coarse), t)).numpy()
    axis.quiver(*coarse.T, *v.T, color=plots.COLOURS[1], scale=30, width=0.008)
    axis.set(xticks=[], yticks=[], aspect="equal")
    axis.set_title(f"t = {t:.2f}", fontsize=10)
figure.tight_layout()
plots.show(figure, alt="The density and the velocities at five times, from a Gaussian to two moons")


# %% [markdown]
# **The paths** of points, in space and time. Two paths may pass the same place, but never at the same time. (That lines cross in the picture means nothing: it is a flat view of three dimensions.) So forty points that are followed to the end and back arrive where they began.

# %%
def paths_of(z, moments=41, flow=flow):
    """The places of points (count, 2) at evenly spaced times: (moments, count, 2)."""
    places, steps = [z], moments - 1

    def velocity(t, state):
        return (flow.network(with_time(state[0], t)),)

    for k in range(steps):
        state = (tf.constant(places[-1]),)
        places.append(rk4(velocity, state, k / steps, (k + 1) / steps, 4)[0].numpy())
    return np.stack(places)


starts = rng.normal(size=(40, 2)).astype("float32")
paths = paths_of(starts)
moments = np.linspace(0, 1, len(paths))
back = flow.inverse(paths[-1], FINE)[0].numpy()
apart = np.linalg.norm(paths[:, :, None] - paths[:, None], axis=-1)
apart += 1e9 * np.eye(len(starts))  # so that no point is its own neighbour
print(f"largest error of the way back {np.abs(back - starts).max():.0e}")
print(f"closest that two of the points come at the same time: {apart.min():.4f}")
assert np.abs(back - starts).max() < 1e-2

# %% [markdown]
# The picture, with a colour for the moon that is likelier at the end. (A label that begins with an underscore stays out of the legend.)

# %%
upper = truth.log_prob(paths[-1], moon=0) > truth.log_prob(paths[-1], moon=1)
figure = plt.figure(figsize=(plots.WIDTH, 4.6))
axis = figure.add_subplot(projection="3d")
for moon, colour, name in (
    (upper, plots.COLOURS[0], "upper moon"),
    (~upper, plots.COLOURS[1], "lower moon"),
):
    for k, path in enumerate(paths[:, moon].swapaxes(0, 1)):
        axis.plot(moments, *path.T, color=colour, linewidth=1, label="_" * bool(k) + name)
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.25, 0.5), title="ends in the")
axis.set(xlabel="t", ylabel="x₁", zlabel="x₂")
axis.set_box_aspect((1.6, 1, 1))
plots.show(figure, alt="Paths of forty points through time, from a cloud to two moons")

# %% [markdown]
# **The density on its way**, with samples that go along:

# %%
cloud = paths_of(rng.normal(size=(400, 2)).astype("float32"), moments=FRAMES)
frames = [density_picture(t) for t in np.linspace(0, 1, FRAMES)]


def draw_frame(axis, k):
    axis.imshow(
        frames[k], extent=[-LIMIT, LIMIT] * 2, origin="lower", cmap="Greys", vmin=0, vmax=0.5
    )
    axis.plot(*cloud[k].T, ".", color=plots.COLOURS[1], markersize=2)
    axis.set(xticks=[], yticks=[], xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT))
    axis.set_title(f"t = {k / (FRAMES - 1):.2f}")


plots.animation(draw_frame, FRAMES, alt="A Gaussian flows into two moons, with its samples")

# %% [markdown]
# ## What we measured

# %%
results.record("08_ffjord", data=data.name, seconds=time.perf_counter() - STARTED, rows=[row])

# %% [markdown]
# ## Summary
#
# - Along a moving point the log-density falls at the rate of the trace of the velocity's Jacobian. A trace is cheaper than a determinant, and the flow is undone by running time backwards.
# - RK4's error falls with the fourth power of the steps. An adaptive solver chooses its steps and says how many evaluations it needed.
# - Hutchinson's estimator gives the trace by one gradient, right on average; its spread falls with the root of the number of probes.
# - A penalty on energy makes the paths straighter. Here it hardly changed the solver's work.
# - A solver with too few steps can be cheated. The same log-density by more steps finds it out in any dimension, and so do the errors of the log-determinant and of the inverse. In few dimensions an integral that is not 1 does, and where the truth is known, a KL below 0 by many standard errors.
#
# This is the last chapter. The [leaderboard](../docs/leaderboard.md) has the flows of all chapters in one table.
#
# ## Exercises
#
# The cell below each exercise holds a solution. It is folded: click it to open it.
#
# **1.** How does the error of the density depend on the number of steps for the trained flow? Compare 6, 12, 24 and 48 steps with the adaptive solver. (By the rule of section 8.2 the error should fall by 16 each time. For this flow the first of these steps are too coarse for the rule.)

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
exact_log_q = Adaptive(flow.network, 2, tolerance=1e-6).log_prob(data.x_test[:1_000])
for steps in (6, 12, 24, 48):
    log_q = training.compiled(lambda x, n=steps: flow.log_prob(x, n), flow)(data.x_test[:1_000])
    print(f"{steps:2} steps: largest error {np.abs(log_q - exact_log_q).max():.1e}")


# %% [markdown]
# **2.** How straight are the paths? Compare the mean length of the paths with the mean distance of their ends, with the penalty and without.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
def detour(flow):
    """The mean length of a path, over the mean distance of its ends."""
    places = paths_of(np.random.default_rng(1).normal(size=(500, 2)).astype("float32"), flow=flow)
    lengths = np.linalg.norm(np.diff(places, axis=0), axis=-1).sum(axis=0)
    return lengths.mean() / np.linalg.norm(places[-1] - places[0], axis=-1).mean()


print(f"with the penalty {detour(flow):.3f}, without {detour(free_flow):.3f}")


# %% [markdown]
# **3.** Train with Hutchinson's estimator in place of the exact trace, for a fifth of the epochs, and compare the KL with the exact trace after as many. (In the solution `inverse` draws the probe and `field` reads it.)

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
class Estimated(ContinuousFlow):
    """The trace by one probe of ±1 for each point, drawn anew in each step of training."""

    def inverse(self, x, steps=None):
        self.probe = tf.sign(tf.random.uniform(tf.shape(x)) - 0.5)
        return super().inverse(x, steps)

    def field(self, t, state):
        with tf.GradientTape() as tape:
            tape.watch(state[0])
            v = self.network(with_time(state[0], t))
            along = tf.reduce_sum(v * self.probe)
        trace = tf.reduce_sum(tape.gradient(along, state[0]) * self.probe, axis=1)
        return v, trace, tf.reduce_sum(v**2, axis=1)


for kind in (ContinuousFlow, Estimated):
    keras.utils.set_random_seed(seed)
    short = kind(velocity_network(2, WIDTH), 2, STEPS)
    epochs = max(1, EPOCHS // 5)
    rate = training.warmup_cosine(PEAK_LEARNING_RATE, epochs * (TRAIN_POINTS // BATCH))
    training.fit_density(
        Penalised(short, KINETIC),
        data.x_train,
        optimizer=keras.optimizers.Adam(rate, global_clipnorm=5.0),
        epochs=epochs,
        batch=BATCH,
        label=kind.__name__,
        seed=seed,
    )
    print(f"{kind.__name__}: KL {judged(short)['kl']:.3f}")

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6. In Korean: 만들면서 배우는 생성 AI 2판.
# - R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud. *Neural Ordinary Differential Equations*. NeurIPS, 2018. Theorem 1: the instantaneous change of variables.
# - W. Grathwohl, R. T. Q. Chen, J. Bettencourt, I. Sutskever, D. Duvenaud. *FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models*. ICLR, 2019.
# - C. Finlay, J.-H. Jacobsen, L. Nurbekyan, A. Oberman. *How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization*. ICML, 2020.
# - M. F. Hutchinson. *A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines*. Communications in Statistics – Simulation and Computation, 1989.
# - J. R. Dormand, P. J. Prince. *A family of embedded Runge-Kutta formulae*. Journal of Computational and Applied Mathematics, 1980.
