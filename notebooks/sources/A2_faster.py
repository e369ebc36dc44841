# %% [markdown]
# # Appendix A2 · Faster, one step at a time
#
# [![Open in Colab](../docs/colab.svg)](https://colab.research.google.com/github/OWNER/generative-models-course/blob/main/notebooks/A2_faster.ipynb)
#
# The book's RealNVP trained on two moons for a quarter of an hour and ended at 0.12 nats from the truth (one seed); ours trains for half a minute and ends at 0.008 (three).
# **What made the difference?**
# Two questions are mixed up in that.
# One is what a model and its optimizer can reach; the other is what an epoch costs, and who makes it so.
# This appendix takes them apart, and changes one thing at a time.

# %% [markdown]
# **You will learn**
# - which changes help, by how much, and which ones only seem to;
# - what Python, Keras and the XLA compiler do in a training step;
# - to write an epoch as one graph yourself, in a dozen lines.
#
# **In the book**: section 6.3 of its second edition, the RealNVP model.
#
# **Needs**: [chapter 4](04_realnvp.ipynb), and TensorFlow as Keras' backend.
# About 3 minutes on two CPU cores (Intel Xeon with AVX-512).

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
import time

STARTED = time.perf_counter()
EPOCHS = course.choose(full=30, quick=2)
LOOP_EPOCHS = course.choose(full=4, quick=2)
TRAIN_POINTS = course.choose(full=30_000, quick=4_000)
WIDE = course.choose(full=256, quick=16)
DEEP = course.choose(full=16, quick=2)  # couplings
BATCH = 256
seed = course.seed(42)

# %%
if course.backend() != "tensorflow":
    raise course.CourseError(
        "This appendix is about TensorFlow's graphs: unset KERAS_BACKEND, and restart "
        "the kernel."
    )
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tensorflow as tf

from utils import moons, plots, results, training
from utils.chapters import definitions

Coupling, BookCoupling, RealNVP, coupling_network = definitions(
    "04_realnvp", "Coupling", "BookCoupling", "RealNVP", "coupling_network"
)
data = moons.load(train=TRAIN_POINTS)
truth = data.truth

# %% [markdown]
# ## A2.1 The two ends
#
# The book's model: six couplings, each with two networks, for $s$ and for $t$, of four layers with 256 units, which start with Keras' usual random weights.
# Data are sent to latent space by $z = (x - t)\, e^{-s}$ (section "With the book open" of chapter 4).
# Adam has a rate of 0.0001, which stays; batches have 256 points; there are 300 epochs.
#
# Ours: sixteen couplings, each with one network of two layers with 32 units for both $s$ and $t$, whose last layer starts at zero.
# Data are sent to latent space by $z = x\, e^{s} + t$.
# The rate climbs to 0.005 and falls to 0 along a cosine; gradients longer than 5 are cut; there are 120 epochs.

# %% tags=["definitions"]
import keras
from keras import layers


def two_networks(dim, width, depth, start="glorot_uniform"):
    """x -> (u, t) side by side, as `coupling_network` gives them, by two networks."""
    x = keras.Input((dim,))
    outputs = []
    for _ in range(2):
        h = x
        for _ in range(depth):
            h = layers.Dense(width, activation="relu")(h)
        outputs.append(layers.Dense(dim, kernel_initializer=start)(h))
    return keras.Model(x, layers.concatenate(outputs))


# %%
def stack(kind, networks):
    masks = ([k % 2, 1 - k % 2] for k in range(len(networks)))
    return RealNVP([kind(mask, net) for mask, net in zip(masks, networks)])


def the_books():
    return stack(BookCoupling, [two_networks(2, WIDE, 4) for _ in range(6)])


def thin(couplings=6, start="zeros"):
    return stack(
        Coupling, [coupling_network(2, 32, 2, start) for _ in range(couplings)]
    )


for name, flow in {"the book's": the_books(), "ours": thin(DEEP)}.items():
    print(f"{name}: {flow.count_params():,} parameters")

# %% [markdown]
# `make bench`, the course's benchmark, measured both as they are (two Intel Xeon cores, compiling included; the book's with one seed, which section A2.2 shows to be little, ours with three):

