"""Reading the floats of checkpoints, against numpy and torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qconvert.errors import UnsupportedError
from qconvert.formats.floats import measure, to_float32

ANY_BITS = arrays(np.uint32, st.integers(0, 70), elements=st.integers(0, 2**32 - 1))
CASTS = {
    "F64": np.float64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "U8": np.uint8,
    "U64": np.uint64,
    "BOOL": np.bool_,
}


def test_float32_is_a_view():
    raw = np.arange(64, dtype=np.uint8)
    values = to_float32(raw, "F32")
    assert np.shares_memory(values, raw)
    np.testing.assert_array_equal(values, raw.view(np.float32))


@pytest.mark.parametrize(
    ("name", "kind"), [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)]
)
def test_every_float8_is_that_of_torch(name, kind):
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes).view(kind).to(torch.float32).numpy()
    np.testing.assert_array_equal(to_float32(codes, name), theirs)


def test_every_power_of_two_of_e8m0_is_that_of_torch():
    codes = np.arange(256, dtype=np.uint8)
    theirs = torch.from_numpy(codes).view(torch.float8_e8m0fnu).to(torch.float32).numpy()
    np.testing.assert_array_equal(to_float32(codes, "F8_E8M0"), theirs)


def test_every_bfloat16_is_that_of_torch():
    codes = np.arange(65536, dtype=np.uint16)
    theirs = torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16).to(torch.float32)
    np.testing.assert_array_equal(to_float32(codes.view(np.uint8), "BF16"), theirs.numpy())


def test_every_float16_is_that_of_numpy():
    codes = np.arange(65536, dtype=np.uint16)
    theirs = codes.view(np.float16).astype(np.float32)
    ours = to_float32(codes.view(np.uint8), "F16")
    np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("name", CASTS)
def test_other_types_are_cast(name):
    values = np.array([0, 1, 1, 0, 1]).astype(CASTS[name])
    np.testing.assert_array_equal(to_float32(values.view(np.uint8), name), [0, 1, 1, 0, 1])


def test_float64_beyond_float32_is_infinite_without_a_warning():
    values = np.array([1e300, -1e300, 0.1])
    expected = np.array([np.inf, -np.inf, 0.1], np.float32)
    np.testing.assert_array_equal(to_float32(values.view(np.uint8), "F64"), expected)


@pytest.mark.parametrize("name", ["F64", "F32", "F16", "BF16", "F8_E4M3", "I32"])
def test_bytes_may_lie_anywhere_and_be_read_only(name):
    raw = np.random.default_rng(0).integers(0, 64, 64, dtype=np.uint8)
    elsewhere = np.frombuffer(b"x" + raw.tobytes(), np.uint8, offset=1)
    np.testing.assert_array_equal(to_float32(elsewhere, name), to_float32(raw, name))


def test_an_unknown_type_is_refused():
    with pytest.raises(UnsupportedError, match="F4"):
        to_float32(np.zeros(4, np.uint8), "F4")


@given(ANY_BITS)
def test_what_is_not_finite_is_counted_and_the_largest_of_the_rest_is_found(bits):
    x = bits.view(np.float32)
    finite = np.isfinite(x)
    assert measure(x) == ((~finite).sum(), np.abs(x[finite]).max(initial=0))


def test_infinities_and_nan_are_counted_in_any_shape():
    x = np.zeros((3, 5), np.float32)
    x[0, 0], x[1, 2], x[2, 4], x[2, 0] = np.nan, np.inf, -np.inf, -3
    assert measure(x) == (3, 3.0)
