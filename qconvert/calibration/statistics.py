"""Gathers the statistics of layers' inputs while a model runs.

On the CPU rows go in pieces of a thousand through one kernel, several pieces at a time; their sums
are added up in float64 in the order of the rows, so the result does not depend on the number of
threads. On other devices torch does the same sums.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from qconvert.calibration.types import (
    BINS,
    LOWEST,
    PEAK_BINS,
    PEAKS_PER_OCTAVE,
    PER_OCTAVE,
    InputStatistics,
)
from qconvert.errors import WeightError

PIECE = 1024
"""Rows that one call of the kernel sums up in float32."""

MANTISSA, BIAS = 23, 127
"""Of a float32: bits of the fraction, and what is added to the exponent."""

SHIFTS = (MANTISSA - (PER_OCTAVE.bit_length() - 1), MANTISSA - (PEAKS_PER_OCTAVE.bit_length() - 1))
FIRST = ((BIAS + LOWEST) * PER_OCTAVE, (BIAS + LOWEST) * PEAKS_PER_OCTAVE)


class Piece(NamedTuple):
    """Of some rows, in their order: at most `PIECE`.

    Attributes:
        rows: how many.
        part: float32 [4, columns]: sum of squares, sum, minimum, maximum.
        histogram, peaks, energies: as in `Totals`.
    """

    rows: int
    part: np.ndarray
    histogram: np.ndarray
    peaks: np.ndarray
    energies: np.ndarray


class Glimpse(NamedTuple):
    """What an observer was shown once, as it is added up: it may have been somewhere else."""

    weights: tuple[str, ...]
    matrix: int
    columns: int
    pieces: list[Piece]


def glimpse(
    weights: tuple[str, ...], x: Any, matrix: int, mapped: Callable[..., Any] = map
) -> Glimpse:
    """Of rows [tokens, columns], which are on the CPU or come there; `mapped` may work on several
    pieces at a time."""
    bits = _bits(x.cpu())
    parts = [bits[start : start + PIECE] for start in range(0, len(bits), PIECE)]
    made = map(_piece, parts) if len(parts) == 1 else mapped(_piece, parts)
    return Glimpse(weights, matrix, x.shape[1], list(made))


@dataclass
class Totals:
    """What was seen so far of one input, of one matrix; sums in float64, and a histogram each of
    what is negative and of the rest."""

    columns: int
    count: int = 0
    sums: np.ndarray = field(init=False)
    minimum: np.ndarray = field(init=False)
    maximum: np.ndarray = field(init=False)
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((2, BINS), np.int64))
    peaks: np.ndarray = field(default_factory=lambda: np.zeros(PEAK_BINS, np.int64))
    energies: np.ndarray = field(default_factory=lambda: np.zeros(PEAK_BINS, np.float64))

    def __post_init__(self) -> None:
        self.sums = np.zeros((2, self.columns), np.float64)
        self.minimum = np.full(self.columns, np.inf, np.float32)
        self.maximum = np.full(self.columns, -np.inf, np.float32)

    def add(self, rows: int, part: np.ndarray) -> None:
        """float32 [4, columns]: sum of squares, sum, minimum, maximum of some rows."""
        self.count += rows
        self.sums += part[:2]
        np.minimum(self.minimum, part[2], out=self.minimum)
        np.maximum(self.maximum, part[3], out=self.maximum)

    def add_piece(self, piece: Piece) -> None:
        self.add(piece.rows, piece.part)
        self.histogram += piece.histogram
        self.peaks += piece.peaks
        self.energies += piece.energies


class Collector:
    """Sums up what an observer of a walk is shown.

    Args:
        threads: pieces at a time, on the CPU.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._totals: dict[tuple[str, ...], dict[int, Totals]] = {}

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def observe(self, weights: tuple[str, ...], x: Any, matrix: int) -> None:
        """Add rows [tokens, columns] of one input. See `qconvert.forward.walk`."""
        if x.device.type == "cpu":
            self.add(glimpse(weights, x, matrix, self._pool.map))
        else:
            add_on_device(self._of(weights, matrix, x.shape[1]), x)

    def add(self, seen: Glimpse) -> None:
        """Add what was seen somewhere else, or here."""
        totals = self._of(seen.weights, seen.matrix, seen.columns)
        for piece in seen.pieces:
            totals.add_piece(piece)

    def take(self, matrices: Mapping[str, int]) -> list[InputStatistics]:
        """The statistics since the last call, in the order in which inputs came.

        Args:
            matrices: how many each weight has, by name; one where it is not listed.

        Raises:
            WeightError: a sum is NaN or infinite.
        """
        found = [
            _finish(weights, totals, matrices.get(weights[0], 1))
            for weights, totals in self._totals.items()
        ]
        self._totals = {}
        return found

    def _of(self, weights: tuple[str, ...], matrix: int, columns: int) -> Totals:
        matrices = self._totals.setdefault(weights, {})
        if matrix not in matrices:
            matrices[matrix] = Totals(columns)
        return matrices[matrix]


