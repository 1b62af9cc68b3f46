"""Logits must be numbers."""

import numpy as np

from qconvert.errors import WeightError


def check_finite(logits: np.ndarray, source: str, number: int) -> None:
    """Refuse logits that are NaN or infinite.

    Args:
        logits: of one window.
        source: the file's name.
        number: the window's, from 0.

    Raises:
        WeightError: naming both.
    """
    if not np.isfinite(logits.sum(dtype=np.float64)):
        raise WeightError(
            f"{source} gives logits that are NaN or infinite in window {number + 1}",
            "its weights may be damaged",
        )
