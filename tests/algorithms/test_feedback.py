"""Feedback: against a plain float64 program that knows nothing of ours, in every format."""

import numpy as np
import pytest
import torch

from qconvert.algorithms.damping import factored
from qconvert.algorithms.feedback import feedback
from qconvert.algorithms.guard import output_error
from qconvert.formats import FORMATS
from qconvert.formats.mlx.affine import Affine
from qconvert.formats.mlx.floats import Floats
from qconvert.formats.quantize import nearest
from qconvert.formats.safetensors.fp4 import Fp4
from qconvert.formats.safetensors.fp8 import Fp8
from qconvert.formats.safetensors.integers import Integers
from qconvert.formats.safetensors.types import Estimator, WeightFormat
from qconvert.formats.types import Format, Seen

ROWS, COLUMNS = 24, 512


def schemes() -> dict[str, Format]:
    about = (Estimator(), "BF16")
    packed = "pack-quantized"
    grouped = {
        f"w{bits}{'a' if not symmetric else ''} g{size}": Integers(
            WeightFormat(packed, "int", bits, "group", size, symmetric=symmetric), *about
        )
        for bits, size, symmetric in ((2, 32, True), (4, 128, True), (4, 64, False), (8, 32, True))
    }
    nvfp4 = WeightFormat("nvfp4-pack-quantized", "float", 4, "group", 16)
    mxfp4 = WeightFormat("mxfp4-pack-quantized", "float", 4, "group", 32)
    block = WeightFormat("float-quantized", "float", 8, "block", block=(128, 128))
    return grouped | {
        "w4 channel": Integers(WeightFormat(packed, "int", 4, "channel"), *about),
        "int8 channel": Integers(WeightFormat("int-quantized", "int", 8, "channel"), *about),
        "int8 tensor": Integers(WeightFormat("int-quantized", "int", 8, "tensor"), *about),
        "nvfp4": Fp4(nvfp4, *about),
        "mxfp4": Fp4(mxfp4, *about),
        "fp8 channel": Fp8(WeightFormat("float-quantized", "float", 8, "channel"), *about),
        "fp8 block": Fp8(block, *about),
        "mlx2": Affine(2, 64, "BF16", searched=True),
        "mlx4": Affine(4, 32, "F16", searched=True),
        "mlx8": Affine(8, 128, "BF16", searched=True),
        "mlx mxfp4": Floats("mxfp4", "BF16", searched=True),
        "mlx nvfp4": Floats("nvfp4", "BF16", searched=True),
        "mlx mxfp8": Floats("mxfp8", "BF16", searched=True),
    }


ALL = {**{name: one for name, one in FORMATS.items() if not name.endswith("32")}, **schemes()}
WITH_GRID = [name for name in ALL if not name.startswith(("IQ1", "IQ2", "IQ3", "F16", "BF16"))]


