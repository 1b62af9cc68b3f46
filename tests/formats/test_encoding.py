"""Weights as compressed-tensors stores them, against the package itself."""

import itertools

import formats.compressed_oracle as oracle
import numpy as np
import pytest
import torch
from formats.compressed_formats import FLOATS, FORMATS, INTEGERS

from qconvert.formats import encoding
from qconvert.formats.compressed import Estimator

MINMAX = Estimator("minmax")
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_the_package_reads_what_is_written(name, dtype):
    form, x = FORMATS[name], weights(70, 160)
    made = quantize(form, x, dtype)
    dtypes = {part.suffix: part.dtype for part in encoding.parts(form, x.shape, dtype)}
    theirs = oracle.decompress(form, made, dtypes)
    ours = torch.from_numpy(encoding.dequantize(form, made, x.shape))
    assert torch.equal(theirs, ours.to(theirs.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_parts_have_the_shapes_and_bytes_that_were_said(name, dtype):
    form, x = FORMATS[name], weights(70, 160)
    made = quantize(form, x, dtype)
    for part in encoding.parts(form, x.shape, dtype):
        assert made[part.suffix].shape == part.shape
        assert made[part.suffix].nbytes == part.nbytes


@pytest.mark.parametrize("name", FORMATS)
def test_slabs_make_the_whole(name):
    form, x = FORMATS[name], weights(300, 160)
    whole = quantize(form, x)
    peak = float(np.abs(x).max())
    step = encoding.row_step(form)
    cuts = [0, step, 2 * step, 300]
    slabs = [
        encoding.quantize(form, x[a:b], None, MINMAX, peak, "BF16", x.shape, a == 0)
        for a, b in itertools.pairwise(cuts)
        if a < b
    ]
    arrays_of = dict(
        zip(encoding.parts(form, x.shape, "BF16"), zip(*slabs, strict=True), strict=True)
    )
    for part, arrays in arrays_of.items():
        joined = np.concatenate(arrays) if part.per_row else arrays[0]
        np.testing.assert_array_equal(joined, whole[part.suffix])
        if not part.per_row:
            assert all(array.size == 0 for array in arrays[1:])


def test_the_formats_without_a_free_scale_dtype_ignore_it():
    for name in ("nvfp4", "mxfp4"):
        sizes = {encoding.parts(FLOATS[name], (64, 64), dtype) for dtype in DTYPES}
        assert len(sizes) == 1
