"""Inner loops of MXFP4: 32 weights as e2m1 (sign, 0 0.5 1 1.5 2 3 4 6) times a power of two.

Codes stand for twice these values (0 1 2 3 4 6 8 12), and the step for half the power, as in
ggml. No fastmath: these bytes equal ggml's.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

BLOCK = 32
_ZERO = np.float32(0)
# Midway between neighbouring values.
_T1, _T2, _T3, _T4, _T5, _T6, _T7 = (np.float32(v) for v in (0.5, 1.5, 2.5, 3.5, 5, 7, 10))
_OVERFLOWING = np.float32(2.0**125)


@njit(cache=True, nogil=True)
def _code(x, d):
    """The nearest value's code; in the middle of two, the smaller's."""
    a = abs(x)
    code = np.int32(a > _T1 * d) + np.int32(a > _T2 * d) + np.int32(a > _T3 * d)
    code += np.int32(a > _T4 * d) + np.int32(a > _T5 * d) + np.int32(a > _T6 * d)
    code += np.int32(a > _T7 * d)
    # The largest exponent of all puts 8 and 12 beyond float32.
    code = min(code, np.int32(7 if d < _OVERFLOWING else 5))
    return np.uint8(code + (8 if x < _ZERO and code > 0 else 0))


@njit(cache=True, nogil=True)
def round_codes(x, ds, codes):
    """float32 [blocks * 32] and [blocks] -> uint8 [blocks * 32]."""
    for b in range(ds.size):
        d = ds[b]
        for j in range(b * BLOCK, (b + 1) * BLOCK):
            codes[j] = _code(x[j], d)
