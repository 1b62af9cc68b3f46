"""The K formats against ggml's quantizers: smaller errors, the same layout."""

import numpy as np
import pytest
from formats.packed import packed_of, weights_of
from formats.references import RANDOM, REAL, errors, random_importance, tensor_of

from qconvert.formats import FORMATS
from qconvert.formats.ggml.k_quants import (
    LAYOUTS,
    pack_signed_six_bits,
    pack_six_bits,
    unpack_signed_six_bits,
    unpack_six_bits,
)

NAMES = list(LAYOUTS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_error_is_at_most_the_references_on_every_tensor(name, weighted):
    worse = []
    for seed in range(RANDOM + REAL):
        x = tensor_of(seed)
        importance = random_importance(seed, x.shape[1]) if weighted else None
        ours, theirs = errors(name, x, importance)
        if not ours <= theirs:
            worse.append((seed, ours / theirs))
    assert not worse


@pytest.mark.parametrize(("name", "most"), [("Q2_K", 0.9), ("Q3_K", 0.95), ("Q5_K", 0.95)])
def test_error_is_well_below_the_references_on_normal_weights(name, most):
    x = (np.random.default_rng(0).standard_normal((64, 1024)) * 0.02).astype(np.float32)
    ours, theirs = errors(name, x, None)
    assert ours < most * theirs


@pytest.mark.parametrize("name", NAMES)
def test_round_takes_the_nearest_code(name):
    layout, format_ = LAYOUTS[name], FORMATS[name]
    x = tensor_of(4)
    params = format_.fit(x, None)
    step, low = (a.astype(np.float64).repeat(layout.size, 1) for a in format_.grid(params)[:2])
    codes = np.arange(layout.top + 1).reshape(-1, 1, 1) - layout.zero
    off = abs(codes * step - low - x)
    chosen = np.take_along_axis(off, format_.round(x, params)[None].astype(int), axis=0)[0]
    # float32 arithmetic may take either code of a tie.
    assert (chosen - off.min(axis=0) <= 1e-5 * abs(step)).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_on_the_grid_stays_there(name):
    x = tensor_of(0)
    once = weights_of(name, packed_of(name, x, None))
    twice = weights_of(name, packed_of(name, once, None))
    first, second = (
        np.square(a.astype(np.float64) - b).sum() for a, b in ((x, once), (once, twice))
    )
    assert second < 0.05 * first


@pytest.mark.parametrize("name", NAMES)
def test_scales_survive_packing(name):
    layout, format_ = LAYOUTS[name], FORMATS[name]
    rng = np.random.default_rng(7)
    signed = (-layout.limit, layout.limit)
    low, high = (0, layout.limit + 1) if layout.minima else signed
    x = tensor_of(0)
    params = format_.fit(x, None)
    params = params._replace(
        scales=rng.integers(low, high, params.scales.shape).astype(params.scales.dtype),
        mins=rng.integers(0, high, params.mins.shape).astype(params.mins.dtype)
        if layout.minima
        else None,
    )
    codes = rng.integers(0, layout.top + 1, x.shape).astype(np.uint8)
    step, low = (a.repeat(layout.size, 1) for a in format_.grid(params)[:2])
    expected = (codes.astype(np.float32) - layout.zero) * step - low
    np.testing.assert_array_equal(format_.dequantize(format_.pack(codes, params)), expected)


def test_six_bits_unpack_to_what_was_packed():
    rng = np.random.default_rng(1)
    scales, mins = rng.integers(0, 64, (2, 50, 8)).astype(np.uint8)
    back = unpack_six_bits(pack_six_bits(scales, mins))
    np.testing.assert_array_equal(back, (scales, mins))
    signed = rng.integers(-32, 32, (50, 16)).astype(np.int8)
    np.testing.assert_array_equal(unpack_signed_six_bits(pack_signed_six_bits(signed)), signed)


@pytest.mark.parametrize("name", NAMES)
def test_importance_of_zero_throughout_is_none_at_all(name):
    x = tensor_of(1)
    none = packed_of(name, x, None)
    np.testing.assert_array_equal(packed_of(name, x, np.zeros(x.shape[1], np.float32)), none)


@pytest.mark.parametrize("name", NAMES)
def test_weights_without_importance_still_get_sensible_codes(name):
    x = tensor_of(0)
    importance = np.ones(x.shape[1], np.float32)
    importance[:32] = 0
    y = weights_of(name, packed_of(name, x, importance))
    assert np.square(y - x)[:, :32].sum() < 0.5 * np.square(x)[:, :32].sum()


@pytest.mark.parametrize("name", NAMES)
def test_huge_weights_get_the_largest_finite_scale(name):
    x = np.linspace(-3e38, 3e38, 256, dtype=np.float32).reshape(1, -1)
    for importance in (None, random_importance(0, 256)):
        y = weights_of(name, packed_of(name, x, importance))
        assert np.isfinite(y).all()
        assert (y[0, -16:] > 1e5).all()
