"""How sure it is that one file is nearer to the original than another.

Windows are drawn anew, with replacement, as many as there are; each draw counts for all files alike
(paired). The share of draws in which a file has the smaller mean divergence says how sure the order
is: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 8 (units are windows, for tokens
of one window are not independent).
"""

from collections.abc import Sequence

import numpy as np

DRAWS = 10_000
LEAST_WINDOWS = 8
"""With fewer, a draw repeats so few values that the share would say more than is known."""

SURE = 0.95


def compare(
    divergences: Sequence[np.ndarray], seed: int = 0, draws: int = DRAWS
) -> dict[tuple[int, int], float]:
    """For each pair i < j the share of draws in which file i has the smaller mean divergence; a
    tie counts half.

    Args:
        divergences: of each file, float64 [windows, scored of a window].
        seed: of the draw.
        draws: how many.

    Returns:
        Nothing where there are too few windows to tell.
    """
    if len(divergences) < 2 or len(divergences[0]) < LEAST_WINDOWS:
        return {}
    means = np.stack([one.mean(axis=1) for one in divergences], axis=1)
    drawn = draw(means, np.random.default_rng(seed), draws)
    files = range(len(divergences))
    return {
        (i, j): float(
            np.mean(drawn[:, i] < drawn[:, j]) + 0.5 * np.mean(drawn[:, i] == drawn[:, j])
        )
        for i in files
        for j in files
        if i < j
    }


def draw(means: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Means over windows that are drawn with replacement, float64 [draws, files].

    Args:
        means: float64 [windows, files].
    """
    windows = len(means)
    found = np.empty((draws, means.shape[1]))
    step = max(1, (1 << 20) // windows)
    for start in range(0, draws, step):
        chosen = rng.integers(0, windows, (min(step, draws - start), windows))
        found[start : start + step] = means[chosen].mean(axis=1)
    return found