# %%
moons_rows, book_rows = results.benchmarked("moons"), results.benchmarked("book")
ends = {
    "the book's": book_rows["the book's RealNVP, its settings"],
    "ours": moons_rows["RealNVP (4)"],
}


def seconds_to(run, nats):
    """Seconds of training until the KL over the bulk is at most so many nats."""
    by_epoch = run["by_epoch"]
    pairs = zip(by_epoch["seconds"], by_epoch["kl_bulk"])
    return next((s for s, kl in pairs if kl is not None and kl <= nats), np.nan)


pd.DataFrame(
    {
        name: {
            "KL at the end (bulk)": np.median([run["kl_bulk"] for run in runs]),
            "seconds to 0.2 nats": np.median([seconds_to(run, 0.2) for run in runs]),
            "seconds to 0.1 nats": np.median([seconds_to(run, 0.1) for run in runs]),
            "seconds in all": np.median(
                [run["by_epoch"]["seconds"][-1] for run in runs]
            ),
        }
        for name, runs in ends.items()
    }
).round(3)

# %% [markdown]
# ## A2.2 What a model reaches
#
# Now nine rungs of a ladder, from the book's end to ours.
# Each keeps all changes of the rungs before it and adds one (the third two: one network for $s$ and $t$, and two layers for four).
# All train for 30 epochs, the epoch as one graph, so that the loop plays no part, and the last epoch counts.
# (The ends above train longer, and ours keeps the best of its epochs by validation points.)
# The thin ones take seconds, and run here, with one seed; the wide ones are in the picture below, with three.


# %%
def constant(rate, **more):
    return keras.optimizers.Adam(rate, **more)


def rising_and_falling(peak=5e-3, batch=BATCH, **more):
    steps = EPOCHS * (TRAIN_POINTS // batch)
    return keras.optimizers.Adam(training.warmup_cosine(peak, steps), **more)


def kl_after(flow, optimizer, label, batch=BATCH):
    settings = {"epochs": EPOCHS, "batch": batch, "seed": seed, "label": label}
    history = training.fit_density(flow, data.x_train, optimizer=optimizer, **settings)
    kl = truth.integrate_kl(training.compiled(flow.log_prob, flow))
    return {"KL, bulk": kl.bulk, "seconds": history["seconds"][-1]}


# %%
usual = "glorot_uniform"
live = {
    "one network of two layers": kl_after(thin(6, usual), constant(1e-4), "rung 3"),
    "rate 0.005": kl_after(thin(6, usual), constant(5e-3), "rung 4"),
    "rate rises and falls": kl_after(thin(6, usual), rising_and_falling(), "rung 5"),
}

# %%
cut = {"global_clipnorm": 5.0}
live["gradients cut"] = kl_after(thin(6, usual), rising_and_falling(**cut), "rung 6")
live["start as the identity"] = kl_after(thin(6), rising_and_falling(**cut), "rung 7")
live["sixteen couplings"] = kl_after(thin(DEEP), rising_and_falling(**cut), "rung 8")
pd.DataFrame(live).T.round(3)

# %% [markdown]
# One seed each, and one seed can mislead: in the run stored here the last of them ended at 0.038, and five of the six lie above all three seeds of the picture.
# No setting differs: with the seed set anew before each model, these lines give the figures of the picture for its three seeds, and 0.010 for the last rung with this one.
# So we put it down to chance, a rare one: six independent runs would do this once in two hundred times.
# So three seeds do not show how far a fourth may go.
# All nine with three seeds, as `make bench PART=ladders` measured them:

# %%
ladder = results.benchmarked("ladders")
rungs = {name: runs for name, runs in ladder.items() if name.startswith("rung")}
aside = {name: runs for name, runs in ladder.items() if name.startswith("aside")}


def last_epochs(runs, count=10):
    """The KL over the bulk after each of the last epochs, all seeds together."""
    kept = [run["by_epoch"]["kl_bulk"][-count:] for run in runs]
    return [kl for some in kept for kl in some if kl is not None]


# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 4.2))
for place, runs in enumerate(rungs.values()):
    swing = last_epochs(runs)
    axis.plot([min(swing), max(swing)], [place, place], color="0.8", linewidth=7)
    ends = [run["kl_bulk"] for run in runs]
    axis.plot(ends, [place] * len(ends), "o", color=plots.COLOURS[0])
names = [name.partition(": ")[2] for name in rungs]
axis.set_yticks(range(len(names)), names)
axis.invert_yaxis()
axis.set(xscale="log", xlabel="KL over the bulk after 30 epochs (nats)")
marks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]
axis.set_xticks(marks, [str(mark) for mark in marks])
axis.minorticks_off()
axis.grid(axis="x", color="0.92")
axis.spines[["top", "right"]].set_visible(False)
plots.show(
    figure,
    alt="The KL of nine rungs from the book's model to ours, three seeds each, with "
    "the range over the last ten epochs behind them",
)

