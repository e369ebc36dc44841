"""Each check passes a transformation that is right, and fails one that is wrong in
exactly that respect.
"""

import numpy as np
import pandas as pd
import pytest
from keras import ops

from utils import checks, course, moons
from utils.course import CourseError

points = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")


class Coupling:
    """x2 is scaled and shifted by functions of x1. Each keyword puts one fault in."""

    def __init__(self, sign=1.0, factor=1.0, with_shift=True, with_log_det=True):
        self.sign, self.factor, self.with_shift, self.with_log_det = (
            sign,
            factor,
            with_shift,
            with_log_det,
        )

    def parameters(self, x1):
        return 0.7 * ops.tanh(x1), 2 * ops.tanh(2 * x1)

    def forward(self, x):
        log_scale, shift = self.parameters(x[:, :1])
        return ops.concatenate(
            [x[:, :1], x[:, 1:] * ops.exp(log_scale) + shift], axis=1
        )

    def inverse(self, y):
        log_scale, shift = self.parameters(y[:, :1])
        return ops.concatenate(
            [y[:, :1], (y[:, 1:] - self.with_shift * shift) * ops.exp(-log_scale)],
            axis=1,
        )

    def log_det(self, x):
        log_scale, _ = self.parameters(x[:, :1])
        return self.with_log_det * self.sign * self.factor * log_scale[:, 0]

    def log_prob(self, x):
        y = self.forward(x)
        return -0.5 * ops.sum(y**2, axis=1) - np.log(2 * np.pi) + self.log_det(x)


WRONG_LOG_DETS = [{"sign": -1.0}, {"factor": 2.0}, {"with_log_det": False}]


def test_a_right_coupling_passes_every_check():
    right = Coupling()
    assert checks.inverse_error(right.forward, right.inverse, points) < 1e-5
    assert checks.log_det_error(right.forward, right.log_det, points) < 1e-5
    assert checks.integral(right.log_prob, limit=9.0) == pytest.approx(1, abs=1e-3)


class Flow:
    """The coupling as the chapters write a flow: inverse to latent, forward to data."""

    def __init__(self, with_log_det=False, **faults):
        self.coupling, self.with_log_det = Coupling(**faults), with_log_det

    def inverse(self, x):
        return self.coupling.forward(x), self.coupling.log_det(x)

    def forward(self, z):
        x = self.coupling.inverse(z)
        return (x, -self.coupling.log_det(x)) if self.with_log_det else x


@pytest.mark.parametrize("with_log_det", [False, True])
def test_both_errors_of_a_flow(with_log_det):
    errors = checks.flow_errors(Flow(with_log_det), points, 1e-5)
    assert (
        set(errors) == {"inverse_error", "log_det_error"}
        and max(errors.values()) < 1e-5
    )
    for wrong, message in (
        ({"factor": 2.0}, "log_det differs"),
        ({"with_shift": False}, "there and back"),
    ):
        with pytest.raises(checks.CheckFailed, match=message):
            checks.flow_errors(Flow(with_log_det, **wrong), points)


@pytest.mark.parametrize(
    "kind", [lambda x: x.astype("float64"), np.ndarray.tolist, pd.DataFrame]
)
def test_points_may_come_in_any_kind_of_number(kind):
    given, right = kind(points), Coupling()
    weight = ops.convert_to_tensor(np.float32([2.0, 3.0]))  # as the weights of layers
    assert np.allclose(checks.jacobian(lambda x: x * weight, given), np.diag([2, 3]))
    assert checks.inverse_error(right.forward, right.inverse, given) < 1e-5
    assert checks.log_det_error(right.forward, right.log_det, given) < 1e-5
    assert checks.jacobian(right.forward, given).shape == (64, 2, 2)
    checks.bits_per_dim(lambda x: ops.zeros(len(x)) - 1, given)


def test_points_that_are_not_finite_are_one_line():
    right, bad = Coupling(), points.copy()
    bad[3, 1] = np.nan
    with pytest.raises(
        course.CourseError, match="not finite in 1 of 64 rows, the first is row 3"
    ):
        checks.inverse_error(right.forward, right.inverse, bad)


@pytest.mark.parametrize("fault", WRONG_LOG_DETS)
def test_a_wrong_log_det_is_found(fault):
    wrong = Coupling(**fault)
    with pytest.raises(checks.CheckFailed, match=r"by \d\.\d+, more than 0\.0001"):
        checks.log_det_error(wrong.forward, wrong.log_det, points)


def test_a_density_with_a_wrong_log_det_does_not_integrate_to_one():
    right = Coupling()
    with pytest.raises(checks.CheckFailed, match="integrates to 1.10"):
        checks.integral(lambda x: right.log_prob(x) + 0.1, limit=9.0)
    with pytest.raises(checks.CheckFailed, match="nan"):
        checks.integral(lambda x: right.log_prob(x) * np.float32("nan"))


def test_an_inverse_that_forgets_a_term_is_found():
    wrong = Coupling(with_shift=False)
    with pytest.raises(checks.CheckFailed, match="there and back, x differs by"):
        checks.inverse_error(wrong.forward, wrong.inverse, points)


def test_the_inverse_of_another_layer_is_found():
    with pytest.raises(checks.CheckFailed):
        checks.inverse_error(Coupling().forward, lambda y: y[:, ::-1], points)


