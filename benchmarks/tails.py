"""PART=ladders, first: what keeps a flow's density sane where data are rare.

Each row is a flow of PART=moons whose log-scales may reach 5, with one thing changed
(the chapters' own have a bound of 1):

- the log-scale of each layer bounded by 2 or by 1 in place of 5;
- a bound on the sum of all layers' log-scales of a coordinate, shared out by training;
- latent points with a Student's t distribution in place of the normal one;
- linear tails: what a network sees is clipped to [−5, 5], so that beyond it scale and
  shift stay what they are at the edge.
"""

from __future__ import annotations

from benchmarks.flows import TFP, log_student, measured, student
from benchmarks.moons import CHAPTER_4, CHAPTER_5, FFJORD, MAF, MINTNET, QUICK
from benchmarks.rows import SEEDS, Row
from utils.chapters import definitions

# ------------------------------------------------------------------ chapter 4's flow


def realnvp(settings, seed):
    """Chapter 4's flow with another bound, base or tail."""
    Coupling, RealNVP = definitions("04_realnvp", "Coupling", "RealNVP")
    coupling_network = definitions("04_realnvp", "coupling_network")
    import keras
    from keras import ops

    count, width, depth = (settings[k] for k in ("couplings", "width", "depth"))
    limit, most = settings.get("clip"), settings.get("sum_of_bounds")
    parts = keras.Variable([0.0] * count, name="parts") if most else None

    class Changed(Coupling):
        """A coupling whose network sees clipped points, or whose bound is a part of a
        sum.
        """

        def log_scale_and_shift(self, x):
            if most:  # each coordinate is changed by every other coupling
                own = list(range(self.number % 2, count, 2))
                parts_here = ops.softmax(ops.take(parts.value, own))
                self.bound = most * parts_here[self.number // 2]
            return super().log_scale_and_shift(
                ops.clip(x, -limit, limit) if limit else x
            )

    couplings = []
    for k in range(count):
        network = coupling_network(2, width, depth)
        kind = Changed if limit or most else Coupling
        couplings.append(kind([k % 2, 1 - k % 2], network, settings["bound"]))
        couplings[-1].number = k
    flow = RealNVP(couplings)
    if settings.get("base") == "student":
        return measured(student(flow), settings, seed)
    if most:
        variables = [*flow.trainable_variables, parts]
        return measured(with_variables(flow, variables), settings, seed)
    return measured(flow, settings, seed)


def with_variables(flow, variables):
    """A flow that trains these variables."""
    from types import SimpleNamespace

    return SimpleNamespace(
        log_prob=flow.log_prob,
        forward=flow.forward,
        trainable_variables=variables,
        variables=variables,
    )


# ------------------------------------------------------------------ chapter 5's flows


def with_student_base(flow, degrees=4.0):
    """The same TFP flow, its latent points with a Student's t distribution."""
    import tensorflow as tf
    import tensorflow_probability as tfp

    tfd = tfp.distributions
    scale = tf.linalg.LinearOperatorIdentity(2)
    base = tfd.MultivariateStudentTLinearOperator(degrees, tf.zeros(2), scale)
    return tfd.TransformedDistribution(base, flow.bijector)


def changed_masked_flow(settings, **more):
    """Chapter 5's masked flow with another bound, or a network that sees clipped
    points.
    """
    import tensorflow as tf
    import tensorflow_probability as tfp

    MaskedShiftAndLogScale = definitions("05_tfp_flows", "MaskedShiftAndLogScale")
    limit = settings.get("clip")

    class Clipped(MaskedShiftAndLogScale):
        def __call__(self, x, **condition):
            return super().__call__(tf.clip_by_value(x, -limit, limit), **condition)

    kind = Clipped if limit else MaskedShiftAndLogScale
    made = kind(2, settings["hidden"], bound=settings["bound"])
    return tfp.bijectors.MaskedAutoregressiveFlow(made, **more)


def maf(settings, seed):
    """Chapter 5's MAF with another bound, base or tail."""
    chain = definitions("05_tfp_flows", "chain")
    flow = chain(lambda: changed_masked_flow(settings), settings["layers"])
    if settings.get("base") == "student":
        flow = with_student_base(flow)
    return measured(flow, settings, seed, TFP)


def iaf(settings, seed):
    """Chapter 5's IAF with another bound, base or tail."""
    import tensorflow_probability as tfp

    chain = definitions("05_tfp_flows", "chain")

    def layer():
        return tfp.bijectors.Invert(changed_masked_flow(settings, unroll_loop=True))

    flow = chain(layer, settings["layers"])
    if settings.get("base") == "student":
        flow = with_student_base(flow)
    return measured(flow, settings, seed, TFP)


def nice(settings, seed):
    """Chapter 5's NICE with a Student base."""
    flow = definitions("05_tfp_flows", "nice")(settings["layers"])
    return measured(with_student_base(flow), settings, seed, TFP)


# ------------------------------------------------------------------ chapters 7 and 8


def mintnet(settings, seed):
    """Chapter 7's MintNet with a Student base."""
    MintFlow = definitions("07_mintnet", "MintFlow")
    flow = MintFlow(2, settings["layers"], settings["width"])
    return measured(student(flow), settings, seed)


def ffjord(settings, seed):
    """Chapter 8's FFJORD with a Student base."""
    from types import SimpleNamespace

    ContinuousFlow, velocity_network = definitions(
        "08_ffjord", "ContinuousFlow", "velocity_network"
    )
    flow = ContinuousFlow(velocity_network(2, settings["width"]), 2, settings["steps"])
    finer = SimpleNamespace(
        log_prob=None,
        inverse=lambda x: flow.inverse(x, 4 * settings["steps"]),
        forward=lambda z: flow.forward(z, 4 * settings["steps"]),
        trainable_variables=flow.trainable_variables,
    )

    def penalised(x):
        z, log_det, energy = flow.inverse(x)
        return log_student(z) + log_det - settings["kinetic"] * energy

    trained = with_variables(finer, flow.trainable_variables)
    trained.log_prob = penalised
    return measured(student(finer), settings, seed, TFP, trained)


FREE = {"log-scale at most 5": {"bound": 5.0}, "log-scale at most 2": {"bound": 2.0}}
STUDENT = {"Student base": {"base": "student"}}
LINEAR = {"linear tails": {"clip": 5.0}}
SUM = {"sum of log-scales at most 5": {"bound": 5.0, "sum_of_bounds": 5.0}}
CHANGES = {
    "RealNVP (4)": (realnvp, CHAPTER_4 | {"bound": 5.0}, FREE | SUM | STUDENT | LINEAR),
    "MAF (5)": (maf, {"bound": 5.0, **MAF}, FREE | STUDENT | LINEAR),
    "IAF (5)": (iaf, {"bound": 5.0, **MAF}, FREE | STUDENT | LINEAR),
    "NICE (5)": (nice, {"layers": 8, **CHAPTER_5}, STUDENT),
    "MintNet (7)": (mintnet, MINTNET, STUDENT),
    "FFJORD (8)": (ffjord, FFJORD, STUDENT),
}
ROWS = [
    Row(
        f"{flow}, {words}",
        run,
        settings | change,
        QUICK,
        seeds=(1, 2) if flow == "FFJORD (8)" else SEEDS,  # which takes minutes
    )
    for flow, (run, settings, changes) in CHANGES.items()
    for words, change in changes.items()
]
