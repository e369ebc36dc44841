"""PART=ladders, third: what a spline coupling costs to trace and compile, by TFP and
written for it.

TFP's `RationalQuadraticSpline` is written for any shape and rank: it broadcasts knots
and points by shapes found at run time, searches the bin, gathers six numbers of it one
by one, and does all of that, with the network before it, once for the value and once
more for the log-determinant. In appendix A4 a bin is found once, as a row of zeros and
a one, and sums over it pick the six numbers for both.
"""

from __future__ import annotations

import time

from benchmarks.flows import KERAS, TFP, measured
from benchmarks.moons import QUICK, SPLINE
from benchmarks.rows import Row
from utils.chapters import definitions


def nodes_and_seconds(flow) -> dict:
    """Nodes of the graph of log_prob and its gradient, and seconds to trace it and to
    compile and run it once under XLA.
    """
    import keras
    import tensorflow as tf

    weights = flow.trainable_variables
    weights = [v.value if isinstance(v, keras.Variable) else v for v in weights]

    @tf.function(jit_compile=True)
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(flow.log_prob(x))
        return tape.gradient(loss, weights)

    x = tf.zeros((512, 2))
    started = time.perf_counter()
    graph = gradients.get_concrete_function(x).graph.as_graph_def()
    traced = time.perf_counter()
    gradients(x)
    return {
        "nodes": len(graph.node) + sum(len(f.node_def) for f in graph.library.function),
        "trace_seconds": traced - started,
        "xla_seconds": time.perf_counter() - traced,
    }


def shape(settings):
    return settings["layers"], settings["width"], settings["bins"]


def by_tfp(settings, seed):
    """Appendix A4's spline couplings by TFP, turned round: x goes through the spline,
    and z through its inverse, as in the one that is written out.
    """
    import tensorflow_probability as tfp

    chain, coupling = definitions("A4_which", "chain", "spline_coupling")
    layers, width, bins = shape(settings)

    def layer():
        return tfp.bijectors.Invert(coupling(width=width, bins=bins))

    flow = chain(layer, layers)
    return {**nodes_and_seconds(flow), **measured(flow, settings, seed, TFP)}


def written(settings, seed):
    """The same flow, its coupling written out in the appendix."""
    flow = definitions("A4_which", "build_spline_flow")(2, *shape(settings))
    return {**nodes_and_seconds(flow), **measured(flow, settings, seed, KERAS)}


SHORT = SPLINE | {"epochs": 20}  # enough to time an epoch
ROWS = [
    Row("spline coupling, by TFP", by_tfp, SHORT, QUICK, seeds=(0,)),
    Row("spline coupling, written out", written, SHORT, QUICK, seeds=(0,)),
]
