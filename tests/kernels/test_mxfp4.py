"""MXFP4 where its logarithm and its midpoints are delicate, against ggml's reference."""

import libgguf
import numpy as np
from formats.packed import packed_of
from gguf import GGMLQuantizationType


def check(x: np.ndarray) -> None:
    theirs = libgguf.quantize_rows(x, GGMLQuantizationType.MXFP4)
    np.testing.assert_array_equal(packed_of("MXFP4", x), theirs)


def test_exponents_around_every_power_of_two():
    powers = np.ldexp(np.float32(1), np.arange(-148, 128)).astype(np.float32)
    steps = np.arange(-40, 41)
    bits = powers.view(np.uint32).astype(np.int64)[:, None] + steps
    bits = bits[(bits > 0) & (bits < 0x7F800000)].astype(np.uint32)
    x = np.zeros((bits.size, 32), np.float32)
    x[:, 5] = bits.view(np.float32)
    check(x)


def test_weights_up_to_the_largest_float32():
    largest = np.finfo(np.float32).max
    bits = largest.view(np.uint32) - np.arange(64, dtype=np.uint32)
    x = np.linspace(-1, 1, 64 * 32, dtype=np.float32).reshape(64, 32) * largest
    x[:, 7] = bits.view(np.float32)
    check(x)


def test_weights_around_every_midpoint():
    middles = np.array([0.5, 1.5, 2.5, 3.5, 5, 7, 10], np.float32)
    for exponent in (-126, -120, -20, 0, 100):
        scaled = np.ldexp(middles, exponent).astype(np.float32)
        near = scaled.view(np.uint32).astype(np.int64)[:, None] + np.arange(-3, 4)
        values = near.astype(np.uint32).view(np.float32).ravel()
        x = np.zeros((2, 64), np.float32)
        x[0, 1 : 1 + values.size] = values
        x[1, 1 : 1 + values.size] = -values
        x[:, [0, 32]] = np.ldexp(np.float32(15), exponent)
        check(x)
