"""Planes of bits: how K and IQ formats spread codes of 2 to 6 bits over bytes.

A plane holds some bits of every code of a block. Its bytes are filled lowest bits first, from
codes that lie `width` apart, so that a processor unpacks a whole vector by one shift:

    byte l of a run = code l | code width + l << bits | code 2 width + l << 2 bits ...

and the next `width` bytes hold the next 8 // bits * width codes.
"""

from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    """Where one group of bits of the codes lies.

    Attributes:
        offset: of its first byte in the block.
        width: bytes of a run, and the distance of the codes that share a byte.
        bits: how many bits of each code it holds: 1, 2 or 4.
        shift: which is the lowest of these in the code.
    """

    offset: int
    width: int
    bits: int
    shift: int


def pack_planes(planes: tuple[Plane, ...], codes: np.ndarray, block: int, out: np.ndarray) -> None:
    """Write codes, uint8 [rows, columns], into out, uint8 [rows, blocks, block_bytes]."""
    from qconvert.kernels.codes import pack_plane

    words = np.ascontiguousarray(codes).reshape(-1).view(np.uint64)
    for plane in planes:
        size = block * plane.bits // 8
        packed = np.empty(words.size * plane.bits // 8, np.uint64)
        pack_plane(words, plane.width // 8, plane.bits, plane.shift, packed)
        target = out[..., plane.offset : plane.offset + size]
        target[...] = packed.view(np.uint8).reshape(target.shape)


def unpack_planes(planes: tuple[Plane, ...], blocks: np.ndarray, block: int) -> np.ndarray:
    """Codes, uint8 [blocks, block], of blocks, uint8 [blocks, block_bytes]."""
    codes = np.zeros((len(blocks), block), np.uint8)
    for plane in planes:
        count = 8 // plane.bits
        number = block // (count * plane.width)
        runs = codes.reshape(len(blocks), number, count, plane.width)
        raw = blocks[:, plane.offset : plane.offset + number * plane.width]
        raw = raw.reshape(len(blocks), number, plane.width)
        mask = np.uint8((1 << plane.bits) - 1)
        for i in range(count):
            part = (raw >> np.uint8(plane.bits * i)) & mask
            runs[:, :, i] |= part << np.uint8(plane.shift)
    return codes
