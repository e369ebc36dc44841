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
    MintConvolution, MintFlow, MintLayer, NotConverged, backwards, blocks,
    build_mintnet, converged, iterate, kernel_masks, solve, tied,
) = definitions(
    "07_mintnet", "MintConvolution", "MintFlow", "MintLayer", "NotConverged",
    "backwards", "blocks", "build_mintnet", "converged", "iterate", "kernel_masks",
    "solve", "tied",
)  # fmt: skip
shaken = definitions("06_glow", "shaken")


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
    c1, c3 = rng.normal(size=(2, 5)).astype("float32")
    w2 = rng.normal(size=(5, 5)).astype("float32")
    c2 = ops.convert_to_numpy(tied(c1, w2, c3))
    assert (c3[:, None] * c2 * c1 > 0).all()
    assert np.allclose(np.abs(c2), np.abs(w2))
    assert (c2 < 0).any() and (c2 > 0).any()


def test_masks_by_hand():
    lower = np.tril(np.ones((2, 2)))
    assert blocks(lower, 1, 2).tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    mask, own = kernel_masks(2, 1, 1)
    assert mask[1, 1].tolist() == [[1, 0], [1, 1]]
    assert own[1, 1].tolist() == [[1, 0], [0, 1]] and own.sum() == 2
    earlier, later = [(0, 0), (0, 1), (0, 2), (1, 0)], [(1, 2), (2, 0), (2, 1), (2, 2)]
    assert all(mask[place].all() for place in earlier)
    assert not any(mask[place].any() for place in later)


@pytest.mark.parametrize("upper", [False, True])
def test_what_a_layer_of_images_sees_is_a_wedge(upper, rng):
    layer = shaken(MintConvolution((8, 8, 1), 3, upper), rng, 0.3)
    x = rng.normal(size=(1, 8, 8, 1)).astype("float32")
    seen = checks.jacobian(value(layer), x)[0].reshape(8, 8, 8, 8)[4, 4] != 0
    seen = seen[::-1, ::-1] if upper else seen  # 8 is even: the middle is then (3, 3)
    row, column = (3, 3) if upper else (4, 4)
    expected = np.zeros((8, 8), bool)
    for up in range(4):
        expected[row - up, max(column - 3, 0) : column + up + 1] = True
    assert (seen == expected).all()


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


def test_a_flow_of_images_is_a_density_with_an_inverse(rng):
    flow = build_mintnet((6, 6, 1), pairs=1, m=3, seed=1)
    uppers = [layer.upper for layer in flow.chain if isinstance(layer, MintConvolution)]
    assert uppers == [False, True]
    flow.initialise(rng.normal(size=(40, 6, 6, 1)).astype("float32"))
    shaken(flow, rng, 0.05)
    x = rng.normal(size=(5, 6, 6, 1)).astype("float32")
    checks.log_det_error(
        lambda x: flow.inverse(x)[0][0], lambda x: flow.inverse(x)[1], x, 1e-3
    )
    checks.inverse_error(
        lambda x: flow.inverse(x)[0][0], lambda z: flow.forward([z]), x, 1e-3
    )


def test_the_same_seed_builds_the_same_flow():
    first, again, other = (build_mintnet((4, 4, 1), 1, 2, seed) for seed in (1, 1, 2))
    weights = [
        ops.convert_to_numpy(model.chain[2].w2) for model in (first, again, other)
    ]
    assert (weights[0] == weights[1]).all() and (weights[0] != weights[2]).any()


def elu(u):
    return np.where(u > 0, u, np.expm1(np.minimum(u, 0)))


def numbers(layer):
    names = "w1", "b1", "w2", "b2", "w3", "b3", "t"
    return [ops.convert_to_numpy(getattr(layer, n)).astype("float64") for n in names]


