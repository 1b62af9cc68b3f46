"""MLX's small floats: by the layout as it is written down, without MLX."""

import numpy as np
import pytest
from formats.packed import seen_of
from formats.weights import extremes

from qconvert.errors import PlanError
from qconvert.formats.mlx.floats import GROUPS, Floats

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
MODES = [*GROUPS]


def e4m3(bits: np.ndarray) -> np.ndarray:
    sign, exponent, mantissa = bits >> 7, (bits >> 3) & 15, bits & 7
    small = mantissa * 2.0**-9
    normal = (1 + mantissa / 8) * 2.0 ** (exponent.astype(int) - 7)
    return np.where(sign, -1, 1) * np.where(exponent == 0, small, normal)


def coded(format_: Floats, x: np.ndarray, importance: np.ndarray | None = None):
    params = format_.fit(x, seen_of(importance))
    return format_.pack(format_.round(x, params), params)


def weights(rows: int = 32, columns: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_any_words_are_value_times_scale(mode):
    rng = np.random.default_rng(1)
    size, bits = GROUPS[mode], 8 if mode == "mxfp8" else 4
    words = rng.integers(0, 1 << 32, (5, 256 * bits // 32), dtype=np.uint32)
    scales = rng.integers(1, 120, (5, 256 // size)).astype(np.uint8)
    raw = words.view(np.uint8)
    if bits == 4:
        codes = np.stack([raw & 15, raw >> 4], axis=2).reshape(5, -1)
        values = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
    else:
        raw[(raw & 127) == 127] = 0  # NaN
        values = e4m3(raw)
    step = e4m3(scales) if mode == "nvfp4" else 2.0 ** (scales.astype(int) - 127)
    found = Floats(mode, "BF16").dequantize((words, scales))
    np.testing.assert_array_equal(found, (values * step.repeat(size, 1)).astype(np.float32))


@pytest.mark.parametrize("mode", MODES)
def test_codes_are_the_nearest(mode):
    x = weights()
    format_ = Floats(mode, "F32")
    params = format_.fit(x, None)
    step = format_.grid(params).step.repeat(format_.size, 1)
    values = np.unique(format_.values[np.isfinite(format_.values)])
    off = np.abs(format_.dequantize(format_.pack(format_.round(x, params), params)) - x)
    best = np.abs(step[..., None] * values - x[..., None]).min(axis=2)
    np.testing.assert_allclose(off, best, atol=1e-7)


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8"])
def test_powers_of_two_cover_the_largest_weight(mode):
    x, top = weights(), 448 if mode == "mxfp8" else 6
    format_ = Floats(mode, "F32")
    step = format_.grid(format_.fit(x, None)).step
    largest = np.abs(x.reshape(32, -1, 32)).max(axis=2)
    assert (step * top >= largest).all()
    assert (step * top < 2 * largest).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_search_never_loses_to_the_rule(mode):
    gained = []
    for seed in range(12):
        x = weights(seed=seed) * np.float32(2.0 ** (seed - 8))
        importance = np.random.default_rng(seed).gamma(0.5, 1.0, 256).astype(np.float32)
        errors = []
        for searched in (False, True):
            format_ = Floats(mode, "BF16", searched)
            off = format_.dequantize(coded(format_, x, importance)).astype(float) - x
            errors.append(float((off * off * importance).sum()))
        assert errors[1] <= errors[0] * (1 + 1e-6)
        gained.append(errors[1] / errors[0])
    assert np.median(gained) < (1.0001 if mode == "mxfp8" else 0.95)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extreme", extremes(64))
def test_extremes_give_whole_groups(mode, extreme):
    x = extremes(64)[extreme]
    for searched in (False, True):
        format_ = Floats(mode, "BF16", searched)
        back = format_.dequantize(coded(format_, x))
        if np.abs(x).max() < 1e4:
            assert np.abs(back - x).max() <= np.abs(x).max()


def test_zeros_have_no_sign_in_four_bits():
    x = np.full((1, 32), -1e-6, np.float32)
    x[0, 0] = 6
    words, _ = coded(Floats("mxfp4", "F32"), x)
    assert not words.view(np.uint8)[0, 1:].any()


def test_rows_that_groups_do_not_divide_are_refused():
    with pytest.raises(PlanError, match="rows of 48"):
        Floats("mxfp4", "F16").parts((4, 48))
    assert Floats("nvfp4", "F16").parts((4, 48))
