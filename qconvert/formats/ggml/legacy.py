"""ggml's first formats: blocks of 32 weights, a float16 scale, 4, 5 or 8 bits a weight.

    Q4_0   d:2 | qs:16                     x = d * (q - 8)
    Q4_1   d:2 | m:2 | qs:16               x = d * q + m
    Q5_0   d:2 | qh:4 | qs:16              x = d * (q - 16)
    Q5_1   d:2 | m:2 | qh:4 | qs:16        x = d * q + m
    Q8_0   d:2 | qs:32                     x = d * q

qs holds the low four bits: byte j those of weight j, and above them those of weight j + 16. qh
holds the fifth bits, weight j's at bit j. Q8_0 has one signed byte a weight.

Without importance the bytes are those of ggml's reference quantizers: the block's extremes take
the outermost codes, and weights are rounded by the scale before it is narrowed to float16. With
importance a search makes the weighted squared error small; Q8_0, as in ggml, has none.
Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from qconvert.formats.types import Format, Grid, Importance, Packed, Weights

BLOCK = 32


class Layout(NamedTuple):
    """What tells the formats of 4 and 5 bits apart.

    Attributes:
        zero: the code of 0 where there are no minima.
        bits: of a code.
        minima: whether m is stored.
        block_bytes: bytes of a block.
    """

    zero: int
    bits: int
    minima: bool
    block_bytes: int


class Params(NamedTuple):
    """float32 [rows, blocks] each.

    Attributes:
        d: the scale as it is stored.
        m: the minimum as it is stored; 0 where there is none.
        id: what a weight is multiplied by before it is rounded; about 1 / d.
        low: what is taken off before that; about m.
    """

    d: np.ndarray
    m: np.ndarray
    id: np.ndarray
    low: np.ndarray


class ScaleParams(NamedTuple):
    """float32 [rows, blocks] each: the scale as it is stored, and its reciprocal for rounding."""

    d: np.ndarray
    id: np.ndarray


def trial_scales(layout: Layout) -> np.ndarray:
    """float32 [64 or 48]: how many steps the block's widest reach is divided into, in trial.

    For Q4_0 and Q5_0 from the extreme weight's side, which has a code more, and from the other.
    Reaching beyond the codes clips the extremes, for the sake of the rest.
    """
    if layout.minima:
        return ((1 << layout.bits) - 1 + np.linspace(-3, 9, 48)).astype(np.float32)
    near = -(layout.zero + np.linspace(-1.5, 5, 48))
    far = layout.zero - 1 + np.linspace(-2, 3, 16)
    return np.concatenate([near, far]).astype(np.float32)


def nudges() -> np.ndarray:
    """float32 [48]: factors on the scale, tried 16 at a time, ever closer."""
    steps = np.arange(-8, 8) / 8
    return np.concatenate([1 + width * steps for width in (0.03, 0.01, 0.004)]).astype(np.float32)


def fit(layout: Layout, x: Weights, importance: Importance) -> Params:
    """Scales and minima of every block. `importance` must not be negative."""
    from qconvert.kernels import legacy

    shape = (len(x), x.shape[1] // BLOCK)
    params = Params(*(np.empty(shape, np.float32) for _ in Params._fields))
    flat = [array.reshape(-1) for array in params]
    if importance is None:
        legacy.fit(x.reshape(-1), layout.zero, layout.bits, *flat)
        return params
    from qconvert.kernels import legacy_search

    legacy_search.fit(
        x.reshape(-1),
        np.ascontiguousarray(importance, np.float32),
        max(x.shape[1], 1),
        layout.zero,
        layout.bits,
        trial_scales(layout),
        nudges(),
        *flat,
    )
    return params


def round_codes(layout: Layout, x: Weights, params: Params) -> np.ndarray:
    """uint8 [rows, columns]."""
    from qconvert.kernels import legacy

    codes = np.empty(x.shape, np.uint8)
    id, low = params.id.reshape(-1), params.low.reshape(-1)
    legacy.round_codes(x.reshape(-1), layout.zero, layout.bits, id, low, codes.reshape(-1))
    return codes


def pack(layout: Layout, codes: np.ndarray, params: Params) -> Packed:
    from qconvert.kernels import legacy

    out = _empty(codes, layout.block_bytes)
    d, m = params.d.reshape(-1), params.m.reshape(-1)
    legacy.pack(codes.reshape(-1), layout.bits, layout.minima, d, m, out.reshape(-1))
    return out


def grid(layout: Layout, params: Params) -> Grid:
    """What the codes of each block stand for."""
    values = np.arange(1 << layout.bits, dtype=np.float32) - layout.zero
    return Grid(params.d, -params.m, values)


def quantize(layout: Layout, x: Weights, importance: Importance) -> Packed:
    from qconvert.kernels import legacy

    if importance is not None:
        # The search takes nearly all of the time: nothing is gained by fusing what follows it.
        params = fit(layout, x, importance)
        return pack(layout, round_codes(layout, x, params), params)
    out = _empty(x, layout.block_bytes)
    legacy.quantize(x.reshape(-1), layout.zero, layout.bits, layout.minima, out.reshape(-1))
    return out


def dequantize(layout: Layout, packed: Packed) -> Weights:
    from qconvert.kernels import legacy

    out = np.empty((len(packed), packed.shape[1] // layout.block_bytes * BLOCK), np.float32)
    zero, bits, minima, _ = layout
    legacy.dequantize(packed.reshape(-1), zero, bits, minima, out.reshape(-1))
    return out


def fit_q8_0(x: Weights, importance: Importance) -> ScaleParams:
    """Scales of every block; `importance` has no say."""
    from qconvert.kernels import legacy

    shape = (len(x), x.shape[1] // BLOCK)
    params = ScaleParams(np.empty(shape, np.float32), np.empty(shape, np.float32))
    legacy.fit_q8_0(x.reshape(-1), params.d.reshape(-1), params.id.reshape(-1))
    return params


def round_q8_0(x: Weights, params: ScaleParams) -> np.ndarray:
    """int8 [rows, columns]."""
    from qconvert.kernels import legacy

    codes = np.empty(x.shape, np.int8)
    legacy.round_q8_0(x.reshape(-1), params.id.reshape(-1), codes.reshape(-1))
    return codes


def pack_q8_0(codes: np.ndarray, params: ScaleParams) -> Packed:
    from qconvert.kernels import legacy

    out = _empty(codes, 34)
    legacy.pack_q8_0(codes.reshape(-1), params.d.reshape(-1), out.reshape(-1))
    return out


def quantize_q8_0(x: Weights, importance: Importance) -> Packed:
    from qconvert.kernels import legacy

    out = _empty(x, 34)
    legacy.quantize_q8_0(x.reshape(-1), out.reshape(-1))
    return out


def dequantize_q8_0(packed: Packed) -> Weights:
    from qconvert.kernels import legacy

    out = np.empty((len(packed), packed.shape[1] // 34 * BLOCK), np.float32)
    legacy.dequantize_q8_0(packed.reshape(-1), out.reshape(-1))
    return out


def _empty(weights: np.ndarray, block_bytes: int) -> Packed:
    return np.empty((len(weights), weights.shape[1] // BLOCK * block_bytes), np.uint8)


def _format(name: str, layout: Layout) -> Format:
    return Format(
        name,
        quantize=partial(quantize, layout),
        dequantize=partial(dequantize, layout),
        fit=partial(fit, layout),
        round=partial(round_codes, layout),
        pack=partial(pack, layout),
        grid=partial(grid, layout),
    )


Q4_0 = _format("Q4_0", Layout(zero=8, bits=4, minima=False, block_bytes=18))
Q4_1 = _format("Q4_1", Layout(zero=0, bits=4, minima=True, block_bytes=20))
Q5_0 = _format("Q5_0", Layout(zero=16, bits=5, minima=False, block_bytes=22))
Q5_1 = _format("Q5_1", Layout(zero=0, bits=5, minima=True, block_bytes=24))
Q8_0 = Format("Q8_0", quantize_q8_0, dequantize_q8_0, fit_q8_0, round_q8_0, pack_q8_0)
