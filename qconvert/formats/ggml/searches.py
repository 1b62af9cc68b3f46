"""The candidates that the searches for scales try, sixteen at a time.

Found by trial on random and real weights: few enough to be fast, spread so that more gain little.
What the rows of each array stand for is said in `qconvert.kernels.affine` and the modules beside
it. Each search first tries the plain choice, the full range on all codes, and prefers it among
equals: weights that lie on a grid already are then met exactly.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

EPSILON = 2.0**-11
"""The relative distance of neighbouring float16."""

FAVOUR = 1 - 3e-6
"""What trials other than the plain one must be better by, a little above what rounding blurs."""


class Search(NamedTuple):
    """float32 arrays, rows of sixteen laid end to end.

    Attributes:
        trials: of step 1, the scales of a sub-block.
        grid: of step 2, the scale of scales.
        moves: of step 3, changes of a sub-block's integers.
        nudges: of step 4, factors on the scale of scales.
    """

    trials: np.ndarray
    grid: np.ndarray
    moves: np.ndarray
    nudges: np.ndarray


def _flat(*rows: Any) -> np.ndarray:
    return np.concatenate([np.ravel(row) for row in rows]).astype(np.float32)


def _favour(count: int) -> np.ndarray:
    favour = np.full(count, FAVOUR)
    favour[0] = 1
    return favour


def affine(ranges: np.ndarray, phases: np.ndarray, limit: int) -> Search:
    """For formats with minima.

    ranges, phases: [n, 16], the steps by which the range of codes is widened, and the part of a
    step by which rounding is shifted.
    """
    favour = _favour(ranges.size).reshape(ranges.shape)
    trials = np.stack([ranges, phases, favour], axis=1)
    slack = np.array([0, -0.5, 0.5, 1, 1.5, 2, 2.5, 3])
    factors = limit / (limit - slack)
    pairs = np.stack(np.meshgrid(factors, factors[[0, 2, 3, 5]])).reshape(2, -1, 16).swapaxes(0, 1)
    near = [(s, m, 0) for s in (0, 1, -1) for m in (0, 1, -1)]
    far = [(0, 0, 0.2), (0, 0, -0.2), (0, 0, 0.4), (0, 0, -0.4), (1, 0, 0.3), (-1, 0, -0.3)]
    moves = np.array([*near, *far, (2, 0, 0)]).T
    d = np.array([0, 0, 1, -1, 0, 0, 1, -1, 1, -1, 2, -2, 0, 0, 2, -2])
    dmin = np.array([0, 0, 0, 0, 1, -1, 1, -1, -1, 1, 0, 0, 2, -2, 2, -2])
    keep = np.arange(16) == 0
    nudges = _flat(1 + d * EPSILON, 1 + dmin * EPSILON, keep)
    return Search(_flat(trials), _flat(pairs), _flat(moves), nudges)


def symmetric(trials: np.ndarray, limit: int, moves: np.ndarray) -> Search:
    """For formats without minima.

    trials: [n], the codes that stand for the largest weight.
    """
    rows = trials.reshape(-1, 16)
    favour = _favour(trials.size).reshape(rows.shape)
    # Whole steps for weights on a grid, of which another one may suit float16 better.
    slack = np.concatenate([np.arange(16), np.arange(1, 17) * limit / 400])
    grid = np.concatenate([-1 / (limit - slack), 1 / (limit - 1 - slack)])
    steps = np.array([*range(8), *range(-7, 0)])
    nudges = _flat(0, 1 + EPSILON * steps)
    return Search(_flat(np.stack([rows, favour], axis=1)), _flat(grid), _flat(moves), nudges)


def _around(middle: float, spread: float, count: int = 16) -> np.ndarray:
    return middle + np.linspace(-spread, spread, count)


def _plain_first(trials: np.ndarray, plain: float) -> np.ndarray:
    return np.concatenate([[plain], trials[1:]])


def _q2_k() -> Search:
    wide, narrow = np.linspace(-0.9, 1.1, 16), np.linspace(-0.9, 1.1, 8)
    phase = 0.33
    ranges = np.stack([_plain_first(wide, 0), np.tile(narrow - phase, 2)])
    return affine(ranges, np.stack([np.zeros(16), np.repeat([phase, -phase], 8)]), 15)


def _one_row(low: float, high: float) -> Search:
    ranges = _plain_first(np.linspace(low, high, 16), 0)[None]
    return affine(ranges, np.zeros((1, 16)), 63)


NEAR = np.array([*range(9), *range(-7, 0)])

GRIDS = {
    "Q2_K": _q2_k(),
    "Q3_K": symmetric(
        np.concatenate([_plain_first(_around(-4.1, 0.9), -4), _around(3.3, 0.8)]), 32, NEAR
    ),
    "Q4_K": _one_row(-1.2, 1.2),
    "Q5_K": _one_row(-1.0, 1.5),
    "Q6_K": symmetric(
        np.concatenate([_plain_first(_around(-32, 0.8, 10), -32), _around(31.2, 0.5, 6)]), 128, NEAR
    ),
}


def _codebook_trials() -> np.ndarray:
    """Values that stand for the largest weight: the outermost ones, and within a tenth of them."""
    spread = _plain_first(np.linspace(0.92, 1.08, 16), 1)
    favour = _favour(32).reshape(2, 16)
    return _flat(113 * spread, favour[0], -127 * spread, favour[1])


def _iq4_xs() -> Search:
    search = symmetric(np.zeros(16), 32, NEAR)
    return search._replace(trials=_codebook_trials())


IQ4_XS_SEARCH = _iq4_xs()
IQ4_NL_SEARCH = (
    _codebook_trials(),
    _flat(1 + EPSILON * np.array([0, -40, -20, -10, -5, -3, -2, -1, 1, 2, 3, 5, 10, 20, 40, 60])),
)


@cache
def lattice(last: float, reach: int) -> np.ndarray:
    """For the formats of grid points (`qconvert.kernels.lattice`), float32 [n * 16].

    last: the largest level; reach: number of l.
    """
    trials = 1.5 * 0.907 ** np.arange(16) / last
    starts = 1.25 ** np.array([0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8])
    near = 0.88 * 1.018 ** np.arange(16)
    shares = 1 / (2 * reach - 1 - np.linspace(-1, 6, 32))
    return _flat(trials, starts, near, 1 + 2 * np.arange(16), shares)
