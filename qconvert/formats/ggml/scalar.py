"""ggml's formats whose weights have a code each: x = step * value[code] - low.

Weights lie in blocks, each with a scale d, some with a dmin, by which their minima are counted;
where a block has sub-blocks, small integers beside these multiply them:

    step = d * scale        low = dmin * min

What tells the formats apart is where fields and codes lie, how scales are found and how weights
are rounded; the rest is here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from qconvert.errors import PlanError
from qconvert.formats.types import (
    Arrays,
    Coded,
    Grid,
    Part,
    Seen,
    Units,
    Weights,
    block_sizes,
)

CHUNK = 1 << 18


class Params(NamedTuple):
    """What is stored beside the codes, and what weights are rounded by.

    Attributes:
        d, dmin: float32 [rows, blocks], as they are stored; no dmin in formats without minima.
        scales, mins: int8 or uint8 [rows, sub-blocks]; none where a block has one step.
        per_step, low: float32 [rows, groups]: a weight is rounded after `low` is added and it
            is multiplied with `per_step`. About the grid's low and 1 / step: ggml rounds some
            formats by what it had before that was narrowed.
    """

    d: np.ndarray
    dmin: np.ndarray | None = None
    scales: np.ndarray | None = None
    mins: np.ndarray | None = None
    per_step: np.ndarray = np.empty(0, np.float32)
    low: np.ndarray = np.empty(0, np.float32)


class Codes(Protocol):
    """Where the codes of blocks lie."""

    def pack(self, codes: np.ndarray, out: np.ndarray) -> None: ...

    def unpack(self, blocks: np.ndarray, block: int) -> np.ndarray: ...


def parts_of(name: str, shape: tuple[int, int]) -> tuple[Part, ...]:
    """The one array of bytes that a weight becomes in a type of ggml's.

    Raises:
        PlanError: the blocks do not divide the columns.
    """
    rows, columns = shape
    block, nbytes = block_sizes(name)
    if columns % block:
        raise PlanError(f"blocks of {block} do not divide rows of {columns} weights")
    width = columns // block * nbytes
    return (Part("weight", (rows, width), "U8", rows * width, True),)


def per_group(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Values of blocks [rows, blocks] as those of their groups, of the shape of `like`."""
    return np.repeat(values, like.shape[1] // max(values.shape[1], 1), axis=1)


def steps(params: Params) -> tuple[np.ndarray, np.ndarray]:
    """step and low, float32 [rows, groups]."""
    step, low = params.d, params.dmin
    if params.scales is not None:
        step = per_group(step, params.scales) * params.scales
    if low is not None and params.mins is not None:
        low = per_group(low, params.mins) * params.mins
    return step, np.zeros_like(step) if low is None else low


def rounded_by_steps(params: Params) -> Params:
    """The params with what rounds to the nearest value."""
    step, low = steps(params)
    return params._replace(per_step=inverse(step), low=low)


def inverse(step: np.ndarray) -> np.ndarray:
    """1 / step, and 0 for 0."""
    with np.errstate(over="ignore", divide="ignore"):
        return np.asarray(np.where(step != 0, np.float32(1) / step, np.float32(0)))


def half_bits(values: np.ndarray) -> np.ndarray:
    """float32 as the bits of float16, uint16."""
    from qconvert.kernels import floats

    bits = np.empty(values.shape, np.uint16)
    floats.float_to_half(np.ascontiguousarray(values).reshape(-1), bits.reshape(-1))
    return bits


def half(values: np.ndarray) -> np.ndarray:
    """float32 as float16 gives it back."""
    from qconvert.kernels import floats

    back = np.empty(values.shape, np.float32)
    floats.half_to_float(half_bits(values).reshape(-1), back.reshape(-1))
    return back


def put_half(out: np.ndarray, offset: int, values: np.ndarray) -> None:
    """Write values [rows, blocks] as float16 into blocks, uint8 [rows, blocks, block_bytes]."""
    out[..., offset : offset + 2].view("<u2")[..., 0] = half_bits(values)


def get_half(blocks: np.ndarray, offset: int) -> np.ndarray:
    """The float16 at that offset of each block, as float32 [blocks, 1]."""
    return blocks[:, offset : offset + 2].view("<f2").astype(np.float32)


@dataclass(frozen=True)
class Scalar:
    """A format of ggml's.

    Attributes:
        name: ggml's, "Q4_K".
        size: weights that share a step.
        values: what the codes stand for, from `first` on.
        codes: where they lie.
        find: (x, seen) -> params.
        nearest: (x, params) -> codes.
        write: (params, out), beside the codes, into uint8 [rows, blocks, block_bytes].
        read: what `write` wrote, of uint8 [blocks, block_bytes], as params [blocks, ...].
        limits: the least and the greatest scale; a min is from 0 to the greatest.
        unit_dtype: of d and dmin, as `Units` has it.
    """

    name: str
    size: int
    values: tuple[float, ...]
    codes: Codes
    find: Callable[[Weights, Seen | None], Params]
    nearest: Callable[[Weights, Params], np.ndarray]
    write: Callable[[Params, np.ndarray], None]
    read: Callable[[np.ndarray], Params]
    limits: tuple[int, int] = (1, 1)
    first: int = 0
    unit_dtype: str = "F16"

    row_step = 1
    needs_peak = False
    chunk = CHUNK

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        return parts_of(self.name, shape)

    def span(self, columns: int) -> int:
        return block_sizes(self.name)[0]

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        return self.find(x, seen)

    def join(self, params: Sequence[Params]) -> Params:
        joined: list[Any] = [
            None if of[0] is None else np.hstack(of) for of in zip(*params, strict=True)
        ]
        return Params(*joined)

    def grid(self, params: Params) -> Grid:
        values = np.array(self.values, np.float32)
        return Grid(*steps(params), values, self.size, self.first)

    def units(self, params: Params) -> tuple[Units, Units | None]:
        step = Units(params.d, params.scales, self.limits, self.unit_dtype)
        if params.dmin is None:
            return step, None
        return step, Units(params.dmin, params.mins, (0, self.limits[1]), self.unit_dtype)

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        assert step.unit is not None
        if low is None:
            return rounded_by_steps(Params(step.unit, None, step.whole))
        return rounded_by_steps(Params(step.unit, low.unit, step.whole, low.whole))

    def round(self, x: Weights, params: Params) -> np.ndarray:
        return self.nearest(x, params)

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        ((_, shape, *_),) = self.parts((codes.shape[0], codes.shape[1]))
        out = np.empty(shape, np.uint8)
        blocks = out.reshape(*params.d.shape, block_sizes(self.name)[1])
        self.codes.pack(codes.view(np.uint8), blocks)
        self.write(params, blocks)
        return (out,)

    def unpack(self, arrays: Arrays) -> Coded:
        packed = arrays[0]
        block, nbytes = block_sizes(self.name)
        blocks = np.ascontiguousarray(packed).reshape(-1, nbytes)
        with np.errstate(all="ignore"):
            read = self.read(blocks)
        rows = len(packed)

        def by_row(of: np.ndarray | None) -> np.ndarray | None:
            return None if of is None else of.reshape(rows, -1)

        codes = self.codes.unpack(blocks, block).reshape(rows, -1)
        kind = np.int8 if self.first < 0 else np.uint8
        rest = by_row(read.dmin), by_row(read.scales), by_row(read.mins)
        params = rounded_by_steps(Params(read.d.reshape(rows, -1), *rest))
        return Coded(codes.view(kind), params)

    def dequantize(self, arrays: Arrays) -> Weights:
        from qconvert.kernels.codes import spread

        packed = arrays[0]
        block, nbytes = block_sizes(self.name)
        blocks = packed.reshape(-1, nbytes)
        x = np.empty((len(blocks), block), np.float32)
        step = CHUNK // block
        for start in range(0, len(blocks), step):
            some = blocks[start : start + step]
            with np.errstate(all="ignore"):
                grid = self.grid(self.read(some))
            codes = self.codes.unpack(some, block).reshape(-1)
            flat = (grid.step.reshape(-1), grid.low.reshape(-1), grid.values)
            spread(codes, self.first, *flat, self.size, x[start : start + step].reshape(-1))
        return x.reshape(len(packed), packed.shape[1] // nbytes * block)
