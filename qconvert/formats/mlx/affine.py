"""Weights as integers of 2 to 8 bits in groups, MLX's mode "affine": x' = scale * code + bias.

    weight   u32 [O, I * bits / 32]   codes from 0 on, a dense stream of bits, lowest bits first
    scales   S [O, I / group]         S is the model's own dtype
    biases   S [O, I / group]

MLX's own choice puts the weight of largest magnitude exactly on a code, and zero too where the
range holds it: scales are negative where that weight is positive. Codes follow from scale and bias
before these are narrowed. With `searched` the pair with the least (weighted) squared error is
looked for among those that can be stored.
Source: MLX, `mlx.core.quantize` and `mlx.core.dequantize`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.errors import PlanError, UnsupportedError
from qconvert.formats.mlx.candidates import MOVES, NUDGES, trials
from qconvert.formats.safetensors import packing
from qconvert.formats.safetensors.scales import ITEM_BYTES, read, rounded, stored
from qconvert.formats.safetensors.types import ScaleDtype
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights, square_of

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (128, 64, 32)

_LEAST_SCALE = np.float32(1e-7)
_DTYPES = {"F32": 0, "F16": 1, "BF16": 2}


@dataclass(frozen=True)
class Params:
    """What codes are multiplied with and shifted by, float32 [rows, groups].

    Attributes:
        scale, bias: as they are stored.
        exact: scale and bias by which weights are rounded; None for those that are stored.
    """

    scale: np.ndarray
    bias: np.ndarray
    exact: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Affine:
    """A `Format`.

    Attributes:
        searched: look for better scales than MLX's own.

    Raises:
        UnsupportedError: MLX has no such format.
    """

    bits: int
    group_size: int
    scale_dtype: ScaleDtype
    searched: bool = False

    row_step = 1
    chunk = 0
    needs_peak = False

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.group_size not in GROUP_SIZES:
            raise UnsupportedError(
                f"MLX has no {self.bits} bits in groups of {self.group_size}",
                f"bits: {', '.join(map(str, BITS))}; groups: {', '.join(map(str, GROUP_SIZES))}",
            )

    @property
    def top(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        width, groups = columns * self.bits // 32, columns // self.span(columns)
        size = rows * groups * ITEM_BYTES[self.scale_dtype]
        return (
            Part("weight", (rows, width), "U32", 4 * rows * width, True),
            Part("scales", (rows, groups), self.scale_dtype, size, True),
            Part("biases", (rows, groups), self.scale_dtype, size, True),
        )

    def span(self, columns: int) -> int:
        return checked_group(self.group_size, columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        exact = plain(x, self.span(x.shape[1]), self.top)
        scale, bias = (rounded(one, self.scale_dtype) for one in exact)
        if not self.searched:
            return Params(scale, bias, exact)
        from qconvert.kernels.affine_groups import search

        scale, bias = scale.copy(), bias.copy()
        grouped = (x.reshape(-1), square_of(seen), x.shape[1], self.group_size)
        candidates = (trials(self.bits), MOVES, NUDGES)
        format_of = (np.float32(self.top), _DTYPES[self.scale_dtype])
        search(*grouped, *format_of, *candidates, scale.reshape(-1), bias.reshape(-1))
        return Params(scale, bias)

    def join(self, params: Sequence[Params]) -> Params:
        if len(params) == 1:
            return params[0]
        exact = [one.exact for one in params if one.exact is not None]
        return Params(
            np.hstack([one.scale for one in params]),
            np.hstack([one.bias for one in params]),
            (np.hstack([e[0] for e in exact]), np.hstack([e[1] for e in exact])) if exact else None,
        )

    def grid(self, params: Params) -> Grid:
        values = np.arange(self.top + 1, dtype=np.float32)
        return Grid(params.scale, -params.bias, values, self.group_size)

    def units(self, params: Params) -> tuple[Units, Units]:
        dtype = self.scale_dtype
        return Units(params.scale, dtype=dtype), Units(-params.bias, dtype=dtype)

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        assert low is not None
        assert low.unit is not None
        assert step.unit is not None
        return Params(step.unit, -low.unit)

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """uint8 [rows, columns]."""
        from qconvert.kernels.affine_groups import round_codes

        scale, bias = params.exact or (params.scale, params.bias)
        codes = np.empty(x.shape, np.uint8)
        by = (scale.reshape(-1), bias.reshape(-1), np.float32(self.top))
        round_codes(x.reshape(-1), self.group_size, *by, codes.reshape(-1))
        return codes

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        signed = (codes.astype(np.int16) - (1 << (self.bits - 1))).astype(np.int8)
        words = packing.pack_rows(signed, self.bits).view(np.uint32)
        return words, *(stored(one, self.scale_dtype) for one in (params.scale, params.bias))

    def unpack(self, arrays: Arrays) -> Coded:
        words, *others = arrays
        scale, bias = map(read, others)
        columns = words.shape[1] * 32 // self.bits
        signed = packing.unpack_rows(words.view(np.int32), self.bits, columns)
        codes = (signed.astype(np.int16) + (1 << (self.bits - 1))).astype(np.uint8)
        return Coded(codes, Params(scale, bias))

    def dequantize(self, arrays: Arrays) -> Weights:
        from qconvert.kernels.affine_groups import dequantize

        codes, params = self.unpack(arrays)
        x = np.empty(codes.shape, np.float32)
        by = (params.scale.reshape(-1), params.bias.reshape(-1))
        dequantize(codes.reshape(-1), self.group_size, *by, x.reshape(-1))
        return x


def checked_group(size: int, columns: int) -> int:
    """`size`.

    Raises:
        PlanError: such groups do not divide rows of so many weights.
    """
    if columns % size:
        raise PlanError(
            f"groups of {size} do not divide rows of {columns} weights",
            "choose a group that divides them",
        )
    return size


def plain(x: Weights, size: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of every group as MLX chooses them, float32, in the same operations."""
    from qconvert.kernels.ranges import extremes

    low = np.empty((len(x), x.shape[1] // size), np.float32)
    high = np.empty_like(low)
    extremes(x.reshape(-1), x.shape[1], size, low.reshape(-1), high.reshape(-1))
    is_low = np.abs(low) > np.abs(high)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        scale = np.maximum((high - low) / np.float32(top), _LEAST_SCALE)
        scale = np.where(is_low, scale, -scale)
        edge = np.where(is_low, low, high)
        code = np.rint(edge / scale)
        has_code = code != 0
        scale = np.where(has_code, edge / code, scale)
    return scale, np.where(has_code, edge, np.float32(0))
