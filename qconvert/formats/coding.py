"""What algorithms take and give."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qconvert.formats.types import Format, Packed, Weights

Arrays = tuple[np.ndarray, ...]
"""What is stored of some rows."""


class Seen(NamedTuple):
    """What is known of a weight's inputs.

    Attributes:
        square, mean: float32 [columns], the mean of each column's square and of itself.
        hessian: float [columns, columns], of which `square` is the diagonal.
    """

    square: np.ndarray
    mean: np.ndarray | None = None
    hessian: np.ndarray | None = None


class Coded(NamedTuple):
    """Codes as their format has them, and the params of that format; of formats that are coded
    jointly what is stored, and None."""

    codes: np.ndarray
    params: Any


Algorithm = Callable[[Format, Weights, Seen | None, float | None], Coded]
"""Codes of some rows. Rows do not depend on each other."""


def nearest(format_: Format, x: Weights, seen: Seen | None, peak: float | None) -> Coded:
    """Every weight rounded by itself."""
    square = seen.square if seen else None
    if format_.fit is None:
        return Coded(format_.quantize(x, square), None)
    assert format_.round
    params = format_.fit(x, square)
    return Coded(format_.round(x, params), params)


def pack(format_: Format, coded: Coded) -> Arrays:
    return (coded.codes if format_.pack is None else format_.pack(*coded),)


def dequantize(format_: Format, arrays: Arrays) -> Weights:
    packed: Packed = arrays[0]
    return format_.dequantize(packed)
