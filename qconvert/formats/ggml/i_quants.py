"""ggml's 4-bit IQ formats, whose codes stand for 16 uneven values.

    IQ4_NL   d:2 | qs:16                               x = d * value[q]          blocks of 32
    IQ4_XS   d:2 | scales_h:2 | scales_l:4 | qs:128    x = d * scale * value[q]  blocks of 256

d is float16. A byte of qs holds code j in its lower half and code j + 16 in its upper one, for
every 32 weights. IQ4_XS has a scale from -32 to 31 for every 32 weights; with 32 added, the lower
four bits of two neighbours share a byte of scales_l, and the upper two bits of scale j lie at bit
2 j of scales_h.

The searches make the weighted squared error small: importance times the square of the error of
every weight, or the plain square without importance.
Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

import numpy as np

from qconvert.formats.ggml.planes import Plane, Planes
from qconvert.formats.ggml.scalar import Params, Scalar, get_half, put_half, rounded_by_steps
from qconvert.formats.ggml.searches import IQ4_NL_SEARCH, IQ4_XS_SEARCH
from qconvert.formats.types import Seen, Weights, square_of

SIZE = 32
"""Weights that share a scale."""

VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)

BOUNDARIES = (VALUES[1:] + VALUES[:-1]) / 2


def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each whole number from -128 to 127, the boundary that is nearest to the places from it
    to the next one, float32 [256], and the values below and above that boundary."""
    places = np.arange(-128, 128) + 0.5
    lower = abs(places[:, None] - BOUNDARIES).argmin(axis=1)
    return BOUNDARIES[lower], VALUES[lower], VALUES[lower + 1]


def find_nl(x: Weights, seen: Seen | None) -> Params:
    """Scales of every block. Importance that is 0 throughout counts as none."""
    from qconvert.kernels import codebook

    d = np.empty((len(x), x.shape[1] // SIZE), np.float32)
    shared = (x.reshape(-1), square_of(seen), max(x.shape[1], 1), *cells())
    codebook.fit_iq4_nl(*shared, *IQ4_NL_SEARCH, d.reshape(-1))
    return rounded_by_steps(Params(d))


def find_xs(x: Weights, seen: Seen | None) -> Params:
    """Scales of every block. Importance that is 0 throughout counts as none."""
    from qconvert.kernels import codebook

    d = np.empty((len(x), x.shape[1] // 256), np.float32)
    scales = np.empty((len(x), x.shape[1] // SIZE), np.int8)
    shared = (x.reshape(-1), square_of(seen), max(x.shape[1], 1), *cells())
    codebook.fit_iq4_xs(*shared, *IQ4_XS_SEARCH, d.reshape(-1), scales.reshape(-1))
    return rounded_by_steps(Params(d, None, scales))


def nearest(x: Weights, params: Params) -> np.ndarray:
    """The code of the nearest value, uint8 [rows, columns]."""
    from qconvert.kernels import codebook

    codes = np.empty(x.shape, np.uint8)
    per_step = params.per_step.reshape(-1)
    codebook.round_codebook(x.reshape(-1), per_step, SIZE, BOUNDARIES, codes.reshape(-1))
    return codes


def write_nl(params: Params, out: np.ndarray) -> None:
    put_half(out, 0, params.d)


def write_xs(params: Params, out: np.ndarray) -> None:
    assert params.scales is not None
    put_half(out, 0, params.d)
    scales = (params.scales + np.int8(32)).view(np.uint8).reshape(*out.shape[:2], 8)
    high = (scales >> np.uint8(4)).astype("<u2") << np.arange(0, 16, 2, dtype="<u2")
    out[..., 2:4] = np.bitwise_or.reduce(high, axis=-1, keepdims=True).view(np.uint8)
    low = scales & np.uint8(15)
    out[..., 4:8] = low[..., ::2] | low[..., 1::2] << np.uint8(4)


def read_nl(blocks: np.ndarray) -> Params:
    return Params(get_half(blocks, 0))


def read_xs(blocks: np.ndarray) -> Params:
    pairs = blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype="<u2")
    low = pairs.reshape(len(blocks), 8) & np.uint8(15)
    scales = (low | ((high & 3) << 4)).astype(np.int8) - np.int8(32)
    return Params(get_half(blocks, 0), None, scales)


IQ4_NL = Scalar(
    "IQ4_NL",
    size=SIZE,
    values=tuple(VALUES),
    codes=Planes((Plane(2, 16, 4, 0),)),
    find=find_nl,
    nearest=nearest,
    write=write_nl,
    read=read_nl,
)
IQ4_XS = Scalar(
    "IQ4_XS",
    size=SIZE,
    values=tuple(VALUES),
    codes=Planes((Plane(8, 16, 4, 0),)),
    find=find_xs,
    nearest=nearest,
    write=write_xs,
    read=read_xs,
    limits=(-32, 31),
)
