"""Weights as compressed-tensors stores them, against the package itself."""

import itertools

import formats.safetensors.compressed_oracle as oracle
import numpy as np
import pytest
import torch
from formats.packed import seen_of
from formats.safetensors.compressed_formats import FLOATS, FORMATS, INTEGERS
from formats.weights import finite_weights
from hypothesis import given, settings

from qconvert.formats.quantize import quantize, slab_of
from qconvert.formats.safetensors.layouts import format_of
from qconvert.formats.safetensors.types import Estimator

MINMAX, MSE = Estimator("minmax"), Estimator("mse")
DTYPES = ["BF16", "F16", "F32"]


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """float32 that BF16 holds."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (rows, columns)) * 0.02 + 0.003
    return torch.from_numpy(x).bfloat16().float().numpy()


def by_suffix(form, x, dtype="BF16", estimator=MINMAX, importance=None):
    """The arrays of a whole tensor."""
    format_ = format_of(form, estimator, dtype)
    made = quantize(format_, x, seen_of(importance), float(np.abs(x).max()))
    parts = format_.parts(x.shape)
    return {part.suffix: array for part, array in zip(parts, made, strict=True)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INTEGERS)
def test_minmax_scales_of_integers_are_those_of_the_package(name, dtype):
    form, x = INTEGERS[name], weights(70, 160)
    made = format_of(form, MINMAX, dtype).fit(x, None, float(np.abs(x).max()))
    theirs = oracle.plain_params(form, x, dtype)
    scale = theirs["weight_scale"].float().numpy().reshape(made.scale.shape)
    np.testing.assert_array_equal(made.scale, scale)
    if not form.symmetric:
        np.testing.assert_array_equal(made.zero_point, theirs["weight_zero_point"].numpy())


@pytest.mark.parametrize("name", FORMATS)
def test_minmax_gives_the_tensors_of_the_package(name):
    form, x = FORMATS[name], weights(70, 160)
    made = by_suffix(form, x, "F32")
    theirs = oracle.compress(form, x, oracle.plain_params(form, x, "F32"))
    assert set(theirs) == set(made)
    for suffix, array in made.items():
        expected = oracle.as_numpy(theirs[suffix])
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected, err_msg=suffix)


@pytest.mark.parametrize("estimator", [MINMAX, MSE], ids=["minmax", "mse"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_package_reads_what_is_written(name, dtype, estimator):
    form, x = FORMATS[name], weights(70, 160)
    made = by_suffix(form, x, dtype, estimator)
    format_ = format_of(form, estimator, dtype)
    dtypes = {part.suffix: part.dtype for part in format_.parts(x.shape)}
    theirs = oracle.decompress(form, made, dtypes)
    ours = torch.from_numpy(format_.dequantize(tuple(made.values())))
    assert torch.equal(theirs, ours.to(theirs.dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_parts_have_the_shapes_and_bytes_that_were_said(name):
    form, x = FORMATS[name], weights(70, 160)
    for dtype in DTYPES:
        made = by_suffix(form, x, dtype)
        for part in format_of(form, MINMAX, dtype).parts(x.shape):
            assert made[part.suffix].shape == part.shape
            assert made[part.suffix].nbytes == part.nbytes


@pytest.mark.parametrize("estimator", [MINMAX, MSE], ids=["minmax", "mse"])
@pytest.mark.parametrize("name", FORMATS)
def test_slabs_make_the_whole(name, estimator):
    form, x = FORMATS[name], weights(300, 160)
    importance = np.random.default_rng(1).random(160).astype(np.float32)
    whole = by_suffix(form, x, "BF16", estimator, importance)
    peak = float(np.abs(x).max())
    format_ = format_of(form, estimator, "BF16")
    parts, step, seen = format_.parts(x.shape), format_.row_step, seen_of(importance)
    cuts = sorted({0, step, 2 * step, 300})
    slabs = [
        slab_of(quantize(format_, x[a:b], seen, peak), parts, x.shape, a == 0)
        for a, b in itertools.pairwise(cuts)
    ]
    pieces = zip(*slabs, strict=True)
    for part, arrays in zip(parts, pieces, strict=True):
        joined = np.concatenate(arrays) if part.per_row else arrays[0]
        np.testing.assert_array_equal(joined, whole[part.suffix])
        if not part.per_row:
            assert all(array.size == 0 for array in arrays[1:])


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40)
@given(x=finite_weights(64, 1e30))
def test_weights_that_were_restored_have_the_same_codes(name, x):
    form = FORMATS[name]
    x[np.abs(x) < 1e-30] = 0
    format_ = format_of(form, MSE, "BF16")
    params = format_.fit(x, None, float(np.abs(x).max()))
    restored = format_.dequantize(format_.pack(format_.round(x, params), params))
    assert np.isfinite(restored).all()
    again = format_.pack(format_.round(restored, params), params)
    np.testing.assert_array_equal(format_.dequantize(again), restored)


def test_layers_that_are_fused_share_a_global_scale():
    form, x = FLOATS["nvfp4"], weights(4, 64)
    peak = 8 * float(np.abs(x).max())
    made = quantize(format_of(form, MINMAX, "BF16"), x, None, peak)
    assert made[2] == np.float32(448 * 6 / peak)


def test_the_formats_without_a_free_scale_dtype_ignore_it():
    for name in ("nvfp4", "mxfp4"):
        sizes = {format_of(FLOATS[name], MSE, dtype).parts((64, 64)) for dtype in DTYPES}
        assert len(sizes) == 1
