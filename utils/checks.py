"""Checks that a right implementation passes and a wrong one does not.

Each takes callables and arrays, returns the figure that it measured, and raises
CheckFailed, with the figure in the message, if it is out of tolerance. Callables take
and return tensors of the Keras backend, or of TensorFlow, in float32; a last axis of
size D is a point, or for images the axes (height, width, channels).
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


def flow_errors(flow, x, tolerance: float = 1e-4) -> dict[str, float]:
    """Both errors of a flow at points x: {"inverse_error": …, "log_det_error": …}.

    `flow.inverse(x)` gives (z, log |det ∂z/∂x|), from data to latent, and
    `flow.forward(z)` gives x, or a tuple that begins with it. Each error is that of the
    function of its name, and `tolerance` holds for both.
    """

    def to_latent(x):
        return flow.inverse(x)[0]

    def to_data(z):
        x = flow.forward(z)
        return x[0] if isinstance(x, tuple) else x

    def log_det(x):
        return flow.inverse(x)[1]

    return {
        "inverse_error": inverse_error(to_latent, to_data, x, tolerance),
        "log_det_error": log_det_error(to_latent, log_det, x, tolerance),
    }


def inverse_error(
    transform: Transform, undo: Transform, x, tolerance: float = 1e-4
) -> float:
    """The largest |undo(transform(x)) − x| over points x, in the units of x.

    What `transform` gives is copied before `undo` sees it. TFP's bijectors remember
    which tensor they made from which, and would answer with x itself.
    """
    x = finite(x, "x")
    y = np.array(ops.convert_to_numpy(transform(ops.convert_to_tensor(x))))
    back = ops.convert_to_numpy(undo(ops.convert_to_tensor(y)))
    return _at_most(_largest(back - x), tolerance, "there and back, x differs by")


def log_det_error(
    transform: Transform, log_det: Transform, x, tolerance: float = 1e-4
) -> float:
    """The largest error in nats of `log_det(x)`, (count,), against log |det J|.

    J, the Jacobian of `transform`, is found by automatic differentiation and its
    determinant by LU decomposition in float64. A Jacobian is for one point: a transform
    that mixes the points of a batch, such as batch normalisation in training mode, has
    no such J.
    """
    claimed = ops.convert_to_numpy(log_det(_tensor(x)))
    if claimed.shape != (len(x),):
        raise CheckFailed(
            f"log_det gives shape {claimed.shape} for {len(x)} points: it must be one "
            "number a point."
        )
    _, true = np.linalg.slogdet(jacobian(transform, x).astype("float64"))
    what = "log_det differs from that of the Jacobian by"
    return _at_most(_largest(claimed - true), tolerance, what)


def jacobian(transform: Transform, x) -> np.ndarray:
    """∂transform_i/∂x_j of each point by autodiff: (count, …) to (count, D, D).

    D is how many numbers a point has. On TensorFlow the rows of a small Jacobian are
    computed one after another: to vectorise over them it would trace the whole function
    again, which takes longer.
    """
    x = _tensor(x)
    size = int(np.prod(x.shape[1:]))

    def flat(x):
        return ops.reshape(transform(x), (-1, size))

    if course.backend() == "jax":
        import jax

        rows = jax.vmap(jax.jacrev(lambda point: flat(point[None])[0]))(x)
        return np.asarray(rows).reshape(-1, size, size)
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = flat(x)
        outputs = tf.unstack(y, axis=1) if size <= FEW_DIMENSIONS else []
    if not outputs:
        return tape.batch_jacobian(y, x).numpy().reshape(-1, size, size)
    rows = [tape.gradient(o, x, unconnected_gradients="zero") for o in outputs]
    return np.stack(rows, axis=1).reshape(-1, size, size)


def integral(
    log_prob: Transform, limit: float = 4.0, points: int = 400, tolerance: float = 1e-3
) -> float:
    """∫p over the square [−limit, limit]² of a density: it should be 1.

    `log_prob` maps (count, 2) to (count,). The trapezoidal rule on points × points
    places: it needs p to be smooth over the distance of two of them, and to have no
    mass outside. The figure tells what a test set cannot: a log-det that is too large
    by 0.1 makes it 1.1.
    """
    x, area = square(limit, points)
    p = np.exp(np.asarray(ops.convert_to_numpy(log_prob(_tensor(x))), "float64"))
    total = float(p.sum() * area)
    if not abs(total - 1) <= tolerance:
        raise CheckFailed(
            f"the density integrates to {total:.5f} over [−{limit:g}, {limit:g}]², "
            f"not to 1 ± {tolerance:g}."
        )
    return total


def square(limit: float, points: int) -> tuple[np.ndarray, float]:
    """The middles of points × points equal cells of [−limit, limit]², and a cell's
    area.

    (points², 2) float32, row by row from the bottom left, so that values at them,
    reshaped to (points, points), are an image with origin "lower".
    """
    side = 2 * limit / points
    middles = -limit + side * (np.arange(points) + 0.5)
    x1, x2 = np.meshgrid(middles, middles)
    return np.stack([x1.ravel(), x2.ravel()], axis=1).astype("float32"), side**2


def bits_per_dim(
    log_prob: Transform, x, levels: int = 1, at_most: float = np.inf
) -> tuple[float, float]:
    """The mean code length of x in bits a dimension, and its standard error.

    `log_prob` gives nats a point, (count, …) to (count,). If it is a density of data
    divided by `levels` (256 for grey levels brought to [0, 1]), log2(levels) is added
    to get the units of one level. Discrete data cannot be coded with less than 0 bits,
    so a mean below 0 fails as one above `at_most` does.
    """
    nats = np.asarray(ops.convert_to_numpy(log_prob(_tensor(x))), "float64")
    bits = -nats / (np.log(2) * np.prod(np.shape(x)[1:])) + np.log2(levels)
    mean, error = float(bits.mean()), float(bits.std() / np.sqrt(len(bits)))
    if not 0 <= mean <= at_most:
        raise CheckFailed(
            f"{mean:.4f} bits per dimension: it should be between 0 and {at_most:g}."
        )
    return mean, error


# ------------------------------------------------------------------ points


def finite(x, name: str) -> np.ndarray:
    """Points as float32: an array, a list or a DataFrame of finite numbers.

    Raises CourseError, with `name`, if x is anything else.
    """
    try:
        x = np.asarray(x, "float32")
    except (TypeError, ValueError) as error:
        raise course.CourseError(
            f"{name} is not made of numbers ({error}): give an array (count, D)."
        ) from None
    if x.ndim < 2 or not len(x):
        raise course.CourseError(
            f"{name} has shape {x.shape}: give an array with one point a row, (count, "
            "D)."
        )
    bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if bad.any():
        raise course.CourseError(
            f"{name} has values that are not finite in {bad.sum()} of {len(x)} rows, "
            f"the first is row {bad.argmax()}: remove those rows or fill them in."
        )
    return x


def float32(x):
    """A tensor or an array as it is, but float64 and tables as float32.

    NumPy and pandas compute in float64, and the layers of Keras in float32.
    """
    if hasattr(x, "iloc") or getattr(x, "dtype", None) == np.float64:
        return np.asarray(x, "float32")
    return x


def _tensor(x):
    return ops.convert_to_tensor(finite(x, "x"))


def _largest(difference) -> float:
    return float(np.abs(difference).max())


def _at_most(figure: float, tolerance: float, what: str) -> float:
    if not figure <= tolerance:  # also if it is not a number
        raise CheckFailed(f"{what} {figure:.3g}, more than {tolerance:g}.")
    return figure


def levels(x, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of `shape` (h, w, c) with grey levels: whole numbers from 0 to 255,
    (count, h, w, c).

    Raises CourseError if x is anything else, and says what to do.
    """
    x = np.asarray(x)
    if x.dtype != np.uint8:
        x = finite(x, "x")
    h, w, c = shape
    wanted = f"this model is for {h} × {w} pixels and {c} channel(s)"
    if x.ndim == 3 and c == 1:
        wanted = "x[..., None] has the axis of channels that is missing"
    if x.shape[1:] != tuple(shape) or not len(x):
        raise course.CourseError(
            f"x has shape {x.shape}, and not (count, {h}, {w}, {c}): {wanted}."
        )
    low, high = x.min(), x.max()
    whole = x.dtype == np.uint8 or (x == np.floor(x)).all()
    if low < 0 or not 1 < high <= 255 or not whole:
        found = f"x has values from {low:g} to {high:g}, and not whole numbers"
        cure = "np.uint8(255 * x)" if 0 <= low and high <= 1 else "grey levels"
        raise course.CourseError(f"{found} from 0 to 255: give {cure}.")
    return x


def labels(y, count: int, classes: int) -> np.ndarray:
    """Classes of `count` images as whole numbers from 0 to `classes` − 1, (count,).

    Raises CourseError if y is anything else, and says what to do.
    """
    found = np.asarray([] if y is None else y)
    if found.shape != (count,):
        raise course.CourseError(
            f"labels have shape {found.shape} for {count} images: give one whole "
            f"number for each, (count,)."
        )
    numbers = found.dtype.kind in "biuf" and np.isfinite(found).all()
    whole = numbers and (found == np.floor(found)).all()
    if not whole or found.min() < 0 or found.max() >= classes:
        raise course.CourseError(
            f"labels are to be whole numbers from 0 to {classes - 1}, and there is "
            f"{_first_other(found, classes)}: number the classes from 0 on."
        )
    return found.astype("int32")


def _first_other(found: np.ndarray, classes: int):
    """The first label that is no class, as it was given."""
    wanted = range(classes)
    return next(repr(value) for value in found.tolist() if value not in wanted)
