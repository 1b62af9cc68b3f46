"""ggml's K formats: super-blocks of 256 weights, whose sub-blocks have small integer scales.

    Q2_K   scales:16 | qs:64 | d:2 | dmin:2              x = d * scale * q - dmin * min
    Q3_K   hmask:32 | qs:64 | scales:12 | d:2            x = d * scale * (q - 4)
    Q4_K   d:2 | dmin:2 | scales:12 | qs:128             x = d * scale * q - dmin * min
    Q5_K   d:2 | dmin:2 | scales:12 | qh:32 | qs:128     x = d * scale * q - dmin * min
    Q6_K   ql:128 | qh:64 | scales:16 | d:2              x = d * scale * (q - 32)

d and dmin are float16. Sub-blocks have 16 weights, in Q4_K and Q5_K 32. A byte of Q2_K's scales
holds the scale in its lower half and the min in its upper one; Q6_K's are signed bytes; for the
12 bytes of the others see `pack_six_bits` and `pack_signed_six_bits`. The bits of the codes lie
in planes (`qconvert.formats.ggml.planes`).

The searches make the weighted squared error small: importance times the square of the error of
every weight, or the plain square without importance.
Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from qconvert.formats.ggml.planes import Plane, pack_planes, unpack_planes
from qconvert.formats.ggml.searches import GRIDS, Search
from qconvert.formats.types import Format, Grid, Importance, Packed, Weights

BLOCK = 256
CHUNK = 1 << 18
"""Weights that `quantize` takes through all steps at a time, so that they stay in the cache."""


class Layout(NamedTuple):
    """What tells the K formats apart.

    Attributes:
        size: weights of a sub-block.
        zero: the code of 0 in formats without minima, where scales are signed; else 0.
        top: the highest code.
        limit: the highest scale (and min), or, where scales are signed, the lowest one negated.
        d: offset of d; dmin, where there is one, follows it.
        scales: offset of the packed scales.
        planes: where the bits of the codes lie.
        block_bytes: bytes of a super-block.
    """

    size: int
    zero: int
    top: int
    limit: int
    d: int
    scales: int
    planes: tuple[Plane, ...]
    block_bytes: int

    @property
    def minima(self) -> bool:
        return self.zero == 0

    @property
    def sub_blocks(self) -> int:
        """Sub-blocks of a super-block."""
        return BLOCK // self.size


LAYOUTS = {
    "Q2_K": Layout(16, 0, 3, 15, 80, 0, (Plane(16, 32, 2, 0),), 84),
    "Q3_K": Layout(16, 4, 7, 32, 108, 96, (Plane(32, 32, 2, 0), Plane(0, 32, 1, 2)), 110),
    "Q4_K": Layout(32, 0, 15, 63, 0, 4, (Plane(16, 32, 4, 0),), 144),
    "Q5_K": Layout(32, 0, 31, 63, 0, 4, (Plane(48, 32, 4, 0), Plane(16, 32, 1, 4)), 176),
    "Q6_K": Layout(16, 32, 63, 128, 208, 192, (Plane(0, 64, 4, 0), Plane(128, 32, 2, 4)), 210),
}


class Params(NamedTuple):
    """What is stored beside the codes.

    Attributes:
        d, dmin: float32 [rows, super-blocks], values of float16; dmin is 0 where there are no
            minima.
        scales, mins: [rows, sub-blocks], uint8, or int8 where scales are signed; mins are 0 where
            there are none.
    """

    d: np.ndarray
    dmin: np.ndarray
    scales: np.ndarray
    mins: np.ndarray


def grid(layout: Layout, params: Params) -> Grid:
    """What the codes of each sub-block stand for."""
    step = np.repeat(params.d, layout.sub_blocks, axis=1) * params.scales
    low = np.repeat(params.dmin, layout.sub_blocks, axis=1) * params.mins
    return Grid(step, low, np.arange(layout.top + 1, dtype=np.float32) - layout.zero)


def fit(layout: Layout, search: Search, x: Weights, importance: Importance) -> Params:
    """Scales and minima of every sub-block. Importance that is 0 throughout counts as none."""
    rows, columns = x.shape
    kind = np.uint8 if layout.minima else np.int8
    d = np.zeros((rows, columns // BLOCK), np.float32)
    scales = np.zeros((rows, columns // layout.size), kind)
    params = Params(d, np.zeros_like(d), scales, np.zeros_like(scales))
    weights = np.empty(0, np.float32) if importance is None else importance
    weights = np.ascontiguousarray(weights, np.float32)
    d, dmin, scales, mins = (array.reshape(-1) for array in params)
    shared = (x.reshape(-1), weights, max(columns, 1))
    if layout.minima:
        from qconvert.kernels.affine import fit_affine

        limits = (layout.size, layout.top, layout.limit)
        fit_affine(*shared, *limits, *search, d, dmin, scales, mins)
    else:
        from qconvert.kernels.symmetric import fit_symmetric

        fit_symmetric(*shared, layout.zero, layout.limit, *search, d, scales)
    return params


def round_codes(layout: Layout, x: Weights, params: Params) -> np.ndarray:
    """The nearest code of each weight, uint8 [rows, columns]; `zero` where the step is 0."""
    from qconvert.kernels.codes import round_even

    step, low, _ = grid(layout, params)
    per_step = np.divide(1, step, out=np.zeros_like(step), where=step != 0)
    codes = np.empty(x.shape, np.uint8)
    shift = (low * per_step).reshape(-1)
    round_even(
        x.reshape(-1),
        per_step.reshape(-1),
        shift,
        layout.size,
        layout.zero,
        layout.top,
        codes.reshape(-1),
    )
    return codes


def pack(layout: Layout, codes: np.ndarray, params: Params) -> Packed:
    """uint8 [rows, super-blocks * block_bytes]."""
    rows, blocks = params.d.shape
    out = np.empty((rows, blocks, layout.block_bytes), np.uint8)
    pack_planes(layout.planes, codes, BLOCK, out)
    out[..., layout.d : layout.d + 2] = _half(params.d)
    if layout.minima:
        out[..., layout.d + 2 : layout.d + 4] = _half(params.dmin)
    scales = params.scales.reshape(rows, blocks, layout.sub_blocks)
    packed = pack_scales(layout, scales, params.mins.reshape(scales.shape))
    out[..., layout.scales : layout.scales + packed.shape[-1]] = packed
    return out.reshape(rows, blocks * layout.block_bytes)


def quantize(layout: Layout, search: Search, x: Weights, importance: Importance) -> Packed:
    """Fit, round and pack, some rows at a time."""
    rows, columns = x.shape
    out = np.empty((rows, columns // BLOCK * layout.block_bytes), np.uint8)
    step = max(CHUNK // max(columns, 1), 1)
    for start in range(0, rows, step):
        part = x[start : start + step]
        params = fit(layout, search, part, importance)
        out[start : start + step] = pack(layout, round_codes(layout, part, params), params)
    return out


def dequantize(layout: Layout, packed: Packed) -> Weights:
    """float32 [rows, columns], as ggml computes it."""
    rows = len(packed)
    blocks = packed.reshape(-1, layout.block_bytes)
    d = _from_half(blocks, layout.d)
    scales, mins = unpack_scales(layout, blocks)
    codes = unpack_planes(layout.planes, blocks, BLOCK).reshape(
        len(blocks), layout.sub_blocks, layout.size
    )
    x: np.ndarray = codes.astype(np.float32)
    with np.errstate(all="ignore"):
        x -= np.float32(layout.zero)
        x *= (d * scales)[..., None]
        if layout.minima:
            x -= (_from_half(blocks, layout.d + 2) * mins)[..., None]
    return x.reshape(rows, packed.shape[1] // layout.block_bytes * BLOCK)


def pack_scales(layout: Layout, scales: np.ndarray, mins: np.ndarray) -> np.ndarray:
    """The bytes of scales and mins, [..., sub-blocks] each, as their format lays them out."""
    if layout.limit == 15:
        both: np.ndarray = scales | mins << np.uint8(4)
        return both
    if layout.limit == 63:
        return pack_six_bits(scales, mins)
    if layout.limit == 32:
        return pack_signed_six_bits(scales)
    return scales.view(np.uint8)


def unpack_scales(layout: Layout, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and mins of blocks, uint8 [blocks, block_bytes], as float32 [blocks, sub-blocks]."""
    raw = blocks[:, layout.scales :]
    if layout.limit == 15:
        scales, mins = raw[:, :16] & np.uint8(15), raw[:, :16] >> np.uint8(4)
    elif layout.limit == 63:
        scales, mins = unpack_six_bits(raw[:, :12])
    elif layout.limit == 32:
        scales = mins = unpack_signed_six_bits(raw[:, :12])
    else:
        scales = mins = np.ascontiguousarray(raw[:, :16]).view(np.int8)
    return scales.astype(np.float32), mins.astype(np.float32)


