"""Factors of smoothing, and the search for their strength."""

import numpy as np
import pytest
from observed_inputs import normal

from qconvert.algorithms.activation_ranges import Bounds
from qconvert.algorithms.smooth import ALPHAS, factors, storable
from qconvert.algorithms.smooth_search import Trial, output_errors
from qconvert.formats.safetensors.scales import rounded
from qconvert.formats.safetensors.types import ActivationFormat

DYNAMIC = ActivationFormat("int", 8, "token", True)
UNEVEN = ActivationFormat("int", 8, "token", True, symmetric=False)
STATIC = ActivationFormat("int", 8, "tensor", False)


def with_outliers() -> tuple[np.ndarray, np.ndarray]:
    """An input with a few loud channels, and a weight."""
    x = normal(256, 96)
    x[:, [3, 40]] *= 60
    weight = np.random.default_rng(5).standard_normal((48, 96)).astype(np.float32)
    return x, weight


def test_factors_are_those_of_the_paper_but_for_one_factor_of_all():
    x, weight = with_outliers()
    inputs, weights = np.abs(x).max(0), np.abs(weight).max(0)
    for alpha in (0.3, 0.5, 1.0):
        ratio = factors(inputs, weights, alpha) * weights ** (1 - alpha) / inputs**alpha
        assert ratio == pytest.approx(ratio[0], rel=1e-5)
        assert np.log(factors(inputs, weights, alpha)).mean() == pytest.approx(0, abs=1e-6)


def test_without_strength_and_without_inputs_nothing_is_smoothed():
    inputs, weights = np.array([1, 5, 0, 3], np.float32), np.array([1, 2, 3, 0], np.float32)
    assert factors(inputs, weights, 0.0).tolist() == [1, 1, 1, 1]
    assert factors(inputs, weights, 0.5)[2:].tolist() == [1, 1]
    assert factors(np.zeros(3, np.float32), np.ones(3, np.float32), 0.5).tolist() == [1, 1, 1]


def test_experts_have_factors_of_their_own():
    inputs = np.array([[1, 4], [9, 1]], np.float32)
    both = factors(inputs, np.ones_like(inputs), 0.5)
    assert both[1] == pytest.approx(factors(inputs[1], np.ones(2, np.float32), 0.5))


@pytest.mark.parametrize("add", [0.0, 1.0])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_norm_divided_by_storable_factors_is_not_rounded(dtype, add):
    rng = np.random.default_rng(6)
    stored = rounded(rng.standard_normal(500).astype(np.float32), dtype)
    stored[:3] = -np.float32(add)  # what the norm multiplies with is zero
    norm = stored + np.float32(add)
    wanted = np.exp(rng.standard_normal(500)).astype(np.float32)
    smooth = storable(norm, wanted, dtype, add)
    divided = norm * (np.float32(1) / smooth) - np.float32(add)
    assert (smooth > 0).all()
    assert (smooth[:3] == 1).all()
    # What is written is the nearest that can be stored: none of it may be lost.
    error = np.abs(rounded(divided, dtype) - divided)
    assert (error <= 4e-7 * (np.abs(divided) + add)).all()
    if not add:
        step = {"BF16": 2.0**-8, "F16": 2.0**-10, "F32": 2.0**-22}[dtype]
        assert smooth[3:] == pytest.approx(wanted[3:], rel=step)


def reference(x, weight, smooth, form, range_):
    """The relative error of a token's output, by compressed-tensors' own rounding."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    def rounded_by(values, strategy, symmetric):
        token = strategy == "token"
        args = QuantizationArgs(strategy=strategy, symmetric=symmetric, dynamic=token)
        low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        return fake_quantize(values, *calculate_qparams(low, high, args), args)

    x, weight, smooth = (torch.from_numpy(array) for array in (x, weight, smooth))
    if range_ is None:
        inputs = rounded_by(x / smooth, "token", form.symmetric)
    else:
        args = QuantizationArgs(num_bits=8, strategy="tensor", symmetric=form.symmetric)
        zero = torch.tensor([range_.zero_point], dtype=torch.int8)
        inputs = fake_quantize(x / smooth, torch.tensor([range_.scale]), zero, args)
    expected = x.double() @ weight.double().T
    made = inputs.double() @ rounded_by(weight * smooth, "channel", True).double().T
    return (((made - expected) ** 2).sum(1) / (expected**2).sum(1)).mean().item()


@pytest.mark.parametrize("form", [DYNAMIC, UNEVEN, STATIC], ids=["token", "uneven", "static"])
def test_errors_are_those_of_compressed_tensors(form):
    import torch

    x, weight = with_outliers()
    range_ = None if form.dynamic else Bounds(1.7, 0, 200.0)
    inputs, weights = np.abs(x).max(0), np.abs(weight).max(0)
    candidates = [factors(inputs, weights, alpha) for alpha in (0.0, 0.3, 0.5)]
    trial = Trial(torch.from_numpy(x), [torch.from_numpy(weight)])
    found = output_errors(trial, candidates, form, range_ and (lambda x: range_))
    expected = [reference(x, weight, smooth, form, range_) for smooth in candidates]
    assert found == pytest.approx(expected, rel=1e-3)


def test_loud_channels_want_smoothing_and_even_ones_do_not():
    import torch

    x, weight = with_outliers()
    for inputs, helps in ((x, True), (normal(256, 96), False)):
        peaks = np.abs(inputs).max(0), np.abs(weight).max(0)
        candidates = [factors(*peaks, alpha) for alpha in ALPHAS]
        trial = Trial(torch.from_numpy(inputs), [torch.from_numpy(weight)])
        errors = output_errors(trial, candidates, DYNAMIC)
        assert (min(errors) < 0.25 * errors[0]) == helps


def test_products_of_codes_are_exact_without_the_cpus_own():
    import torch

    from qconvert.algorithms import smooth_search

    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (20, 1500), dtype=torch.int8, generator=draw)
    weight = torch.randint(-128, 128, (30, 1500), dtype=torch.int8, generator=draw)
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    expected = codes.double() @ weight.double().T
    found = smooth_search.product(codes, one, zero, weight, torch.ones(30))
    assert torch.equal(found.double(), expected.float().double())
