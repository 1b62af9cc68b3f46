"""Weights as small floats in groups, MLX's modes "mxfp4", "nvfp4" and "mxfp8":
x' = value * scale.

    mxfp4   32 weights of e2m1, a power of two     weight u32 [O, I / 8]   scales u8 [O, I / 32]
    nvfp4   16 weights of e2m1, an e4m3fn scale    weight u32 [O, I / 8]   scales u8 [O, I / 16]
    mxfp8   32 weights of e4m3fn, a power of two   weight u32 [O, I / 4]   scales u8 [O, I / 32]

Codes lie in words with the first weight in the lowest bits. There is no scale for the whole tensor
as compressed-tensors' NVFP4 has it. MLX's own choice puts the largest weight of a group on the
largest value, or below it. With `searched` the scale with the least (weighted) squared error is
looked for. Midway between two e2m1 values MLX's CPU code takes the one nearer to zero, without a
sign where that is zero; so is it here. Its GPU code takes the even one.
Source: MLX, `mlx.core.quantize`; OCP Microscaling Formats (MX) specification 1.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from qconvert.formats.floats import float8_values, to_float32
from qconvert.formats.mlx.affine import checked_group
from qconvert.formats.safetensors.fp4 import POWERS, SCALES
from qconvert.formats.safetensors.fp4 import VALUES as E2M1_VALUES
from qconvert.formats.safetensors.scales import rounded, stored
from qconvert.formats.safetensors.types import ScaleDtype
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights, square_of

Mode = Literal["mxfp4", "nvfp4", "mxfp8"]

GROUPS: dict[Mode, int] = {"mxfp4": 32, "nvfp4": 16, "mxfp8": 32}
BITS: dict[Mode, int] = {"mxfp4": 4, "nvfp4": 4, "mxfp8": 8}

_MIDDLES = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
_ONE = 127
"""The exponent's code of 1, which groups of zeros have."""

_STEPS_BELOW = {"mxfp4": 2, "nvfp4": 8}
"""So far below the scale at hand the search begins."""

_POWERS_NEAR = (-1, 1)
"""What the search for mxfp8 tries beside the power at hand."""


class Params(NamedTuple):
    """What values are multiplied with.

    Attributes:
        place: int32 [rows, groups], that of a scale among all that can be stored.
    """

    place: np.ndarray


