import numpy as np
import pytest
from formats.packed import packed_of, seen_of, weights_of

from qconvert.algorithms.balance import BUDGET, balanced, fits
from qconvert.formats import FORMATS
from qconvert.formats.quantize import quantize
from qconvert.formats.types import Seen

GRIDS = [name for name in FORMATS if name.startswith(("Q4_", "Q5_", "Q2", "Q3", "Q6", "IQ4"))]


def balanced_of(name: str, x: np.ndarray, importance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return quantize(FORMATS[name], x, Seen(importance, mean), algorithm=balanced)[0]


def test_formats_with_neither_few_nor_many_values_in_order_are_balanced():
    x = np.ones((1, 256), np.float32)
    grids = {name: format_.grid(format_.fit(x, None)) for name, format_ in FORMATS.items()}
    assert [name for name, grid in grids.items() if grid is not None and fits(grid)] == GRIDS


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
    off = weights_of(name, packed).astype(np.float64) - weights
    importance = np.square(inputs, dtype=np.float64).mean(axis=0)
    outputs = np.square(inputs @ off.T).mean(axis=0)
    mean = np.square(inputs.mean(axis=0) @ off.T)
    return np.stack([outputs, mean, np.square(off) @ importance])


@pytest.mark.parametrize("name", GRIDS)
def test_errors_cancel_on_the_mean_input_and_the_outputs_are_closer(name, weights, inputs):
    importance = np.square(inputs).mean(axis=0)
    plain = packed_of(name, weights, importance)
    found = balanced_of(name, weights, importance, inputs.mean(axis=0))
    before, after = (errors(name, packed, weights, inputs) for packed in (plain, found))
    assert after[1].sum() < 0.4 * before[1].sum()
    assert after[0].sum() < 0.8 * before[0].sum()
    assert (after[2] <= (1 + BUDGET + 1e-4) * before[2]).all()


@pytest.mark.parametrize("name", GRIDS)
def test_a_code_moves_by_one_at_most_and_few_do(name, weights, inputs):
    importance = np.square(inputs).mean(axis=0)
    format_ = FORMATS[name]
    params = format_.fit(weights, seen_of(importance))
    plain = weights_of(name, packed_of(name, weights, importance))
    found = weights_of(name, balanced_of(name, weights, importance, inputs.mean(axis=0)))
    moved = found != plain
    assert 0 < moved.mean() < 0.1
    codes = format_.round(weights, params).astype(np.int16)
    top = len(format_.grid(params).values) - 1
    steps = [np.clip(codes + step, 0, top).astype(np.uint8) for step in (-1, 0, 1)]
    reached = [format_.dequantize(format_.pack(step, params)) for step in steps]
    assert np.logical_or.reduce([found == one for one in reached]).all()


@pytest.mark.parametrize("name", GRIDS)
def test_rows_do_not_depend_on_each_other(name, weights, inputs):
    importance, mean = np.square(inputs).mean(axis=0), inputs.mean(axis=0)
    together = balanced_of(name, weights, importance, mean)
    alone = [balanced_of(name, row[None], importance, mean) for row in weights[:4]]
    np.testing.assert_array_equal(together[:4], np.concatenate(alone))


@pytest.mark.parametrize("name", [*GRIDS, "Q8_0", "F16"])
def test_without_a_mean_nothing_moves(name, weights, inputs):
    importance = np.square(inputs).mean(axis=0)
    packed = balanced_of(name, weights, importance, np.zeros(512, np.float32))
    np.testing.assert_array_equal(packed, packed_of(name, weights, importance))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_leaves_other_rows_alone(weights, inputs, value):
    importance, mean = np.square(inputs).mean(axis=0), inputs.mean(axis=0)
    broken = weights.copy()
    broken[1, 7] = value
    good = balanced_of("Q4_K", weights, importance, mean)
    found = balanced_of("Q4_K", broken, importance, mean)
    np.testing.assert_array_equal(found[[0, 2]], good[[0, 2]])
