"""What chapter 7 defines: layers with a triangular Jacobian, and the iteration that
undoes them.
"""

import keras
import numpy as np
import pytest
from keras import ops

from utils import checks
from utils.chapters import definitions

(
    MintConvolution, MintFlow, MintLayer, NotConverged,
    converged, iterate, shaken, solve, tied,
) = definitions(
    "07_mintnet", "MintConvolution", "MintFlow", "MintLayer", "NotConverged",
    "converged", "iterate", "shaken", "solve", "tied",
)  # fmt: skip


@pytest.fixture
def rng():
    keras.utils.set_random_seed(0)
    return np.random.default_rng(0)


def value(layer):
    return lambda x: layer.value_and_diagonal(x)[0]


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("kind", ["points", "images"])
def test_the_jacobian_is_triangular_and_its_diagonal_the_one_that_is_claimed(
    kind, upper, rng
):
    if kind == "points":
        layer, shape = MintLayer(5, 6, upper), (5,)
    else:
        layer, shape = MintConvolution((3, 3, 3), 4, upper), (3, 3, 3)
    layer = shaken(layer, rng, 0.3)
    x = rng.normal(size=(6, *shape)).astype("float32")
    jacobian = checks.jacobian(value(layer), x)
    wrong_side = np.tril(jacobian, -1) if upper else np.triu(jacobian, 1)
    right_side = np.triu(jacobian, 1) if upper else np.tril(jacobian, -1)
    assert np.abs(wrong_side).max() < 1e-6 and np.abs(right_side).max() > 0.05
    diagonal = np.diagonal(jacobian, axis1=1, axis2=2)
    assert diagonal.min() > 0 and np.abs(diagonal - 1).max() > 0.05
    claimed = ops.convert_to_numpy(layer.value_and_diagonal(x)[1]).reshape(
        diagonal.shape
    )
    assert np.allclose(claimed, diagonal, rtol=1e-3)
    checks.log_det_error(
        lambda x: layer.inverse(x)[0], lambda x: layer.inverse(x)[1], x, 1e-3
    )


@pytest.mark.parametrize("kind", ["points", "images"])
def test_the_iteration_finds_the_way_back(kind, rng):
    layer, shape = (
        (MintLayer(4, 8), (4,))
        if kind == "points"
        else (MintConvolution((4, 4, 2), 4), (4, 4, 2))
    )
    layer = shaken(layer, rng, 0.1)
    x = rng.normal(size=(20, *shape)).astype("float32")
    z = ops.convert_to_numpy(layer.inverse(x)[0])
    assert np.abs(z - x).max() > 0.1
    assert np.abs(solve(layer, z) - x).max() < 1e-3


def test_an_iteration_that_does_not_arrive_says_so(rng):
    layer = shaken(MintLayer(2, 8), rng, 0.3)
    z = ops.convert_to_numpy(
        layer.inverse(rng.normal(size=(50, 2)).astype("float32"))[0]
    )
    with pytest.raises(NotConverged, match="steps a residual"):
        solve(layer, z, alpha=2.5, patience=10_000)
    with pytest.raises(NotConverged):
        converged(z, 3, float("nan"))


def test_steps_are_counted_and_the_residual_is_small(rng):
    layer = shaken(MintLayer(3, 8), rng, 0.1)
    z = ops.convert_to_numpy(
        layer.inverse(rng.normal(size=(50, 3)).astype("float32"))[0]
    )
    _, steps, residual = iterate(layer, z)
    assert 1 < int(steps) < 200 and float(residual) <= 1e-5


def test_tied_products_are_never_negative(rng):
    c1, c3 = (
        rng.normal(size=(3, 4)).astype("float32"),
        rng.normal(size=(3, 5)).astype("float32"),
    )
    w2 = rng.normal(size=(3, 4, 5)).astype("float32")
    c2 = ops.convert_to_numpy(tied(c1, w2, c3))
    assert (c1[:, :, None] * c2 * c3[:, None, :] >= 0).all() and np.allclose(
        np.abs(c2), np.abs(w2)
    )


def test_a_layer_starts_near_the_identity(rng):
    x = rng.normal(size=(100, 2)).astype("float32")
    f, diagonal = MintLayer(2, 16).value_and_diagonal(x)
    assert np.abs(ops.convert_to_numpy(f) - x).max() < 0.5
    assert np.abs(ops.convert_to_numpy(diagonal) - 1).max() < 0.5


def test_the_flow_is_a_density_with_an_inverse(rng):
    flow = shaken(MintFlow(2, 4, 8), rng, 0.2)
    assert [layer.upper for layer in flow.chain] == [False, True, False, True]
    assert not any(layer.upper for layer in MintFlow(2, 3, 8, both=False).chain)
    x = rng.normal(size=(50, 2)).astype("float32")
    checks.inverse_error(lambda x: flow.inverse(x)[0], flow.forward, x, 1e-3)
    checks.log_det_error(
        lambda x: flow.inverse(x)[0], lambda x: flow.inverse(x)[1], x, 1e-3
    )
    z, log_det = (ops.convert_to_numpy(part) for part in flow.inverse(x))
    expected = log_det - 0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=1)
    assert np.allclose(ops.convert_to_numpy(flow.log_prob(x)), expected, atol=1e-4)
