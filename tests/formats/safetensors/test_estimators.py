"""Scales of weights, by each of the estimators."""

import itertools

import numpy as np
import pytest
from formats.packed import seen_of
from formats.safetensors.compressed_formats import FORMATS, INTEGERS
from formats.weights import extremes

from qconvert.errors import PlanError, UnsupportedError, UsageError
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.scales import read, rounded
from qconvert.formats.safetensors.types import Estimator, WeightFormat

MINMAX, MSE, ENTROPY = Estimator("minmax"), Estimator("mse"), Estimator("entropy")
PERCENTILE = Estimator("percentile", 99)
EVERY = (MINMAX, MSE, ENTROPY, PERCENTILE)
DTYPES = ["BF16", "F16", "F32"]
SEARCHED = [name for name in FORMATS if "tensor" not in name]


def random_weights(rng: np.random.Generator, columns: int = 160) -> np.ndarray:
    shape = (int(rng.integers(1, 20)), columns)
    draws = [
        rng.standard_normal(shape),
        rng.standard_t(3, shape),
        rng.laplace(size=shape) + 0.5,
        rng.uniform(-1, 1, shape),
        rng.standard_normal(shape) * (rng.random(shape) < 0.1),
    ]
    return (draws[rng.integers(len(draws))] * 2.0 ** rng.integers(-12, 4)).astype(np.float32)


def random_importance(rng: np.random.Generator, columns: int = 160) -> np.ndarray | None:
    draws = [
        None,
        rng.gamma(0.5, 1.0, columns),
        np.exp(3 * rng.standard_normal(columns)),
        (rng.random(columns) < 0.5) * 1e-6,
        np.zeros(columns),
    ]
    chosen = draws[rng.integers(len(draws))]
    return None if chosen is None else chosen.astype(np.float32)


def fit(form, x, estimator, dtype="BF16", importance=None):
    peak = float(np.abs(x).max())
    return format_of(form, estimator, dtype).fit(x, seen_of(importance), peak)


def restored(form, x, params, dtype="BF16") -> np.ndarray:
    format_ = format_of(form, scale_dtype=dtype)
    return format_.dequantize(format_.pack(format_.round(x, params), params))


def weighted_error(form, x, estimator, dtype, importance) -> float:
    off = restored(form, x, fit(form, x, estimator, dtype, importance), dtype).astype(float) - x
    return float((off * off * (1 if importance is None else importance)).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_the_search_never_loses_to_minmax(name):
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x, importance = random_weights(rng), random_importance(rng)
        dtype = DTYPES[seed % 3]
        plain = weighted_error(FORMATS[name], x, MINMAX, dtype, importance)
        # Sums of one tensor's errors in another order differ in the last bits.
        limit = plain * (1 + 1e-12)
        assert weighted_error(FORMATS[name], x, MSE, dtype, importance) <= limit


@pytest.mark.parametrize("name", SEARCHED)
def test_importance_lowers_the_weighted_error(name):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((64, 320)).astype(np.float32)
    importance = np.exp(2 * rng.standard_normal(320)).astype(np.float32)
    form = FORMATS[name]
    blind = restored(form, x, fit(form, x, MSE)) - x
    seeing = restored(form, x, fit(form, x, MSE, importance=importance)) - x
    assert (seeing**2 * importance).sum() < (blind**2 * importance).sum()


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_positive_scale_of_many_is_better(bits, weighted):
    rng = np.random.default_rng(bits)
    form = WeightFormat("pack-quantized", "int", bits, "group", 128)
    x = rng.standard_t(4, (1, 128)).astype(np.float32)
    w = np.exp(rng.standard_normal(128)).astype(np.float32) if weighted else None
    ours = weighted_error(form, x, MSE, "BF16", w)
    grid = rounded(np.abs(x).max() * np.geomspace(0.02, 1.2, 3000).astype(np.float32), "BF16")
    codes = np.rint(x / grid[:, None]).clip(-(1 << bits - 1), (1 << bits - 1) - 1)
    off = (codes * grid[:, None]).astype(float) - x
    assert ours <= (off**2 * (1 if w is None else w)).sum(1).min() * 1.001


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_extreme_weights_give_finite_ones(name, dtype):
    form = FORMATS[name]
    rows = extremes(160)
    if dtype == "F16":
        rows["huge"] = np.linspace(-65504, 65504, 160, dtype=np.float32).reshape(1, -1)
    for (kind, row), estimator in itertools.product(rows.items(), EVERY):
        params = fit(form, row, estimator, dtype)
        assert np.isfinite(params.scale).all(), (kind, estimator)
        assert (params.scale != 0).all(), (kind, estimator)
        back = restored(form, row, params, dtype)
        assert np.isfinite(back).all(), (kind, estimator)
        if "zero" in kind:
            assert not back.any(), (kind, estimator)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INTEGERS)
