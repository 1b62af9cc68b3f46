"""What a format is: how weights become codes, and how these lie in bytes.

    fit(x, seen, peak) -> params      choose scales (and minima), as they are stored
    round(x, params) -> codes         the nearest code of each weight under these params
    pack(codes, params) -> arrays     lay them out, an array for each of `parts`
    dequantize(arrays) -> x

The same for GGUF, whose formats pack one array of bytes, and for safetensors. Between `fit` and
`pack` an algorithm may change codes, and params by way of `units` and `with_units`. `unpack` takes
what is stored apart again.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

Weights = np.ndarray
"""float32, [rows, columns], C order; columns a multiple of the block."""

Importance = np.ndarray | None
"""float32, [columns]: the weight of each column's squared error; None for none at hand."""

Arrays = tuple[np.ndarray, ...]
"""What is stored of some rows, in the order of `parts`. Arrays of BF16 are uint16, of F8_E4M3 and
of ggml's types uint8: their bits."""


class Part(NamedTuple):
    """One of the tensors that a weight becomes.

    Attributes:
        suffix: stands in the name where the weight had "weight".
        dtype: safetensors' name of it.
        per_row: whether slabs of rows, one after the other, make it; else it is made once.
        turned: rows lie along its second axis.
    """

    suffix: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    per_row: bool
    turned: bool = False


class Seen(NamedTuple):
    """What is known of a weight's inputs.

    Attributes:
        square, mean: float32 [columns], the mean of each column's square and of itself.
        hessian: torch float32 [columns, columns], of which `square` is the diagonal, on the device
            where linear algebra is done.
        tokens: of how many that is; 0 where that is not known.
        factor: the same, upper triangular: U of inv(H) = U^T U, of the damped H
            (`qconvert.algorithms.damping`).
    """

    square: np.ndarray
    mean: np.ndarray | None = None
    hessian: Any = None
    tokens: int = 0
    factor: Any = None


class Grid(NamedTuple):
    """What codes stand for: x = step * values[code - first] - low, in this order of float32
    operations.

    Attributes:
        step, low: float32 [rows, groups].
        values: float32 [codes].
        size: weights of a row that share a step; of the last group there may be fewer.
        first: the lowest code; codes are int8 where it is negative, else uint8.
    """

    step: np.ndarray
    low: np.ndarray
    values: np.ndarray
    size: int
    first: int = 0


class Units(NamedTuple):
    """What the steps of a grid are made of, or its lows, as they are stored:

        by * unit * whole

    with units spread over rows and groups, each over as many as there are for one.

    Attributes:
        unit: float32 [row groups, column groups]; None for the units of the steps.
        whole: integers [rows, groups] from the first to the second of `limits`; None for ones.
        dtype: that units are stored in: "F32", "F16", "BF16" or "F8_E4M3"; empty where they are
            powers of two, between which nothing can be tuned.
        by: the same for all.
    """

    unit: np.ndarray | None
    whole: np.ndarray | None = None
    limits: tuple[int, int] = (1, 1)
    dtype: str = "F32"
    by: float = 1.0


class Coded(NamedTuple):
    """Codes [rows, columns] or as their format has them, and the params of that format."""

    codes: np.ndarray
    params: Any


@runtime_checkable
class Joint(Protocol):
    """What a format can do besides whose codes stand for several weights at once, and which can
    round them a few at a time."""

    def feed(
        self, w: Weights, factor: np.ndarray, params: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The columns of a span, rounded with the scales of its params, each group taking up the
        errors of those in front of it (`qconvert.algorithms.feedback`).

        Args:
            w: float32 [columns, rows].
            factor: float32 [columns, columns], upper triangular.

        Returns:
            uint8 [bytes, rows], what `fed` makes codes of; the errors, divided by the factor's
            diagonal, and what weights were when they were rounded, float32 [columns, rows].
        """

    def fed(self, made: np.ndarray, params: Any) -> Coded:
        """The codes of what `feed` has made of rows, and their params."""


class Format(Protocol):
    """A way to store weights: plain data. Its functions run on one core and release the GIL.

    Attributes:
        row_step: slabs of rows begin at multiples of it.
        needs_peak: whether `fit` wants the largest absolute weight of the whole tensor.
        chunk: weights worth taking through all steps at a time, since they stay in the cache; 0
            where that gains nothing.
    """

    @property
    def row_step(self) -> int: ...

    @property
    def needs_peak(self) -> bool: ...

    @property
    def chunk(self) -> int: ...

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        """The tensors that a weight of `shape` [rows, columns] becomes, the codes first.

        Raises:
            PlanError: its blocks or groups do not divide the columns.
        """

    def span(self, columns: int) -> int:
        """How many columns, of rows of so many, are fitted without regard to the others."""

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> Any:
        """Scales and zero points or minima of some rows, rounded as they are stored.

        Args:
            x: float32 [rows, columns], C order, finite: rows from a multiple of `row_step` on.
            peak: the largest absolute weight of the tensor, or of all that share its scale.

        Raises:
            UsageError: `peak` is missing where it is needed.
        """

    def join(self, params: Sequence[Any]) -> Any:
        """The params of whole rows, of those of their spans from the first to the last."""

    def grid(self, params: Any) -> Grid | None:
        """What the codes of `round` stand for; None for floats and for what is coded jointly."""

    def units(self, params: Any) -> tuple[Units, Units | None] | None:
        """Of the grid's steps, and of its lows where it has any; None where there is no grid, or
        where its values are stored."""

    def with_units(self, params: Any, step: Units, low: Units | None) -> Any:
        """Params with other units and wholes, which can be stored as they are."""

    def round(self, x: Weights, params: Any) -> np.ndarray:
        """The nearest codes of x; those that `fit` found where weights are coded jointly."""

    def pack(self, codes: np.ndarray, params: Any) -> Arrays:
        """An array for each of the parts of these rows."""

    def unpack(self, arrays: Arrays) -> Coded | None:
        """What was packed; None where there are no units. Params round as what is stored does."""

    def dequantize(self, arrays: Arrays) -> Weights:
        """float32 [rows, columns], as who runs the file computes it."""


@cache
def block_sizes(name: str) -> tuple[int, int]:
    """Weights and bytes of one block of any of ggml's types; (1, item size) for floats.

    Raises:
        KeyError: no type has that name.
    """
    weights, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    return int(weights), int(nbytes)


def square_of(seen: Seen | None) -> np.ndarray:
    """The importance as kernels take it, float32 [columns]; empty for none."""
    if seen is None:
        return np.empty(0, np.float32)
    return np.ascontiguousarray(seen.square, np.float32)