# %% [markdown]
# A dot is a seed; the grey bar behind is the range over the last ten epochs, all seeds together.
# (Epochs are integrated on a coarser lattice than dots, which makes some percent for networks with kinks, so a dot may lie a little outside its bar.)
# Two neighbours differ only if their dots lie apart.
#
# - **The book's model** ends anywhere between 0.07 and 0.46 nats: at a rate that stays, the last epoch is a matter of luck, and so is a comparison by one seed.
# - **Multiply and add**, in place of subtract and divide: no difference that three seeds resolve.
# - **Thin and shallow networks** are worse, at this rate: from 0.21 to 0.61 in two rungs; but an epoch costs about a sixtieth (3.3 and 0.05 s in [the benchmark](../docs/benchmark.md)).
#
# - **The rate alone** is the first large step: 0.005 in place of 0.0001 takes 0.61 down to 0.10.
# - **Rising and falling**: here 0.073 (0.041 to 0.086) in place of 0.100 (0.080 to 0.107), which three seeds hardly resolve; with sixteen couplings it is a factor of seven (section A2.4).
# - **Cutting gradients**: no difference that three seeds resolve.
# - **The start as the identity** makes six couplings *worse*: 0.16 (0.11 to 0.30) in place of 0.039 (0.031 to 0.086).
# - **Sixteen couplings** are the second large step: 0.0102 (0.0097 to 0.0112).
#
# So the rate, with its fall, and the depth did nearly all of it, and thin networks paid for the depth.
# How much each gets depends on the order in which one changes: with the start as the identity depth is a factor of fifteen, without it about three (section A2.4 has the row).

# %% [markdown]
# ## A2.3 What an epoch costs
#
# So much for what is reached.
# An epoch is 117 steps, whoever runs them.
# But a step of our flow is hundreds of small operations, and each has to be started by somebody.

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
plots.drawing("loops")

# %% [markdown]
# We write the loops out and time them, always with the same flow of sixteen couplings and the same arithmetic.
# First a step: loss, gradients, update.


# %%
def step_of(flow):
    """A function from points (batch, 2) to their loss, which also trains the flow."""
    weights = flow.trainable_variables
    adam = keras.optimizers.Adam(1e-3)
    adam.build(weights)

    def step(points):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(points))
        adam.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss

    return step


# %% [markdown]
# `order` says which points go into which step: (steps, batch).


# %%
x = tf.constant(data.x_train)
STEPS = TRAIN_POINTS // BATCH


def timed(run_epoch, fraction=1):
    """Seconds of an epoch, and what the first one takes beyond that; with `fraction`
    only that part of an epoch is run, and counted as if it were whole.
    """
    seconds, steps = [], max(1, int(fraction * STEPS))
    for number in range(LOOP_EPOCHS):
        order = np.random.default_rng(number).permutation(TRAIN_POINTS)
        started = time.perf_counter()
        run_epoch(order[: steps * BATCH].reshape(steps, BATCH))
        seconds.append((time.perf_counter() - started) * STEPS / steps)
    epoch = np.median(seconds[1:])
    return {"an epoch (s)": epoch, "the first, more (s)": max(0, seconds[0] - epoch)}


# %% [markdown]
# **A loop in Python.**
# Without `tf.function` each operation is started by Python (so slowly that a tenth of an epoch has to do); with it, a step is one call; with XLA, its operations are fused as well.


# %%
def loop(step):
    def run_epoch(order):
        for batch in order:
            loss = step(tf.gather(x, batch))
        return loss.numpy()

    return run_epoch


