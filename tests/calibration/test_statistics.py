"""What a collector makes of the inputs that it is shown."""

import numpy as np
import pytest

from qconvert.calibration.statistics import PIECE, Collector, Totals, add_on_device
from qconvert.calibration.types import InputStatistics
from qconvert.errors import WeightError

NAMES = ("blk.0.attn_q.weight", "blk.0.attn_k.weight")
ARRAYS = (
    "count",
    "sum_squares",
    "mean",
    "minimum",
    "maximum",
    "histogram",
    "peaks",
    "energies",
    "negatives",
)


def inputs(rows: int = 3 * PIECE + 100, columns: int = 48) -> np.ndarray:
    draw = np.random.default_rng(3)
    scale = np.exp2(draw.uniform(-8, 8, columns))
    return (draw.standard_normal((rows, columns)) * scale + scale / 3).astype(np.float32)


def collect(x: np.ndarray, threads: int = 2, dtype: str = "float32") -> InputStatistics:
    import torch

    with Collector(threads) as collector:
        collector.observe(NAMES, torch.from_numpy(x).to(getattr(torch, dtype)), 0)
        (found,) = collector.take({})
    return found


def test_sums_and_ranges_are_those_of_float64():
    x = inputs()
    found = collect(x)
    wide = x.astype(np.float64)
    assert found.weights == NAMES
    assert found.count.tolist() == [len(x)]
    np.testing.assert_allclose(found.sum_squares[0], (wide**2).sum(0), rtol=1e-5)
    np.testing.assert_allclose(found.mean[0], wide.mean(0), rtol=1e-4)
    assert np.array_equal(found.minimum[0], x.min(0))
    assert np.array_equal(found.maximum[0], x.max(0))
    assert found.histogram.sum() == x.size
    assert found.negatives.sum() == (x < 0).sum()
    assert found.peaks.sum() == len(x)
    np.testing.assert_allclose(found.energies.sum(), (wide**2).sum(), rtol=1e-5)


def test_the_number_of_threads_changes_no_bit():
    x = inputs()
    one, other = collect(x, 1), collect(x, 3)
    for name in ARRAYS:
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes(), name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_inputs_count_as_what_they_are_rounded_to(dtype: str):
    import torch

    rounded = torch.from_numpy(inputs()).to(getattr(torch, dtype))
    one, other = collect(inputs(), dtype=dtype), collect(rounded.float().numpy())
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_other_devices_count_as_the_cpu_does():
    import torch

    x = inputs()
    totals = Totals(x.shape[1])
    add_on_device(totals, torch.from_numpy(x))
    found = collect(x)
    assert np.array_equal(totals.histogram.sum(0), found.histogram[0])
    assert np.array_equal(totals.histogram[1], found.negatives[0])
    assert np.array_equal(totals.peaks, found.peaks[0])
    assert np.array_equal(totals.minimum, found.minimum[0])
    assert np.array_equal(totals.maximum, found.maximum[0])
    assert totals.count == found.count[0]
    np.testing.assert_allclose(totals.energies, found.energies[0], rtol=1e-5)
    np.testing.assert_allclose(totals.sums[0], found.sum_squares[0], rtol=1e-5)
    np.testing.assert_allclose(totals.sums[1] / len(x), found.mean[0], rtol=1e-4)


def test_each_expert_has_its_own_and_one_that_saw_nothing_has_zeros():
    import torch

    x = torch.from_numpy(inputs(50))
    names = ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight")
    with Collector(1) as collector:
        collector.observe(names, x[:20], 2)
        collector.observe(names, x[20:50], 0)
        collector.observe(names, x[:5], 2)
        (found,) = collector.take({names[0]: 4})
    assert found.count.tolist() == [30, 0, 25, 0]
    assert np.array_equal(found.maximum[0], x[20:50].numpy().max(0))
    for name in ARRAYS:
        assert not getattr(found, name)[[1, 3]].any(), name


def test_what_was_taken_is_forgotten():
    import torch

    with Collector(1) as collector:
        for _ in range(2):
            collector.observe(NAMES, torch.ones(3, 4), 0)
            (found,) = collector.take({})
            assert found.count.tolist() == [3]
        assert collector.take({}) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused_and_the_layer_named(bad: float):
    x = inputs(30)
    x[7, 9] = bad
    with pytest.raises(WeightError, match=r"blk\.0\.attn_q\.weight"):
        collect(x)
