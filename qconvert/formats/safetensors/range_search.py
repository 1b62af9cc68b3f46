"""The estimator "mse" for weights: scales searched for, from those that cover all weights on.

What is tried was found by trial on random and real weights: few enough to be fast, so many that
ten times as many gain less than a hundredth.
"""

from typing import NamedTuple

import numpy as np

from qconvert.formats.safetensors.groups import group_columns
from qconvert.formats.safetensors.types import ScaleDtype, WeightFormat
from qconvert.formats.types import Seen, square_of

_DTYPES = {"F32": 0, "F16": 1, "BF16": 2}
_NARROWEST = {2: 0.15, 3: 0.2, 4: 0.3, 5: 0.4, 6: 0.5, 7: 0.6, 8: 0.6}
_WIDEST = 1.1
_SHIFTS = {2: (1, 2, 3), 3: (1, 2), 4: (1, 2), 5: (1, 2), 6: (1, 2, 4), 7: (1, 2, 4), 8: (1, 2, 4)}
_MIRRORED_BITS = 7
_NEAR = np.arange(-8, 8)
_STEPS_BELOW = 8
_E4M3_TOP = 448.0


class Candidates(NamedTuple):
    """What qconvert.kernels.scale_search tries, float32."""

    trials: np.ndarray
    shifts: np.ndarray
    moves: np.ndarray


def _moves(dtype: ScaleDtype) -> np.ndarray:
    """Two rounds: neighbours among BF16, and finer ones where there are any."""
    second = 2.0**-8 if dtype == "BF16" else 2.0**-10
    return np.concatenate([1 + 2.0**-8 * _NEAR, 1 + second * _NEAR]).astype(np.float32)


def candidates(form: WeightFormat, dtype: ScaleDtype) -> Candidates:
    """What to try for a format.

    Negative scales, whose range of codes is the mirror image, are tried where a code more on one
    side matters and the layout is for weights alone.
    """
    count = 48 if form.bits == 8 and form.symmetric else 32
    trials = np.geomspace(_WIDEST, _NARROWEST[form.bits], count).astype(np.float32)
    shifts = [0.0]
    if form.symmetric and form.layout == "pack-quantized" and form.bits <= _MIRRORED_BITS:
        shifts.append(1.0)
    elif not form.symmetric:
        shifts += [float(sign * shift) for shift in _SHIFTS[form.bits] for sign in (1, -1)]
    return Candidates(trials, np.array(shifts, np.float32), _moves(dtype))


def search_integers(
    form: WeightFormat,
    x: np.ndarray,
    seen: Seen | None,
    scale: np.ndarray,
    zero: np.ndarray | None,
    dtype: ScaleDtype,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Better scales and zero points of integers, or the same."""
    from qconvert.kernels import scale_search

    scale = scale.astype(np.float32)
    zeros = np.zeros_like(scale) if zero is None else zero.astype(np.float32)
    top = 1 << (form.bits - 1)
    columns = x.shape[1]
    scale_search.search(
        *(x.reshape(-1), square_of(seen), columns, group_columns(form, columns)),
        *(scale_search.INTEGER, -top, top - 1, form.symmetric, _DTYPES[dtype]),
        *candidates(form, dtype),
        *(scale.reshape(-1), zeros.reshape(-1)),
    )
    return scale, None if form.symmetric else zeros.astype(np.int8)


def search_fp8(
    form: WeightFormat, x: np.ndarray, seen: Seen | None, scale: np.ndarray, dtype: ScaleDtype
) -> np.ndarray:
    """Better scales of e4m3fn by row or block, or the same.

    Precision is that of the exponent: a larger scale costs nothing but the least weights.
    """
    from qconvert.kernels.scale_search import search
    from qconvert.kernels.small_floats import E4M3

    size = x.shape[1]
    weights = square_of(seen)
    if form.block is not None:
        size = form.block[0] * form.block[1]
        x, weights = _block_rows(form.block, x, weights)
    moves = np.concatenate([np.geomspace(0.9, 1.9, 16), 1 + 2.0**-8 * _NEAR])
    none = np.empty(0, np.float32)
    scale = scale.astype(np.float32)
    search(
        *(x.reshape(-1), weights, x.shape[1], size),
        *(E4M3, -_E4M3_TOP, _E4M3_TOP, True, _DTYPES[dtype]),
        *Candidates(none, none, moves.astype(np.float32)),
        *(scale.reshape(-1), np.zeros_like(scale).reshape(-1)),
    )
    return scale


def _block_rows(
    block: tuple[int, int], x: np.ndarray, importance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of blocks, the weights of each block end to end, zeros where it is cut; importance
    likewise, for the first row of blocks."""
    (rows, columns), (height, width) = x.shape, block
    down, across = -(-rows // height), -(-columns // width)
    wide = np.zeros((down * height, across * width), np.float32)
    wide[:rows, :columns] = x
    blocks = wide.reshape(down, height, across, width).swapaxes(1, 2)
    if importance.size:
        padded = np.zeros((across, 1, width), np.float32)
        padded.reshape(-1)[:columns] = importance
        importance = np.broadcast_to(padded, (across, height, width))
    flat = np.ascontiguousarray(importance).reshape(-1)
    return np.ascontiguousarray(blocks).reshape(down, -1), flat


def search_fp4(
    form: WeightFormat, x: np.ndarray, seen: Seen | None, table: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """Better indices, or the same, in a table of the steps that can be stored, float32, rising."""
    from qconvert.kernels import scale_search

    columns = x.shape[1]
    made = indices.astype(np.int32)
    below = _STEPS_BELOW if form.group_size == 16 else 1
    grouped = (x.reshape(-1), square_of(seen), columns, group_columns(form, columns))
    scale_search.search_table(*grouped, table, below, made.reshape(-1))
    return made