def test_no_weight_is_further_off_than_half_a_step_under_minmax(name, dtype):
    form = INTEGERS[name]
    # A rounded scale falls short of the range by a share of as many steps as there are codes.
    slack = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-22}[dtype] * 2**form.bits
    for seed in range(10):
        x = random_weights(np.random.default_rng(seed)) * np.float32(16)
        params = fit(form, x, MINMAX, dtype)
        off = np.abs(restored(form, x, params, dtype) - x)
        steps = np.broadcast_to(params.scale, (len(x), params.scale.shape[1]))
        wide = np.repeat(steps, 160 // steps.shape[1], axis=1)
        shift = 0.5 if not form.symmetric else 0.0  # of the zero point, which is rounded
        assert (off <= wide * (0.5 + shift + 2 * slack) + 1e-7 * np.abs(x)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_scales_are_rounded_as_they_are_stored(name, dtype):
    x = random_weights(np.random.default_rng(3))
    form = FORMATS[name]
    params = fit(form, x, MSE, dtype)
    format_ = format_of(form, MSE, dtype)
    parts = format_.pack(format_.round(x, params), params)
    if name != "mxfp4":
        stored = read(parts[1]).reshape(params.scale.shape)
        np.testing.assert_array_equal(stored, params.scale)


def test_minmax_and_percentile_do_not_ask_for_importance():
    rng = np.random.default_rng(4)
    x, importance = random_weights(rng), rng.random(160).astype(np.float32)
    for name in ("w4 packed group", "fp8 channel", "nvfp4"):
        for estimator in (MINMAX, PERCENTILE):
            plain = fit(FORMATS[name], x, estimator)
            np.testing.assert_array_equal(
                fit(FORMATS[name], x, estimator, importance=importance).scale, plain.scale
            )


def test_a_percentile_cuts_off_the_outliers():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4, 1000)).astype(np.float32)
    x[:, 7] = 100
    form = FORMATS["w8 channel"]
    scale = fit(form, x, Estimator("percentile", 99), "F32").scale
    np.testing.assert_allclose(scale, np.quantile(np.abs(x), 0.99, axis=1)[:, None] / 127.5)
    np.testing.assert_array_equal(
        fit(form, x, Estimator("percentile", 100)).scale, fit(form, x, MINMAX).scale
    )


def test_both_sides_of_an_asymmetric_percentile_are_cut_off():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 2, (4, 1000)).astype(np.float32)
    form = FORMATS["w8 channel asymmetric"]
    params = fit(form, x, Estimator("percentile", 98), "F32")
    low, high = np.quantile(x, [0.01, 0.99], axis=1)
    np.testing.assert_allclose(params.scale[:, 0], (high - low) / 255, rtol=1e-5)


def test_entropy_cuts_off_a_far_outlier_and_keeps_an_even_range():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 8192)).astype(np.float32)
    form = WeightFormat("pack-quantized", "int", 4, "channel")
    kept = fit(form, x, ENTROPY).scale / fit(form, x, MINMAX).scale
    assert (kept > 0.9).all()
    x[:, 11] = 50
    cut = fit(form, x, ENTROPY).scale * 7.5
    assert (cut < 2).all()


def test_entropy_of_few_weights_is_the_least_squared_error():
    x = random_weights(np.random.default_rng(1))
    for name in ("w4 packed group", "w8 channel", "nvfp4", "fp8 channel"):
        by_entropy, by_error = fit(FORMATS[name], x, ENTROPY), fit(FORMATS[name], x, MSE)
        np.testing.assert_array_equal(by_entropy.scale, by_error.scale)


@pytest.mark.parametrize("layout", ["int-quantized", "pack-quantized"])
def test_mirrored_codes_are_for_packed_weights_alone(layout):
    x = np.full((1, 64), -0.5, np.float32)
    x[0, :3] = 1
    scale = fit(WeightFormat(layout, "int", 8, "channel"), x, MSE).scale
    assert (scale > 0).all()
    small = fit(WeightFormat("pack-quantized", "int", 2, "channel"), x, MSE).scale
    assert (small < 0).all()


@pytest.mark.parametrize(
    "form",
    [
        WeightFormat("int-quantized", "int", 5, "channel"),
        WeightFormat("pack-quantized", "int", 9, "channel"),
        WeightFormat("pack-quantized", "int", 1, "channel"),
        WeightFormat("pack-quantized", "int", 4, "block", block=(128, 128)),
        WeightFormat("pack-quantized", "int", 4, "tensor", symmetric=False),
        WeightFormat("float-quantized", "float", 8, "channel", symmetric=False),
        WeightFormat("float-quantized", "float", 8, "group", 128),
        WeightFormat("nvfp4-pack-quantized", "float", 4, "group", 32),
        WeightFormat("mxfp4-pack-quantized", "float", 4, "group", 16),
        WeightFormat("dense", "float", 16, "tensor"),
    ],
)
def test_what_cannot_be_stored_is_refused(form):
    with pytest.raises(UnsupportedError):
        format_of(form)


def test_groups_must_divide_the_row():
    with pytest.raises(PlanError, match="groups of 32 do not divide rows of 48"):
        format_of(FORMATS["w4 packed group"]).parts((4, 48))


@pytest.mark.parametrize("name", ["fp8 tensor", "nvfp4", "w8 tensor"])
def test_a_missing_peak_is_an_error(name):
    format_ = format_of(FORMATS[name])
    assert format_.needs_peak
    with pytest.raises(UsageError):
        format_.fit(np.ones((2, 32), np.float32), None)
