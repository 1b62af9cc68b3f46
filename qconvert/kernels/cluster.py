"""The best few values that many weights can be given, and which each weight gets.

In one dimension k-means has an exact answer: clusters are runs of the sorted points, so the best
cost of the first i points in c clusters is

    D[c, i] = min over j of D[c - 1, j] + cost of the points from j to i

and where the last cluster begins never moves back as i grows, by which each layer takes n log n
steps. Points are bins of weights that float32 cannot tell apart in its sign, its exponent and the
first bits of its mantissa: all weights of BF16 and F16 have bins of their own.

Sources: H. Wang, M. Song, "Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic
programming", The R Journal 3 (2011); A. Gronlund et al., arXiv 1701.07204.
"""

from typing import Any

import numpy as np
from numba import float64, int64, njit, types, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS

SHIFT = 13
"""Bits of float32 that F16 does not have."""

BINS = 1 << (32 - SHIFT)

DOUBLES = float64[::1]
BITS = types.Array(types.uint32, 1, "C", readonly=True, aligned=False)


@njit(
    void(BITS, FLOATS, FLOATS, int64, DOUBLES, DOUBLES),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def fill_bins(bits: Any, x: Any, importance: Any, columns: int, weight: Any, total: Any) -> None:
    """Add every weight of x (rows of `columns` end to end) to its bin.

    bits: x again; importance: of each column, or empty; weight, total: [BINS], the sums of
    importance, and of importance times weight, in ascending order of the weights.
    """
    half = BINS // 2
    column = 0
    for i in range(x.size):
        key = bits[i] >> SHIFT
        place = half - 1 - (int64(key) - half) if key >= half else half + int64(key)
        w = float64(importance[column]) if importance.size else 1.0
        weight[place] += w
        total[place] += w * float64(x[i])
        column = column + 1 if column + 1 < columns else 0


@njit(error_model="numpy", nogil=True)
def _cost(sums: Any, first: int, last: int) -> Any:
    """What the points from `first` to before `last` cost, all at their mean."""
    w = sums[0, last] - sums[0, first]
    s = sums[1, last] - sums[1, first]
    return max(sums[2, last] - sums[2, first] - s * s / w, 0.0)


@njit(
    int64(DOUBLES, DOUBLES, DOUBLES),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def best_means(points: Any, weight: Any, means: Any) -> Any:
    """Fill `means` [k] with those of the best k clusters, ascending; returns how many there are.

    points: ascending; weight: above zero.
    """
    n, k = points.size, means.size
    if n <= k:
        means[:n] = points
        return n
    sums = np.zeros((3, n + 1))
    middle = (points * weight).sum() / weight.sum()
    for i in range(n):
        x, w = points[i] - middle, weight[i]
        sums[0, i + 1] = sums[0, i] + w
        sums[1, i + 1] = sums[1, i] + w * x
        sums[2, i + 1] = sums[2, i] + w * x * x
    begins = np.zeros((k, n + 1), np.int32)
    before, best = np.empty(n + 1), np.empty(n + 1)
    for i in range(1, n + 1):
        before[i] = _cost(sums, 0, i)
    stack = np.empty((64, 4), np.int64)
    for c in range(1, k):
        stack[0] = (c + 1, n + 1, c, n)
        depth = 1
        while depth:
            depth -= 1
            low, high, first, last = stack[depth]
            i = (low + high) // 2
            cost, at = np.inf, first
            for j in range(first, min(last, i - 1) + 1):
                own = before[j] + _cost(sums, j, i)
                if own < cost:
                    cost, at = own, j
            best[i], begins[c, i] = cost, at
            if i + 1 < high:
                stack[depth] = (i + 1, high, at, last)
                depth += 1
            if low < i:
                stack[depth] = (low, i, first, at)
                depth += 1
        before, best = best, before
    stop = n
    for c in range(k - 1, -1, -1):
        start = begins[c, stop]
        means[c] = middle + (sums[1, stop] - sums[1, start]) / (sums[0, stop] - sums[0, start])
        stop = start
    return k


@njit(
    void(FLOATS, FLOATS, BYTES_OUT),
    error_model="numpy",
    nogil=True,
    cache=True,
)
def nearest_codes(x: Any, middles: Any, codes: Any) -> None:
    """The number of the value nearest to each weight; `middles` lie between neighbours."""
    for i in range(x.size):
        first, last = 0, middles.size
        while first < last:
            middle = (first + last) >> 1
            if middles[middle] < x[i]:
                first = middle + 1
            else:
                last = middle
        codes[i] = first
