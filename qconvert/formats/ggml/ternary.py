"""TQ1_0 and TQ2_0: blocks of 256 weights, each -d, 0 or +d.

    TQ1_0   qs:48 | qh:4 | d:2     five trits a byte, four in qh
    TQ2_0   qs:64 | d:2            four codes of two bits a byte

Of TQ1_0, byte j of the first 32 holds weights j, j + 32, ... j + 128; of the next 16, weights
160 + j, + 16, ... + 64; of qh, weights 240 + j, + 4, + 8, + 12. The first weight is the trit of
highest value, and the byte is the number, of 243, as a fraction in 256ths, rounded up: the trits
fall out by multiplying. Of TQ2_0, byte j of each 32 holds weights j, j + 32, j + 64, j + 96 of
128, lowest bits first. d is the largest absolute weight; importance has no say, as in ggml.
Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

from functools import partial

import numpy as np

from qconvert.formats.ggml.legacy import ScaleParams
from qconvert.formats.types import Format, Importance, Packed, Weights

BLOCK = 256
_TQ1_0_BYTES = 54
_TQ2_0_BYTES = 66


def fit(x: Weights, importance: Importance) -> ScaleParams:
    """Scales of every block; `importance` has no say."""
    from qconvert.kernels import ternary

    shape = (len(x), x.shape[1] // BLOCK)
    params = ScaleParams(np.empty(shape, np.float32), np.empty(shape, np.float32))
    ternary.fit(x.reshape(-1), params.d.reshape(-1), params.id.reshape(-1))
    return params


def round_codes(x: Weights, params: ScaleParams) -> np.ndarray:
    """uint8 [rows, columns]: 0, 1, 2."""
    from qconvert.kernels import ternary

    codes = np.empty(x.shape, np.uint8)
    ternary.round_codes(x.reshape(-1), params.id.reshape(-1), codes.reshape(-1))
    return codes


def pack(block_bytes: int, codes: np.ndarray, params: ScaleParams) -> Packed:
    from qconvert.kernels import ternary

    out = np.empty((len(codes), codes.shape[1] // BLOCK * block_bytes), np.uint8)
    trits = block_bytes == _TQ1_0_BYTES
    ternary.pack(codes.reshape(-1), params.d.reshape(-1), trits, out.reshape(-1))
    return out


def quantize(block_bytes: int, x: Weights, importance: Importance) -> Packed:
    from qconvert.kernels import ternary

    out = np.empty((len(x), x.shape[1] // BLOCK * block_bytes), np.uint8)
    ternary.quantize(x.reshape(-1), block_bytes == _TQ1_0_BYTES, out.reshape(-1))
    return out


def dequantize(block_bytes: int, packed: Packed) -> Weights:
    from qconvert.kernels import ternary

    out = np.empty((len(packed), packed.shape[1] // block_bytes * BLOCK), np.float32)
    trits = block_bytes == _TQ1_0_BYTES
    kernel = ternary.dequantize_tq1_0 if trits else ternary.dequantize_tq2_0
    kernel(packed.reshape(-1), out.reshape(-1))
    return out


def _format(name: str, block_bytes: int) -> Format:
    return Format(
        name,
        quantize=partial(quantize, block_bytes),
        dequantize=partial(dequantize, block_bytes),
        fit=fit,
        round=round_codes,
        pack=partial(pack, block_bytes),
    )


TQ1_0 = _format("TQ1_0", _TQ1_0_BYTES)
TQ2_0 = _format("TQ2_0", _TQ2_0_BYTES)
