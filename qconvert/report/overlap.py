"""Whether files are tested on what they were calibrated on, which flatters them."""

from pathlib import Path

import numpy as np

from qconvert.calibration.file import read_calibration
from qconvert.errors import QconvertError
from qconvert.text.types import Windows

RUN = 48
"""Tokens in a row that two texts do not share by chance."""


def seen_in_calibration(windows: Windows, calibration: Path) -> float:
    """The share of windows of which some tokens in a row are in the calibration's sample; 0 where
    the sample is not known, as of an importance matrix, or where windows are shorter."""
    try:
        sample = read_calibration(calibration).sample.tokens
    except (QconvertError, OSError):
        return 0.0
    if min(sample.shape[1], windows.tokens.shape[1]) < RUN + 1:
        return 0.0
    # Every place of the sample is looked at, so a few places of the text are enough.
    known = _marks(sample[:, 1:], 1).ravel()
    asked = _marks(windows.tokens[:, 1:], RUN // 2)
    return float(np.isin(asked, known).any(axis=1).mean())


def _marks(tokens: np.ndarray, step: int) -> np.ndarray:
    """A number for each run of tokens, uint64 [windows, runs]; equal runs have equal numbers, and
    others hardly ever."""
    weights = np.random.default_rng(0).integers(1, 1 << 63, RUN, np.uint64) | np.uint64(1)
    runs = np.lib.stride_tricks.sliding_window_view(tokens, RUN, axis=1)[:, ::step]
    found: np.ndarray = np.stack([row.astype(np.uint64) @ weights for row in runs])
    return found
