"""ggml's 1-bit IQ formats: points of eight weights from -1, 0 and 1, shifted by an eighth.

    IQ1_S  d:2 | points:32 | high:16                 l and shift for 32 weights
    IQ1_M  points:32 | high:16 | l and d:8           l for 16 weights, shift for 8

    x = d * (2 l + 1) * (point + shift)

There are 2048 points; an l has three bits, and a shift one: set for -1/8, else +1/8. In IQ1_S, the
upper three bits of four points, the l and the shift fill 16 bits of `high`. In IQ1_M, the upper
three bits of a point and its shift fill four bits of `high`, and four l and four bits of d, the
lowest first, 16 bits. d is float16.

Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

import numpy as np

from qconvert.formats.ggml.lattice import (
    BLOCK,
    Lattice,
    Layout,
    Params,
    as_bytes,
    float16_bytes,
    grid,
    halves,
    nibbles,
)

SHIFTS = (0.125, -0.125)
S = Layout("IQ1_S", 8, 2, (-1, 0, 1), 32, 8, 0, 16, SHIFTS, True)
M = Layout("IQ1_M", 8, 2, (-1, 0, 1), 16, 8, 0, 16, SHIFTS)

_THREES = np.arange(0, 12, 3, dtype=np.uint16)
_FOURS = np.arange(0, 16, 4, dtype=np.uint16)


def shifted(scale: np.ndarray, points: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256].

    scale: float32 [blocks, sub-blocks]; points, negative: [blocks, 32], places and shift bits.
    """
    shift = np.array(SHIFTS, np.float32)[negative.astype(np.intp)]
    levels = grid(S.name)[points] + shift[..., None]
    x: np.ndarray = scale[..., None] * levels.reshape(*scale.shape, -1)
    return x.reshape(len(scale), BLOCK)


def pack_s(params: Params) -> np.ndarray:
    """uint8 [blocks, 50]."""
    high = (params.points >> 8).reshape(-1, 8, 4) << _THREES
    words = np.bitwise_or.reduce(high, axis=2) | params.scales.astype(np.uint16) << 12
    words |= params.shifts[:, ::4].astype(np.uint16) << 15
    low = params.points.astype(np.uint8)
    return np.hstack([float16_bytes(params.d), low, as_bytes(words, "<u2")])


def unpack_s(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    d = halves(blocks, 0, 2).view("<f2").astype(np.float32)
    words = halves(blocks, 34, 50)
    scale = d * (2 * (words >> 12 & 7) + 1).astype(np.float32)
    high = (words[..., None] >> _THREES & 7).reshape(len(blocks), 32)
    return shifted(scale, blocks[:, 2:34] | high << 8, (words >> 15).repeat(4, axis=1))


def pack_m(params: Params) -> np.ndarray:
    """uint8 [blocks, 56]."""
    high = nibbles((params.points >> 8).astype(np.uint8) | params.shifts << np.uint8(3))
    words = params.scales.astype(np.uint16).reshape(-1, 4, 4) << _THREES
    d = halves(float16_bytes(params.d), 0, 2)
    words = np.bitwise_or.reduce(words, axis=2) | (d >> _FOURS & 15) << 12
    return np.hstack([params.points.astype(np.uint8), high, as_bytes(words, "<u2")])


def unpack_m(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    words = halves(blocks, 48, 56)
    bits = np.bitwise_or.reduce(words >> 12 << _FOURS, axis=1, keepdims=True)
    scales = (words[..., None] >> _THREES & 7).reshape(len(blocks), 16)
    scale = bits.astype("<u2").view("<f2").astype(np.float32) * (2 * scales + 1).astype(np.float32)
    high = (blocks[:, 32:48, None] >> np.array([0, 4], np.uint8) & 15).reshape(len(blocks), 32)
    points = blocks[:, :32] | (high & 7).astype(np.uint16) << 8
    return shifted(scale, points, high >> 3)


IQ1_S = Lattice(S, pack_s, unpack_s)
IQ1_M = Lattice(M, pack_m, unpack_m)