costs = {
    "Python, each operation": timed(loop(step_of(thin(DEEP))), fraction=0.1),
    "Python, a graph a step": timed(loop(tf.function(step_of(thin(DEEP))))),
    "Python, a step by XLA": timed(
        loop(tf.function(step_of(thin(DEEP)), jit_compile=True))
    ),
}

# %% [markdown]
# **Keras' fit** runs a graph a step, too, and does some work of its own between two steps: metrics, callbacks, data.
# `steps_per_execution` puts several steps into one call.


# %%
def by_fit(**how):
    flow, clock = thin(DEEP), training.Progress("fit")
    flow.compile(keras.optimizers.Adam(1e-3), **how)
    some = data.x_train[: STEPS * BATCH]
    settings = {"batch_size": BATCH, "epochs": LOOP_EPOCHS, "verbose": 0}
    flow.fit(some, callbacks=[clock], **settings)
    seconds = np.diff([0, *clock.seconds])
    epoch = np.median(seconds[1:])
    return {"an epoch (s)": epoch, "the first, more (s)": max(0, seconds[0] - epoch)}


costs["fit"] = by_fit()
costs["fit, XLA"] = by_fit(jit_compile=True)
costs["fit, XLA, an epoch an execution"] = by_fit(
    jit_compile=True, steps_per_execution=STEPS
)

# %% [markdown]
# **An epoch as one graph.**
# `tf.range` makes the loop a part of the graph, and XLA compiles all of it, gathering and updating included.
# This is what `training.fit_density` does; what it adds is that all weights are laid end to end for the optimizer, so that its update is one small piece of graph and not ninety-six: here that compiles faster and runs no faster.


# %%
def in_one_graph(step):
    @tf.function(jit_compile=True)
    def run_epoch(order):
        losses = tf.TensorArray(tf.float32, len(order))
        for number in tf.range(len(order)):
            loss = step(tf.gather(x, order[number]))
            losses = losses.write(number, loss)
        return losses.stack()

    return lambda order: run_epoch(order).numpy()


costs["one graph"] = timed(in_one_graph(step_of(thin(DEEP))))
history = training.fit_density(
    thin(DEEP), data.x_train, optimizer=constant(1e-3), epochs=LOOP_EPOCHS, batch=BATCH
)
seconds = np.diff([0, *history["seconds"]])
costs["one graph, one vector"] = {
    "an epoch (s)": np.median(seconds[1:]),
    "the first, more (s)": seconds[0] - np.median(seconds[1:]),
}
table = pd.DataFrame(costs).T
table.round(2)

# %% tags=["hide-input"] jupyter={"source_hidden": true} cellView="form"
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
values = table["an epoch (s)"]
axis.barh(range(len(table)), values, 0.6, color=plots.COLOURS[0])
for place, value in enumerate(values):
    axis.annotate(
        f" {value:.2f}", (value, place), va="center", fontsize=9, annotation_clip=False
    )
axis.set_yticks(range(len(table)), table.index)
axis.invert_yaxis()
axis.set(xscale="log", xlabel="seconds of an epoch")
axis.spines[["top", "right"]].set_visible(False)
axis.margins(x=0.1)
plots.show(
    figure,
    alt="Seconds of an epoch by who runs the loop: most where Python starts every "
    "operation, least where the epoch is one graph",
)

# %% [markdown]
# Started operation by operation, an epoch takes hundreds of times as long as in one graph.
# Most of that is gained by the first graph, a step at a time.
# From there to one graph it is about four times again, for some seconds of compiling in the first epoch.
# Keras' own way, an epoch an execution, lies between; with XLA, `fit` compiles somewhat longer than the one graph, and about twice as long as the one graph with one vector.
#
# And the book's model, whose networks are eight times as wide?
# From `make bench`, seconds of an epoch, the median of three seeds:

# %%
loops = [(name, runs) for name, runs in ladder.items() if name.startswith("loop")]
by_size = {}
for name, runs in loops:
    size, _, how = name.removeprefix("loop, ").partition(": ")
    epoch = np.median([run["epoch_seconds"] for run in runs])
    by_size.setdefault(size, {})[how] = epoch
by_size = pd.DataFrame(by_size)
by_size.columns = ["ours", "the book's"]
by_size.round(2)

