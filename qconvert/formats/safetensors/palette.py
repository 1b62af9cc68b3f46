"""Clustered weights: numbers of the model's own dtype, of which a tensor has only a few.

    weight    [O, I]    at most 2**bits distinct values, in the tensor or in each group of rows

What is stored is a plain tensor, which all programs load. It compresses to little more than its
codes, and engines that multiply by lookup make tables of it: Core ML's palettization, for one, in
its mode "unique". Values are the means of the best clusters (`qconvert.kernels.cluster`), weighted
by importance, rounded as they are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qconvert.formats.safetensors.scales import ITEM_BYTES, read, rounded, stored
from qconvert.formats.safetensors.types import Estimator, ScaleDtype, WeightFormat
from qconvert.formats.types import Arrays, Coded, Grid, Part, Seen, Units, Weights, square_of

WHOLE = 1 << 40
"""The step of rows where all have one set of values: no slab has a part of them."""

LEAST = 1e-6
"""Of the largest importance, what any column has: its weights want values too."""

MOST_POINTS = 1 << 16
"""Neighbouring bins are taken together above it: room and time grow with bins times clusters."""


FEW = 1 << 18
"""Weights that are sorted; more go into bins, whose number is the same for any."""


@dataclass(frozen=True)
class Shades:
    """What the codes of some rows stand for.

    Attributes:
        shape: of these rows.
        values: float32, ascending, as they are stored.
    """

    shape: tuple[int, int]
    values: np.ndarray


@dataclass(frozen=True)
class Palette:
    """Weights of few distinct values, the layout "plain".

    Attributes:
        scale_dtype: of the weights themselves.
    """

    form: WeightFormat
    estimator: Estimator
    scale_dtype: ScaleDtype

    needs_peak = False
    chunk = 1  # rows that share their values are taken through all steps by themselves

    @property
    def row_step(self) -> int:
        return self.form.group_size or WHOLE

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        nbytes = shape[0] * shape[1] * ITEM_BYTES[self.scale_dtype]
        return (Part("weight", shape, self.scale_dtype, nbytes, True),)

    def span(self, columns: int) -> int:
        return columns

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Shades:
        means = cluster_means(x, square_of(seen), 1 << self.form.bits)
        values = np.unique(rounded(means.astype(np.float32), self.scale_dtype))
        return Shades((x.shape[0], x.shape[1]), values)

    def join(self, params: Sequence[Shades]) -> Shades:
        (own,) = params
        return own

    def grid(self, params: Shades) -> Grid:
        rows, columns = params.shape
        step = np.ones((rows, 1), np.float32)
        return Grid(step, np.zeros_like(step), params.values, columns)

    def units(self, params: Shades) -> tuple[Units, Units | None] | None:
        return None

    def with_units(self, params: Shades, step: Units, low: Units | None) -> Shades:
        return params

    def round(self, x: Weights, params: Shades) -> np.ndarray:
        """uint8 [rows, columns]."""
        from qconvert.kernels.cluster import nearest_codes

        values = params.values
        codes = np.empty(x.shape, np.uint8)
        nearest_codes(x.reshape(-1), (values[1:] + values[:-1]) / 2, codes.reshape(-1))
        return codes

    def pack(self, codes: np.ndarray, params: Shades) -> Arrays:
        return (stored(params.values, self.scale_dtype)[codes],)

    def unpack(self, arrays: Arrays) -> Coded | None:
        return None

    def dequantize(self, arrays: Arrays) -> Weights:
        return read(arrays[0])


def cluster_means(x: Weights, importance: np.ndarray, count: int) -> np.ndarray:
    """The means of the best `count` clusters or fewer, float64, ascending.

    Args:
        x: float32 [rows, columns], finite.
        importance: float32 [columns] of the columns' squared errors; empty for all alike.
    """
    from qconvert.kernels.cluster import best_means

    if importance.size:
        top = importance.max()
        importance = np.maximum(importance / top, np.float32(LEAST)) if top > 0 else importance[:0]
    weight, total = _binned(np.ascontiguousarray(x), importance)
    while len(weight) > MOST_POINTS:
        pairs = np.arange(0, len(weight), 2)
        weight, total = np.add.reduceat(weight, pairs), np.add.reduceat(total, pairs)
    means = np.empty(count)
    return means[: best_means(total / weight, weight, means)]


def _binned(x: Weights, importance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of weights that are about the same, in ascending order: the sums of their importance, and of
    importance times weight."""
    from qconvert.kernels.cluster import BINS, SHIFT, fill_bins

    flat = x.reshape(-1)
    if flat.size > FEW:
        weight, total = np.zeros(BINS), np.zeros(BINS)
        fill_bins(flat.view(np.uint32), flat, importance, x.shape[1], weight, total)
        is_used = weight > 0
        return weight[is_used], total[is_used]
    flat = flat + np.float32(0)  # the two zeros are one point
    order = np.argsort(flat, kind="stable")
    points = flat[order]
    starts = np.flatnonzero(np.diff(points.view(np.uint32) >> SHIFT, prepend=np.uint32(1 << 31)))
    weight = np.broadcast_to(importance, x.shape) if importance.size else np.ones(x.shape)
    weight = weight.reshape(-1)[order].astype(np.float64)
    return np.add.reduceat(weight, starts), np.add.reduceat(weight * points, starts)
