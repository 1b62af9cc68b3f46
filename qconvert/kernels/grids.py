"""Which blocks of 32 weights lie on a grid already, x = d * q or x = d * q + m, where d and m are
float16 and the weights have been rounded to a dtype since.

A rounded weight stands for an interval, and so does d by each of the block's weights. Where all
intervals have a float16 in common, it is one that the block may have been made with: with another
grid, thirty-two weights do not come to lie so by chance.
"""

import math
from typing import Any

import numpy as np
from numba import float64, int64, njit, types, void

from qconvert.kernels.blocks import BYTES_OUT, FLOATS, FLOATS_OUT

BLOCK = 32
TRIED = 9
"""Of float16 values for m, as many on each side of the likeliest; bfloat16 has 3 bits less."""

DOUBLES = types.Array(types.float64, 1, "C", readonly=True, aligned=False)
_POWERS = 160
_HALVES = np.ldexp(0.5, np.arange(-_POWERS, _POWERS))
"""Half of 2**k, at k + _POWERS."""

_INSIDE = 1 - 2.0**-20
_SMALL = 31
_HALF_BITS = 11
_HALF_LEAST = -24
_HALF_MOST = 65504.0


@njit(nogil=True, cache=True, error_model="numpy")
def _quantum(v: float, bits: int, least: int) -> float:
    """The distance of neighbours about v in floats of so many bits, at least 2**least."""
    if v == 0:
        return math.ldexp(1.0, least)
    exponent = math.frexp(v)[1]
    return math.ldexp(1.0, max(exponent - bits, least))


@njit(nogil=True, cache=True, error_model="numpy")
def _bounds(x: Any, first: int, bits: int, least: int, powers: Any, lows: Any, highs: Any) -> None:
    """Between which numbers lies what each weight of a block was rounded from. Below a power of two
    the next number is half as far; midway between two, the even one is taken."""
    for k in range(BLOCK):
        v = float64(x[first + k])
        pattern = np.float32(x[first + k]).view(np.uint32)
        exponent = int64((pattern >> np.uint32(23)) & np.uint32(255)) - 126
        half = powers[max(exponent - bits, least) + _POWERS]
        inner = half
        if exponent - bits > least and not pattern & np.uint32(0x7FFFFF):
            inner = half / 2
        if np.rint(v / (4 * half)) * 4 * half != v:  # an odd mantissa
            half, inner = half * _INSIDE, inner * _INSIDE
        lows[k] = v - (inner if v > 0 else half)
        highs[k] = v + (half if v > 0 else inner)


@njit(nogil=True, cache=True, error_model="numpy")
def _near(want: float, low: float, high: float) -> Any:
    """The float16 nearest to `want` from low to high; NaN for none."""
    quantum = _quantum(want, _HALF_BITS, _HALF_LEAST)
    v = np.rint(want / quantum) * quantum
    if v < low:
        quantum = _quantum(low, _HALF_BITS, _HALF_LEAST)
        v = np.ceil(low / quantum) * quantum
    elif v > high:
        quantum = _quantum(high, _HALF_BITS, _HALF_LEAST)
        v = np.floor(high / quantum) * quantum
    if low <= v <= high and abs(v) <= _HALF_MOST:
        return float(v)
    return math.nan


@njit(nogil=True, cache=True, error_model="numpy")
def _multiples(
    x: Any, first: int, step: float, low: int, high: int, most: int, lows: Any, highs: Any
) -> tuple[float, float]:
    """Between which numbers lies the d for which x = d * q, by the weights of at most so many
    steps; from more to less for none."""
    under, over = -np.inf, np.inf
    for k in range(BLOCK):
        v = float64(x[first + k])
        q = np.rint(v / step)
        if (q == 0) != (v == 0):
            return np.inf, -np.inf
        if q != 0 and abs(q) <= most:
            if q < low or q > high:
                return np.inf, -np.inf
            one, other = lows[k] / q, highs[k] / q
            under, over = max(under, min(one, other)), min(over, max(one, other))
            if under > over:
                return np.inf, -np.inf
    return under, over


@njit(nogil=True, cache=True, error_model="numpy")
def _taken(
    x: Any, first: int, d: float, low: int, high: int, lows: Any, highs: Any, codes: Any
) -> bool:
    """Whether all weights of a block are multiples of d, rounded; their codes, as far as they
    are. Of a large weight the nearest multiple need not be the one that it was rounded from."""
    for k in range(BLOCK):
        q = np.rint(float64(x[first + k]) / d)
        if not lows[k] <= q * d <= highs[k]:
            q += 1 if (q * d < lows[k]) == (d > 0) else -1
            if not lows[k] <= q * d <= highs[k]:
                return False
        if q < low or q > high:
            return False
        codes[first + k] = np.uint8(np.int8(q))
    return True


