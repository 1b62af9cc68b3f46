"""Points of a grid, found a group at a time, against a plain float64 program."""

import gguf
import numpy as np
import pytest

from qconvert.formats import FORMATS
from qconvert.formats.ggml.lattice import Lattice, grid, near, places
from qconvert.formats.types import Seen

NAMES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
ROWS, BLOCK = 12, 256


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, np.ndarray]:
    """Weights, and an upper triangular factor with columns that hang together."""
    random = np.random.default_rng(3)
    x = random.normal(size=(ROWS, BLOCK)) * 0.05
    factor = np.triu(random.normal(size=(BLOCK, BLOCK)) * 0.05, 1)
    factor += np.diag(np.exp(random.normal(size=BLOCK) / 2))
    return x.astype(np.float32), factor.astype(np.float32)


def listed(format_: Lattice, wanted: np.ndarray) -> np.ndarray:
    """The places of the points near to digits."""
    layout = format_.layout
    index = int((wanted * len(layout.levels) ** np.arange(layout.dims)).sum())
    return places(layout)[near(layout)[index * layout.listed : (index + 1) * layout.listed]]


def plain(format_: Lattice, row: np.ndarray, factor: np.ndarray, scales, shifts) -> np.ndarray:
    """What becomes of a row: weights are rounded eight signs and a group at a time."""
    layout = format_.layout
    levels = np.array(layout.levels)
    x, out = row.astype(np.float64), np.zeros(BLOCK)
    inverse = 1 / factor.diagonal().astype(np.float64)
    for base in range(0, BLOCK, 8):
        s = float(scales[base // layout.size])
        eight = slice(base, base + 8)
        sign = np.where(x[eight] < 0, -1.0, 1.0) if layout.signs else np.ones(8)
        if layout.signs == 2 and sign.prod() < 0:
            size = np.abs(x[eight])
            step = levels[1] - levels[0]
            free = np.clip(np.rint((size / s - levels[0]) / step), 0, len(levels) - 1)
            off = s * (levels[0] + step * free) - size
            cost = ((size + s * levels[0]) ** 2 - off**2) * inverse[eight] ** 2
            sign[np.argmin(cost)] *= -1
        for start in range(base, base + 8, layout.dims):
            own = slice(start, start + layout.dims)
            turned = sign[start - base : start - base + layout.dims]
            if layout.signs == 1:
                turned = np.where(x[own] < 0, -1.0, 1.0)
            shift = layout.shifts[shifts[start // layout.dims]]
            step = levels[1] - levels[0]
            digits = np.rint((turned * x[own] / s - levels[0] - shift) / step)
            near_by = listed(format_, np.clip(digits, 0, len(levels) - 1).astype(int))
            values = turned * s * (grid(layout.name)[near_by] * scale_of(layout) + shift)
            errors = np.linalg.solve(factor[own, own].T.astype(np.float64), (x[own] - values).T)
            best = np.argmin(np.square(errors).sum(axis=0))
            out[own] = values[best]
            x[own.stop :] -= errors[:, best] @ factor[own, own.stop :]
    return out


def scale_of(layout) -> float:
    """Levels over the numbers that gguf has for them."""
    return float(layout.levels[-1] / grid(layout.name).max())


@pytest.mark.parametrize("name", NAMES)
def test_points_and_signs_are_those_of_a_plain_program(name, case):
    x, factor = case
    format_ = FORMATS[name]
    params = format_.fit(x, Seen(1 / factor.diagonal() ** 2))
    made, errors, _ = format_.feed(np.ascontiguousarray(x.T), factor, params)
    packed = format_.pack(*format_.fed(made, params))[0]
    back = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[name])
    scales = params.d[:, None] * (2 * params.scales.astype(np.float64) + 1)
    each = zip(x, scales, params.shifts, strict=True)
    wanted = np.array([plain(format_, row, factor, *rest) for row, *rest in each])
    same = np.isclose(back, wanted, rtol=1e-3, atol=1e-7).all(axis=1)
    assert same.mean() > 0.8  # where two points cost the same, all that follows is another
    np.testing.assert_allclose(errors.T @ factor, x - back, atol=2e-4 * np.abs(x).max())


@pytest.mark.parametrize("name", NAMES)
def test_columns_behind_make_up_for_errors(name, case):
    """The error that the factor sees is less than that of weights that are rounded at once."""
    x, factor = case
    format_ = FORMATS[name]
    params = format_.fit(x, Seen(1 / factor.diagonal() ** 2))
    _, errors, _ = format_.feed(np.ascontiguousarray(x.T), factor, params)
    at_once = x - format_.dequantize(format_.pack(format_.round(x, params), params))
    other = np.linalg.solve(factor.T.astype(np.float64), at_once.T)
    assert np.square(errors).sum() < 0.97 * np.square(other).sum()
