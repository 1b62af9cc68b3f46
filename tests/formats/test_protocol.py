"""What every format promises, of GGUF and of safetensors alike, through the one protocol."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from formats.safetensors.compressed_formats import FORMATS as LAYOUTS

from qconvert.formats import FORMATS
from qconvert.formats.mlx.affine import Affine
from qconvert.formats.mlx.floats import Floats
from qconvert.formats.quantize import nearest, quantize, slab_of
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.types import WeightFormat
from qconvert.formats.types import Arrays, Format, Grid, Part, Seen, Units, Weights

EVERY: dict[str, Format] = {
    **FORMATS,
    **{name: format_of(form, scale_dtype="BF16") for name, form in LAYOUTS.items()},
    "fp8 F32": format_of(LAYOUTS["fp8 channel"]),
    "w4 F16": format_of(LAYOUTS["w4 packed group"], scale_dtype="F16"),
    **{f"mlx{bits}": Affine(bits, 64, "BF16", searched=True) for bits in (2, 3, 4, 5, 6, 8)},
    "mlx4 plain": Affine(4, 32, "F32"),
    "mlx mxfp4": Floats("mxfp4", "BF16", searched=True),
    "mlx nvfp4": Floats("nvfp4", "BF16", searched=True),
    "lut4": format_of(WeightFormat("plain", "values", 4, "tensor"), scale_dtype="BF16"),
    "mlx mxfp8": Floats("mxfp8", "BF16"),
}
SHAPE = (256, 512)


def weights(seed: int = 0, rows: int = SHAPE[0]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (rows, SHAPE[1])) * 0.02 + 0.002).astype(np.float32)


def fitted(format_: Format, x: np.ndarray):
    return format_.fit(x, None, float(np.abs(x).max()))


def of_grid(grid: Grid, codes: np.ndarray) -> np.ndarray:
    step, low = (a.repeat(grid.size, axis=1)[:, : codes.shape[1]] for a in grid[:2])
    return step * grid.values[codes.astype(np.intp) - grid.first] - low


GRIDS = [n for n, f in EVERY.items() if f.grid(fitted(f, weights(rows=1))) is not None]
UNITS = [n for n in GRIDS if EVERY[n].units(fitted(EVERY[n], weights(rows=1))) is not None]
EVEN = [n for n in GRIDS if np.ptp(np.diff(EVERY[n].grid(fitted(EVERY[n], weights())).values)) == 0]


def test_all_but_floats_and_grid_points_have_a_grid():
    left = [name for name in EVERY if name not in GRIDS]
    lattices = ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"]
    assert left == ["F32", "F16", "BF16", *lattices]
    assert {*GRIDS} - {*UNITS} == {"lut4"}
    assert {"Q8_0", "Q4_1", "Q6_K", "TQ1_0", "w4 packed group", "w8 channel asymmetric"} < {*EVEN}


@pytest.mark.parametrize("name", EVERY)
def test_parts_say_what_is_packed(name):
    format_, x = EVERY[name], weights()
    parts = format_.parts(SHAPE)
    arrays = quantize(format_, x, None, float(np.abs(x).max()))
    for part, array in zip(parts, arrays, strict=True):
        assert (part.shape, part.nbytes) == (array.shape, array.nbytes)
    assert format_.dequantize(arrays).shape == SHAPE


@pytest.mark.parametrize("name", EVERY)
def test_rounding_what_was_restored_gives_the_same_weights(name):
    format_, x = EVERY[name], weights()
    params = fitted(format_, x)
    restored = format_.dequantize(format_.pack(format_.round(x, params), params))
    again = format_.dequantize(format_.pack(format_.round(restored, params), params))
    np.testing.assert_array_equal(again, restored)


@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_says_what_codes_stand_for(name):
    format_, x = EVERY[name], weights()
    params = fitted(format_, x)
    codes = format_.round(x, params)
    any_code = np.random.default_rng(3).integers(0, len(format_.grid(params).values), x.shape)
    finite = np.isfinite(format_.grid(params).values)[any_code]
    any_code = np.where(finite, any_code + format_.grid(params).first, 0).astype(codes.dtype)
    for some in (codes, any_code):
        grid = format_.grid(params)
        found = format_.dequantize(format_.pack(some, params))
        # Asymmetric integers are stored as (code - zero) * scale, which rounds once.
        slack = 1e-6 * grid.step.repeat(grid.size, axis=1)[:, : SHAPE[1]] * len(grid.values)
        assert (np.abs(found - of_grid(grid, some)) <= np.abs(slack) * ("asym" in name)).all()


@pytest.mark.parametrize("name", EVEN)
def test_the_nearest_code_is_what_step_low_and_first_code_say(name):
    """As error feedback rounds: no look at the format but at its grid."""
    format_, x = EVERY[name], weights()
    params = fitted(format_, x)
    grid = format_.grid(params)
    step, low = (a.astype(float).repeat(grid.size, axis=1)[:, : SHAPE[1]] for a in grid[:2])
    place = np.divide(x + low, step, out=np.zeros_like(step), where=step != 0) - grid.values[0]
    codes = np.rint(place).clip(0, len(grid.values) - 1) + grid.first
    ours, theirs = (np.abs(of_grid(grid, c) - x) for c in (codes, format_.round(x, params)))
    # Q8_0 is rounded by a scale that is not narrowed yet.
    assert (np.abs(ours - theirs) <= 0.15 * np.abs(step)).all()
    assert np.mean(codes == format_.round(x, params)) > 0.99


@pytest.mark.parametrize("name", UNITS)
def test_what_was_packed_is_taken_apart_and_packed_again(name):
    format_, x = EVERY[name], weights()
    arrays = quantize(format_, x, None, float(np.abs(x).max()))
    again = format_.pack(*format_.unpack(arrays))
    for first, second in zip(arrays, again, strict=True):
        np.testing.assert_array_equal(first, second)


def spread(units: Units, other: np.ndarray | None, grid: Grid) -> np.ndarray:
    """Units and wholes as steps or lows of the grid's shape."""
    unit = other if units.unit is None else units.unit
    height, width = (-(-a // b) for a, b in zip(grid.step.shape, unit.shape, strict=True))
    wide = unit.repeat(height, axis=0).repeat(width, axis=1)[: grid.step.shape[0]]
    wide = np.float32(units.by) * wide
    return wide if units.whole is None else wide * units.whole


@pytest.mark.parametrize("name", UNITS)
def test_units_are_what_steps_and_lows_are_made_of(name):
    format_, x = EVERY[name], weights()
    params = fitted(format_, x)
    grid = format_.grid(params)
    step, low = format_.units(params)
    np.testing.assert_allclose(spread(step, None, grid), grid.step, rtol=3e-7)
    made = spread(low, step.unit, grid) if low else np.zeros_like(grid.low)
    np.testing.assert_allclose(made, grid.low, rtol=3e-7)


@pytest.mark.parametrize("name", UNITS)
def test_other_units_are_stored_as_they_are(name):
    format_, x = EVERY[name], weights()
    params = fitted(format_, x)
    step, low = format_.units(params)
    is_high = step.dtype == "F8_E4M3" and step.unit.max() > 224
    step = step._replace(unit=step.unit * (0.5 if is_high else 2))
    if low and low.unit is not None:
        low = low._replace(unit=low.unit / 2)
    if step.whole is not None:
        step = step._replace(whole=np.full_like(step.whole, step.limits[1]))
    made = format_.with_units(params, step, low)
    codes = format_.round(x, made)
    again = format_.units(format_.unpack(format_.pack(codes, made)).params)
    for mine, found in zip((step, low), again, strict=True):
        for field in ("unit", "whole"):
            wanted = None if mine is None else getattr(mine, field)
            assert (wanted is None) == (found is None or getattr(found, field) is None)
            if wanted is not None:
                np.testing.assert_array_equal(getattr(found, field), wanted)


@pytest.mark.parametrize("name", EVERY)
def test_slabs_and_chunks_make_the_whole(name):
    format_, x = EVERY[name], weights(rows=300)
    peak, parts = float(np.abs(x).max()), format_.parts(x.shape)
    seen = Seen(np.random.default_rng(1).random(SHAPE[1]).astype(np.float32))
    cuts = sorted({0, format_.row_step, 300})
    slabs = [
        slab_of(quantize(format_, x[a:b], seen, peak), parts, x.shape, a == 0)
        for a, b in itertools.pairwise(cuts)
    ]
    coded = nearest(format_, x, seen, peak)
    for whole, *pieces in zip(format_.pack(*coded), *slabs, strict=True):
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


@dataclass(frozen=True)
class Signs:
    """A toy: every weight is the mean magnitude of its row, with its sign."""

    row_step = 1
    needs_peak = False
    chunk = 4

    def parts(self, shape: tuple[int, int]) -> tuple[Part, ...]:
        rows, columns = shape
        scale = Part("scale", (rows, 1), "F32", 4 * rows, True)
        return Part("weight", shape, "I8", rows * columns, True), scale

    def fit(self, x: Weights, seen: Seen | None, peak: float | None = None) -> np.ndarray:
        return np.abs(x).mean(axis=1, keepdims=True)

    def grid(self, params: np.ndarray) -> Grid:
        return Grid(params, np.zeros_like(params), np.array([-1, 1], np.float32), SHAPE[1])

    def round(self, x: Weights, params: np.ndarray) -> np.ndarray:
        return np.int8(x > 0)

    def pack(self, codes: np.ndarray, params: np.ndarray) -> Arrays:
        return codes, params

    def dequantize(self, arrays: Arrays) -> Weights:
        return (2 * arrays[0].astype(np.float32) - 1) * arrays[1]


def test_a_new_format_is_one_class_and_one_line_of_a_table(monkeypatch):
    from qconvert.plan.blocks import Blocks

    monkeypatch.setitem(FORMATS, "F16", Signs())  # under a name that ggml knows
    x = weights(rows=9)
    codes, scale = Blocks("a", "F16", 9).make(x, 0, 0.0)
    np.testing.assert_array_equal(codes, x > 0)
    np.testing.assert_allclose(scale[:, 0], np.abs(x).mean(axis=1), rtol=1e-6)
