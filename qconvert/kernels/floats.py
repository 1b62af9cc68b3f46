"""Conversions between float32 and narrower floats, bit by bit, one flat array to another.

float16 (IEEE 754 binary16) is converted by integer arithmetic, so that the loops vectorize on
every processor and give what its own instructions would give. bfloat16 is the upper half of a
float32. float8 (OCP 8-bit floating point specification: e4m3fn, e5m2) is looked up.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

# Adding 0.5 puts 2**-24, the step of float16's subnormals, on the last bit of a float32.
_HALF = np.float32(0.5)
_TINY16 = np.float32(2.0**-14)


@njit(cache=True, nogil=True)
def bits_of(value):
    """The 32 bits of a float32."""
    return np.float32(value).view(np.uint32)


@njit(cache=True, nogil=True)
def float_of(bits):
    """The float32 of 32 bits."""
    return np.uint32(bits).view(np.float32)


@njit(cache=True, nogil=True)
def half_bits(value):
    """The float16 nearest to a float32 (ties to even), as 16 bits; from 65520 on infinity."""
    bits = bits_of(value)
    a = np.uint32(bits & 0x7FFFFFFF)
    # The exponent's bias goes from 127 to 15, and half a last bit (less one, if even) is added.
    normal = np.uint32(np.uint32(a + 0xC8000FFF + ((a >> 13) & 1)) >> 13)
    small = np.uint32(bits_of(float_of(a) + _HALF) - 0x3F000000)
    h = small if a < 0x38800000 else normal
    h = np.uint32(0x7C00) if a >= 0x477FF000 else h
    h = np.uint32(0x7E00) if a > 0x7F800000 else h
    return np.uint16(((bits >> 16) & 0x8000) | h)


@njit(cache=True, nogil=True)
def half_value(half):
    """The float32 that 16 bits of a float16 stand for, exactly."""
    a = np.uint32((np.uint32(half) & 0x7FFF) << 13)
    normal = np.uint32(a + 0x38000000)
    small = bits_of(float_of(a + 0x38800000) - _TINY16)
    special = np.uint32(a + 0x70000000)
    bits = small if a < 0x00800000 else normal
    bits = special if a >= 0x0F800000 else bits
    return float_of(((np.uint32(half) & 0x8000) << 16) | bits)


@njit(cache=True, nogil=True)
def half_to_float(halves, out):
    """uint16 [n] -> float32 [n]."""
    for i in range(halves.size):
        out[i] = half_value(halves[i])


@njit(cache=True, nogil=True)
def float_to_half(x, out):
    """float32 [n] -> uint16 [n]."""
    for i in range(x.size):
        out[i] = half_bits(x[i])


@njit(cache=True, nogil=True)
def bfloat_to_float(upper, out):
    """uint16 [n], bfloat16 -> uint32 [n], the bits of float32."""
    for i in range(upper.size):
        out[i] = np.uint32(np.uint32(upper[i]) << 16)


@njit(cache=True, nogil=True)
def float_to_bfloat(bits, out):
    """uint32 [n], the bits of float32 -> uint16 [n], rounded to nearest, ties to even."""
    for i in range(bits.size):
        b = bits[i]
        rounded = np.uint32(b + 0x7FFF + ((b >> 16) & 1)) >> 16
        # A NaN must not carry over into infinity or zero; it is made quiet instead.
        quiet = (b >> 16) | 0x40
        out[i] = np.uint16(quiet if (b & 0x7FFFFFFF) > 0x7F800000 else rounded)


@njit(cache=True, nogil=True)
def look_up(codes, table, out):
    """uint8 [n], float32 [256] -> float32 [n]."""
    for i in range(codes.size):
        out[i] = table[codes[i]]


@njit(cache=True, nogil=True)
def measure(bits):
    """uint32 [n], the bits of float32 -> how many are NaN or infinite; the largest finite size."""
    count = 0
    largest = np.uint32(0)
    for i in range(bits.size):
        size = np.uint32(bits[i] & 0x7FFFFFFF)
        finite = size < 0x7F800000
        count += not finite
        largest = max(largest, size if finite else np.uint32(0))
    return count, float_of(largest)
