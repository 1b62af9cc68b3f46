"""Weights that lie on a format's grid already: models that were trained for it, codes of others
with groups of 32, files that were dequantized. No search finds them as surely as looking does.

    float32 weights, the dtype that they were rounded to -> the blocks that give back just these

Blocks of Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 are recognized; of the ternary formats and MXFP4, where
scales follow from the largest weight, plain rounding finds them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from qconvert.formats.ggml.legacy import BLOCK, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from qconvert.formats.ggml.mxfp4 import MXFP4
from qconvert.formats.ggml.scalar import Params, rounded_by_steps
from qconvert.formats.ggml.ternary import TQ1_0, TQ2_0
from qconvert.formats.quantize import nearest
from qconvert.formats.safetensors.scales import read, stored
from qconvert.formats.types import Format, Weights, block_sizes

PRECISION = {"F32": (24, -149), "F16": (11, -24), "BF16": (8, -133)}
"""Of the dtypes that weights are rounded to: bits of the mantissa, and the power of two that is the
smallest distance of two values."""

PROBED = 16
"""Blocks that are looked at first: most weights lie on no grid, and shall not take longer."""


class Exact(NamedTuple):
    """Blocks that give back their weights.

    Attributes:
        blocks: uint8 [rows, blocks, block bytes]; undefined where they do not.
        mask: bool [rows, blocks]; blocks of zeros are none, any grid has these.
    """

    blocks: np.ndarray
    mask: np.ndarray


Found = tuple[np.ndarray, Params]
"""Codes and params, right where the block lies on a grid."""


def exact_blocks(format_name: str, x: Weights, dtype: str) -> Exact | None:
    """The blocks of a format that hold weights to the last bit.

    Args:
        x: float32 [rows, columns], columns a multiple of the block.
        dtype: what they were rounded to: "F32", "F16" or "BF16".

    Returns:
        None where there are none, or the format is not one of those.
    """
    if format_name not in FINDERS or not x.size:
        return None
    block, _ = block_sizes(format_name)
    every = x.reshape(-1, block)
    some = every[np.linspace(0, len(every) - 1, min(PROBED, len(every))).astype(int)]
    if not _find(format_name, some, dtype).mask.any():
        return None
    found = _find(format_name, x, dtype)
    return found if found.mask.any() else None


def gives_back(made: Weights, x: Weights, dtype: str) -> bool:
    """Whether numbers are others' to the last bit, once they are rounded to the dtype that these
    were rounded to."""
    return bool(_same(made, x, dtype).all())


def _same(made: Weights, x: Weights, dtype: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(read(stored(made, dtype)) == x)


def _find(format_name: str, x: Weights, dtype: str) -> Exact:
    format_, find = FINDERS[format_name]
    block, nbytes = block_sizes(format_name)
    (packed,) = format_.pack(*find(x, dtype))
    groups = (len(x), -1, block)
    same = _same(format_.dequantize((packed,)), x, dtype).reshape(groups)
    mask = np.logical_and(same.all(axis=2), x.reshape(groups).any(axis=2))
    return Exact(packed.reshape(len(x), -1, nbytes), mask)


# The largest weight's codes: where ggml puts it, then any from outside.
_PEAKS_4 = np.array([-8.0, *range(7, 0, -1)])
_PEAKS_5 = np.array([-16.0, *range(15, 0, -1)])
_PEAKS_8 = np.array([127.0, 128, *range(126, 0, -1)])


def _scaled(zero: int, low: int, high: int, peaks: np.ndarray, x: Weights, dtype: str) -> Found:
    from qconvert.kernels import grids

    d, found = _empty(x)
    codes = np.zeros(x.shape, np.uint8)
    flat = (d.reshape(-1), codes.reshape(-1), found.reshape(-1))
    grids.scaled(x.reshape(-1), peaks, low, high, *PRECISION[dtype], *flat)
    codes += np.uint8(zero)
    return codes if zero else codes.view(np.int8), rounded_by_steps(Params(d))


def _shifted(high: int, x: Weights, dtype: str) -> Found:
    from qconvert.kernels import grids

    d, found = _empty(x)
    m, codes = np.zeros_like(d), np.zeros(x.shape, np.uint8)
    flat = (d.reshape(-1), m.reshape(-1), codes.reshape(-1), found.reshape(-1))
    grids.shifted(x.reshape(-1), high, *PRECISION[dtype], *flat)
    return codes, rounded_by_steps(Params(d, -m))


def _empty(x: Weights) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(x), x.shape[1] // BLOCK)
    return np.zeros(shape, np.float32), np.zeros(shape, np.uint8)


def _rounded(format_: Format, x: Weights, dtype: str) -> Found:
    coded = nearest(format_, x, None, None)
    return coded.codes, coded.params


FINDERS: dict[str, tuple[Format, Callable[[Weights, str], Found]]] = {
    "Q4_0": (Q4_0, partial(_scaled, 8, -8, 7, _PEAKS_4)),
    "Q4_1": (Q4_1, partial(_shifted, 15)),
    "Q5_0": (Q5_0, partial(_scaled, 16, -16, 15, _PEAKS_5)),
    "Q5_1": (Q5_1, partial(_shifted, 31)),
    "Q8_0": (Q8_0, partial(_scaled, 0, -128, 127, _PEAKS_8)),
    "TQ1_0": (TQ1_0, partial(_rounded, TQ1_0)),
    "TQ2_0": (TQ2_0, partial(_rounded, TQ2_0)),
    "MXFP4": (MXFP4, partial(_rounded, MXFP4)),
}