@pytest.fixture(scope="module")
def case() -> tuple[np.ndarray, Seen, Seen]:
    """Weights, and inputs that hang together, with a few large channels; some are not shown."""
    random = np.random.default_rng(5)
    mix = random.normal(size=(COLUMNS // 4, COLUMNS)) * np.exp(random.normal(size=COLUMNS))
    x = random.normal(size=(4096, COLUMNS // 4)) @ mix + random.normal(size=(4096, COLUMNS))
    x[:, 7] *= 300
    x[:, 11] = 0
    weights = random.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    return weights, factored(seen_of(x[:3072])), seen_of(x[3072:])


def seen_of(x: np.ndarray) -> Seen:
    hessian = torch.from_numpy((x.T @ x / len(x)).astype(np.float32))
    return Seen(np.ascontiguousarray(hessian.diagonal()), None, hessian)


def test_the_factor_is_that_of_the_inverse(case):
    seen = case[1]
    hessian, factor = seen.hessian.double().numpy(), seen.factor.numpy()
    diagonal = hessian.diagonal().copy()
    damped = hessian + np.diag(0.02 * diagonal)
    damped[11, 11] = diagonal[diagonal > 0].mean()
    assert not np.tril(factor, -1).any()
    inverse = factor.T.astype(np.float64) @ factor
    size = np.sqrt(damped.diagonal())  # of channels, which differ by thousands
    product = size[:, None] * (inverse @ damped) / size
    np.testing.assert_allclose(product, np.eye(COLUMNS), atol=2e-3)


@pytest.mark.parametrize("name", WITH_GRID)
def test_a_plain_program_gives_the_same(name, case):
    """Column by column in float64, with a search through all values of the grid that was fitted."""
    x, seen, _ = case
    made = feedback(ALL[name], x, seen, float(np.abs(x).max()))
    grid = ALL[name].grid(made.params)
    w, factor = x.astype(np.float64), seen.factor.double().numpy()
    codes = made.codes.astype(np.int64) - grid.first
    wrong = 0
    for j in range(COLUMNS):
        step, low = (part[:, j // grid.size, None].astype(np.float64) for part in grid[:2])
        values = step * grid.values - low
        far = np.abs(values - w[:, j, None])
        own = far[np.arange(ROWS), codes[:, j]]
        wrong += int((own > np.nanmin(far, axis=1) + 1e-4 * np.abs(step[:, 0])).sum())
        error = (w[:, j] - values[np.arange(ROWS), codes[:, j]]) / factor[j, j]
        w[:, j + 1 :] -= np.outer(error, factor[j, j + 1 :])
    assert wrong <= ROWS * COLUMNS / 1000  # float32 near the middle of two values


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q6_K", "IQ4_XS", "int8 channel"])
def test_scales_are_fitted_to_what_weights_become(name, case, monkeypatch):
    """The error that H sees is less than with scales of the first fit."""
    x, seen, _ = case

    def errors() -> np.ndarray:
        made = feedback(ALL[name], x, seen, float(np.abs(x).max()))
        off = torch.from_numpy(ALL[name].dequantize(ALL[name].pack(*made)) - x).double()
        whitened = torch.linalg.solve_triangular(seen.factor.double(), off, upper=True, left=False)
        return whitened.square().sum(1).numpy()

    often = errors()
    monkeypatch.setitem(feedback.__globals__, "TRIES", 1)
    once = errors()
    assert often.sum() < 0.99 * once.sum()


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("F16", "BF16")])
def test_outputs_of_inputs_not_seen_are_nearer(name, case):
    x, seen, unseen = case
    peak = float(np.abs(x).max())
    errors = [
        output_error(
            ALL[name].dequantize(ALL[name].pack(*algorithm(ALL[name], x, seen, peak))) - x, unseen
        )
        for algorithm in (feedback, nearest)
    ]
    assert errors[0] < 0.95 * errors[1]


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_floats_are_rounded_as_ever(name, case):
    x, seen, _ = case
    codes = [algorithm(ALL[name], x, seen, None).codes for algorithm in (feedback, nearest)]
    np.testing.assert_array_equal(*codes)


def test_rows_do_not_depend_on_each_other(case):
    x, seen, _ = case
    whole = ALL["Q4_K"].pack(*feedback(ALL["Q4_K"], x, seen, None))[0]
    part = ALL["Q4_K"].pack(*feedback(ALL["Q4_K"], x[5:9].copy(), seen, None))[0]
    differ = (whole[5:9] != part).mean()
    assert differ < 0.01


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_what_does_not_factor_is_left(value):
    hessian = torch.full((32, 32), value)
    seen = Seen(np.ones(32, np.float32), None, hessian)
    assert factored(seen) is seen


def test_more_damping_where_it_takes_that():
    hessian = torch.ones((32, 32)) - 0.05 * torch.eye(32)  # not positive definite
    seen = factored(Seen(np.ones(32, np.float32), None, hessian))
    assert seen.factor is not None
    assert torch.isfinite(seen.factor).all()