def _bits(x: Any) -> np.ndarray:
    """The bits of a tensor: uint16 of bfloat16, else uint32 of float32."""
    import torch

    x = x.detach().contiguous()
    if x.dtype == torch.bfloat16:
        narrow: np.ndarray = x.view(torch.int16).numpy()
        return narrow.view(np.uint16)
    wide: np.ndarray = x.float().view(torch.int32).numpy()
    return wide.view(np.uint32)


def _piece(bits: np.ndarray) -> Piece:
    from qconvert.kernels.statistics import collect

    histogram = np.zeros((2, BINS), np.int64)
    peaks, energies = np.zeros(PEAK_BINS, np.int64), np.zeros(PEAK_BINS, np.float64)
    part = collect(bits, SHIFTS, FIRST, histogram, peaks, energies)
    return Piece(len(bits), part, histogram, peaks, energies)


def add_on_device(totals: Totals, x: Any) -> None:
    """The same by torch, for tensors on any device."""
    import torch

    x = x.detach().float()
    part = torch.stack([(x * x).sum(0), x.sum(0), x.amin(0), x.amax(0)])
    totals.add(len(x), part.cpu().numpy())
    size = x.abs()
    places = _places(size, 0, BINS)
    places += BINS * (x < 0)
    counts = torch.bincount(places.reshape(-1), minlength=2 * BINS).cpu().numpy()
    totals.histogram += counts.reshape(2, BINS)
    rows = _places(size.amax(1), 1, PEAK_BINS).cpu().numpy()
    # On the CPU, where sums of fractions have one order.
    energies = (x * x).sum(1).cpu().numpy().astype(np.float64)
    totals.peaks += np.bincount(rows, minlength=PEAK_BINS)
    totals.energies += np.bincount(rows, energies, PEAK_BINS)


def _places(size: Any, which: int, bins: int) -> Any:
    """The bins of absolute values."""
    import torch

    numbers = (size.contiguous().view(torch.int32) >> SHIFTS[which]) - FIRST[which]
    return numbers.clamp_(0, bins - 1)


def _finish(
    weights: tuple[str, ...], totals: Mapping[int, Totals], matrices: int
) -> InputStatistics:
    columns = next(iter(totals.values())).columns
    empty = Totals(columns)
    every = [totals.get(number, empty) for number in range(matrices)]
    count = np.array([one.count for one in every], np.int64)
    seen = count[:, None] > 0
    sums = np.stack([one.sums for one in every])
    if not np.isfinite(sums).all():
        bad = int(np.argmin(np.isfinite(sums).all(axis=(1, 2))))
        which = f"{weights[0]} (expert {bad})" if matrices > 1 else weights[0]
        raise WeightError(
            f"the input of {which} holds values that are NaN or infinite",
            "the weights may be damaged; if the model computes in float16, try --dtype bf16",
        )
    mean = sums[:, 1] / np.maximum(count, 1)[:, None]
    return InputStatistics(
        weights,
        count,
        sums[:, 0].astype(np.float32),
        mean.astype(np.float32),
        np.where(seen, np.stack([one.minimum for one in every]), np.float32(0)),
        np.where(seen, np.stack([one.maximum for one in every]), np.float32(0)),
        np.stack([one.histogram.sum(axis=0) for one in every]),
        np.stack([one.peaks for one in every]),
        np.stack([one.energies for one in every]),
        np.stack([one.histogram[1] for one in every]),
    )
