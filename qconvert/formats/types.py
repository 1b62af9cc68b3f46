"""What a format is: how weights lie in bytes, and how they get there.

A format is split into fit, round, pack and dequantize, so that an algorithm can drive it:

    fit(x, importance) -> params      choose scales (and minima), rounded as they are stored
    round(x, params) -> codes         the nearest code of each weight under these params
    pack(codes, params) -> bytes      lay them out
    dequantize(bytes) -> x

`quantize` is the three in one pass, and gives the same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

Weights = np.ndarray
"""float32, [rows, columns], C order; columns a multiple of the block."""

Importance = np.ndarray | None
"""float32, [columns]: the weight of each column's squared error; None for none at hand."""

Packed = np.ndarray
"""uint8, [rows, columns // block * block_bytes]."""


class Grid(NamedTuple):
    """What codes stand for: x = step * values[code] - low, in this order of float32 operations.

    Attributes:
        step, low: float32 [rows, groups]; a row's groups are equally wide.
        values: float32 [codes], ascending.
    """

    step: np.ndarray
    low: np.ndarray
    values: np.ndarray


@cache
def block_sizes(name: str) -> tuple[int, int]:
    """Weights and bytes of one block of any of ggml's types; (1, item size) for floats.

    Raises:
        KeyError: no type has that name.
    """
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return int(weights), int(nbytes)


@dataclass(frozen=True)
class Format:
    """A way to store weights. Functions run on one core and release the GIL.

    Attributes:
        name: ggml's name, "Q4_K".
        quantize: (weights, importance) -> packed.
        dequantize: packed -> weights.
        fit, round, pack: the steps of `quantize`; None for formats without blocks, where
            rounding is all there is, and for those that are coded jointly.
        grid: what the codes of `round` stand for under params; for formats of at most 6 bits
            that have `fit`.
    """

    name: str
    quantize: Callable[[Weights, Importance], Packed]
    dequantize: Callable[[Packed], Weights]
    fit: Callable[[Weights, Importance], Any] | None = None
    round: Callable[[Weights, Any], np.ndarray] | None = None
    pack: Callable[[np.ndarray, Any], Packed] | None = None
    grid: Callable[[Any], Grid] | None = None

    @property
    def type(self) -> GGMLQuantizationType:
        return GGMLQuantizationType[self.name]

    @property
    def block(self) -> int:
        """Weights of one block."""
        return block_sizes(self.name)[0]

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""
        return block_sizes(self.name)[1]

    def nbytes(self, elements: int) -> int:
        """Bytes of that many weights, a multiple of the block."""
        return elements // self.block * self.block_bytes
