"""What ggml's IQ1, IQ2 and IQ3 formats share: weights coded by points of a grid.

    x = scale * sign * point     groups of 4 or 8 weights, super-blocks of 256

A group takes one of 256 to 2048 points, which are not all combinations of their levels; the scale
is that of a sub-block of 16 or 32 weights, an odd multiple 2 l + 1 of the super-block's d. Points,
scales and signs are found together (`qconvert.kernels.lattice`): `fit` does it all.

The searches make the weighted squared error small: importance times the square of the error of
every weight, or the plain square without importance.
Source: ggml/src/ggml-common.h, ggml-quants.c; the points are those of the gguf package.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import gguf
import numpy as np

from qconvert.formats.ggml.scalar import CHUNK, parts_of
from qconvert.formats.ggml.searches import lattice
from qconvert.formats.types import (
    Arrays,
    Coded,
    Part,
    Seen,
    Units,
    Weights,
    block_sizes,
    square_of,
)

BLOCK = 256

FEW = 16
"""Points of a list that are tried at first; as many as the kernel has lanes."""

SEVENS = np.arange(0, 28, 7, dtype=np.uint32)


class Layout(NamedTuple):
    """What tells the formats apart.

    Attributes:
        name: ggml's.
        dims: weights of a point.
        bits: of a digit, which stands for a level of a point.
        levels: the values of digits, where scale is d * (2 l + 1).
        size: weights of a sub-block.
        reach: number of l.
        signs: 0 where levels have signs, 1 for signs of their own, 2 where those of eight weights
            multiply to plus.
        shifts: what may be added to all levels of a group; chosen by a bit.
        together: whether all groups of a sub-block share that choice.
        listed: points near a combination of levels that the search considers.
    """

    name: str
    dims: int
    bits: int
    levels: tuple[float, ...]
    size: int
    reach: int
    signs: int
    listed: int
    shifts: tuple[float, ...] = (0,)
    together: bool = False

    @property
    def groups(self) -> int:
        """Points of a super-block."""
        return BLOCK // self.dims


class Params(NamedTuple):
    """Super-blocks.

    Attributes:
        d: float32 [blocks], values of float16.
        scales: uint8 [blocks, 256 // size], the l.
        points: uint16 [blocks, groups], places in the grid.
        signs: uint8 [blocks, 32], set bits for negative weights, the first one's lowest.
        shifts: uint8 [blocks, groups], which shift each group has.
    """

    d: np.ndarray
    scales: np.ndarray
    points: np.ndarray
    signs: np.ndarray
    shifts: np.ndarray


@cache
def grid(name: str) -> np.ndarray:
    """The points of a format as gguf has them, float32 [points, dims]."""
    quants = getattr(gguf.quants, name)
    quants.init_grid()
    points: np.ndarray = np.asarray(quants.grid, np.float32).reshape(quants.grid_shape)
    return points


@cache
def digits(name: str) -> np.ndarray:
    """The points as places of their levels, int32 [points, dims]."""
    points = grid(name)
    found: np.ndarray = np.searchsorted(np.unique(points), points).astype(np.int32)
    return found


def packed_digits(layout: Layout) -> np.ndarray:
    """The digits of each point in one number, the first lowest, int32 [points]."""
    shifted = digits(layout.name) << layout.bits * np.arange(layout.dims)
    packed: np.ndarray = shifted.sum(axis=1)
    return packed


@cache
def near(layout: Layout) -> np.ndarray:
    """For each combination of digits, the points nearest to it, nearest first.

    uint16 [combinations * count], as packed digits; the first digit of a combination counts least.
    """
    points = digits(layout.name)
    levels = len(layout.levels)
    combinations = np.arange(levels**layout.dims)[:, None] // levels ** np.arange(layout.dims)
    combinations = combinations % levels
    lengths = np.square(points).sum(axis=1)
    codes = packed_digits(layout).astype(np.uint16)
    found = np.empty((len(combinations), layout.listed), np.uint16)
    step = 512
    for start in range(0, len(combinations), step):
        part = combinations[start : start + step].astype(np.float32)
        distance = lengths - 2 * (part @ points.T.astype(np.float32)).astype(np.int32)
        # With its place as the last digits, every distance is another one, and ties are settled.
        keys = distance * len(points) + np.arange(len(points), dtype=np.int32)
        nearest = np.partition(keys, layout.listed - 1, axis=1)[:, : layout.listed]
        found[start : start + step] = codes[np.sort(nearest, axis=1) % len(points)]
    return found.reshape(-1)


@cache
def places(layout: Layout) -> np.ndarray:
    """The place in the grid of a point by its packed digits, uint16."""
    found = np.zeros(1 << layout.bits * layout.dims, np.uint16)
    codes = packed_digits(layout)
    found[codes] = np.arange(len(codes))
    return found


@cache
def sign_table() -> np.ndarray:
    """The signs that a byte stands for, float32 [256, 8]."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    signs: np.ndarray = np.float32(1) - 2 * bits.astype(np.float32)
    return signs


def find(layout: Layout, x: Weights, seen: Seen | None) -> Params:
    """Find the super-blocks of x, float32 [rows, columns]. Importance that is 0 throughout counts
    as none."""
    from qconvert.kernels.lattice import fit_lattice
    from qconvert.kernels.lattice_points import REALS, WHOLES

    blocks = x.size // BLOCK
    params = Params(
        np.empty(blocks, np.float32),
        np.empty((blocks, BLOCK // layout.size), np.uint8),
        np.empty((blocks, layout.groups), np.uint16),
        np.zeros((blocks, BLOCK // 8), np.uint8),
        np.empty((blocks, layout.groups), np.uint8),
    )
    lists = len(layout.shifts)
    counts = (layout.dims, layout.bits, len(layout.levels), layout.listed, FEW)
    fit_lattice(
        x.reshape(-1),
        square_of(seen),
        max(x.shape[1], 1),
        near(layout),
        (*counts, layout.size, layout.reach, layout.signs, lists, lists if layout.together else 1),
        reals(layout),
        lattice(layout.levels[-1], layout.reach),
        np.zeros(REALS, np.float32),
        np.zeros(BLOCK, np.float32),
        np.zeros(WHOLES, np.int32),
        *(part.reshape(-1) for part in params),
    )
    return params._replace(points=places(layout)[params.points])


def reals(layout: Layout) -> tuple[np.float32, ...]:
    """What the kernels make levels of: low, step, bump and shift of their `Grid`."""
    first, last = layout.levels[0], layout.levels[-1]
    step, shifts = layout.levels[1] - first, layout.shifts
    bump = last - layout.levels[-2] - step
    return tuple(map(np.float32, (first + shifts[0], step, bump, shifts[-1] - shifts[0])))


def halves(blocks: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Bytes of all blocks as little-endian uint16."""
    return np.ascontiguousarray(blocks[:, start:stop]).view("<u2")


def as_bytes(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers [blocks, n] as the bytes of a numpy type, uint8 [blocks, n * size]."""
    return np.ascontiguousarray(values.astype(kind)).view(np.uint8)


def float16_bytes(d: np.ndarray) -> np.ndarray:
    """d as it is stored, uint8 [blocks, 2]."""
    return as_bytes(d[:, None], "<f2")


def nibbles(scales: np.ndarray) -> np.ndarray:
    """Two of four bits in a byte, the first one lower."""
    packed: np.ndarray = scales[:, ::2] | scales[:, 1::2] << np.uint8(4)
    return packed


def from_nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 [blocks, 2 n] of uint8 [blocks, n]."""
    pairs = packed[..., None] >> np.array([0, 4], np.uint8) & np.uint8(15)
    scales: np.ndarray = pairs.reshape(len(packed), -1)
    return scales


def seven_signs(signs: np.ndarray) -> np.ndarray:
    """Seven bits of each of four bytes in a row, uint32 [blocks, 8] of uint8 [blocks, 32]."""
    fields = (signs & np.uint8(127)).astype(np.uint32).reshape(-1, 8, 4) << SEVENS
    packed: np.ndarray = np.bitwise_or.reduce(fields, axis=2)
    return packed


def with_eighth_sign(words: np.ndarray) -> np.ndarray:
    """Bytes of signs, uint8 [blocks, 32], of their lower seven bits in words [blocks, 8]."""
    fields = (words[..., None] >> SEVENS & np.uint32(127)).astype(np.uint8)
    return with_parity(fields.reshape(len(words), -1))


def with_parity(fields: np.ndarray) -> np.ndarray:
    """Bytes of signs of their lower seven bits: the eighth makes the number of ones even."""
    folded = fields ^ fields >> np.uint8(4)
    folded = folded ^ folded >> np.uint8(2)
    folded = folded ^ folded >> np.uint8(1)
    signs: np.ndarray = fields | folded << np.uint8(7)
    return signs


def values(name: str, scale: np.ndarray, points: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """float32 [blocks, 256] of points with signs, as ggml computes it.

    scale: float32 [blocks, sub-blocks]; points: [blocks, groups]; signs: uint8 [blocks, 32].
    """
    blocks, subs = scale.shape
    levels = grid(name)[points].reshape(blocks, subs, -1)
    x = (scale[..., None] * levels).reshape(blocks, -1, 8)
    x *= sign_table()[signs]
    weights: np.ndarray = x.reshape(blocks, BLOCK)
    return weights


@dataclass(frozen=True)
class Lattice:
    """A format of grid points.

    Attributes:
        write: uint8 [blocks, block_bytes] of params.
        read: float32 [blocks, 256] of these, as ggml computes it.
    """

    layout: Layout
    write: Callable[[Params], np.ndarray]
    read: Callable[[np.ndarray], np.ndarray]

    row_step = 1
    needs_peak = False
    chunk = CHUNK

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        return parts_of(self.layout.name, shape)

    def span(self, columns: int) -> int:
        return BLOCK

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        return find(self.layout, x, seen)

    def join(self, params: Sequence[Params]) -> Params:
        """Each of the params has one super-block of every row."""
        fields = (np.stack(of, axis=1) for of in zip(*params, strict=True))
        return Params(*(of.reshape(-1, *of.shape[2:]) for of in fields))

    def grid(self, params: Params) -> None:
        return None

    def units(self, params: Params) -> None:
        return None

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        return params

    def round(self, x: Weights, params: Params) -> np.ndarray:
        return params.points.reshape(len(x), -1)

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        packed = self.write(params._replace(points=codes.reshape(params.points.shape)))
        return (packed.reshape(len(codes), -1),)

    def feed(
        self, w: Weights, factor: np.ndarray, params: Params
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from qconvert.kernels.lattice_feedback import round_points_with_feedback

        layout = self.layout
        x = np.ascontiguousarray(w.T)
        scales = params.d[:, None] * (2 * params.scales.astype(np.float32) + 1)
        points, signs = np.empty_like(params.points), np.zeros_like(params.signs)
        errors = np.empty_like(x)
        counts = (layout.dims, layout.bits, len(layout.levels), layout.listed)
        grid = (near(layout), (*counts, layout.size, layout.signs), reals(layout))
        found = (scales, params.shifts, points, signs, errors)
        round_points_with_feedback(x, factor, *grid, *found)
        made = np.hstack([places(layout)[points].view(np.uint8), signs])
        made, errors, x = (np.ascontiguousarray(of.T) for of in (made, errors, x))
        return made, errors, x

    def fed(self, made: np.ndarray, params: Params) -> Coded:
        points, signs = np.split(np.ascontiguousarray(made.T), [2 * self.layout.groups], axis=1)
        points = np.ascontiguousarray(points).view(np.uint16)
        return Coded(points, params._replace(points=points, signs=np.ascontiguousarray(signs)))

    def unpack(self, arrays: Arrays) -> None:
        return None

    def dequantize(self, arrays: Arrays) -> Weights:
        nbytes = block_sizes(self.layout.name)[1]
        blocks = np.ascontiguousarray(arrays[0]).reshape(-1, nbytes)
        with np.errstate(all="ignore"):
            x = self.read(blocks)
        return x.reshape(len(arrays[0]), arrays[0].shape[1] // nbytes * BLOCK)
