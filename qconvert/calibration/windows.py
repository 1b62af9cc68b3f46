"""Windows drawn from a stream of tokens: spread over all of it, none overlapping another."""

import numpy as np


def draw_starts(total: int, count: int, length: int, draw: np.random.Generator) -> np.ndarray:
    """Where windows begin, int64 [windows], rising.

    The stream is cut into as many equal parts as windows are asked for, and each part gives one
    window from anywhere in it. A stream too short for that many gives as many as fit.

    Args:
        total: tokens in the stream.
        count: windows asked for.
        length: tokens of a window.
        draw: decides where in its part each window lies.
    """
    count = min(count, total // length)
    bounds = total * np.arange(count + 1, dtype=np.int64) // max(count, 1)
    spare = np.diff(bounds) - length
    starts: np.ndarray = bounds[:-1] + draw.integers(0, spare + 1)
    return starts
