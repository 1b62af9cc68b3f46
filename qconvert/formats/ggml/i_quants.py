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

from functools import partial
from typing import NamedTuple

import numpy as np

from qconvert.formats.ggml.planes import Plane, pack_planes, unpack_planes
from qconvert.formats.ggml.searches import IQ4_NL_SEARCH, IQ4_XS_SEARCH
from qconvert.formats.types import Format, Grid, Importance, Packed, Weights

SIZE = 32
"""Weights that share a scale."""

CHUNK = 1 << 18
"""Weights that `quantize` takes through all steps at a time, so that they stay in the cache."""

VALUES = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)

BOUNDARIES = (VALUES[1:] + VALUES[:-1]) / 2


class Layout(NamedTuple):
    """What tells both formats apart.

    Attributes:
        block: weights of a block.
        block_bytes: bytes of a block.
        plane: where the codes lie.
    """

    block: int
    block_bytes: int
    plane: Plane

    @property
    def scaled(self) -> bool:
        """Whether sub-blocks have scales of their own."""
        return self.block > SIZE


NL = Layout(32, 18, Plane(2, 16, 4, 0))
XS = Layout(256, 136, Plane(8, 16, 4, 0))


class Params(NamedTuple):
    """What is stored beside the codes.

    Attributes:
        d: float32 [rows, blocks], values of float16.
        scales: int8 [rows, columns // 32], from -32 to 31; 1 in IQ4_NL, where they are implied.
    """

    d: np.ndarray
    scales: np.ndarray


def cells() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each whole number from -128 to 127, the boundary that is nearest to the places from it
    to the next one, float32 [256], and the values below and above that boundary."""
    places = np.arange(-128, 128) + 0.5
    lower = abs(places[:, None] - BOUNDARIES).argmin(axis=1)
    return BOUNDARIES[lower], VALUES[lower], VALUES[lower + 1]


def grid(params: Params) -> Grid:
    """What the codes of each 32 weights stand for."""
    count = params.scales.shape[1] // max(params.d.shape[1], 1)
    step = np.repeat(params.d, count, axis=1) * params.scales
    return Grid(step, np.zeros_like(step), VALUES)


def fit(layout: Layout, x: Weights, importance: Importance) -> Params:
    """Scales of every block. Importance that is 0 throughout counts as none."""
    from qconvert.kernels import codebook

    rows, columns = x.shape
    d = np.empty((rows, columns // layout.block), np.float32)
    scales = np.ones((rows, columns // SIZE), np.int8)
    weights = np.empty(0, np.float32) if importance is None else importance
    weights = np.ascontiguousarray(weights, np.float32)
    shared = (x.reshape(-1), weights, max(columns, 1), *cells())
    if layout.scaled:
        codebook.fit_iq4_xs(*shared, *IQ4_XS_SEARCH, d.reshape(-1), scales.reshape(-1))
    else:
        trials, nudges = IQ4_NL_SEARCH
        codebook.fit_iq4_nl(*shared, trials, nudges, d.reshape(-1))
    return Params(d, scales)


def round_codes(layout: Layout, x: Weights, params: Params) -> np.ndarray:
    """The code of the nearest value, uint8 [rows, columns]."""
    from qconvert.kernels import codebook

    step = grid(params).step
    per_step = np.divide(1, step, out=np.zeros_like(step), where=step != 0).reshape(-1)
    codes = np.empty(x.shape, np.uint8)
    codebook.round_codebook(x.reshape(-1), per_step, SIZE, BOUNDARIES, codes.reshape(-1))
    return codes


def pack(layout: Layout, codes: np.ndarray, params: Params) -> Packed:
    """uint8 [rows, blocks * block_bytes]."""
    rows, blocks = params.d.shape
    out = np.empty((rows, blocks, layout.block_bytes), np.uint8)
    pack_planes((layout.plane,), codes, layout.block, out)
    out[..., :2] = params.d.astype("<f2")[..., None].view(np.uint8)
    if layout.scaled:
        scales = (params.scales + np.int8(32)).view(np.uint8).reshape(rows, blocks, 8)
        high = (scales >> np.uint8(4)).astype("<u2") << np.arange(0, 16, 2, dtype="<u2")
        out[..., 2:4] = np.bitwise_or.reduce(high, axis=-1, keepdims=True).view(np.uint8)
        low = scales & np.uint8(15)
        out[..., 4:8] = low[..., ::2] | low[..., 1::2] << np.uint8(4)
    return out.reshape(rows, blocks * layout.block_bytes)


def quantize(layout: Layout, x: Weights, importance: Importance) -> Packed:
    """Fit, round and pack, some rows at a time."""
    rows, columns = x.shape
    out = np.empty((rows, columns // layout.block * layout.block_bytes), np.uint8)
    step = max(CHUNK // max(columns, 1), 1)
    for start in range(0, rows, step):
        part = x[start : start + step]
        params = fit(layout, part, importance)
        out[start : start + step] = pack(layout, round_codes(layout, part, params), params)
    return out


def dequantize(layout: Layout, packed: Packed) -> Weights:
    """float32 [rows, columns], as ggml computes it."""
    rows = len(packed)
    blocks = packed.reshape(-1, layout.block_bytes)
    step = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    codes = unpack_planes((layout.plane,), blocks, layout.block).reshape(
        len(blocks), layout.block // SIZE, SIZE
    )
    with np.errstate(all="ignore"):
        if layout.scaled:
            step = step * unpack_scales(blocks)
        x: np.ndarray = step[..., None] * VALUES[codes]
    return x.reshape(rows, packed.shape[1] // layout.block_bytes * layout.block)


def unpack_scales(blocks: np.ndarray) -> np.ndarray:
    """The scales of IQ4_XS, float32 [blocks, 8], of its blocks, uint8 [blocks, 136]."""
    pairs = blocks[:, 4:8, None] >> np.array([0, 4], np.uint8)
    high = np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype="<u2")
    low = pairs.reshape(len(blocks), 8) & np.uint8(15)
    scales: np.ndarray = (low | ((high & 3) << 4)).astype(np.float32) - np.float32(32)
    return scales


def _format(name: str, layout: Layout) -> Format:
    return Format(
        name,
        quantize=partial(quantize, layout),
        dequantize=partial(dequantize, layout),
        fit=partial(fit, layout),
        round=partial(round_codes, layout),
        pack=partial(pack, layout),
        grid=grid,
    )


IQ4_NL = _format("IQ4_NL", NL)
IQ4_XS = _format("IQ4_XS", XS)
