"""Integers in 32-bit words, against the compressed-tensors package."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import (
    pack_to_int32,
    unpack_from_int32,
)
from hypothesis import given
from hypothesis import strategies as st

from qconvert.formats.safetensors import packing

BITS = range(2, 9)


@st.composite
def codes(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """int8 of 1 to 7 rows and 1 to 70 columns, and how many bits they need."""
    bits = draw(st.sampled_from(BITS))
    shape = draw(st.integers(1, 7)), draw(st.integers(1, 70))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(-(1 << bits - 1), 1 << bits - 1, shape, np.int8), bits


@given(codes())
def test_rows_are_packed_as_the_package_does(case):
    values, bits = case
    packed = packing.pack_rows(values, bits)
    np.testing.assert_array_equal(packed, pack_to_int32(torch.from_numpy(values), bits).numpy())
    np.testing.assert_array_equal(packing.unpack_rows(packed, bits, values.shape[1]), values)


@given(codes())
def test_columns_are_packed_as_the_package_does(case):
    values, bits = case
    packed = packing.pack_columns(values, bits)
    theirs = pack_to_int32(torch.from_numpy(values), bits, packed_dim=0)
    np.testing.assert_array_equal(packed, theirs.numpy())
    np.testing.assert_array_equal(packing.unpack_columns(packed, bits, len(values)), values)


@given(codes())
def test_the_package_reads_what_is_packed(case):
    values, bits = case
    packed = torch.from_numpy(packing.pack_rows(values, bits))
    read = unpack_from_int32(packed, bits, torch.Size(values.shape))
    np.testing.assert_array_equal(read.numpy(), values)


@pytest.mark.parametrize("bits", BITS)
def test_words_hold_no_spare_bits(bits):
    assert packing.words(32, bits) == bits
    assert packing.words(33, bits) == bits + 1
    assert packing.pack_rows(np.zeros((3, 32), np.int8), bits).shape == (3, bits)
