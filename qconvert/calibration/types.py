"""What a calibration is: a sample of tokens, and what the model's linear layers saw of it.

Layers go by the GGUF names of their weights, `blk.0.attn_q.weight`, whatever the checkpoint calls
them and however it fuses or splits them: a family's table of tensors leads from there to both
containers. A weight with several matrices (experts) has statistics for each.

Histograms are of absolute values, over bins that are even within each octave, so that a bin's
number is read off the bits of a float32: `bits(|x|) >> (23 - log2(bins per octave))`, less that
of the lowest edge. What is smaller than the lowest edge, zero too, counts in bin 0, and what is
larger than the highest in the last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qconvert.text.types import Sample

LOWEST, OCTAVES = -24, 44
"""The lowest edge of histograms is 2**LOWEST, the highest OCTAVES above."""

PER_OCTAVE = 16
"""Bins of the histogram of absolute values, per octave."""

PEAKS_PER_OCTAVE = 4
"""Bins of the histogram of tokens' largest absolute values, per octave."""

BINS = OCTAVES * PER_OCTAVE
PEAK_BINS = OCTAVES * PEAKS_PER_OCTAVE

FEW_TOKENS = 128
"""An expert that fewer tokens reached is named, and gets the statistics of its whole layer."""


@dataclass(frozen=True)
class InputStatistics:
    """What is known of the input of one linear layer, or of each expert's.

    Attributes:
        weights: GGUF names of the weights that this input is multiplied with.
        count: int64 [matrices]: tokens seen.
        sum_squares: float32 [matrices, columns].
        mean, minimum, maximum: float32 [matrices, columns]; zeros where no token was seen.
        histogram: int64 [matrices, BINS]: of the absolute values of all elements.
        peaks: int64 [matrices, PEAK_BINS]: tokens by their largest absolute value.
        energies: float64 [matrices, PEAK_BINS]: sum of squares of the tokens of each such bin.
        negatives: int64 [matrices, BINS]: what the negative elements have in `histogram`, for
            ranges that are not symmetric; None where it is not known.
    """

    weights: tuple[str, ...]
    count: np.ndarray
    sum_squares: np.ndarray
    mean: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    histogram: np.ndarray
    peaks: np.ndarray
    energies: np.ndarray
    negatives: np.ndarray | None = None

    @property
    def matrices(self) -> int:
        return len(self.count)

    @property
    def columns(self) -> int:
        return int(self.sum_squares.shape[1])

    @property
    def absmax(self) -> np.ndarray:
        """float32 [matrices, columns]."""
        largest: np.ndarray = np.maximum(np.abs(self.minimum), np.abs(self.maximum))
        return largest


@dataclass(frozen=True)
class Calibration:
    """A calibration file.

    Attributes:
        path: where it is.
        sample: the tokens.
        inputs: by the GGUF name of the first weight that each is multiplied with.
        model: how the user named the model.
        fingerprint: of the model (`qconvert.checkpoint.fingerprint`).
        tokenizer: SHA-256 of the tokenizer's files; empty where there are none.
        version: the qconvert that made it.
        dtype: of the matrix products, "bfloat16".
    """

    path: Path
    sample: Sample
    inputs: Mapping[str, InputStatistics]
    model: str
    fingerprint: str
    tokenizer: str = ""
    version: str = ""
    dtype: str = ""

    @cached_property
    def by_weight(self) -> dict[str, InputStatistics]:
        """The input of each weight, by its GGUF name."""
        return {name: one for one in self.inputs.values() for name in one.weights}


def edges(per_octave: int) -> np.ndarray:
    """The edges of the bins, float64 [bins + 1]."""
    octaves = np.exp2(np.arange(LOWEST, LOWEST + OCTAVES, dtype=np.float64))
    inside = 1 + np.arange(per_octave) / per_octave
    below = (octaves[:, None] * inside).reshape(-1)
    return np.append(below, 2.0 ** (LOWEST + OCTAVES))
