"""ggml's 3-bit IQ formats: points of four weights, with signs beside them.

    IQ3_XXS  d:2 | points:64 | signs and l:32             x = d / 4 * (2 l + 1) * sign * point
    IQ3_S    d:2 | points:64 | high:8 | signs:32 | l:4    x = d * (2 l + 1) * sign * point

d is float16; l has four bits for every 32 weights. IQ3_XXS has 256 points and, for every 32
weights, four times seven bits of signs, whose eighth makes their product positive, below the l.
IQ3_S has 512 points, the ninth bits of which fill a byte of `high` for every 32 weights, and a
byte of signs for every eight.

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
)

XXS = Layout("IQ3_XXS", 4, 3, (1, 3, 5, 7, 9, 11, 13, 15.5), 32, 16, 2, 16)
S = Layout("IQ3_S", 4, 3, (1, 3, 5, 7, 9, 11, 13, 15), 32, 16, 1, 16)


def pack_xxs(params: Params) -> np.ndarray:
    """uint8 [blocks, 98]."""
    words = as_bytes(seven_signs(params.signs) | params.scales.astype(np.uint32) << 28, "<u4")
    return np.hstack([float16_bytes(params.d), params.points.astype(np.uint8), words])


def unpack_xxs(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    d = halves(blocks, 0, 2).view("<f2").astype(np.float32)
    words = np.ascontiguousarray(blocks[:, 66:]).view("<u4")
    scale = d * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.5)
    return values(XXS.name, scale, blocks[:, 2:66], with_eighth_sign(words))


def pack_s(params: Params) -> np.ndarray:
    """uint8 [blocks, 110]."""
    high = np.packbits(params.points >> 8, axis=1, bitorder="little")
    low = params.points.astype(np.uint8)
    return np.hstack([float16_bytes(params.d), low, high, params.signs, nibbles(params.scales)])


def unpack_s(blocks: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256]."""
    d = halves(blocks, 0, 2).view("<f2").astype(np.float32)
    scale = d * (1 + 2 * from_nibbles(blocks[:, 106:]).astype(np.float32))
    high = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little").astype(np.uint16)
    return values(S.name, scale, blocks[:, 2:66] | high << 8, blocks[:, 74:106])


IQ3_XXS = Lattice(XXS, pack_xxs, unpack_xxs)
IQ3_S = Lattice(S, pack_s, unpack_s)