@dataclass(frozen=True)
class Floats:
    """A `Format`.

    Attributes:
        dtype: of the model, in which MLX divides the largest weight of a group.
        searched: look for better scales than MLX's own.
    """

    mode: Mode
    dtype: ScaleDtype
    searched: bool = False

    row_step = 1
    chunk = 0
    needs_peak = False

    @property
    def size(self) -> int:
        """Weights that share a scale."""
        return GROUPS[self.mode]

    @property
    def table(self) -> np.ndarray:
        """The scales that can be stored, float32, rising; of nvfp4 zero is the first."""
        if self.mode == "nvfp4":
            return np.concatenate([np.zeros(1, np.float32), SCALES])
        return POWERS

    @property
    def values(self) -> np.ndarray:
        """What codes stand for."""
        return float8_values("F8_E4M3") if self.mode == "mxfp8" else E2M1_VALUES

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        width, groups = columns * BITS[self.mode] // 32, columns // self.span(columns)
        return (
            Part("weight", (rows, width), "U32", 4 * rows * width, True),
            Part("scales", (rows, groups), "U8", rows * groups, True),
        )

    def span(self, columns: int) -> int:
        return checked_group(self.size, columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        groups = x.reshape(len(x), -1, self.span(x.shape[1]))
        index = self._plain(np.abs(groups).max(axis=2))
        if not self.searched:
            return Params(index)
        if self.mode == "mxfp8":
            return Params(self._nearer_power(x, seen, index))
        from qconvert.kernels.scale_search import search_table

        found = index.copy()
        grouped = (x.reshape(-1), square_of(seen), x.shape[1], self.size)
        search_table(*grouped, self.table, _STEPS_BELOW[self.mode], found.reshape(-1))
        return Params(found)

    def _plain(self, top: np.ndarray) -> np.ndarray:
        """Indices as MLX chooses them, int32, for the largest magnitudes of groups."""
        largest = np.float32(448 if self.mode == "mxfp8" else 6)
        scale = rounded(top / largest, self.dtype)
        if self.mode == "nvfp4":
            return stored(np.minimum(scale, np.float32(448)), "F8_E4M3").astype(np.int32)
        mantissa, exponent = np.frexp(scale)  # scale = mantissa * 2**exponent, from 0.5 to 1
        code = exponent + _ONE - (mantissa == np.float32(0.5))
        code = np.where(scale == 0, _ONE, code)
        return np.clip(code, 0, POWERS.size - 1).astype(np.int32)

    def _nearer_power(self, x: Weights, seen: Seen | None, index: np.ndarray) -> np.ndarray:
        square = square_of(seen).astype(np.float64)
        weights = square if square.any() else np.ones(x.shape[1])

        def error(tried: np.ndarray) -> np.ndarray:
            made = self._times(self.round(x, Params(tried)), self.table[tried])
            off = made.astype(np.float64) - x
            by_group: np.ndarray = (off * off * weights).reshape(*index.shape, -1)
            return np.asarray(by_group.sum(axis=2))

        best, least = index, error(index)
        for step in _POWERS_NEAR:
            tried = np.clip(index + step, 0, POWERS.size - 1)
            found = error(tried)
            best, least = np.where(found < least, tried, best), np.minimum(found, least)
        return best

    def join(self, params: Sequence[Params]) -> Params:
        return Params(np.hstack([one.place for one in params]))

    def grid(self, params: Params) -> Grid:
        step = self.table[params.place]
        return Grid(step, np.zeros_like(step), self.values, self.size)

    def units(self, params: Params) -> tuple[Units, None]:
        dtype = "F8_E4M3" if self.mode == "nvfp4" else ""
        return Units(self.table[params.place], dtype=dtype), None

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        assert step.unit is not None
        return Params(np.searchsorted(self.table, step.unit).astype(np.int32))

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """uint8 [rows, columns]."""
        step = self.table[params.place]
        if self.mode == "mxfp8":
            from qconvert.kernels import small_floats

            codes = np.empty(x.shape, np.uint8)
            grouped = (x.reshape(-1), x.shape[1], self.size, step.reshape(-1))
            small_floats.round_codes(*grouped, small_floats.E4M3, codes.reshape(-1))
            return codes
        groups = x.reshape(*step.shape, self.size)
        ratio = np.divide(
            groups, step[..., None], out=np.zeros_like(groups), where=step[..., None] != 0
        )
        magnitude = np.searchsorted(_MIDDLES, np.abs(ratio)).astype(np.uint8)
        sign = ((ratio < 0) & (magnitude > 0)).astype(np.uint8)
        return np.asarray(magnitude | (sign << 3)).reshape(x.shape)

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        scales = params.place.astype(np.uint8)
        if self.mode == "mxfp8":
            return np.ascontiguousarray(codes).view(np.uint32), scales
        from qconvert.kernels import small_floats

        packed = np.empty((len(codes), codes.shape[1] // 2), np.uint8)
        small_floats.pack(np.ascontiguousarray(codes).reshape(-1), packed.reshape(-1))
        return packed.view(np.uint32), scales

    def unpack(self, arrays: Arrays) -> Coded:
        words, scales = (np.ascontiguousarray(one) for one in arrays)
        raw = words.view(np.uint8)
        if self.mode != "mxfp8":
            raw = np.stack([raw & 15, raw >> 4], axis=2).reshape(len(raw), -1)
        return Coded(raw, Params(np.minimum(scales, self.table.size - 1).astype(np.int32)))

    def dequantize(self, arrays: Arrays) -> Weights:
        scales = np.ascontiguousarray(arrays[1])
        kind = "F8_E4M3" if self.mode == "nvfp4" else "F8_E8M0"
        step = to_float32(scales.reshape(-1), kind).reshape(scales.shape)
        return self._times(self.unpack(arrays).codes, step)

    def _times(self, codes: np.ndarray, step: np.ndarray) -> Weights:
        return np.asarray(self.values[codes] * np.repeat(step, self.size, axis=1))
