"""Static ranges against the inputs themselves, and against compressed-tensors."""

import numpy as np
import pytest
from observed_inputs import gelu, heavy, massive, normal, observed

from qconvert.algorithms.activation_ranges import Bounds, bounds, codes, static_bounds
from qconvert.errors import PlanError
from qconvert.formats.safetensors.types import ActivationFormat, Estimator

INT8 = ActivationFormat("int", 8, "tensor", False)
ASYMMETRIC = ActivationFormat("int", 8, "tensor", False, symmetric=False)
FP8 = ActivationFormat("float", 8, "tensor", False)
FORMS = {"int8": INT8, "asymmetric": ASYMMETRIC, "fp8": FP8}
INPUTS = {"normal": normal, "heavy": heavy, "gelu": gelu, "massive": massive}


def rounded(x: np.ndarray, form: ActivationFormat, range_: Bounds) -> np.ndarray:
    points = (codes(form) - range_.zero_point) * range_.scale
    return points[np.searchsorted((points[1:] + points[:-1]) / 2, x)]


def error(x: np.ndarray, form: ActivationFormat, range_: Bounds) -> float:
    return float(np.mean((rounded(x, form, range_) - x) ** 2))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_minmax_is_what_compressed_tensors_takes(form):
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams

    for x in (normal(), gelu(), np.abs(normal()), -np.abs(normal())):
        args = QuantizationArgs(num_bits=8, type=form.type, symmetric=form.symmetric)
        low, high = torch.tensor(x.min()), torch.tensor(x.max())
        scale, zero = calculate_qparams(low, high, args)
        found = static_bounds(observed(x), 0, form, Estimator("minmax"))
        assert np.float32(found.scale) == pytest.approx(scale.item(), rel=1e-6)
        assert found.zero_point == int(zero.item())


def test_codes_of_float8_are_torchs():
    import torch

    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    assert codes(FP8).tolist() == sorted({float(value) for value in every if value == value})


def test_percentile_leaves_that_share_within():
    x = heavy()
    for percentile in (90.0, 99.0, 99.9, 99.99):
        for form in FORMS.values():
            found = static_bounds(observed(x), 0, form, Estimator("percentile", percentile))
            low = (codes(form)[0] - found.zero_point - 0.5 * (form.type == "int")) * found.scale
            high = (codes(form)[-1] - found.zero_point + 0.5 * (form.type == "int")) * found.scale
            # The bound lies in the right bin, a sixteenth of an octave wide; so does the true one.
            outside = np.mean((x < low) | (x > high))
            wide = np.mean((x < low / 1.0625) | (x > high / 1.0625))
            narrow = np.mean((x < low * 1.0625) | (x > high * 1.0625))
            assert narrow <= 1 - percentile / 100 <= wide, (percentile, form, outside)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
def test_mse_is_near_the_best_of_all_clippings(make, form):
    x = make()
    found = error(x, form, static_bounds(observed(x), 0, form, Estimator("mse")))
    low, high = float(x.min()), float(x.max())
    shares = np.geomspace(0.02, 1, 40)
    best = min(error(x, form, bounds(form, low * s, high * s)) for s in shares)
    assert found <= 1.02 * best


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["percentile", "mse", "entropy"])
def test_doubled_inputs_double_the_range(name, form):
    once = static_bounds(observed(heavy()), 0, form, Estimator(name))
    twice = static_bounds(observed(2 * heavy()), 0, form, Estimator(name))
    assert twice.scale == pytest.approx(2 * once.scale, rel=1e-12)
    assert twice.zero_point == once.zero_point


def test_entropy_clips_what_stands_alone_and_keeps_what_is_filled():
    even = np.linspace(-4, 4, 1 << 16, dtype=np.float32).reshape(-1, 64)
    kept = static_bounds(observed(even), 0, INT8, Estimator("entropy"))
    assert kept.reach > 0.95 * 4
    alone = normal()
    alone[100, 5] = 100
    assert static_bounds(observed(alone), 0, INT8, Estimator("entropy")).reach < 10


def test_inputs_on_one_side_get_all_codes_without_symmetry():
    x = gelu()
    for name in ("minmax", "percentile", "mse"):
        even = static_bounds(observed(x), 0, INT8, Estimator(name))
        uneven = static_bounds(observed(x), 0, ASYMMETRIC, Estimator(name))
        assert error(x, ASYMMETRIC, uneven) < 0.4 * error(x, INT8, even)


def test_zero_is_always_a_code():
    x = np.abs(normal()) + 3
    found = static_bounds(observed(x), 0, ASYMMETRIC, Estimator("minmax"))
    assert rounded(np.zeros(1), ASYMMETRIC, found) == [0]


def test_an_expert_that_nobody_asked_takes_the_range_of_its_layer():
    nothing = np.zeros((0, 96), np.float32)
    statistics = observed(normal(), nothing, 3 * normal())
    for name in ("minmax", "percentile", "mse", "entropy"):
        ranges = [static_bounds(statistics, m, INT8, Estimator(name)).scale for m in range(3)]
        assert ranges[0] < ranges[1]
        assert ranges[1] <= ranges[2] * 1.0001
        assert ranges[2] == pytest.approx(3 * ranges[0], rel=0.05)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["minmax", "percentile", "mse", "entropy"])
def test_inputs_that_are_all_zero_have_a_range(name, form):
    found = static_bounds(observed(np.zeros((8, 96))), 0, form, Estimator(name))
    assert found.scale > 0


def test_ranges_without_symmetry_need_signs():
    statistics = observed(gelu(), signs=False)
    assert static_bounds(statistics, 0, ASYMMETRIC, Estimator("minmax")).zero_point < -100
    with pytest.raises(PlanError, match="does not tell negative inputs apart"):
        static_bounds(statistics, 0, ASYMMETRIC, Estimator("mse"))


def test_signs_matter_little_to_symmetric_ranges():
    known = static_bounds(observed(normal()), 0, INT8, Estimator("mse"))
    unknown = static_bounds(observed(normal(), signs=False), 0, INT8, Estimator("mse"))
    assert unknown.scale == pytest.approx(known.scale, rel=0.1)