def is_the_formula(layer, x, times, w1, w2, w3):
    """f and slopes of a layer against the formula with matrices masked by hand."""
    _, b1, _, b2, _, b3, t = numbers(layer)
    t = np.maximum(np.abs(t), 1e-6)
    expected = t * x + times(w3, elu(times(w2, elu(times(w1, x) + b1)) + b2)) + b3
    f, slope = layer.value_and_diagonal(x.astype("float32"))
    assert np.allclose(ops.convert_to_numpy(f), expected, atol=1e-4)
    beyond = ops.convert_to_numpy(slope) - t
    assert beyond.min() > -1e-5 and beyond.max() > 0.05  # nowhere flatter than |t|


def tied_by_hand(w1, w2, w3, unit):
    """w2 (to, from) whose weights from a coordinate to itself have the right sign."""
    w2 = w2.copy()
    for b, a in np.argwhere(unit[:, None] == unit):
        w2[b, a] = abs(w2[b, a]) * np.sign(w3[unit[b], b] * w1[a, unit[a]])
    return w2


def test_a_layer_of_points_is_the_formula(rng):
    layer = shaken(MintLayer(3, 2), rng, 0.5)
    layer.t.assign([-0.5, 0.01, 0.0])
    w1, _, w2, _, w3, _, _ = numbers(layer)
    unit, place = np.repeat(np.arange(3), 2), np.arange(3)
    w1 = w1 * (unit[:, None] >= place)
    w3 = w3 * (place[:, None] >= unit)
    w2 = tied_by_hand(w1, w2, w3, unit) * (unit[:, None] >= unit)
    x = rng.normal(size=(20, 3))
    is_the_formula(layer, x, lambda w, x: x @ w.T, w1, w2, w3)


def test_a_layer_of_images_is_the_formula(rng):
    layer = shaken(MintConvolution((3, 4, 2), 2), rng, 0.5)
    layer.t.assign(-layer.t)
    w1, _, w2, _, w3, _, _ = numbers(layer)
    unit, channel = np.repeat(np.arange(2), 2), np.arange(2)
    kernels = []
    tie = tied_by_hand(w1[1, 1], w2[1, 1], w3[1, 1], unit)
    for w, to, of in ((w1, unit, channel), (w2, unit, unit), (w3, channel, unit)):
        w = w.copy()
        w[2] = w[1, 2] = 0
        w[1, 1] = (tie if w.shape == w2.shape else w[1, 1]) * (to[:, None] >= of)
        kernels.append(w)

    def times(w, x):
        h, width = x.shape[1:3]
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = [
            x[:, i : i + h, j : j + width] @ w[i, j].T
            for i in range(3)
            for j in range(3)
        ]
        return sum(shifted)

    x = rng.normal(size=(5, 3, 4, 2))
    is_the_formula(layer, x, times, *kernels)


def test_each_place_of_an_image_has_its_own_slope_and_biases():
    layer = MintConvolution((3, 4, 2), 5)
    assert layer.t.shape == layer.b3.shape == (3, 4, 2)
    assert layer.b1.shape == (3, 4, 10) and layer.b2.shape == (10,)


@pytest.mark.parametrize("layer", ["points", "images"])
def test_a_new_layer_bends_a_little(layer, rng):
    keras.utils.set_random_seed(3)
    layer, shape = (
        (MintLayer(2, 16), (2,))
        if layer == "points"
        else (MintConvolution((4, 4, 2), 8), (4, 4, 2))
    )
    x = rng.normal(size=(100, *shape)).astype("float32")
    f, slope = map(ops.convert_to_numpy, layer.value_and_diagonal(x))
    assert 1e-3 < np.abs(f - x).max() < 3 and 1e-3 < np.abs(slope - 1).max() < 0.5
    assert np.std(slope, axis=0).min() > 1e-4
    assert ops.convert_to_numpy(layer.b1).std() > 0.3


def line(slopes):
    """The layer z = slopes * x."""
    layer = MintLayer(len(slopes), 1)
    layer.w3.assign(np.zeros(layer.w3.shape))
    layer.t.assign(slopes)
    return layer


