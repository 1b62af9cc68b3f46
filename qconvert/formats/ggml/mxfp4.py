"""MXFP4: blocks of 32 weights as 4-bit floats (e2m1) with one power of two (e8m0) between them.

    MXFP4   e:1 | qs:16     x = 2**(e - 127) * e2m1(q)

Byte j of qs holds weight j in its low and weight j + 16 in its high four bits: a sign and one of
0, 0.5, 1, 1.5, 2, 3, 4, 6. Codes stand here for twice these, and d for half the power, as in ggml.
The exponent puts the largest weight between 4 and 8, so that what is above 6 is clipped;
importance has no say, as in ggml.
Source: OCP Microscaling Formats (MX) specification 1.0; ggml/src/ggml-quants.c.
"""

import numpy as np

from qconvert.formats.ggml.legacy import magnitudes
from qconvert.formats.ggml.planes import Plane, Planes
from qconvert.formats.ggml.scalar import Params, Scalar
from qconvert.formats.types import Seen, Weights

BLOCK = 32
VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def powers(e: np.ndarray) -> np.ndarray:
    """d of exponent bytes, float32: 2**(e - 128)."""
    return np.asarray(np.ldexp(np.float32(1), e.astype(np.int32) - 128))


def find(x: Weights, seen: Seen | None) -> Params:
    """Exponents of every block.

    The logarithm is rounded to float32 before it is cut, as ggml has it, so that a weight just
    below a power of two may count for that power.
    """
    top = magnitudes(x, BLOCK)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.floor(np.log2(top.astype(np.float64)).astype(np.float32))
    e = np.where(np.isfinite(exponent), exponent + 125, 0).astype(np.int32)
    return Params(powers(e.astype(np.uint8)))


def nearest(x: Weights, params: Params) -> np.ndarray:
    """uint8 [rows, columns]: 0 to 15."""
    from qconvert.kernels import mxfp4

    codes = np.empty(x.shape, np.uint8)
    mxfp4.round_codes(x.reshape(-1), params.d.reshape(-1), codes.reshape(-1))
    return codes


def write(params: Params, out: np.ndarray) -> None:
    out[..., 0] = np.frexp(params.d)[1] + 127


def read(blocks: np.ndarray) -> Params:
    return Params(powers(blocks[:, :1]))


MXFP4 = Scalar(
    "MXFP4",
    size=BLOCK,
    values=VALUES,
    codes=Planes((Plane(1, 16, 4, 0),)),
    find=find,
    nearest=nearest,
    write=write,
    read=read,
    unit_dtype="",
)