# %% [markdown]
# For the book's model there is next to nothing to gain: 2.8 s by `fit`, 2.6 s as one graph (2.5 to 2.6), a tenth less.
# Its steps are large matrix products, and these take their time wherever they are started.
# So thin networks are not only cheaper by their arithmetic: they are what makes the loop worth thinking about.

# %% [markdown]
# ## A2.4 What else one could change
#
# The last rung again, then the same with one thing changed, three seeds each, 30 epochs.
# ("Bound 5 with six couplings" is rung 7 with bound 5.)
# (Seconds were measured beside other work here, and are longer than those of A2.3.)
# (The last row is the book's six couplings and networks with our optimizer and start.)


# %%
def said(runs):
    values = sorted(run["kl_bulk"] for run in runs)
    return f"{np.median(values):.3f} ({values[0]:.3f} to {values[-1]:.3f})"


some = {"rung 8: sixteen couplings": rungs["rung 8: sixteen couplings"]} | aside
pd.DataFrame(
    {
        name.partition(": ")[2]: {
            "KL, bulk": said(runs),
            "an epoch (s)": f"{np.median([run['epoch_seconds'] for run in runs]):.2f}",
        }
        for name, runs in some.items()
    }
).T

# %% [markdown]
# - **Without the start as the identity** and **without cutting gradients**: no difference that three seeds resolve.
# - **Without the rise and fall of the rate**: seven times as far, and over the last ten epochs it swings from 0.03 to 2.0 ([the benchmark](../docs/benchmark.md)).
# - **Batches of 64** give the same for twice the time; **batches of 1,024**, a quarter as many steps, are worse by these seeds; with the seed of this notebook it is the other way round, 0.022 with batches of 1,024 (solution 1) and 0.038 with 256.
#
# - **Bound 5** (a log-scale may reach 5, in place of 1): no difference in the bulk that three seeds resolve, and over the plane one of the three is above 1,000 nats (chapter 4, section 4.11); with six couplings the wider bound looks better, 0.05 in place of 0.16, and the seeds overlap.
# - **The book's networks with our optimizer**: 0.085 (0.056 to 0.32), at twenty times the seconds, so that here width did not replace depth (it has the start as the identity, which six couplings do badly with).

# %% [markdown]
# ## What we measured

# %%
rows = [
    {"model": name, "kl_bulk": found["KL, bulk"], "train_seconds": found["seconds"]}
    for name, found in live.items()
]
rows += [
    {
        "model": f"loop: {name}",
        "epoch_seconds": found["an epoch (s)"],
        "compile_seconds": found["the first, more (s)"],
    }
    for name, found in costs.items()
]
results.record(
    "A2_faster", data=data.name, seconds=time.perf_counter() - STARTED, rows=rows
)

# %%
if course.profile() == "full":
    assert live["sixteen couplings"]["KL, bulk"] < 0.1
    assert live["one network of two layers"]["KL, bulk"] > 0.3
    assert costs["one graph"]["an epoch (s)"] < costs["fit"]["an epoch (s)"]

# %% [markdown]
# ## Summary
#
# - What a model reaches was decided by a rate fifty times as high, with its fall to zero, and by sixteen couplings in place of six.
# - What an epoch costs was decided by two others: thin networks, and a loop that runs inside one graph; each makes the other worthwhile.
# - Three changes that one likes to name, the form of the coupling, cutting gradients and the start as the identity, made no difference here or made it worse.
# - At a constant rate one seed says next to nothing: the same training ended between 0.07 and 0.46.

# %% [markdown]
# ## Exercises
#
# The cell below each exercise holds a solution.
# It is folded: click it to open it.
#
# **1. Predict.**
# Batches of 1,024 points end further from the truth than batches of 256 after as many epochs (section A2.4).
# Why, and what would you change with the batch?
# Say by how much it will help, then try it.

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 1
# The same epochs are a quarter of the steps. By three seeds the KL is 0.028
# (0.023 to 0.052) in place of 0.010 (0.010 to 0.011). The rate is the first thing to
# raise with the batch, since the gradient's noise is smaller. One seed, as below, can
# say otherwise: compare it with the three, and not with another single run. Where twice
# the rate gains less than the three seeds' range, it is a hint and no answer.
larger = {
    peak: kl_after(
        thin(DEEP), rising_and_falling(peak, 1_024, **cut), f"peak {peak:g}", 1_024
    )
    for peak in (5e-3, 1e-2)
}
print({peak: f"{found['KL, bulk']:.3f}" for peak, found in larger.items()})

