"""The codes of TQ1_0 in bytes: five trits each, as a fraction of 243 in 256ths, rounded up."""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

BLOCK = 256
BYTES = 52
# Runs of bytes: the first byte, the first code, how far apart the codes of a byte lie, how many.
_RUNS = ((0, 0, 32, 5), (32, 160, 16, 5), (48, 240, 4, 4))


@njit(cache=True, nogil=True)
def pack(codes, out):
    """uint8 [blocks * 256] -> uint8 [blocks * 52]."""
    for b in range(codes.size // BLOCK):
        for at, first, width, count in _RUNS:
            for j in range(width):
                q = np.uint32(0)
                for n in range(5):
                    k = b * BLOCK + first + j + n * width
                    q = np.uint32(q * 3 + (codes[k] if n < count else np.uint8(0)))
                out[b * BYTES + at + j] = np.uint8((q * 256 + 242) // 243)


@njit(cache=True, nogil=True)
def unpack(packed, codes):
    """uint8 [blocks * 52] -> uint8 [blocks * 256]."""
    for b in range(codes.size // BLOCK):
        for at, first, width, count in _RUNS:
            power = np.uint32(1)
            for n in range(count):
                for j in range(width):
                    # Multiplying moves the wanted trit to the front; what overflows is spent.
                    q = np.uint32((packed[b * BYTES + at + j] * power) & 0xFF)
                    codes[b * BLOCK + first + n * width + j] = np.uint8((q * 3) >> 8)
                power = np.uint32(power * 3)
