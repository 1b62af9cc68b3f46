"""Windows drawn from a stream of tokens: spread over all of it, none overlapping another, none
with the text of another.

A window repeats others where more than half of its runs of 16 tokens were seen before. Runs are
compared by their hashes, of which a fixed part is looked at, so that memory stays small.
"""

from dataclasses import dataclass, field

import numpy as np

RUN = 16
LOOKED_AT = 64
"""About how many runs of a window are compared."""


@dataclass(frozen=True)
class Seen:
    """The hashes of runs of tokens that were drawn before."""

    hashes: set[int] = field(default_factory=set)


def draw_windows(
    stream: np.ndarray, count: int, length: int, draw: np.random.Generator, seen: Seen
) -> tuple[np.ndarray, int]:
    """Windows of a stream, fewer where it is too short or repeats itself.

    Args:
        stream: int32 [tokens].
        count: windows asked for.
        length: tokens of a window.
        draw: decides where windows lie.
        seen: what other windows hold; these are added.

    Returns:
        Where windows begin, int64 [windows], rising, and how many were dropped as repeats with
        nothing else to take their place.
    """
    starts = draw_starts(len(stream), count, length, draw)
    fresh = [s for s in starts.tolist() if _is_fresh(stream[s : s + length], seen)]
    missing = len(starts) - len(fresh)
    if missing:
        spare = draw.permutation(_gaps(fresh, len(stream), length)).tolist()
        for start in spare[: 64 + 8 * count]:
            if missing and _is_fresh(stream[start : start + length], seen):
                fresh.append(start)
                missing -= 1
    return np.array(sorted(fresh), np.int64), missing


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


def _gaps(taken: list[int], total: int, length: int) -> np.ndarray:
    """Where further windows would fit between those that are taken, int64."""
    ends = [0, *(start + length for start in taken)]
    found = [
        np.arange(end, start - length + 1, length, dtype=np.int64)
        for end, start in zip(ends, [*taken, total], strict=True)
    ]
    return np.concatenate(found)


def _is_fresh(window: np.ndarray, seen: Seen) -> bool:
    """Whether a window is no repeat; its runs count as seen then."""
    hashes = _run_hashes(window)
    known = sum(value in seen.hashes for value in hashes)
    if 2 * known > len(hashes):
        return False
    seen.hashes.update(hashes)
    return True


def _run_hashes(window: np.ndarray) -> list[int]:
    run = min(RUN, len(window))
    runs = np.lib.stride_tricks.sliding_window_view(window.astype(np.uint64), run)
    hashes = np.zeros(len(runs), np.uint64)
    for column in range(run):
        hashes = (hashes + runs[:, column] + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    part = np.uint64(max(1, len(hashes) // LOOKED_AT))
    looked_at = hashes[hashes % part == 0]
    found: list[int] = (looked_at if len(looked_at) else hashes[:1]).tolist()
    return found
