"""Clustered weights against every way to cut the sorted weights into clusters."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qconvert.formats.quantize import quantize
from qconvert.formats.safetensors import palette
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.palette import cluster_means
from qconvert.formats.safetensors.types import WeightFormat
from qconvert.formats.types import Seen

NONE = np.empty(0, np.float32)


def lut(bits: int, dtype: str = "BF16", rows: int | None = None) -> palette.Palette:
    form = WeightFormat("plain", "values", bits, "rows" if rows else "tensor", rows)
    return format_of(form, scale_dtype=dtype)


def best_cost(x: np.ndarray, weight: np.ndarray, count: int) -> float:
    """Of all clusters that runs of the sorted weights can be."""
    order = np.argsort(x)
    x, weight = x[order].astype(np.float64), weight[order].astype(np.float64)
    costs = []
    for cuts in itertools.combinations(range(1, len(x)), min(count, len(x)) - 1):
        runs = [slice(*ends) for ends in itertools.pairwise((0, *cuts, len(x)))]
        means = [np.average(x[run], weights=weight[run]) for run in runs]
        pairs = zip(runs, means, strict=True)
        costs.append(sum(float(weight[run] @ (x[run] - mean) ** 2) for run, mean in pairs))
    return min(costs)


@given(st.integers(0, 10**6), st.integers(1, 11), st.integers(2, 5), st.booleans())
@settings(max_examples=60)
def test_no_other_clusters_are_better(seed: int, size: int, count: int, weighted: bool) -> None:
    rng = np.random.default_rng(seed)
    x = np.round(rng.standard_normal((1, size)) * 64).astype(np.float32)
    importance = rng.gamma(0.5, 1.0, size).astype(np.float32) if weighted else NONE
    weight = np.maximum(importance, importance.max() * 1e-6) if weighted else np.ones(size)
    means = cluster_means(x, importance, count)
    cost = float(weight @ ((x[0][:, None] - means) ** 2).min(axis=1))
    assert len(means) <= count
    assert cost == pytest.approx(best_cost(x[0], weight, count), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("columns", [512, 1 << 13])
def test_a_gaussian_gets_the_values_of_lloyd_and_max(columns: int) -> None:
    """Sources: J. Max, "Quantizing for minimum distortion" (1960), table I: sixteen outputs."""
    x = np.random.default_rng(0).standard_normal((64, columns)).astype(np.float32)
    known = np.array([0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733])
    made = cluster_means(x, NONE, 16)
    np.testing.assert_allclose(made, [*-known[::-1], *known], atol=0.1)
    error = ((x[..., None] - made) ** 2).min(axis=-1).mean()
    assert error == pytest.approx(0.009497, rel=0.03)


def test_many_weights_and_few_are_binned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((32, 64)) * 0.02).astype(np.float16).astype(np.float32)
    x[0, :8], x[1, :8] = 0, -0.0
    importance = rng.gamma(0.5, 1.0, 64).astype(np.float32)
    own = cluster_means(x, importance, 16)
    monkeypatch.setattr(palette, "FEW", 0)
    np.testing.assert_allclose(cluster_means(x, importance, 16), own, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("rows", [None, 1, 16])
def test_few_values_that_survive_being_stored_and_clustered_again(
    dtype: str, rows: int | None
) -> None:
    format_ = lut(3, dtype, rows)
    x = (np.random.default_rng(2).standard_t(4, (40, 96)) * 0.02).astype(np.float32)
    made = quantize(format_, x)
    read = format_.dequantize(made)
    step = rows or len(x)
    for first in range(0, len(x), step):
        own = read[first : first + step]
        assert len(np.unique(own)) <= 8
        off = np.abs(x[first : first + step, :, None] - np.unique(own)).min(axis=-1)
        np.testing.assert_allclose(np.abs(own - x[first : first + step]), off, rtol=1e-6)
    np.testing.assert_array_equal(quantize(format_, read)[0], made[0])


def test_importance_moves_the_values_to_where_it_is() -> None:
    x = (np.random.default_rng(3).standard_normal((64, 128)) * 0.02).astype(np.float32)
    importance = np.random.default_rng(4).gamma(0.2, 1.0, 128).astype(np.float32)
    format_ = lut(4)
    plain, weighted = (
        format_.dequantize(quantize(format_, x, seen)) for seen in (None, Seen(importance))
    )
    errors = [float((importance * (read - x) ** 2).sum()) for read in (plain, weighted)]
    assert errors[1] < 0.95 * errors[0]


def test_neighbouring_bins_are_taken_together_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.random.default_rng(5).standard_normal((64, 128)).astype(np.float32)
    costs = []
    for most in (palette.MOST_POINTS, 512):
        monkeypatch.setattr(palette, "MOST_POINTS", most)
        means = cluster_means(x, NONE, 16)
        costs.append(float(((x[..., None] - means) ** 2).min(axis=-1).mean()))
    assert costs[0] < costs[1] < 1.02 * costs[0]
