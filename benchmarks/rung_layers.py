"""Chapter 6's ladder from NICE to Glow as lists of layers, one change a rung."""

from __future__ import annotations

import numpy as np
from keras import layers, ops

from utils.chapters import definitions

ActNorm, ImageFlow, LUConvolution, MaskedCoupling = definitions(
    "06_glow", "ActNorm", "ImageFlow", "LUConvolution", "MaskedCoupling"
)
Scale, Split, Squeeze = definitions("06_glow", "Scale", "Split", "Squeeze")
checkerboard, half_of_channels = definitions(
    "06_glow", "checkerboard", "half_of_channels"
)


class BatchNorm(layers.Layer):
    """Brings each channel to mean 0 and deviation 1: in training by the statistics of
    the batch at hand, through which gradients go, else by running averages of those.

    Source: Dinh et al., Density estimation using Real NVP (2017), section 3.7, and the
    authors' code, https://github.com/tensorflow/models/tree/archive/research/real_nvp.
    The paper speaks of running averages in training, too; the code has that switched
    off, and here it ended higher.
    """

    training = False

    def __init__(self, channels, momentum=0.9):
        super().__init__()
        self.momentum = momentum
        start = {"shape": (channels,), "trainable": False}
        self.mean = self.add_weight(initializer="zeros", **start)
        self.variance = self.add_weight(initializer="ones", **start)
        self.done = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    def initialise(self, x):
        """Sets the averages by x (batch, h, w, c), unless that was done before."""
        if not ops.convert_to_numpy(self.done):
            for average, new in zip(
                self.averages(), ops.moments(x, axes=(0, 1, 2)), strict=True
            ):
                average.assign(new)
            self.done.assign(1.0)

    def averages(self):
        return self.mean, self.variance

    def inverse(self, x):
        mean, variance = self.averages()
        if self.training:
            mean, variance = ops.moments(x, axes=(0, 1, 2))
            for average, new in zip(self.averages(), (mean, variance), strict=True):
                new = ops.stop_gradient(new)
                average.assign(self.momentum * average + (1 - self.momentum) * new)
        log_scale = -0.5 * ops.log(variance + 1e-6)
        h, w = x.shape[1:3]
        return (x - mean) * ops.exp(log_scale), h * w * ops.sum(log_scale)

    def forward(self, z):
        return z * ops.sqrt(self.variance + 1e-6) + self.mean


class BatchNormFlow(ImageFlow):
    """An image flow that tells its layers whether it trains."""

    def call(self, x, training=False):
        for layer in self.chain:
            if isinstance(layer, BatchNorm):
                layer.training = training
        return super().call(x)


SMALL, HALF, LEFT = (14, 14, 1), (7, 7, 4), (7, 7, 2)  # an image, squeezed, and split


def on_boards(count, width, norm=None, bound=2.0):
    """Couplings that keep one checkerboard and the other in turn."""
    chain = []
    for k in range(count):
        chain += [norm(1)] if norm else []
        chain.append(MaskedCoupling(checkerboard(SMALL, k % 2), width, bound))
    return chain


def on_channels(count, shape, width, norm=None, mix=None):
    """Couplings that keep one half of the channels and the other in turn; with `mix`,
    a random generator, always the first half, of channels mixed by a 1×1 convolution.
    """
    chain, c = [], shape[-1]
    for k in range(count):
        chain += [norm(c)] if norm else []
        chain += [LUConvolution(c, mix)] if mix else []
        mask = half_of_channels(shape, odd=k % 2 if mix is None else 0)
        chain.append(MaskedCoupling(mask, width))
    return chain


def build_rung(name, width, seed=0):
    """One of the models from NICE to Glow for 14 × 14 pixels, of eight couplings."""
    mix = np.random.default_rng(seed)

    def squeezed_boards(norm=None, mix=None):
        boards = on_boards(4, width, norm)
        return [*boards, Squeeze(), *on_channels(4, HALF, width, norm, mix)]

    def with_split():
        before, after = (on_channels(4, s, width, ActNorm, mix) for s in (HALF, LEFT))
        return [Squeeze(), *before, Split(HALF, width), *after, Scale(LEFT)]

    rungs = {
        "NICE": lambda: [*on_boards(8, width, bound=0), Scale(SMALL)],
        "log-scales": lambda: [*on_boards(8, width), Scale(SMALL)],
        "channels": lambda: [*squeezed_boards(), Scale(HALF)],
        "batch norm": lambda: [*squeezed_boards(BatchNorm), Scale(HALF)],
        "ActNorm": lambda: [*squeezed_boards(ActNorm), Scale(HALF)],
        "1×1": lambda: [*squeezed_boards(ActNorm, mix), Scale(HALF)],
        "no boards": lambda: [
            *[Squeeze(), *on_channels(8, HALF, width, ActNorm, mix), Scale(HALF)]
        ],
        "split": with_split,
    }
    kind = BatchNormFlow if name == "batch norm" else ImageFlow
    return kind(rungs[name](), SMALL, seed)