def test_a_transform_that_remembers_its_input_is_found_out():
    """Like TFP's bijectors: asked for the inverse of what it has just given, it returns
    the x it was given.
    """
    memory = {}

    def forward(x):
        y = Coupling().forward(x)
        memory["y"], memory["x"] = y, x
        return y

    def inverse(y):
        return (
            memory["x"] if y is memory["y"] else Coupling(with_shift=False).inverse(y)
        )

    x = ops.convert_to_tensor(points)
    assert (
        float(ops.max(ops.abs(inverse(forward(x)) - x))) == 0.0
    )  # what a check without a copy would see
    with pytest.raises(checks.CheckFailed):
        checks.inverse_error(forward, inverse, points)


def test_a_log_det_that_is_not_one_number_a_point_is_refused():
    right = Coupling()
    with pytest.raises(checks.CheckFailed, match="one number a point"):
        checks.log_det_error(right.forward, lambda x: right.log_det(x)[:, None], points)


def test_jacobian_of_images_is_that_of_a_linear_map():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(12, 12)).astype("float32")
    images = rng.normal(size=(3, 2, 3, 2)).astype("float32")

    def transform(x):
        return ops.reshape(
            ops.reshape(x, (-1, 12)) @ ops.transpose(matrix), (-1, 2, 3, 2)
        )

    found = checks.jacobian(transform, images)
    assert np.allclose(found, matrix[None], atol=1e-5)


def test_bits_of_independent_fair_levels():
    """Uniform over 256 levels costs 8 bits; as a density on [0, 1] its log is 0."""
    images = np.random.default_rng(2).random((10, 4, 4, 1)).astype("float32")
    mean, error = checks.bits_per_dim(lambda x: ops.zeros(len(x)), images, levels=256)
    assert (mean, error) == (8.0, 0.0)
    mean, _ = checks.bits_per_dim(
        lambda x: ops.zeros(len(x)) - 16 * np.log(4.0), images
    )
    assert mean == pytest.approx(2.0)


def test_bits_out_of_bounds_are_refused():
    images = np.zeros((10, 4, 4, 1), "float32")
    with pytest.raises(checks.CheckFailed, match="-1.0000 bits"):
        checks.bits_per_dim(lambda x: ops.zeros(len(x)) + 16 * np.log(2.0), images)
    with pytest.raises(checks.CheckFailed, match="8.0000 bits"):
        checks.bits_per_dim(
            lambda x: ops.zeros(len(x)), images, levels=256, at_most=7.0
        )


def test_square_is_an_image_from_the_bottom_left():
    x, area = checks.square(2.0, 4)
    assert x.shape == (16, 2) and area == 1.0
    assert (
        np.allclose(x[0], [-1.5, -1.5])
        and np.allclose(x[1], [-0.5, -1.5])
        and np.allclose(x[-1], [1.5, 1.5])
    )
    assert (
        np.exp(moons.TwoMoons().log_prob(x)).reshape(4, 4)[3, 0] < 1e-3
    )  # no moon at the top left corner


# ------------------------------------------------------------------ levels


def test_levels_of_any_type_pass_as_they_are():
    x = np.arange(32).reshape(2, 4, 4, 1)
    for kind in ("uint8", "int64", "float64"):
        given = x.astype(kind)
        assert np.array_equal(checks.levels(given, (4, 4, 1)), x)
    for given in (x.tolist(), ops.convert_to_tensor(x)):
        assert np.array_equal(checks.levels(given, (4, 4, 1)), x)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x: x / 255, r"give np.uint8\(255"),
        (lambda x: (x > 3).astype("uint8"), r"give np.uint8\(255"),
        (lambda x: x[:0], "has shape"),
        (lambda x: np.uint8(x[:0]), "has shape"),
        (lambda x: x + 0.5, "not whole numbers"),
        (lambda x: x - 1.0, "from -1 to .* give grey levels"),
        (lambda x: x * 9.0, "not whole numbers from 0 to 255"),
        (lambda x: x[..., 0], "is missing"),
        (lambda x: x[:, :2], "4 × 4 pixels and 1 channel"),
        (lambda x: np.where(x == 3, np.nan, x), "not finite in 1 of 2"),
    ],
)
def test_images_that_are_no_levels_are_one_line(change, line):
    x = np.arange(32.0).reshape(2, 4, 4, 1)
    with pytest.raises(CourseError, match=line) as info:
        checks.levels(change(x), (4, 4, 1))
    assert "\n" not in str(info.value)


def test_labels_of_any_whole_kind_pass():
    for y in ([0, 2, 1], np.array([0.0, 2.0, 1.0]), np.uint8([0, 2, 1])):
        found = checks.labels(y, 3, 3)
        assert found.tolist() == [0, 2, 1] and found.dtype == np.int32


@pytest.mark.parametrize(
    ("y", "line"),
    [
        ([0, 1], r"shape \(2,\) for 3 images"),
        (None, "for 3 images"),
        ([[0], [1], [2]], r"shape \(3, 1\)"),
        (np.eye(3), r"shape \(3, 3\)"),
        ([1, 2, 3], "from 0 to 2, and there is 3"),
        ([0, -1, 1], "there is -1"),
        ([0, 0.5, 1], "there is 0.5"),
        (["boot", "bag", "coat"], "there is 'boot'"),
    ],
)
def test_labels_that_are_no_classes_are_one_line(y, line):
    with pytest.raises(CourseError, match=line) as info:
        checks.labels(y, 3, 3)
    assert "\n" not in str(info.value)
