"""IQ4_NL and IQ4_XS against ggml's quantizers: smaller errors, the same layout."""

import gguf
import numpy as np
import pytest
from formats.packed import packed_of, weights_of
from formats.references import RANDOM, REAL, errors, random_importance, tensor_of

from qconvert.formats import FORMATS
from qconvert.formats.ggml.i_quants import VALUES, cells

NAMES = ["IQ4_NL", "IQ4_XS"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_error_is_at_most_the_references_on_every_tensor(name, weighted):
    worse = []
    for seed in range(RANDOM + REAL):
        x = tensor_of(seed)
        importance = random_importance(seed, x.shape[1]) if weighted else None
        # Without an importance, both weigh by the square of the weight itself.
        ours, theirs = errors(name, x, importance, itself=not weighted)
        if not ours <= theirs:
            worse.append((seed, ours / theirs))
    assert not worse


def test_values_are_those_of_ggml():
    np.testing.assert_array_equal(VALUES, gguf.quants.IQ4_NL.kvalues)


def test_cells_tell_the_nearest_value_of_every_place():
    boundary, below, above = cells()
    places = np.linspace(-128, 127.99, 100_001)
    cell = np.floor(places).astype(int) + 128
    chosen = np.where(places < boundary[cell], below[cell], above[cell])
    off = abs(VALUES.astype(np.float64)[:, None] - places)
    np.testing.assert_array_equal(abs(chosen - places), off.min(axis=0))


@pytest.mark.parametrize("name", NAMES)
def test_round_takes_the_nearest_value(name):
    format_ = FORMATS[name]
    x = tensor_of(4)
    params = format_.fit(x, None)
    step = format_.grid(params).step.astype(np.float64).repeat(32, 1)
    off = abs(VALUES.reshape(-1, 1, 1) * step - x)
    chosen = np.take_along_axis(off, format_.round(x, params)[None].astype(int), axis=0)[0]
    # float32 arithmetic may take either value of a tie.
    assert (chosen - off.min(axis=0) <= 1e-4 * abs(step)).all()


@pytest.mark.parametrize("name", NAMES)
def test_scales_survive_packing(name):
    format_ = FORMATS[name]
    rng = np.random.default_rng(7)
    x = tensor_of(0)
    params = format_.fit(x, None)
    if name == "IQ4_XS":
        scales = rng.integers(-32, 32, params.scales.shape).astype(np.int8)
        params = params._replace(scales=scales)
    codes = rng.integers(0, 16, x.shape).astype(np.uint8)
    expected = VALUES[codes] * format_.grid(params).step.repeat(32, 1)
    np.testing.assert_array_equal(format_.dequantize(format_.pack(codes, params)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_importance_of_zero_throughout_is_none_at_all(name):
    x = tensor_of(1)
    none = packed_of(name, x, None)
    np.testing.assert_array_equal(packed_of(name, x, np.zeros(x.shape[1], np.float32)), none)


@pytest.mark.parametrize("name", NAMES)
def test_huge_weights_get_the_largest_finite_scale(name):
    x = np.linspace(-3e38, 3e38, 256, dtype=np.float32).reshape(1, -1)
    for importance in (None, random_importance(0, 256)):
        y = weights_of(name, packed_of(name, x, importance))
        assert np.isfinite(y).all()
        assert (y[0, -16:] > 1e5).all()