def pack_six_bits(scales: np.ndarray, mins: np.ndarray) -> np.ndarray:
    """Eight scales and eight mins of six bits, [..., 8] each, as 12 bytes.

    Bytes 0-3 hold scales 0-3, bytes 4-7 mins 0-3; their two upper bits are the upper bits of
    scales and mins 4-7, whose lower four share bytes 8-11, the scale's in the lower half.
    """
    low = np.concatenate([scales[..., :4], mins[..., :4]], axis=-1)
    high = np.concatenate([scales[..., 4:], mins[..., 4:]], axis=-1)
    shared = (scales[..., 4:] & np.uint8(15)) | (mins[..., 4:] << np.uint8(4))
    return np.concatenate([low | (high >> np.uint8(4) << np.uint8(6)), shared], axis=-1)


def unpack_six_bits(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `pack_six_bits`."""
    low = raw[..., :8] & np.uint8(63)
    upper = raw[..., :8] >> np.uint8(6) << np.uint8(4)
    scales = (raw[..., 8:] & np.uint8(15)) | upper[..., :4]
    mins = (raw[..., 8:] >> np.uint8(4)) | upper[..., 4:]
    return (
        np.concatenate([low[..., :4], scales], axis=-1),
        np.concatenate([low[..., 4:], mins], axis=-1),
    )


def pack_signed_six_bits(scales: np.ndarray) -> np.ndarray:
    """Sixteen scales from -32 to 31, int8 [..., 16], as 12 bytes.

    With 32 added: bytes 0-7 hold the lower four bits of scales 0-7, and above them those of
    8-15; byte 8 + j holds the upper two bits of scales j, j + 4, j + 8 and j + 12.
    """
    codes = (scales + np.int8(32)).view(np.uint8)
    low = (codes[..., :8] & np.uint8(15)) | (codes[..., 8:] << np.uint8(4))
    high = (codes >> np.uint8(4)).reshape(*codes.shape[:-1], 4, 4)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return np.concatenate([low, np.bitwise_or.reduce(high << shifts, axis=-2)], axis=-1)


def unpack_signed_six_bits(raw: np.ndarray) -> np.ndarray:
    """The inverse of `pack_signed_six_bits`."""
    low = np.concatenate([raw[..., :8] & np.uint8(15), raw[..., :8] >> np.uint8(4)], axis=-1)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = (raw[..., None, 8:] >> shifts) & np.uint8(3)
    codes: np.ndarray = low | (high.reshape(low.shape) << np.uint8(4))
    signed: np.ndarray = codes.view(np.int8) - np.int8(32)
    return signed


def _half(values: np.ndarray) -> np.ndarray:
    """The two bytes of each value as float16, [..., 2]."""
    return values.astype("<f2")[..., None].view(np.uint8)


def _from_half(blocks: np.ndarray, offset: int) -> np.ndarray:
    """The float16 at that offset of each block, as float32 [blocks, 1]."""
    raw = np.ascontiguousarray(blocks[:, offset : offset + 2])
    values: np.ndarray = raw.view("<f2").astype(np.float32)
    return values


def _format(name: str) -> Format:
    layout, search = LAYOUTS[name], GRIDS[name]
    return Format(
        name,
        quantize=partial(quantize, layout, search),
        dequantize=partial(dequantize, layout),
        fit=partial(fit, layout, search),
        round=partial(round_codes, layout),
        pack=partial(pack, layout),
        grid=partial(grid, layout),
    )


Q2_K = _format("Q2_K")
Q3_K = _format("Q3_K")
Q4_K = _format("Q4_K")
Q5_K = _format("Q5_K")
Q6_K = _format("Q6_K")