@njit(
    void(FLOATS, DOUBLES, int64, int64, int64, int64, FLOATS_OUT, BYTES_OUT, BYTES_OUT),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def scaled(
    x: Any, peaks: Any, low: int, high: int, bits: int, least: int, d: Any, codes: Any, found: Any
) -> None:
    """x = d * q.

    Args:
        x: float32 [blocks * 32].
        peaks: the codes that the largest weight is tried with, the likeliest first: a negative one
            whatever its sign, others by their size, so that steps are positive.
        low, high: codes at most.
        bits, least: of the dtype that x was rounded to: its mantissa's, and the power of two that
            is its smallest distance.
        d: float32 [blocks]; codes: the bytes of int8 [blocks * 32]; found: [blocks], 1 where the
            block lies on a grid and is not all zeros. Of others, d and codes are undefined.
    """
    lows, highs = np.empty(BLOCK), np.empty(BLOCK)
    for b in range(found.size):
        first = b * BLOCK
        top = 0.0
        for k in range(first, first + BLOCK):
            if abs(x[k]) > abs(top):
                top = float64(x[k])
        found[b] = 0
        if not 0 < abs(top) < np.inf:
            continue
        _bounds(x, first, bits, least, _HALVES, lows, highs)
        for peak in peaks:
            likely = top / (peak if peak < 0 or top > 0 else -peak)
            step = likely
            # The largest weights may be half a step off: small ones tell the step better.
            under, over = _multiples(x, first, step, low, high, _SMALL, lows, highs)
            if under <= over and high > _SMALL:
                step = step if under < -_HALF_MOST else 0.5 * (under + over)
                under, over = _multiples(x, first, step, low, high, 2 * _SMALL, lows, highs)
            if not under <= over:
                continue
            chosen = _near(likely, under, over)
            if np.isnan(chosen) or chosen == 0:
                continue
            quantum = _quantum(chosen, _HALF_BITS, _HALF_LEAST)
            for tried in range(2 * TRIED + 1):
                away = (tried + 1) // 2 * (1 if tried % 2 else -1)
                v = chosen + away * quantum
                if under <= v <= over and _taken(x, first, v, low, high, lows, highs, codes):
                    d[b] = v
                    found[b] = 1
                    break
            if found[b]:
                break


@njit(nogil=True, cache=True, error_model="numpy")
def _fits_steps(
    x: Any, first: int, low: float, step: float, own: float, slack: float, lows: Any, highs: Any
) -> bool:
    """Whether all weights of a block are whole steps above the least one, as far as roundings let
    it be said."""
    per_step = 1 / step
    for k in range(BLOCK):
        v = float64(x[first + k])
        q = np.rint((v - low) * per_step)
        if abs(v - low - q * step) > highs[k] - lows[k] + own + q * slack:
            return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _step(
    x: Any, first: int, low: float, step: float, more: int, m: float, lows: Any, highs: Any
) -> Any:
    """The d for which x = d * (q + more) + m, q the steps above the least weight; NaN for none."""
    under, over = -np.inf, np.inf
    per_step = 1 / step
    for k in range(BLOCK):
        v = float64(x[first + k])
        q = np.rint((v - low) * per_step) + more
        if q == 0:
            if not lows[k] <= m <= highs[k]:
                return np.nan
        else:
            under, over = max(under, (lows[k] - m) / q), min(over, (highs[k] - m) / q)
        if under > over:
            return np.nan
    return _near(step, under, over)


@njit(nogil=True, cache=True, error_model="numpy")
def _least(
    x: Any, first: int, low: float, step: float, more: int, lows: Any, highs: Any
) -> tuple[float, float]:
    """d and m for codes that are `more` than the steps above the least weight; NaN for none."""
    want = low - more * step
    # Below a power of two float16 is twice as dense.
    quantum = _quantum(want * (1 - 2.0**-12), _HALF_BITS, _HALF_LEAST)
    middle = np.rint(want / quantum) * quantum
    for tried in range(2 * TRIED + 1):
        away = (tried + 1) // 2 * (1 if tried % 2 else -1)
        m = middle + away * quantum
        whole = m / _quantum(m, _HALF_BITS, _HALF_LEAST)
        if abs(m) <= _HALF_MOST and whole == np.rint(whole):
            d = _step(x, first, low, step, more, m, lows, highs)
            if not np.isnan(d):
                return d, m
    return np.nan, np.nan


@njit(
    void(FLOATS, int64, int64, int64, FLOATS_OUT, FLOATS_OUT, BYTES_OUT, BYTES_OUT),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def shifted(
    x: Any, high: int, bits: int, least: int, d: Any, m: Any, codes: Any, found: Any
) -> None:
    """x = d * q + m, q from 0 to `high`; arguments as those of `scaled`, codes uint8."""
    lows, highs = np.empty(BLOCK), np.empty(BLOCK)
    for b in range(found.size):
        first = b * BLOCK
        low = top = float64(x[first])
        for k in range(first, first + BLOCK):
            low, top = min(low, float64(x[k])), max(top, float64(x[k]))
        found[b] = 0
        if not (-np.inf < low < top < np.inf):
            continue
        _bounds(x, first, bits, least, _HALVES, lows, highs)
        rounding = _quantum(max(abs(low), abs(top)), bits, least)
        for count in range(high, 0, -1):
            step = (top - low) / count
            if not _fits_steps(x, first, low, step, rounding, rounding / count, lows, highs):
                continue
            for more in range(high - count + 1):
                one, other = _least(x, first, low, step, more, lows, highs)
                if np.isnan(one):
                    continue
                d[b], m[b] = one, other
                found[b] = 1
                for k in range(first, first + BLOCK):
                    codes[k] = np.uint8(np.rint((float64(x[k]) - low) / step) + more)
                break
            if found[b]:
                break
