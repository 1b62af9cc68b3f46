"""What is trained begins as it is stored, computes as it will be stored, and is derived as if
nothing were rounded."""

import numpy as np
import pytest
import torch
from formats.safetensors.compressed_formats import FORMATS as LAYOUTS

from qconvert.algorithms.tune import FLIP, tuned
from qconvert.formats import FORMATS
from qconvert.formats.mlx.affine import Affine
from qconvert.formats.mlx.floats import Floats
from qconvert.formats.quantize import quantize
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.types import Format

SHAPE = (8, 512)
GGUF = ("Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q4_0", "Q4_1", "Q8_0", "IQ4_XS", "IQ4_NL", "TQ2_0")
FIXED = {"MXFP4": FORMATS["MXFP4"], "mlx mxfp8": Floats("mxfp8", "BF16")}
EVERY: dict[str, Format] = {
    **{name: FORMATS[name] for name in GGUF},
    **{name: format_of(form, scale_dtype="BF16") for name, form in LAYOUTS.items()},
    "mlx2": Affine(2, 64, "F16", searched=True),
    "mlx nvfp4": Floats("nvfp4", "BF16"),
    **FIXED,
}


def weights(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, SHAPE) * 0.02 + 0.002).astype(np.float32)


def begun(name: str, *, codes: bool):
    format_, x = EVERY[name], weights()
    arrays = quantize(format_, x, None, float(np.abs(x).max()))
    return format_, arrays, tuned(format_, arrays, codes=codes)


def computed(one) -> np.ndarray:
    return one.weights(torch.float32).detach().numpy()


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    """To the last bits: zero points are subtracted before the product in some formats."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_it_begins_as_it_is_stored(name, codes):
    format_, arrays, one = begun(name, codes=codes)
    assert_same(computed(one), format_.dequantize(arrays))
    made = one.arrays()
    np.testing.assert_array_equal(format_.dequantize(made), format_.dequantize(arrays))
    for mine, stored in zip(made, arrays, strict=True):
        assert codes or (mine == stored).all()  # zeros that have a sign lose it


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_wherever_it_goes_it_computes_with_what_will_be_stored(name, codes):
    format_, arrays, one = begun(name, codes=codes)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for kind, parameter in one.parameters():
            width = 1.5 if kind == "place" else 0.2
            parameter += width * torch.randn(parameter.shape, generator=draw)
    made = one.arrays()
    assert_same(computed(one), format_.dequantize(made))
    is_moved = any((a != b).any() for a, b in zip(made, arrays, strict=True))
    assert is_moved == (codes or (name not in FIXED and "mxfp4" not in name))


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_1", "IQ4_XS", "w4 packed group", "mlx2"])
def test_gradients_are_those_of_the_plain_formula(name):
    """step * value - low in float64, by torch's own derivation, as if nothing were rounded."""
    format_, arrays, one = begun(name, codes=True)
    toward = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    (one.weights(torch.float32) * toward).sum().backward()
    grid = format_.grid(one.coded.params)
    value = torch.from_numpy(grid.values.astype(np.float64))
    place = torch.from_numpy(one.coded.codes.astype(np.int64) - grid.first)
    own = [torch.zeros(p.shape, dtype=torch.float64, requires_grad=True) for _, p in parts(one)]

    def spread(unit, by_unit, whole, by_whole):
        made = torch.from_numpy(unit).double() * (1 + by_unit)
        groups = grid.step.shape[1] // unit.shape[1]
        made = made.repeat_interleave(groups, dim=1)
        if whole is not None:
            made = made * (torch.from_numpy(whole).double() + 0.5 / FLIP * by_whole)
        return made.repeat_interleave(grid.size, dim=1)

    rest = iter(own)
    x = 0
    for units, sign in ((one.step, None), (one.low, -1)):
        if units is None or units.units.unit is None:
            continue
        by_unit = next(rest)
        by_whole = next(rest) if units.whole is not None else None
        made = spread(units.units.unit, by_unit, units.units.whole, by_whole)
        x = made * value[place] if sign is None else x - made
    (x * toward).sum().backward()
    for (_, mine), other in zip(parts(one), own, strict=True):
        np.testing.assert_allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-5)
    slope = grid.step.repeat(grid.size, axis=1)[:, : SHAPE[1]]
    if np.ptp(np.diff(grid.values)) == 0:
        np.testing.assert_allclose(one.place.grad, slope * toward.numpy(), rtol=1e-4, atol=1e-8)
    assert arrays


def parts(one):
    return [(name, p) for name, p in one.parameters() if name != "place"]


def test_a_code_that_is_beyond_its_last_value_is_not_pushed_further():
    _, _, one = begun("Q4_0", codes=True)
    with torch.no_grad():
        one.place[0, :] = 40.0
    one.weights(torch.float32).sum().backward()
    assert not one.place.grad[0].any()
    assert one.place.grad[1].any()


def test_what_is_coded_jointly_is_not_trained():
    x = weights()
    assert tuned(FORMATS["IQ3_S"], quantize(FORMATS["IQ3_S"], x)) is None
