"""From weights to the arrays that are stored, in any format and by any algorithm."""

from collections.abc import Callable, Iterable

import numpy as np

from qconvert.formats.types import Arrays, Coded, Format, Part, Seen, Weights

Algorithm = Callable[[Format, Weights, Seen | None, float | None], Coded]
"""Codes of some rows. Rows do not depend on each other."""


def nearest(format_: Format, x: Weights, seen: Seen | None, peak: float | None) -> Coded:
    """Every weight rounded by itself."""
    params = format_.fit(x, seen, peak)
    return Coded(format_.round(x, params), params)


def quantize(
    format_: Format,
    x: Weights,
    seen: Seen | None = None,
    peak: float | None = None,
    algorithm: Algorithm = nearest,
) -> Arrays:
    """The arrays of x; of weights that are rounded by themselves some rows at a time."""
    if algorithm is not nearest:
        return format_.pack(*algorithm(format_, x, seen, peak))
    rows, columns = x.shape
    step = max(format_.chunk // max(columns, 1), 1) if format_.chunk else max(rows, 1)
    step = -(-step // format_.row_step) * format_.row_step

    def pack(start: int) -> Arrays:
        return format_.pack(*nearest(format_, x[start : start + step], seen, peak))

    if step >= rows:
        return pack(0)
    return stacked(format_, map(pack, range(0, rows, step)), (rows, columns), step)


def stacked(format_: Format, made: Iterable[Arrays], shape: tuple[int, int], step: int) -> Arrays:
    """The arrays of a weight of `shape`, of those of so many rows at a time."""
    whole: Arrays = ()
    for number, arrays in enumerate(made):
        if not whole:
            parts = format_.parts(shape)
            whole = tuple(np.empty(p.shape, a.dtype) for p, a in zip(parts, arrays, strict=True))
        above = format_.parts((number * step, shape[1]))
        for part, target, array in zip(above, whole, arrays, strict=True):
            if part.turned:
                target, array, part = target.T, array.T, part._replace(shape=part.shape[::-1])
            first = part.shape[0] if part.per_row else 0
            target[first : first + len(array)] = array
    return whole


def slab_of(arrays: Arrays, parts: tuple[Part, ...], shape: tuple[int, ...], first: bool) -> Arrays:
    """The arrays of some rows as parts of a tensor of `shape`.

    Those that are per row are as they are, so that slabs one after the other along the first axis
    make the whole; the others come with the first slab, and are empty with the rest.
    """

    def piece(array: np.ndarray, part: Part) -> np.ndarray:
        if part.per_row:
            return array
        whole = np.array(shape, np.int64) if part.suffix == "weight_shape" else array
        return whole if first else whole[:0]

    return tuple(piece(array, part) for array, part in zip(arrays, parts, strict=True))
