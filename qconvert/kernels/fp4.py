"""float4 e2m1: a sign and one of 0, 0.5, 1, 1.5, 2, 3, 4, 6.

Source: OCP Microscaling Formats (MX) specification 1.0.
"""

from typing import Any

import numpy as np
from numba import int64, njit, types, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS

BYTES = types.Array(types.uint8, 1, "C", readonly=True, aligned=False)
_ZERO = np.float32(0.0)
# Midway between neighbouring values; what lies there goes to the one with an even code.
_M1, _M2, _M3, _M4, _M5, _M6, _M7 = (np.float32(v) for v in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5))


@njit(error_model="numpy", inline="always")
def e2m1_code(value: Any) -> Any:
    """The nearest code, 0 to 15; what is negative keeps its sign where it becomes zero."""
    a = abs(value)
    code = np.int32(a > _M1) + np.int32(a >= _M2) + np.int32(a > _M3)
    code += np.int32(a >= _M4) + np.int32(a > _M5) + np.int32(a >= _M6)
    return np.uint8(code + np.int32(a > _M7) + (np.int32(value < _ZERO) << 3))


@njit(void(FLOATS, int64, int64, FLOATS, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def round_codes(x: Any, columns: int, size: int, steps: Any, codes: Any) -> None:
    """The nearest code of every weight divided by the step of its group."""
    group = 0
    for start in range(0, x.size, columns):
        for first in range(start, start + columns, size):
            step = steps[group]
            for k in range(first, min(first + size, start + columns)):
                codes[k] = e2m1_code(x[k] / step)
            group += 1


@njit(void(BYTES, BYTES_OUT), error_model="numpy", nogil=True, cache=True)
def pack(codes: Any, out: Any) -> None:
    """Two codes a byte, the first one in its low bits."""
    for k in range(out.size):
        out[k] = np.uint8(codes[2 * k] | (codes[2 * k + 1] << 4))
