"""Whether one range per tensor can serve an input, or its tokens are too unlike.

A few tokens, the first of a window above all, carry activations thousands of times larger than
those of all others (M. Sun et al., "Massive activations in large language models", arXiv
2402.17762). One range that reaches them rounds the others to nothing; one that does not cuts off
what attention elsewhere leans on. A range per token has neither trouble.

The measure is the expected squared error of rounding and clipping, relative to the energy of the
token, in two averages: over tokens, where the many ordinary ones count, and over energy, where the
few massive ones do. The worse of the two is what a range loses. It needs only how many tokens have
their largest absolute value in which bin, and their energy.
"""

from dataclasses import dataclass

import numpy as np

from qconvert.algorithms.activation_ranges import FLOAT8_LARGEST, Bounds
from qconvert.calibration.types import PEAKS_PER_OCTAVE, InputStatistics, edges
from qconvert.formats.safetensors.types import ActivationFormat

FLOAT8_STEP = 2.0**-9
"""Between float8 e4m3fn's smallest codes."""

FLOAT8_ERROR = 2.0**-6 / 12 / 2
"""The mean square of its relative rounding error above them: an eighth of a power of two is a step,
and a number's square is about twice that of the power."""

LIMIT = 0.0095
"""What four bits lose of normally distributed numbers at their best (J. Max, "Quantizing for
minimum distortion", 1960). Eight bits that lose as much have lost their point."""

FAR_MORE = 16.0
"""Times what a range for each token loses: two bits, since each is worth a factor of four."""


@dataclass(frozen=True)
class Losses:
    """The relative squared error of an input, from 0 to 1: with one range, and with one for each
    token."""

    static: float
    token: float

    @property
    def is_massive(self) -> bool:
        """Whether one range would lose far more."""
        return self.static > LIMIT and self.static > FAR_MORE * self.token


@dataclass(frozen=True)
class Tokens:
    """Tokens with about the same largest absolute value; arrays are float64 [groups].

    Attributes:
        number: how many there are.
        peak: their largest absolute value.
        energy: the mean sum of squares of one.
        columns: of the input.
    """

    number: np.ndarray
    peak: np.ndarray
    energy: np.ndarray
    columns: int


def tokens(statistics: InputStatistics, matrix: int) -> Tokens | None:
    """What one matrix saw, or all of them, where it was never used; None if all is zero."""
    used = [matrix] if statistics.count[matrix] else list(range(statistics.matrices))
    number = statistics.peaks[used].sum(axis=0).astype(np.float64)
    energy = statistics.energies[used].sum(axis=0)
    bounds = edges(PEAKS_PER_OCTAVE)
    peak = np.minimum(np.sqrt(bounds[1:] * bounds[:-1]), float(statistics.absmax[used].max()))
    seen = (number > 0) & (energy > 0)
    if not seen.any():
        return None
    energy = np.maximum(energy[seen] / number[seen], peak[seen] ** 2)
    return Tokens(number[seen], peak[seen], energy, statistics.columns)


def losses(
    statistics: InputStatistics, matrix: int, form: ActivationFormat, range_: Bounds
) -> Losses:
    """What a stored range would lose."""
    seen = tokens(statistics, matrix)
    if seen is None:
        return Losses(0.0, 0.0)
    return Losses(static_loss(seen, form, range_), token_loss(seen, form))


def static_loss(seen: Tokens, form: ActivationFormat, range_: Bounds) -> float:
    """What one range for all loses, from 0 to 1."""
    clipped = np.maximum(seen.peak - range_.reach, 0.0) ** 2
    return _worse(seen, _rounding(seen, form, np.full(len(seen.peak), range_.scale)) + clipped)


def token_loss(seen: Tokens, form: ActivationFormat) -> float:
    """What a range for each token loses."""
    spread = 2 * FLOAT8_LARGEST if form.type == "float" else 2.0**form.bits - 1
    return _worse(seen, _rounding(seen, form, 2 * seen.peak / spread))


def _rounding(seen: Tokens, form: ActivationFormat, scale: np.ndarray) -> np.ndarray:
    """The squared error of a token, before clipping."""
    if form.type == "float":
        return FLOAT8_ERROR * seen.energy + seen.columns * (FLOAT8_STEP * scale) ** 2 / 12
    return seen.columns * scale**2 / 12


def _worse(seen: Tokens, error: np.ndarray) -> float:
    share = np.minimum(error / seen.energy, 1.0)
    by_token = np.average(share, weights=seen.number)
    by_energy = np.average(share, weights=seen.number * seen.energy)
    return float(max(by_token, by_energy))
