"""ggml's 2-bit IQ formats: points of eight weights, with signs beside them.

    IQ2_XXS  d:2 | 8 times (points:4, signs and l:4)      l for 32 weights
    IQ2_XS   d:2 | points and signs:64 | l:8              l for 16 weights
    IQ2_S    d:2 | points:32 | signs:32 | high:8 | l:8    l for 16 weights

    x = d / 8 * (2 l + 1) * sign * point

d is float16; an l has four bits. IQ2_XXS has 256 points and, for every 32 weights, four times seven
bits of signs, whose eighth makes their product positive, below the l. IQ2_XS has 512 points, and
such seven bits above the nine of each. IQ2_S has 1024 points, the ninth and tenth bits of which
fill a byte of `high` for every 32 weights, and a byte of signs for every eight.

Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

import numpy as np

from qconvert.formats.ggml.lattice import (
    Lattice,
    Layout,
    Params,
    as_bytes,
    float16_bytes,
    from_nibbles,
    halves,
    nibbles,
    seven_signs,
    values,
    with_eighth_sign,
    with_parity,
)

LEVELS = (1, 3.125, 5.375)
XXS = Layout("IQ2_XXS", 8, 2, LEVELS, 32, 16, 2, 32)
XS = Layout("IQ2_XS", 8, 2, LEVELS, 16, 16, 2, 32)
S = Layout("IQ2_S", 8, 2, LEVELS, 16, 16, 1, 32)

_PAIRS = np.arange(0, 8, 2, dtype=np.uint8)


def scales_of(d: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 [blocks, sub-blocks] of the bytes of d and the l."""
    step = halves(d, 0, 2).view("<f2").astype(np.float32)
    scale: np.ndarray = step * (np.float32(0.5) + scales.astype(np.float32)) * np.float32(0.25)
    return scale


def pack_xxs(params: Params) -> np.ndarray:
    """uint8 [blocks, 66]."""
    points = np.ascontiguousarray(params.points.astype(np.uint8)).view("<u4")
    words = seven_signs(params.signs) | params.scales.astype(np.uint32) << 28
    pairs = as_bytes(np.stack([points, words], axis=2).reshape(len(points), -1), "<u4")
    return np.hstack([float16_bytes(params.d), pairs])


def unpack_xxs(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    pairs = np.ascontiguousarray(blocks[:, 2:]).view("<u4").reshape(len(blocks), 8, 2)
    points = np.ascontiguousarray(pairs[..., 0]).view(np.uint8)
    words = pairs[..., 1]
    return values(XXS.name, scales_of(blocks, words >> 28), points, with_eighth_sign(words))


def pack_xs(params: Params) -> np.ndarray:
    """uint8 [blocks, 74]."""
    words = params.points | (params.signs & np.uint8(127)).astype(np.uint16) << 9
    return np.hstack([float16_bytes(params.d), as_bytes(words, "<u2"), nibbles(params.scales)])


def unpack_xs(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    words = halves(blocks, 2, 66)
    scale = scales_of(blocks, from_nibbles(blocks[:, 66:]))
    return values(XS.name, scale, words & 511, with_parity((words >> 9).astype(np.uint8)))


def pack_s(params: Params) -> np.ndarray:
    """uint8 [blocks, 82]."""
    low = params.points.astype(np.uint8)
    high = (params.points >> 8).astype(np.uint8).reshape(len(low), 8, 4) << _PAIRS
    high = np.bitwise_or.reduce(high, axis=2)
    return np.hstack([float16_bytes(params.d), low, params.signs, high, nibbles(params.scales)])


def unpack_s(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    high = (blocks[:, 66:74, None] >> _PAIRS & np.uint8(3)).astype(np.uint16)
    points = blocks[:, 2:34] | high.reshape(len(blocks), 32) << 8
    scale = scales_of(blocks, from_nibbles(blocks[:, 74:]))
    return values(S.name, scale, points, blocks[:, 34:66])


IQ2_XXS = Lattice(XXS, pack_xxs, unpack_xxs)
IQ2_XS = Lattice(XS, pack_xs, unpack_xs)
IQ2_S = Lattice(S, pack_s, unpack_s)
