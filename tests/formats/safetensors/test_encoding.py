"""Weights as compressed-tensors stores them, against the package itself."""

import itertools

import formats.safetensors.compressed_oracle as oracle
import numpy as np
import pytest
import torch
from formats.safetensors.compressed_formats import FLOATS, FORMATS, INTEGERS
from formats.weights import finite_weights
from hypothesis import given, settings

from qconvert.formats.safetensors import encoding
from qconvert.formats.safetensors.types import Estimator

MINMAX, MSE = Estimator("minmax"), Estimator("mse")
DTYPES = ["BF16", "F16", "F32"]


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """float32 that BF16 holds."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(4, (rows, columns)) * 0.02 + 0.003
    return torch.from_numpy(x).bfloat16().float().numpy()


def quantize(form, x, dtype="BF16", estimator=MINMAX, importance=None):
    """The arrays of a whole tensor by suffix."""
    peak = float(np.abs(x).max())
    made = encoding.quantize(form, x, importance, estimator, peak, dtype, x.shape, True)
    names = [part.suffix for part in encoding.parts(form, x.shape, dtype)]
    return dict(zip(names, made, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", INTEGERS)
def test_minmax_scales_of_integers_are_those_of_the_package(name, dtype):
    form, x = INTEGERS[name], weights(70, 160)
    made = encoding.fit(form, x, None, MINMAX, float(np.abs(x).max()), dtype)
    theirs = oracle.plain_params(form, x, dtype)
    scale = theirs["weight_scale"].float().numpy().reshape(made.scale.shape)
    np.testing.assert_array_equal(made.scale, scale)
    if not form.symmetric:
        np.testing.assert_array_equal(made.zero_point, theirs["weight_zero_point"].numpy())


@pytest.mark.parametrize("name", FORMATS)
def test_minmax_gives_the_tensors_of_the_package(name):
    form, x = FORMATS[name], weights(70, 160)
    made = quantize(form, x, "F32")
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
    made = quantize(form, x, dtype, estimator)
    dtypes = {part.suffix: part.dtype for part in encoding.parts(form, x.shape, dtype)}
    theirs = oracle.decompress(form, made, dtypes)
    ours = torch.from_numpy(encoding.dequantize(form, made, x.shape))
    assert torch.equal(theirs, ours.to(theirs.dtype))


@pytest.mark.parametrize("name", FORMATS)
def test_parts_have_the_shapes_and_bytes_that_were_said(name):
    form, x = FORMATS[name], weights(70, 160)
    for dtype in DTYPES:
        made = quantize(form, x, dtype)
        for part in encoding.parts(form, x.shape, dtype):
            assert made[part.suffix].shape == part.shape
            assert made[part.suffix].nbytes == part.nbytes


@pytest.mark.parametrize("estimator", [MINMAX, MSE], ids=["minmax", "mse"])
@pytest.mark.parametrize("name", FORMATS)
def test_slabs_make_the_whole(name, estimator):
    form, x = FORMATS[name], weights(300, 160)
    importance = np.random.default_rng(1).random(160).astype(np.float32)
    whole = quantize(form, x, "BF16", estimator, importance)
    peak = float(np.abs(x).max())
    step = encoding.row_step(form)
    cuts = sorted({0, step, 2 * step, 300})
    slabs = [
        encoding.quantize(form, x[a:b], importance, estimator, peak, "BF16", x.shape, a == 0)
        for a, b in itertools.pairwise(cuts)
    ]
    pieces = zip(*slabs, strict=True)
    for part, arrays in zip(encoding.parts(form, x.shape, "BF16"), pieces, strict=True):
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
    params = encoding.fit(form, x, None, MSE, float(np.abs(x).max()), "BF16")
    codes = encoding.round_codes(form, x, params)
    made = encoding.pack(form, codes, params, "BF16")
    restored = encoding.dequantize(form, made, x.shape)
    assert np.isfinite(restored).all()
    again = encoding.pack(form, encoding.round_codes(form, restored, params), params, "BF16")
    np.testing.assert_array_equal(encoding.dequantize(form, again, x.shape), restored)


def test_layers_that_are_fused_share_a_global_scale():
    form, x = FLOATS["nvfp4"], weights(4, 64)
    peak = 8 * float(np.abs(x).max())
    made = encoding.quantize(form, x, None, MINMAX, peak, "BF16", x.shape, True)
    assert made[2] == np.float32(448 * 6 / peak)


def test_the_formats_without_a_free_scale_dtype_ignore_it():
    for name in ("nvfp4", "mxfp4"):
        sizes = {encoding.parts(FLOATS[name], (64, 64), dtype) for dtype in DTYPES}
        assert len(sizes) == 1
