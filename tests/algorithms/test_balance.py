import numpy as np
import pytest

from qconvert.algorithms.balance import BUDGET, balance
from qconvert.formats import FORMATS
from qconvert.formats.coding import Seen, pack
from qconvert.formats.types import Format


def quantize_balanced(
    format_: Format, x: np.ndarray, importance: np.ndarray, mean: np.ndarray
) -> np.ndarray:
    return pack(format_, balance(format_, x, Seen(importance, mean), None))[0]


GRIDS = [name for name, format_ in FORMATS.items() if format_.grid]


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """Inputs of a layer, float32 [tokens, columns]: channels of different strength, and a mean."""
    rng = np.random.default_rng(1)
    strength = np.exp(rng.standard_normal(512))
    x = (rng.standard_normal((2048, 512)) + rng.standard_normal(512)) * strength
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return (np.random.default_rng(2).standard_normal((48, 512)) * 0.02).astype(np.float32)


def errors(name: str, packed: np.ndarray, weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    """Of each row: the squared error of its outputs, that of the mean output, and the weighted
    squared error; float64 [3, rows]."""
    off = FORMATS[name].dequantize(packed).astype(np.float64) - weights
    importance = np.square(inputs, dtype=np.float64).mean(axis=0)
    outputs = np.square(inputs @ off.T).mean(axis=0)
    mean = np.square(inputs.mean(axis=0) @ off.T)
    return np.stack([outputs, mean, np.square(off) @ importance])


@pytest.mark.parametrize("name", GRIDS)
def test_errors_cancel_on_the_mean_input_and_the_outputs_are_closer(name, weights, inputs):
    importance = np.square(inputs).mean(axis=0)
    plain = FORMATS[name].quantize(weights, importance)
    balanced = quantize_balanced(FORMATS[name], weights, importance, inputs.mean(axis=0))
    before, after = (errors(name, packed, weights, inputs) for packed in (plain, balanced))
    assert after[1].sum() < 0.4 * before[1].sum()
    assert after[0].sum() < 0.8 * before[0].sum()
    assert (after[2] <= (1 + BUDGET + 1e-4) * before[2]).all()


@pytest.mark.parametrize("name", GRIDS)
def test_a_code_moves_by_one_at_most_and_few_do(name, weights, inputs):
    importance = np.square(inputs).mean(axis=0)
    format_ = FORMATS[name]
    params = format_.fit(weights, importance)
    plain = format_.dequantize(format_.quantize(weights, importance))
    balanced = quantize_balanced(format_, weights, importance, inputs.mean(axis=0))
    moved = format_.dequantize(balanced) != plain
    assert 0 < moved.mean() < 0.1
    codes = format_.round(weights, params).astype(np.int16)
    top = len(format_.grid(params).values) - 1
    steps = [np.clip(codes + step, 0, top).astype(np.uint8) for step in (-1, 0, 1)]
    reached = [format_.dequantize(format_.pack(step, params)) for step in steps]
    found = format_.dequantize(balanced)
    assert np.logical_or.reduce([found == one for one in reached]).all()


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_says_what_codes_stand_for(name, weights):
    format_ = FORMATS[name]
    params = format_.fit(weights, None)
    step, low, values = format_.grid(params)
    width = weights.shape[1] // step.shape[1]
    codes = np.random.default_rng(3).integers(0, len(values), weights.shape, np.uint8)
    expected = step.repeat(width, 1) * values[codes] - low.repeat(width, 1)
    found = format_.dequantize(format_.pack(codes, params))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", GRIDS)
def test_rows_do_not_depend_on_each_other(name, weights, inputs):
    importance, mean = np.square(inputs).mean(axis=0), inputs.mean(axis=0)
    together = quantize_balanced(FORMATS[name], weights, importance, mean)
    alone = [quantize_balanced(FORMATS[name], row[None], importance, mean) for row in weights[:4]]
    np.testing.assert_array_equal(together[:4], np.concatenate(alone))


@pytest.mark.parametrize("name", [*GRIDS, "Q8_0", "F16"])
def test_without_a_mean_nothing_moves(name, weights, inputs):
    importance = np.square(inputs).mean(axis=0)
    packed = quantize_balanced(FORMATS[name], weights, importance, np.zeros(512, np.float32))
    np.testing.assert_array_equal(packed, FORMATS[name].quantize(weights, importance))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_leaves_other_rows_alone(weights, inputs, value):
    importance, mean = np.square(inputs).mean(axis=0), inputs.mean(axis=0)
    broken = weights.copy()
    broken[1, 7] = value
    good = quantize_balanced(FORMATS["Q4_K"], weights, importance, mean)
    found = quantize_balanced(FORMATS["Q4_K"], broken, importance, mean)
    np.testing.assert_array_equal(found[[0, 2]], good[[0, 2]])
