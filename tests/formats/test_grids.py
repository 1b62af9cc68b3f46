"""Weights that lie on a format's grid come back bit for bit, from whatever they were rounded to."""

import numpy as np
import pytest

from qconvert.formats import FORMATS
from qconvert.formats.ggml.grids import FINDERS, exact_blocks
from qconvert.formats.types import block_sizes

DTYPES = ("F32", "F16", "BF16")


def narrowed(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "F16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        import torch

        return torch.from_numpy(x).bfloat16().float().numpy()
    return x


def packed_blocks(name: str, draw: np.random.Generator, rows: int = 24) -> np.ndarray:
    """Bytes as the format's own quantizer leaves them, of weights of some size."""
    x = draw.normal(size=(rows, 512)).astype(np.float32)
    x *= 2.0 ** draw.integers(-6, 4, (rows, 1))
    format_ = FORMATS[name]
    return format_.pack(format_.round(x, params := format_.fit(x, None)), params)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FINDERS)
def test_a_dequantized_file_comes_back(name: str, dtype: str) -> None:
    packed = packed_blocks(name, np.random.default_rng(0))
    x = narrowed(FORMATS[name].dequantize((packed,)), dtype)
    found = exact_blocks(name, x, dtype)
    assert found is not None
    assert found.mask.all()
    made = FORMATS[name].dequantize((found.blocks.reshape(packed.shape),))
    assert np.array_equal(narrowed(made, dtype), x)
    if dtype == "F32":
        same = (found.blocks.reshape(packed.shape) == packed).mean()
        assert same == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FINDERS)
def test_other_weights_are_not_taken_for_some_on_a_grid(name: str, dtype: str) -> None:
    x = narrowed(np.random.default_rng(1).normal(size=(64, 512)).astype(np.float32), dtype)
    assert exact_blocks(name, x, dtype) is None


@pytest.mark.parametrize("codes", [(2, 14), (5, 9), (7, 8), (0, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_1", "Q8_0"])
def test_blocks_need_not_use_all_codes(name: str, dtype: str, codes: tuple[int, int]) -> None:
    draw = np.random.default_rng(2)
    steps = draw.uniform(0.001, 0.1, (40, 1)).astype(np.float16).astype(np.float32)
    whole = draw.integers(codes[0], codes[1] + 1, (40, 32)) - 8
    x = narrowed((whole * steps).astype(np.float32), dtype)
    found = exact_blocks(name, x, dtype)
    assert found is not None
    filled = x.any(axis=1) if name == "Q4_0" or name == "Q8_0" else np.ptp(x, axis=1) > 0
    assert np.array_equal(found.mask[:, 0], filled)


def test_zero_points_that_float16_holds_stay() -> None:
    """Asymmetric groups of 32 as GPTQ has them: x = (q - z) * s, in Q4_1 x = s * q + (-z * s)."""
    draw = np.random.default_rng(3)
    zeros = draw.integers(0, 16, (200, 1))
    steps = (draw.integers(1024, 2048, (200, 1)) * 2.0**-16).astype(np.float32)
    codes = draw.integers(0, 16, (200, 32))
    codes[:, 0], codes[:, 1] = 0, 15
    x = ((codes - zeros) * steps).astype(np.float32)
    fits = ((zeros * steps).astype(np.float16) == zeros * steps)[:, 0]
    found = exact_blocks("Q4_1", x, "F32")
    assert 20 < fits.sum() < 180
    assert found is not None
    assert np.array_equal(found.mask[:, 0], fits)


def test_only_blocks_on_the_grid_are_named() -> None:
    draw = np.random.default_rng(4)
    x = FORMATS["Q4_1"].dequantize((packed_blocks("Q4_1", draw),))
    other = np.zeros((len(x), 16), bool)
    other[3::4, 5:] = True
    x = np.where(np.repeat(other, 32, axis=1), draw.normal(size=x.shape).astype(np.float32), x)
    found = exact_blocks("Q4_1", x, "F32")
    assert found is not None
    assert np.array_equal(found.mask, ~other)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e30, 1e-30, -0.0])
@pytest.mark.parametrize("name", FINDERS)
def test_blocks_of_one_value_and_of_none(name: str, value: float) -> None:
    x = np.full((8, 512), value, np.float32)
    found = exact_blocks(name, x, "F32")
    if found is not None:
        assert np.isfinite(value)
        assert value
        made = FORMATS[name].dequantize((found.blocks.reshape(8, -1),))
        assert np.array_equal(made.reshape(8, -1, block_sizes(name)[0])[found.mask].max(), value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", FINDERS)
def test_what_is_no_number_lies_on_no_grid(name: str, bad: float) -> None:
    x = FORMATS[name].dequantize((packed_blocks(name, np.random.default_rng(5)),))
    x[::2, 7::64] = bad
    with np.errstate(invalid="ignore"):
        found = exact_blocks(name, x, "F32")
    block = block_sizes(name)[0]
    assert found is not None
    finite = np.isfinite(x).reshape(len(x), -1, block).all(axis=2)
    assert np.array_equal(found.mask, finite)
