"""Checks that a right implementation passes and a wrong one does not.

Each takes callables and arrays, returns the figure that it measured, and raises CheckFailed, with the figure in the
message, if it is out of tolerance. Callables take and return tensors of the Keras backend, or of TensorFlow; a last
axis of size D is a point, or for images the axes (height, width, channels).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import ops

from utils import course

Transform = Callable[[np.ndarray], np.ndarray]


FEW_DIMENSIONS = 8


class CheckFailed(AssertionError):
    """A figure is out of tolerance; the message gives both."""


def inverse_error(transform: Transform, undo: Transform, x: np.ndarray, tolerance: float = 1e-4) -> float:
    """The largest |undo(transform(x)) − x| over points x, in the units of x.

    What `transform` gives is copied before `undo` sees it. TFP's bijectors remember which tensor they made from
    which, and would answer with x itself.
    """
    y = np.array(ops.convert_to_numpy(transform(_tensor(x))))
    back = ops.convert_to_numpy(undo(_tensor(y)))
    return _at_most(_largest(back - x), tolerance, "there and back, x differs by")


def log_det_error(transform: Transform, log_det: Transform, x: np.ndarray, tolerance: float = 1e-4) -> float:
    """The largest difference in nats between `log_det(x)`, (count,), and log |det J| of the transform's Jacobian.

    J is found by automatic differentiation and its determinant by LU decomposition in float64. A Jacobian is for one
    point: a transform that mixes the points of a batch, such as batch normalisation in training mode, has no such J.
    """
    claimed = ops.convert_to_numpy(log_det(_tensor(x)))
    if claimed.shape != (len(x),):
        raise CheckFailed(f"log_det gives shape {claimed.shape} for {len(x)} points: it must be one number a point.")
    _, true = np.linalg.slogdet(jacobian(transform, x).astype("float64"))
    return _at_most(_largest(claimed - true), tolerance, "log_det differs from that of the Jacobian by")


def jacobian(transform: Transform, x: np.ndarray) -> np.ndarray:
    """∂transform_i/∂x_j of each point by automatic differentiation: (count, …) to (count, D, D), D numbers a point.

    On TensorFlow the rows of a small Jacobian are computed one after another: to vectorise over them it would trace the
    whole function again, which takes longer.
    """
    x = _tensor(x)
    size = int(np.prod(x.shape[1:]))

    def flat(x):
        return ops.reshape(transform(x), (-1, size))

    engine = course.backend()
    if engine == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = flat(x)
            outputs = tf.unstack(y, axis=1) if size <= FEW_DIMENSIONS else []
        if outputs:
            rows = np.stack([tape.gradient(output, x, unconnected_gradients="zero") for output in outputs], axis=1)
        else:
            rows = tape.batch_jacobian(y, x).numpy()
    elif engine == "jax":
        import jax

        rows = jax.vmap(jax.jacrev(lambda point: flat(point[None])[0]))(x)
    else:
        import torch

        rows = torch.func.vmap(torch.func.jacrev(lambda point: flat(point[None])[0]))(x).detach().cpu()
    return np.asarray(rows).reshape(-1, size, size)


def integral(log_prob: Transform, limit: float = 4.0, points: int = 400, tolerance: float = 1e-3) -> float:
    """∫p over the square [−limit, limit]² of a density given as `log_prob`, (count, 2) to (count,): it should be 1.

    The trapezoidal rule on points × points places. It needs p to be smooth over the distance of two of them, and to
    have no mass outside. The figure tells what a test set cannot: a log-det that is too large by 0.1 makes it 1.1.
    """
    x, area = square(limit, points)
    p = np.exp(np.asarray(ops.convert_to_numpy(log_prob(_tensor(x))), "float64"))
    total = float(p.sum() * area)
    if not abs(total - 1) <= tolerance:
        raise CheckFailed(
            f"the density integrates to {total:.5f} over [−{limit:g}, {limit:g}]², not to 1 ± {tolerance:g}."
        )
    return total


def square(limit: float, points: int) -> tuple[np.ndarray, float]:
    """The middles of points × points equal cells of [−limit, limit]², (points², 2) float32, and the area of a cell.

    Row by row from the bottom left, so that values at them, reshaped to (points, points), are an image with origin
    "lower".
    """
    side = 2 * limit / points
    middles = -limit + side * (np.arange(points) + 0.5)
    x1, x2 = np.meshgrid(middles, middles)
    return np.stack([x1.ravel(), x2.ravel()], axis=1).astype("float32"), side**2


def bits_per_dim(log_prob: Transform, x: np.ndarray, levels: int = 1, at_most: float = np.inf) -> tuple[float, float]:
    """The mean code length of x in bits a dimension, and its standard error over the points of x (count, …).

    `log_prob` gives nats a point, (count,). If it is a density of data divided by `levels` (256 for grey levels
    brought to [0, 1]), log2(levels) is added to get the units of one level. Discrete data cannot be coded with less
    than 0 bits, so a mean below 0 fails as one above `at_most` does.
    """
    nats = np.asarray(ops.convert_to_numpy(log_prob(_tensor(x))), "float64")
    bits = -nats / (np.log(2) * np.prod(x.shape[1:])) + np.log2(levels)
    mean, error = float(bits.mean()), float(bits.std() / np.sqrt(len(bits)))
    if not 0 <= mean <= at_most:
        raise CheckFailed(f"{mean:.4f} bits per dimension: it should be between 0 and {at_most:g}.")
    return mean, error


def _tensor(x):
    return ops.convert_to_tensor(x)


def _largest(difference) -> float:
    return float(np.abs(difference).max())


def _at_most(figure: float, tolerance: float, what: str) -> float:
    if not figure <= tolerance:  # also if it is not a number
        raise CheckFailed(f"{what} {figure:.3g}, more than {tolerance:g}.")
    return figure
