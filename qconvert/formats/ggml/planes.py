"""Planes of bits: how ggml's formats spread codes of 2 to 8 bits over bytes.

A plane holds some bits of every code of a block. Its bytes are filled lowest bits first, from
codes that lie `width` apart, so that a processor unpacks a whole vector by one shift:

    byte l of a run = code l | code width + l << bits | code 2 width + l << 2 bits ...

and the next `width` bytes hold the next 8 // bits * width codes.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    """Where one group of bits of the codes lies.

    Attributes:
        offset: of its first byte in the block.
        width: bytes of a run, and the distance of the codes that share a byte: a multiple of 8,
            or 1 where `bits` is.
        bits: how many bits of each code it holds: 1, 2, 4 or 8.
        shift: which is the lowest of these in the code.
    """

    offset: int
    width: int
    bits: int
    shift: int


@dataclass(frozen=True)
class Planes:
    """All bits of the codes of a block."""

    planes: tuple[Plane, ...]

    def pack(self, codes: np.ndarray, out: np.ndarray) -> None:
        """Write codes, uint8 [rows, columns], into out, uint8 [rows, blocks, block_bytes]."""
        for plane in self.planes:
            packed = _pack(plane, codes)
            size = packed.size // max(out.shape[0] * out.shape[1], 1)
            target = field(out, plane.offset, size)
            target[...] = packed.reshape(-1).view(target.dtype).reshape(target.shape)

    def unpack(self, blocks: np.ndarray, block: int) -> np.ndarray:
        """Codes, uint8 [blocks, block], of blocks, uint8 [blocks, block_bytes]."""
        codes = np.zeros((len(blocks), block), np.uint8)
        for plane in self.planes:
            size = block * plane.bits // 8
            _unpack(plane, field(blocks, plane.offset, size).copy().view(np.uint8), codes)
        return codes


def field(blocks: np.ndarray, offset: int, size: int) -> np.ndarray:
    """A view of some bytes of each block as one item, [..., 1]: numpy copies it at a stroke."""
    return blocks[..., offset : offset + size].view(f"V{size}")


def _pack(plane: Plane, codes: np.ndarray) -> np.ndarray:
    """The bytes of a plane, all blocks end to end."""
    if plane.bits == 8:
        return codes
    if plane.width == 1:
        return np.packbits(codes & np.uint8(1 << plane.shift), bitorder="little")
    from qconvert.kernels.codes import pack_plane

    words = np.ascontiguousarray(codes).reshape(-1).view(np.uint64)
    packed = np.empty(words.size * plane.bits // 8, np.uint64)
    pack_plane(words, plane.width // 8, plane.bits, plane.shift, packed)
    return packed.view(np.uint8)


def _unpack(plane: Plane, raw: np.ndarray, codes: np.ndarray) -> None:
    """Add the bits of a plane, uint8 [blocks, bytes], to the codes."""
    if plane.bits == 8:
        codes[...] = raw
    elif plane.width == 1:
        ones = np.unpackbits(raw.reshape(-1), bitorder="little").reshape(codes.shape)
        codes |= ones * np.uint8(1 << plane.shift)
    else:
        from qconvert.kernels.codes import unpack_plane

        words = (raw.reshape(-1).view(np.uint64), codes.reshape(-1).view(np.uint64))
        unpack_plane(words[0], plane.width // 8, plane.bits, plane.shift, words[1])
