"""ggml's first formats: blocks of 32 weights, a float16 scale, 4, 5 or 8 bits a weight.

    Q4_0   d:2 | qs:16                     x = d * (q - 8)
    Q4_1   d:2 | m:2 | qs:16               x = d * q + m
    Q5_0   d:2 | qh:4 | qs:16              x = d * (q - 16)
    Q5_1   d:2 | m:2 | qh:4 | qs:16        x = d * q + m
    Q8_0   d:2 | qs:32                     x = d * q

qs holds the low four bits: byte j those of weight j, and above them those of weight j + 16. qh
holds the fifth bits, weight j's at bit j. Q8_0 has one signed byte a weight.

Without importance the bytes are those of ggml's reference quantizers: the block's extremes take
the outermost codes, and weights are rounded by the scale before it is narrowed to float16. With
importance a search makes the weighted squared error small; Q8_0, as in ggml, has none.
Source: ggml/src/ggml-common.h, ggml-quants.c.
"""

from functools import cache, partial

import numpy as np

from qconvert.formats.ggml.planes import Plane, Planes
from qconvert.formats.ggml.scalar import (
    Params,
    Scalar,
    get_half,
    half,
    inverse,
    put_half,
    rounded_by_steps,
)
from qconvert.formats.types import Seen, Weights, square_of

BLOCK = 32


@cache
def trial_scales(zero: int, bits: int) -> np.ndarray:
    """float32 [64 or 48]: how many steps the block's widest reach is divided into, in trial.

    For Q4_0 and Q5_0 from the extreme weight's side, which has a code more, and from the other.
    Reaching beyond the codes clips the extremes, for the sake of the rest.
    """
    if not zero:
        return ((1 << bits) - 1 + np.linspace(-3, 9, 48)).astype(np.float32)
    near = -(zero + np.linspace(-1.5, 5, 48))
    far = zero - 1 + np.linspace(-2, 3, 16)
    return np.concatenate([near, far]).astype(np.float32)


@cache
def nudges() -> np.ndarray:
    """float32 [48]: factors on the scale, tried 16 at a time, ever closer."""
    steps = np.arange(-8, 8) / 8
    return np.concatenate([1 + width * steps for width in (0.03, 0.01, 0.004)]).astype(np.float32)


def find(zero: int, bits: int, x: Weights, seen: Seen | None) -> Params:
    """Scales and, where zero has no code, minima. Importance must not be negative."""
    from qconvert.kernels import legacy

    d, low = (np.empty((len(x), x.shape[1] // BLOCK), np.float32) for _ in range(2))
    flat = (d.reshape(-1), low.reshape(-1))
    if seen is None:
        legacy.fit(x.reshape(-1), zero, bits, *flat)
        return Params(half(d), None if zero else half(low), per_step=inverse(d), low=low)
    from qconvert.kernels import legacy_search

    candidates = (trial_scales(zero, bits), nudges())
    shared = (x.reshape(-1), square_of(seen), max(x.shape[1], 1), zero, bits)
    legacy_search.fit(*shared, *candidates, *flat)
    return rounded_by_steps(Params(d, None if zero else low))


def nearest(zero: int, bits: int, x: Weights, params: Params) -> np.ndarray:
    """uint8 [rows, columns]."""
    from qconvert.kernels import legacy

    codes = np.empty(x.shape, np.uint8)
    by = (params.per_step.reshape(-1), params.low.reshape(-1))
    legacy.round_codes(x.reshape(-1), zero, bits, *by, codes.reshape(-1))
    return codes


def write(params: Params, out: np.ndarray) -> None:
    put_half(out, 0, params.d)
    if params.dmin is not None:
        put_half(out, 2, -params.dmin)


def read(minima: bool, blocks: np.ndarray) -> Params:
    return Params(get_half(blocks, 0), -get_half(blocks, 2) if minima else None)


def find_peaks(block: int, top: int, x: Weights, seen: Seen | None) -> Params:
    """Scales that put the largest weight of every block on code `top`; importance has no say."""
    scale = magnitudes(x, block) / np.float32(top)
    return Params(half(scale), per_step=inverse(scale))


def magnitudes(x: Weights, block: int) -> np.ndarray:
    """The largest absolute weight of every block, float32 [rows, blocks]."""
    from qconvert.kernels.ranges import magnitudes

    made = np.empty((len(x), x.shape[1] // block), np.float32)
    magnitudes(x.reshape(-1), block, made.reshape(-1))
    return made


def nearest_whole(zero: int, kind: type[np.generic], x: Weights, params: Params) -> np.ndarray:
    """The nearest whole number of steps plus `zero`, the larger of two; int8 or uint8."""
    from qconvert.kernels.codes import round_away

    codes = np.empty(x.shape, kind)
    by = (params.per_step.reshape(-1), x.size // max(params.d.size, 1), zero)
    round_away(x.reshape(-1), *by, codes.reshape(-1).view(np.uint8))
    return codes


def _format(name: str, zero: int, bits: int) -> Scalar:
    offset = 2 if zero else 4
    low, high = Plane(offset + bits // 5 * 4, 16, 4, 0), Plane(offset, 1, 1, 4)
    return Scalar(
        name,
        size=BLOCK,
        values=tuple(range(-zero, (1 << bits) - zero)),
        codes=Planes((low, high) if bits == 5 else (low,)),
        find=partial(find, zero, bits),
        nearest=partial(nearest, zero, bits),
        write=write,
        read=partial(read, not zero),
    )


Q4_0 = _format("Q4_0", zero=8, bits=4)
Q4_1 = _format("Q4_1", zero=0, bits=4)
Q5_0 = _format("Q5_0", zero=16, bits=5)
Q5_1 = _format("Q5_1", zero=0, bits=5)
Q8_0 = Scalar(
    "Q8_0",
    size=BLOCK,
    values=tuple(range(-128, 128)),
    first=-128,
    codes=Planes((Plane(2, 32, 8, 0),)),
    find=partial(find_peaks, BLOCK, 127),
    nearest=partial(nearest_whole, 0, np.int8),
    write=write,
    read=partial(read, False),
)
