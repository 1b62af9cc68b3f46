"""Sixteen lanes behave like NumPy on arrays of sixteen."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numba import njit

from qconvert.kernels import simd
from qconvert.kernels.blocks import float16, inverse

F = np.float32
quick = settings(max_examples=200)
finite = arrays(F, 16, elements=st.floats(-1e6, 1e6, width=32))
anything = arrays(F, 16, elements=st.floats(width=32))
scales = arrays(F, 16, elements=st.floats(-1e6, 1e6, width=32).map(lambda v: v * 2.0**-20))


@njit
def combine(a, b, out):
    p, q = simd.load(a, 0), simd.load(b, 0)
    simd.store(out, 0, p + q)
    simd.store(out, 16, p - F(2) * q)
    simd.store(out, 32, p / q)
    simd.store(out, 48, simd.least(p, q))
    simd.store(out, 64, simd.greatest(p, q))
    simd.store(out, 80, simd.rint(p))
    simd.store(out, 96, simd.where_less(p, q, F(1), simd.magnitude(q)))
    simd.store(out, 112, simd.at(a, 3))


@njit
def fold(a, out):
    p = simd.load(a, 0)
    out[0] = simd.lowest(p)
    out[1] = simd.highest(p)
    out[2] = simd.total(p)
    out[3] = simd.lane(p, simd.argmin(p))
    return simd.argmin(p)


@njit
def fused(a, b, c, out):
    simd.store(out, 0, simd.fma(simd.load(a, 0), simd.load(b, 0), simd.load(c, 0)))


@njit
def narrow(a, out):
    simd.store(out, 0, float16(simd.load(a, 0)))
    simd.store(out, 16, inverse(simd.load(a, 0)))


@njit
def digits(codes, index, shift, mask, out):
    simd.store(out, 0, simd.load_digits(codes, index, shift, mask))


@njit
def below_zero(a):
    return simd.negatives(simd.load(a, 0))


@quick
@given(
    codes=arrays(np.uint16, 20, elements=st.integers(0, 65535)),
    index=st.integers(0, 4),
    shift=st.integers(0, 15),
    mask=st.sampled_from([1, 3, 7]),
)
def test_digits_are_bits_of_whole_numbers(codes, index, shift, mask):
    out = np.empty(16, F)
    digits(codes, index, shift, mask, out)
    np.testing.assert_array_equal(out, codes[index : index + 16] >> shift & mask)


@quick
@given(a=anything)
def test_negatives_are_told_a_bit_each(a):
    expected = sum(1 << i for i in range(16) if a[i] < 0)
    assert below_zero(a) == expected


@quick
@given(a=finite, b=finite)
def test_arithmetic_is_that_of_float32(a, b):
    out = np.empty(128, F)
    combine(a, b, out)
    with np.errstate(all="ignore"):
        expected = [a + b, a - F(2) * b, a / b, np.minimum(a, b), np.maximum(a, b), np.rint(a)]
    expected += [np.where(a < b, F(1), abs(b)), np.full(16, a[3])]
    np.testing.assert_array_equal(out.reshape(8, 16), expected)


@quick
@given(a=finite, b=finite, c=finite)
def test_fma_rounds_once(a, b, c):
    out = np.empty(16, F)
    fused(a, b, c, out)
    # Rounding once leaves no float32 nearer to the exact sum.
    near = _errors(out, a, b, c)
    for other in (np.nextafter(out, F(-np.inf)), np.nextafter(out, F(np.inf))):
        away = _errors(other, a, b, c)
        assert all(one <= two for one, two in zip(near, away, strict=True))


def _errors(out, *operands):
    exact = [[Fraction(float(value)) for value in each] for each in (out, *operands)]
    return [abs(x * y + z - made) for made, x, y, z in zip(*exact, strict=True)]


@quick
@given(a=finite)
def test_folds_find_extremes_and_the_first_least_lane(a):
    out = np.empty(4, F)
    assert fold(a, out) == a.argmin()
    assert out[0] == out[3] == a.min()
    assert out[1] == a.max()
    assert out[2] == pytest.approx(a.astype(float).sum(), abs=1e-5 * abs(a.astype(float)).sum())


@quick
@given(a=anything)
def test_argmin_stays_within_the_lanes_whatever_they_hold(a):
    first = fold(a, np.empty(4, F))
    assert 0 <= first < 16
    if not np.isnan(a).all():
        assert a[first] == np.nanmin(a) or np.isnan(a[first])


@quick
@given(a=scales)
def test_float16_rounds_to_the_nearest_finite_float16(a):
    out = np.empty(32, F)
    narrow(a, out)
    limited = np.clip(a, -65504, 65504)
    nearest = limited.astype(np.float16).astype(F)
    np.testing.assert_array_equal(out[:16].astype(np.float16).astype(F), out[:16])
    # Of two that are equally near, either will do.
    np.testing.assert_array_equal(abs(out[:16] - limited), abs(nearest - limited))
    nonzero = abs(a) > 1e-37
    np.testing.assert_array_equal(out[16:][nonzero], F(1) / a[nonzero])
    assert (out[16:][~nonzero] == 0).all()