def test_one_step_divides_by_the_slope():
    layer, z = line([4.0, 0.25]), np.float32([[1.0, -3.0]])
    x, steps, residual = iterate(layer, z)
    assert np.allclose(x, [[0.25, -12.0]])
    assert int(steps) == 2 and float(residual) == 0  # the second finds nothing to do
    assert int(iterate(line([1.0]), z[:, :1])[1]) == 1  # it begins at z


def test_the_residual_is_relative_and_the_largest():
    z = np.float32([[12345.678], [9876.543], [7777.7]])
    assert np.allclose(solve(line([3.0]), z), z / 3, rtol=1e-6)
    z = np.zeros((10_000, 1), "float32")
    z[7] = 1.0
    x = ops.convert_to_numpy(iterate(line([2.0]), z, alpha=0.5)[0])
    assert abs(x[7, 0] - 0.5) < 1e-5


def test_numbers_that_fit_are_left_alone():
    x, *_ = iterate(line([1 + 5e-7, 2.0]), np.ones((1, 2), "float32"), 0.5)
    x = ops.convert_to_numpy(x)
    assert x[0, 0] == 1.0 and abs(x[0, 1] - 0.5) < 1e-4


def steep_layer():
    """That of section 7.5, three higher: from z = 4 it jumps between −5 and 15."""
    steep = MintLayer(1, 1)
    for weight, value in zip(steep.weights, (-2.0, 0.0, 1.0, 0.0, 2.0, 3.0, 0.2)):
        weight.assign(np.full(weight.shape, value))
    return steep


def test_smaller_steps_rescue_a_search_that_jumps_back_and_forth():
    steep, z = steep_layer(), np.float32([[4.0]])
    _, steps, residual = iterate(steep, z, patience=10_000)
    assert int(steps) == 500 and float(residual) > 0.1
    with pytest.raises(NotConverged, match="After 500 steps.*or more steps"):
        solve(steep, z, patience=10_000)
    x, steps, _ = iterate(steep, z)
    assert 50 < int(steps) < 200
    assert abs(float(steep.value_and_diagonal(x)[0][0, 0]) - 4) < 1e-4


def test_no_more_steps_are_recommended_where_numbers_were_left():
    with pytest.raises(NotConverged, match="smaller alpha\\.$"):
        converged(None, 500, np.inf)
    assert issubclass(NotConverged, RuntimeError)


def test_all_axes_but_the_first_are_reversed():
    x = np.arange(24).reshape(2, 2, 3, 2)
    turned = ops.convert_to_numpy(backwards(x))
    assert (turned == x[:, ::-1, ::-1, ::-1]).all()


def test_the_chain_of_images():
    flow = build_mintnet((4, 6, 1), pairs=2, m=3, seed=1)
    names = [type(layer).__name__ for layer in flow.chain]
    assert names == ["Squeeze", *["ActNorm", "MintConvolution"] * 4, "Scale"]
    layers = flow.chain[2:-1:2]
    assert [layer.upper for layer in layers] == [False, True] * 2
    assert {layer.b2.shape for layer in layers} == {(12,)}


def test_a_slope_of_zero_is_kept_off_zero():
    _, log_det = line([0.0]).inverse(np.float32([[2.0]]))
    assert np.allclose(log_det, np.log(1e-6))


def test_the_residual_is_relative():
    z = np.linspace(1e4, 2e4, 200, dtype="float32")[:, None]
    _, steps, residual = iterate(line([0.7]), z)
    assert int(steps) < 10 and float(residual) <= 1e-5


def test_weights_start_with_these_deviations():
    layer = MintLayer(4, 50)
    for w, wanted in (
        (layer.w1, 1), (layer.b1, 1), (layer.w2, 200**-0.5), (layer.w3, 0.1 / 200),
    ):  # fmt: skip
        assert 0.8 < ops.convert_to_numpy(w).std() / wanted < 1.2


def test_the_seed_is_that_of_the_noise_too():
    states = [
        ops.convert_to_numpy(build_mintnet((4, 4, 1), 1, 2, s).noise.state)
        for s in (1, 2)
    ]
    assert (states[0] != states[1]).any()