# %% [markdown]
# **2. Derive.**
# How large is the log-determinant of a perfect flow, on average over the data?
# (Its NLL is the entropy, and its latent points are standard normal.)
# How many couplings with $|s| \le 1$ does that take at least, and is that bound what limits the book's six?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 2
# NLL = −E[log p_Z(z)] − E[log det] = ln 2π + E|z|²/2 − E[log det], and E|z|² = 2.
# With the NLL equal to the entropy H: E[log det] = ln 2π + 1 − H = 1.71 nats, which is
# also the KL that a flow starts with as the identity. A coupling gives 1 at most: two
# of them would do. So on average the bound is no limit for six couplings. Single points
# may need more, and section A2.4's row with bound 5 leaves that open. Besides, each
# coupling bends one coordinate by curves of the other, and a moon takes many bends.
print(f"mean log-determinant: {np.log(2 * np.pi) + 1 - truth.entropy():.2f} nats")

# %% [markdown]
# **3. Build.**
# Between a graph a step and a graph an epoch lie graphs of $k$ steps.
# Write one, and plot the seconds of an epoch against $k$.
# Where does it stop paying off?

# %% jupyter={"source_hidden": true} cellView="form"
# Solution 3
# An execution costs a fixed time, a step another: seconds = (117 / k) · a + 117 · b.
# The curve falls like 1/k, and is flat when a / k is small beside b. On two Xeon cores
# a is about 2.5 ms and b about 1 ms: most is gained by k = 9. What is left after 39
# is less than single timings differ by.
sizes = course.choose(full=(1, 3, 9, 39, 117), quick=(3,))
flow_step = step_of(thin(DEEP))


def in_graphs_of(k):
    run = in_one_graph(flow_step)

    def run_epoch(order):
        for start in range(0, len(order) - k + 1, k):
            run(order[start : start + k])

    return run_epoch


spent = [timed(in_graphs_of(k))["an epoch (s)"] for k in sizes]
plots.curves(
    {"a graph of k steps": (list(sizes), spent)},
    x_label="k",
    y_label="seconds of an epoch",
    alt="Seconds of an epoch against the number of steps in a graph: falling, then "
    "flat",
)

# %% [markdown]
# **4. Find the bug.**
# This epoch is one graph and needs no `order` from outside.
# It is as fast as the other, and its loss falls.
# What does it do wrong, and how would you see it?


# %%
def suspicious(step):
    @tf.function(jit_compile=True)
    def run_epoch():
        order = np.random.default_rng().permutation(TRAIN_POINTS)[: STEPS * BATCH]
        order = tf.constant(order.reshape(STEPS, BATCH))
        total = 0.0
        for number in tf.range(STEPS):
            total += step(tf.gather(x, order[number]))
        return total / STEPS

    return run_epoch


# %% jupyter={"source_hidden": true} cellView="form"
# Solution 4
# NumPy runs while the graph is traced, once. The permutation is a constant of it:
# every epoch has the same batches in the same order, and the points that were left over
# are never seen. It shows if a step only reports which points it gets:
reported = suspicious(lambda points: tf.reduce_sum(points[0]))
first, second = float(reported()), float(reported())
print(f"first epoch {first:.6f}, second epoch {second:.6f}: the same batches")
assert first == second

# %% [markdown]
# ## References
#
# - D. Foster. *Generative Deep Learning*, 2nd edition. O'Reilly, 2023. Chapter 6; [its code](https://github.com/davidADSP/Generative_Deep_Learning_2nd_Edition).
# - I. Loshchilov, F. Hutter. [SGDR: Stochastic Gradient Descent with Warm Restarts](https://arxiv.org/abs/1608.03983). ICLR, 2017. Equation 5: the cosine.
# - P. Goyal and others. [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677). 2017. Section 2.2: the warm-up; section 2.1: rate and batch.
# - TensorFlow. [XLA: optimizing compiler](https://openxla.org/xla).
