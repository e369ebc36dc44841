"""PART=ladders, third: what a spline coupling costs to trace and compile, by TFP and
written for it.

TFP's `RationalQuadraticSpline` is written for any shape and rank: it broadcasts knots
and points by shapes found at run time, searches the bin, gathers six numbers of it one
by one, and does all of that, with the network before it, once for the value and once
more for the log-determinant. Here a bin is found once, as a row of zeros and a one, and
one sum over it picks the six numbers for both.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks.flows import KERAS, TFP, measured
from benchmarks.moons import QUICK, SPLINE
from benchmarks.rows import Row
from utils.chapters import definitions


def spline_coupling():
    """The class `SplineCoupling`, a layer of Keras."""
    import keras
    from keras import ops

    class SplineCoupling(keras.layers.Layer):
        """A coupling that sends each moved coordinate through a monotone spline.

        Between knots (x_k, y_k) with slopes δ_k the spline is a quotient of quadratics;
        outside [−limit, limit] it is the identity. Source: Durkan et al., Neural
        Spline Flows (2019), equations 4 to 8.
        """

        LEAST = 1e-3  # the least share of a bin, and the least slope

        def __init__(self, mask, network, bins, limit=5.0):
            super().__init__()
            self.mask = np.asarray(mask, "float32")
            self.kept_places = np.flatnonzero(self.mask)
            self.moved_places = np.flatnonzero(1 - self.mask)
            both = np.concatenate([self.kept_places, self.moved_places])
            self.order = np.argsort(both)  # from kept and moved to the usual order
            self.network, self.bins, self.limit = network, bins, limit
            self.up_to = np.triu(np.ones((bins, bins), "float32"), 1)  # sums before k

        def inverse(self, x):
            """x -> z and log |det dz/dx|: (batch, dim) to (batch, dim) and (batch,)."""
            kept, moved = self.parted(x)
            z, log_slope = self.through(kept, moved)
            return self.joined(kept, z), ops.sum(log_slope, axis=-1)

        def forward(self, z):
            """z -> x."""
            kept, moved = self.parted(z)
            return self.joined(kept, self.back(kept, moved))

        def parted(self, x):
            kept = ops.take(x, self.kept_places, axis=1)
            return kept, ops.take(x, self.moved_places, axis=1)

        def joined(self, kept, moved):
            return ops.take(ops.concatenate([kept, moved], axis=1), self.order, axis=1)

        def knots(self, kept):
            """Left edges, widths, low edges, heights and slopes at both ends of each
            bin, (batch, moved, bins) each.
            """
            u = ops.reshape(
                self.network(kept), (-1, len(self.moved_places), 3 * self.bins - 1)
            )
            u_w, u_h = u[..., : self.bins], u[..., self.bins : 2 * self.bins]
            unit = float(np.log(np.expm1(1 - self.LEAST)))  # softplus gives slope 1
            slopes = self.LEAST + ops.softplus(u[..., 2 * self.bins :] + unit)
            ends = [(0, 0)] * (len(slopes.shape) - 1)
            at_left = ops.pad(slopes, [*ends, (1, 0)], constant_values=1.0)
            at_right = ops.pad(slopes, [*ends, (0, 1)], constant_values=1.0)
            w, h = self.shares(u_w), self.shares(u_h)
            left = ops.matmul(w, self.up_to) - self.limit
            low = ops.matmul(h, self.up_to) - self.limit
            return left, w, low, h, at_left, at_right

        def shares(self, u):
            """Positive numbers (…, bins) that add up to 2 limit."""
            share = self.LEAST + (1 - self.LEAST * self.bins) * ops.softmax(u)
            return 2 * self.limit * share

        def bin_of(self, value, edges, numbers):
            """The numbers of the bin that a value lies in; `edges` are the bins' lower
            ends.
            """
            above = ops.cast(value[..., None] >= edges, "float32")
            next_above = ops.pad(above[..., 1:], [(0, 0), (0, 0), (0, 1)])
            own = above - next_above  # 1 for the last edge below, else 0
            picked = ops.sum(own[..., None, :] * ops.stack(numbers, axis=-2), axis=-1)
            return ops.unstack(picked, axis=-1)

        def through(self, kept, x):
            """Spline of x, and the log of its slope."""
            inside = ops.clip(x, -self.limit + 1e-6, self.limit)
            numbers = self.knots(kept)
            x0, w, y0, h, d0, d1 = self.bin_of(inside, numbers[0], numbers)
            s, xi = h / w, (inside - x0) / w
            mixed = xi * (1 - xi)
            below = s + (d0 + d1 - 2 * s) * mixed
            y = y0 + h * (s * xi**2 + d0 * mixed) / below
            above = d1 * xi**2 + 2 * s * mixed + d0 * (1 - xi) ** 2
            log_slope = 2 * ops.log(s / below) + ops.log(above)
            outside = ops.abs(x) >= self.limit
            return ops.where(outside, x, y), ops.where(outside, 0.0, log_slope)

        def back(self, kept, y):
            """The x whose spline is y: a root of a quadratic equation."""
            inside = ops.clip(y, -self.limit + 1e-6, self.limit)
            numbers = self.knots(kept)
            x0, w, y0, h, d0, d1 = self.bin_of(inside, numbers[2], numbers)
            s, rise = h / w, inside - y0
            bend = rise * (d0 + d1 - 2 * s)
            a, b, c = h * (s - d0) + bend, h * d0 - bend, -s * rise
            xi = 2 * c / (-b - ops.sqrt(ops.maximum(b**2 - 4 * a * c, 0.0)))
            return ops.where(ops.abs(y) >= self.limit, y, x0 + xi * w)

    return SplineCoupling


def written_flow(layers, width, bins):
    """A stack of such couplings, started as the identity."""
    import keras

    RealNVP = definitions("04_realnvp", "RealNVP")
    SplineCoupling = spline_coupling()

    def network():
        x = keras.Input((1,))
        h = x
        for _ in range(2):
            h = keras.layers.Dense(width, activation="relu")(h)
        last = keras.layers.Dense(3 * bins - 1, kernel_initializer="zeros")
        return keras.Model(x, last(h))

    masks = ([k % 2, 1 - k % 2] for k in range(layers))
    return RealNVP([SplineCoupling(mask, network(), bins) for mask in masks])


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
    """Chapter 5's spline couplings by TFP, turned round: x goes through the spline, and
    z through its inverse, as in the one that is written out.
    """
    import tensorflow_probability as tfp

    chain, coupling = definitions("05_tfp_flows", "chain", "spline_coupling")
    layers, width, bins = shape(settings)

    def layer():
        return tfp.bijectors.Invert(coupling(width=width, bins=bins))

    flow = chain(layer, layers)
    return {**nodes_and_seconds(flow), **measured(flow, settings, seed, TFP)}


def written(settings, seed):
    """The same flow, its coupling written out above."""
    flow = written_flow(*shape(settings))
    return {**nodes_and_seconds(flow), **measured(flow, settings, seed, KERAS)}


SHORT = SPLINE | {"epochs": 20}  # enough to time an epoch
ROWS = [
    Row("spline coupling, by TFP", by_tfp, SHORT, QUICK, seeds=(0,)),
    Row("spline coupling, written out", written, SHORT, QUICK, seeds=(0,)),
]
