"""MXFP4: blocks of 32 weights as 4-bit floats (e2m1) with one power of two (e8m0) between them.

    MXFP4   e:1 | qs:16     x = 2**(e - 127) * e2m1(q)

Byte j of qs holds weight j in its low and weight j + 16 in its high four bits: a sign and one of
0, 0.5, 1, 1.5, 2, 3, 4, 6. The exponent puts the largest weight between 4 and 8, so that what is
above 6 is clipped; importance has no say, as in ggml.
Source: OCP Microscaling Formats (MX) specification 1.0; ggml/src/ggml-quants.c.
"""

from typing import NamedTuple

import numpy as np

from qconvert.formats.types import Format, Importance, Packed, Weights

BLOCK = 32
_BLOCK_BYTES = 17


class Params(NamedTuple):
    """uint8 [rows, blocks]: the exponent bytes."""

    e: np.ndarray


def fit(x: Weights, importance: Importance) -> Params:
    """Exponents of every block; `importance` has no say."""
    from qconvert.kernels import mxfp4

    e = np.empty((len(x), x.shape[1] // BLOCK), np.uint8)
    mxfp4.fit(x.reshape(-1), e.reshape(-1))
    return Params(e)


def round_codes(x: Weights, params: Params) -> np.ndarray:
    """uint8 [rows, columns]: 0 to 15."""
    from qconvert.kernels import mxfp4

    codes = np.empty(x.shape, np.uint8)
    mxfp4.round_codes(x.reshape(-1), params.e.reshape(-1), codes.reshape(-1))
    return codes


def pack(codes: np.ndarray, params: Params) -> Packed:
    from qconvert.kernels import mxfp4

    out = np.empty((len(codes), codes.shape[1] // BLOCK * _BLOCK_BYTES), np.uint8)
    mxfp4.pack(codes.reshape(-1), params.e.reshape(-1), out.reshape(-1))
    return out


def quantize(x: Weights, importance: Importance) -> Packed:
    from qconvert.kernels import mxfp4

    out = np.empty((len(x), x.shape[1] // BLOCK * _BLOCK_BYTES), np.uint8)
    mxfp4.quantize(x.reshape(-1), out.reshape(-1))
    return out


def dequantize(packed: Packed) -> Weights:
    from qconvert.kernels import mxfp4

    out = np.empty((len(packed), packed.shape[1] // _BLOCK_BYTES * BLOCK), np.float32)
    mxfp4.dequantize(packed.reshape(-1), out.reshape(-1))
    return out


MXFP4 = Format("MXFP4", quantize, dequantize, fit, round_codes, pack)
