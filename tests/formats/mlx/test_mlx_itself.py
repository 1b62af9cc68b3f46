"""The bytes of MLX's own quantizer, and what it makes of ours. Where it is installed."""

import numpy as np
import pytest

from qconvert.formats.mlx.affine import BITS, GROUP_SIZES, Affine
from qconvert.formats.mlx.floats import GROUPS, Floats
from qconvert.formats.types import Format

mx = pytest.importorskip("mlx.core")

DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}


def hard_weights(dtype: str) -> tuple[object, np.ndarray]:
    """Weights of all kinds, in MLX and float32: ties, zeros, constants, one sign, all sizes."""
    rng = np.random.default_rng(7)
    x = (rng.standard_t(3, (256, 512)) * 0.05).astype(np.float32)
    x[0, :128], x[1], x[2, :64] = 0, -0.0, 0.3
    x[3], x[4] = np.abs(x[3]), -np.abs(x[4])
    x[5, :64] = 1e-6 * np.arange(64)
    x[6], x[7], x[8] = 1e-9 * np.sign(x[6]), 8 * x[7], 5e-3 * x[8]
    x[9] = np.tile(np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, 0.25, 0.75, 1.25, 1.75, 2.5,
                             3.5], np.float32), 32)  # fmt: skip
    x[10], x[11] = x[9] * 5 / 6, rng.choice([6.0, 5, 0.25, -0.75, 1.75, -3.5, -5], 512)
    x[12:40] *= 2.0 ** rng.integers(-14, 4, (28, 1))
    own = mx.array(x).astype(DTYPES[dtype])
    return own, np.array(own.astype(mx.float32))


def bits_of(array: object) -> np.ndarray:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def check(format_: Format, own: object, x: np.ndarray, **settings: object) -> None:
    params = format_.fit(x, None)
    ours = format_.pack(format_.round(x, params), params)
    theirs = mx.quantize(own, **settings)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, bits_of(other))
    wide = [part.astype(mx.float32) if part.dtype in DTYPES.values() else part for part in theirs]
    back = mx.dequantize(*wide, **settings, dtype=mx.float32)
    np.testing.assert_allclose(format_.dequantize(ours), np.array(back), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", GROUP_SIZES)
@pytest.mark.parametrize("bits", BITS)
def test_integers(bits, size, dtype):
    check(Affine(bits, size, dtype), *hard_weights(dtype), bits=bits, group_size=size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", GROUPS)
def test_small_floats(mode, dtype):
    check(Floats(mode, dtype), *hard_weights(dtype), mode=mode)
