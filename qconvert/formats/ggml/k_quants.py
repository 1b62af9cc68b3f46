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

from qconvert.formats.ggml.planes import Plane, Planes
from qconvert.formats.ggml.scalar import Params, Scalar, get_half, put_half, rounded_by_steps
from qconvert.formats.ggml.searches import GRIDS, Search
from qconvert.formats.types import Seen, Weights, square_of

BLOCK = 256


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
    """

    size: int
    zero: int
    top: int
    limit: int
    d: int
    scales: int
    planes: tuple[Plane, ...]

    @property
    def minima(self) -> bool:
        return self.zero == 0

    @property
    def sub_blocks(self) -> int:
        """Sub-blocks of a super-block."""
        return BLOCK // self.size


LAYOUTS = {
    "Q2_K": Layout(16, 0, 3, 15, 80, 0, (Plane(16, 32, 2, 0),)),
    "Q3_K": Layout(16, 4, 7, 32, 108, 96, (Plane(32, 32, 2, 0), Plane(0, 32, 1, 2))),
    "Q4_K": Layout(32, 0, 15, 63, 0, 4, (Plane(16, 32, 4, 0),)),
    "Q5_K": Layout(32, 0, 31, 63, 0, 4, (Plane(48, 32, 4, 0), Plane(16, 32, 1, 4))),
    "Q6_K": Layout(16, 32, 63, 128, 208, 192, (Plane(0, 64, 4, 0), Plane(128, 32, 2, 4))),
}


def find(layout: Layout, search: Search, x: Weights, seen: Seen | None) -> Params:
    """Scales and minima of every sub-block, without what weights are rounded by: `nearest` makes
    that. Importance that is 0 throughout counts as none."""
    rows, columns = x.shape
    kind = np.uint8 if layout.minima else np.int8
    d, dmin = (np.empty((rows, columns // BLOCK), np.float32) for _ in range(2))
    scales, mins = (np.empty((rows, columns // layout.size), kind) for _ in range(2))
    shared = (x.reshape(-1), square_of(seen), max(columns, 1))
    flat = (d.reshape(-1), dmin.reshape(-1), scales.reshape(-1), mins.reshape(-1))
    if layout.minima:
        from qconvert.kernels.affine import fit_affine

        fit_affine(*shared, layout.size, layout.top, layout.limit, *search, *flat)
        return Params(d, dmin, scales, mins)
    from qconvert.kernels.symmetric import fit_symmetric

    fit_symmetric(*shared, layout.zero, layout.limit, *search, flat[0], flat[2])
    return Params(d, None, scales)


def nearest(layout: Layout, x: Weights, params: Params) -> np.ndarray:
    """The nearest code of each weight, uint8 [rows, columns]; `zero` where the step is 0."""
    from qconvert.kernels.codes import round_even

    params = rounded_by_steps(params)
    codes = np.empty(x.shape, np.uint8)
    shift = (params.low * params.per_step).reshape(-1)
    by = (params.per_step.reshape(-1), shift, layout.size, layout.zero, layout.top)
    round_even(x.reshape(-1), *by, codes.reshape(-1))
    return codes


def write(layout: Layout, params: Params, out: np.ndarray) -> None:
    put_half(out, layout.d, params.d)
    if params.dmin is not None:
        put_half(out, layout.d + 2, params.dmin)
    packed = pack_scales(layout, params, (*out.shape[:2], layout.sub_blocks))
    out[..., layout.scales : layout.scales + packed.shape[-1]] = packed


def read(layout: Layout, blocks: np.ndarray) -> Params:
    scales, mins = unpack_scales(layout, blocks)
    dmin = get_half(blocks, layout.d + 2) if layout.minima else None
    return Params(get_half(blocks, layout.d), dmin, scales, mins)


def pack_scales(layout: Layout, params: Params, shape: tuple[int, ...]) -> np.ndarray:
    """The bytes of scales and mins, `shape` [..., sub-blocks], as their format lays them out."""
    assert params.scales is not None
    scales = params.scales.reshape(shape)
    if params.mins is not None:
        mins = params.mins.reshape(shape)
        return scales | mins << np.uint8(4) if layout.limit == 15 else pack_six_bits(scales, mins)
    return pack_signed_six_bits(scales) if layout.limit == 32 else scales.view(np.uint8)


def unpack_scales(layout: Layout, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Scales and mins of blocks, uint8 [blocks, block_bytes], as integers [blocks, sub-blocks]."""
    raw = np.ascontiguousarray(blocks[:, layout.scales : layout.scales + 16])
    if layout.limit == 15:
        return raw & np.uint8(15), raw >> np.uint8(4)
    if layout.limit == 63:
        return unpack_six_bits(raw[:, :12])
    return unpack_signed_six_bits(raw[:, :12]) if layout.limit == 32 else raw.view(np.int8), None


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


def _format(name: str) -> Scalar:
    layout = LAYOUTS[name]
    return Scalar(
        name,
        size=layout.size,
        values=tuple(range(-layout.zero, layout.top + 1 - layout.zero)),
        codes=Planes(layout.planes),
        find=partial(find, layout, GRIDS[name]),
        nearest=partial(nearest, layout),
        write=partial(write, layout),
        read=partial(read, layout),
        limits=(0, layout.limit) if layout.minima else (-layout.limit, layout.limit - 1),
    )


Q2_K = _format("Q2_K")
Q3_K = _format("Q3_K")
Q4_K = _format("Q4_K")
Q5_K = _format("Q5_K")
Q6_K = _format("Q6_K")
