"""GPTQ's and AWQ's arrays, taken apart bit by bit as their layouts have it."""

import numpy as np
import pytest

from qconvert.formats.quantize import quantize, stacked
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.types import Estimator, WeightFormat

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def stream(words: np.ndarray, bits: int) -> np.ndarray:
    """Codes [rows, count] of int32 [rows, words]: each row is one number, low bits first."""
    numbers = [int.from_bytes(np.ascontiguousarray(row).tobytes(), "little") for row in words]
    count, mask = words.shape[1] * 32 // bits, (1 << bits) - 1
    return np.array(
        [[number >> bits * place & mask for place in range(count)] for number in numbers]
    )


def by_gptq(arrays: tuple[np.ndarray, ...], bits: int) -> np.ndarray:
    qweight, qzeros, scales, g_idx = arrays
    codes = stream(qweight.T, bits).T  # [in, out]
    zeros = stream(qzeros, bits) + 1  # not cut to the bits of a code, as some readers do not
    return ((codes - zeros[g_idx]) * scales.astype(np.float64)[g_idx]).T


def by_awq(arrays: tuple[np.ndarray, ...], size: int) -> np.ndarray:
    def ordered(words: np.ndarray) -> np.ndarray:
        codes = stream(words, 4).reshape(len(words), -1, 8)
        return np.stack([codes[..., ORDER.index(one)] for one in range(8)], -1).reshape(
            len(words), -1
        )

    qweight, qzeros, scales = arrays
    zeros, steps = (np.repeat(one, size, 0) for one in (ordered(qzeros), scales.astype(np.float64)))
    return ((ordered(qweight) - zeros) * steps).T


def weights(rows: int, columns: int) -> np.ndarray:
    x = np.random.default_rng(3).normal(0.01, 0.05, (rows, columns)).astype(np.float32)
    x[:, :32] = np.abs(x[:, :32])  # zero points at the end of their range
    return x


@pytest.mark.parametrize("size", [32, None])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_by_the_layout(bits: int, symmetric: bool, size: int | None) -> None:
    strategy = "group" if size else "channel"
    form = WeightFormat("gptq", "int", bits, strategy, size, symmetric=symmetric)
    format_, x = format_of(form, Estimator("minmax"), "F16"), weights(64, 96)
    arrays = quantize(format_, x)
    for part, array in zip(format_.parts((64, 96)), arrays, strict=True):
        assert (part.shape, part.nbytes) == (array.shape, array.nbytes)
    made = by_gptq(arrays, bits)
    assert np.array_equal(format_.dequantize(arrays), made.astype(np.float32))
    assert np.abs(made - x).max() < 3 * np.abs(x).max() / 2**bits
    halves = (quantize(format_, x[start : start + 32]) for start in (0, 32))
    for one, whole in zip(stacked(format_, halves, (64, 96), 32), arrays, strict=True):
        assert np.array_equal(one, whole)


def test_awq_by_the_layout() -> None:
    form = WeightFormat("awq", "int", 4, "group", 32, symmetric=False)
    format_, x = format_of(form, Estimator("minmax"), "F16"), weights(64, 96)
    arrays = quantize(format_, x)
    made = by_awq(arrays, 32)
    assert np.array_equal(format_.dequantize(arrays), made.astype(np.float32))
    assert np.abs(made - x).max() < 3 * np.abs(x).max() / 16
