"""Narrowing float32, against numpy and torch, where it is hardest."""

import numpy as np
import pytest
import torch

from qconvert.kernels.floats import float_to_bfloat, float_to_half


def hard_cases() -> np.ndarray:
    """float32 around every value and every midpoint of float16 and bfloat16, and random bits."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)].view(np.uint32).astype(np.int64)
    bfloats = np.arange(65536, dtype=np.int64) << 16
    near = np.arange(-2, 3)
    cases = [(halves[:, None] + offset + near).ravel() for offset in (0, 0x1000)]
    cases += [(bfloats[:, None] + offset + near).ravel() for offset in (0, 0x8000)]
    # Float16's subnormals: every midpoint between two of them.
    middle = ((np.arange(1100) + 0.5) * 2.0**-24).astype(np.float32).view(np.uint32)
    cases.append((middle.astype(np.int64)[:, None] + near).ravel())
    cases.append(np.random.default_rng(0).integers(0, 2**32, 2_000_000))
    return (np.concatenate(cases) & 0xFFFFFFFF).astype(np.uint32).view(np.float32)


def test_float16_is_rounded_as_numpy_does():
    x = hard_cases()
    out = np.empty(x.size, np.uint16)
    float_to_half(x, out)
    with np.errstate(all="ignore"):
        theirs = x.astype(np.float16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(out[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(out.view(np.float16)[nan]).all()


def test_bfloat16_is_rounded_as_torch_does():
    x = hard_cases()
    out = np.empty(x.size, np.uint16)
    float_to_bfloat(x.view(np.uint32), out)
    theirs = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    nan = np.isnan(x)
    np.testing.assert_array_equal(out[~nan], theirs[~nan])


@pytest.mark.parametrize("pattern", [0x7F800001, 0xFF800001, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF])
def test_nan_stays_nan_keeps_its_sign_and_becomes_quiet(pattern):
    bits = np.array([pattern], np.uint32)
    half, bfloat = np.empty(1, np.uint16), np.empty(1, np.uint16)
    float_to_half(bits.view(np.float32), half)
    float_to_bfloat(bits, bfloat)
    sign = pattern >> 16 & 0x8000
    assert half[0] & 0xFE00 == 0x7E00 | sign
    assert bfloat[0] & 0xFFC0 == 0x7FC0 | sign
