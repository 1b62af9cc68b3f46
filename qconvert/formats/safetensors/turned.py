"""Weights as integers in the layouts of GPTQ and AWQ: stored [in, out], x' = (code - zero) * scale.

    gptq   qweight  i32 [I * bits / 32, O]        a stream of codes down each column
           qzeros   i32 [groups, O * bits / 32]   zero points less one, a stream along each row
           scales   S   [groups, O]
           g_idx    i32 [I]                       the group of each input
    awq    qweight  i32 [I, O / 8]                eight codes, of outputs 0 2 4 6 1 3 5 7
           qzeros   i32 [groups, O / 8]           zero points, likewise
           scales   S   [groups, O]

Codes and scales are those of `Integers`; codes are stored from 0 on, and a symmetric weight has
half of their range as its zero points. Some readers of GPTQ's first version cut a zero point of
zero, less one, to the bits of a code and others do not: it is never chosen.
Source: AutoGPTQ, nn_modules/qlinear; AutoAWQ, utils/packing_utils.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.formats.safetensors import packing
from qconvert.formats.safetensors.groups import group_columns, scale_shape
from qconvert.formats.safetensors.integers import Integers, code_range
from qconvert.formats.safetensors.scales import ITEM_BYTES, stored
from qconvert.formats.safetensors.types import Estimator, Params, ScaleDtype, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights

BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}

OUTPUTS = np.array([0, 2, 4, 6, 1, 3, 5, 7])
"""AWQ: which of eight outputs each four bits of a word are of, from the lowest on."""


@dataclass(frozen=True)
class Turned:
    """A `Format`: GPTQ's or AWQ's, by the layout of `form`.

    Raises:
        UnsupportedError: the layout has no such weights.
    """

    form: WeightFormat
    estimator: Estimator
    scale_dtype: ScaleDtype

    chunk = 0
    needs_peak = False
    row_step = 32
    """Rows whose zero points fill whole words, of any number of bits."""

    def __post_init__(self) -> None:
        form = self.form
        if form.bits not in BITS[form.layout]:
            raise UnsupportedError(f"{form.layout} has no weights of {form.bits} bits")
        if form.layout == "awq" and form.symmetric:
            raise UnsupportedError("awq stores zero points")

    @cached_property
    def inner(self) -> Integers:
        """What chooses scales and codes."""
        form = replace(self.form, layout="pack-quantized")
        return Integers(form, self.estimator, self.scale_dtype)

    @property
    def _shift(self) -> int:
        """What zero points are stored less."""
        return int(self.form.layout == "gptq")

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        groups = scale_shape(self.form, rows, columns)[1]
        across = packing.words(rows, self.form.bits)
        codes = (packing.words(columns, self.form.bits), rows)
        if self.form.layout == "awq":
            codes = (columns, across)
        scale = groups * rows * ITEM_BYTES[self.scale_dtype]
        made = (
            Part("qweight", codes, "I32", 4 * codes[0] * codes[1], True, turned=True),
            Part("qzeros", (groups, across), "I32", 4 * groups * across, True, turned=True),
            Part("scales", (groups, rows), self.scale_dtype, scale, True, turned=True),
        )
        if self.form.layout == "awq":
            return made
        return (*made, Part("g_idx", (columns,), "I32", 4 * columns, False))

    def span(self, columns: int) -> int:
        return self.inner.span(columns)

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Params:
        return self._storable(self.inner.fit(x, seen, peak))

    def join(self, params: Sequence[Params]) -> Params:
        return self.inner.join(params)

    def grid(self, params: Params) -> Grid:
        return self.inner.grid(params)

    def units(self, params: Params) -> tuple[Units, Units | None]:
        step, zero = self.inner.units(params)
        if zero is None:
            return step, None
        return step, zero._replace(limits=(zero.limits[0] + self._shift, zero.limits[1]))

    def with_units(self, params: Params, step: Units, low: Units | None) -> Params:
        return self.inner.with_units(params, step, low)

    def round(self, x: Weights, params: Params) -> np.ndarray:
        """int8 [rows, columns]."""
        return self.inner.round(x, params)

    def pack(self, codes: np.ndarray, params: Params) -> Arrays:
        form, bits = self.form, self.form.bits
        zero = params.zero_point
        zero = np.zeros(params.scale.shape, np.int8) if zero is None else zero
        scale = _turned(stored(params.scale, self.scale_dtype))
        if form.layout == "awq":
            return _turned(_in_eights(codes)), _turned(_in_eights(zero)), scale
        words = _turned(packing.pack_rows(codes, bits))
        zeros = _turned(packing.pack_columns(zero - np.int8(self._shift), bits))
        columns = codes.shape[1]
        group = np.arange(columns, dtype=np.int32) // np.int32(group_columns(form, columns))
        return words, zeros, scale, group

    def unpack(self, arrays: Arrays) -> Coded:
        return self.inner.unpack(self._packed(arrays))

    def dequantize(self, arrays: Arrays) -> Weights:
        return self.inner.dequantize(self._packed(arrays))

    def _packed(self, arrays: Arrays) -> Arrays:
        """What `inner` stores of the same."""
        words, zeros, scale = map(_turned, arrays[:3])
        bits, rows = self.form.bits, len(scale)
        if self.form.layout == "awq":
            codes, zero = _from_eights(words), _from_eights(zeros)
        else:
            codes = packing.unpack_rows(words, bits, words.shape[1] * 32 // bits)
            zero = packing.unpack_columns(zeros, bits, rows) + np.int8(self._shift)
        packed, size = packing.pack_rows(codes, bits), np.array(codes.shape, np.int64)
        if self.form.symmetric:
            return packed, scale, size
        return packed, scale, packing.pack_columns(zero, bits), size

    def _storable(self, params: Params) -> Params:
        if params.zero_point is None or not self._shift:
            return params
        least = np.int8(code_range(self.form.bits)[0] + self._shift)
        return replace(params, zero_point=np.maximum(params.zero_point, least))


def _turned(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.T)


def _in_eights(codes: np.ndarray) -> np.ndarray:
    """int8 [8 n, columns] -> int32 [n, columns], a word of eight rows' codes."""
    ordered = codes.reshape(-1, len(OUTPUTS), codes.shape[1])[:, OUTPUTS]
    return packing.pack_columns(ordered.reshape(codes.shape), 4)


def _from_eights(words: np.ndarray) -> np.ndarray:
    """The reverse."""
    eights = packing.unpack_columns(words, 4, 8 * len(words))
    ordered = eights.reshape(-1, len(OUTPUTS), words.shape[1])
    return ordered[:, np.argsort(OUTPUTS)].reshape(eights.shape)
