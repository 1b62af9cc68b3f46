"""What every format promises, whatever it looks like."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
from formats.packed import packed_of, seen_of, weights_of
from formats.weights import extremes, finite_weights
from gguf import GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qconvert.errors import UnsupportedError
from qconvert.formats import FORMATS, dequantize_any
from qconvert.formats.types import block_sizes

ALONE = [name for name in FORMATS if not FORMATS[name].needs_peak]
"""All but NVFP4, whose tensors have a number beside them: see test_nvfp4.py."""

BLOCKED = [name for name in ALONE if block_sizes(name)[0] > 1]
JOINT = [name for name in BLOCKED if name.startswith(("IQ1", "IQ2", "IQ3"))]
quick = settings(max_examples=25, suppress_health_check=list(HealthCheck))


def normal(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, columns)) * 0.02).astype(np.float32)


def gamma(columns: int) -> np.ndarray:
    return np.random.default_rng(9).gamma(0.5, 1.0, columns).astype(np.float32)


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32)


def test_names_are_those_of_ggml():
    assert set(FORMATS) <= {kind.name for kind in GGMLQuantizationType}


@pytest.mark.parametrize("name", ALONE)
def test_size_is_that_of_ggml(name):
    format_ = FORMATS[name]
    packed = packed_of(name, normal(3, 512), None)
    assert packed.dtype == np.uint8
    assert packed.shape == gguf.quant_shape_to_byte_shape((3, 512), GGMLQuantizationType[name])
    (part,) = format_.parts((3, 512))
    assert (packed.shape, packed.nbytes) == (part.shape, part.nbytes)


@pytest.mark.parametrize("name", FORMATS)
def test_any_bytes_dequantize_bit_for_bit_as_gguf_does(name):
    rng = np.random.default_rng(1)
    size = 512 // block_sizes(name)[0] * block_sizes(name)[1]
    packed = rng.integers(0, 256, (64, size), dtype=np.uint8)
    ours = weights_of(name, packed)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(packed, GGMLQuantizationType[name])
    nan = np.isnan(theirs)
    assert ours.shape == (64, 512)
    np.testing.assert_array_equal(np.isnan(ours), nan)
    np.testing.assert_array_equal(bits(ours)[~nan], bits(theirs)[~nan])


def test_formats_whose_weights_are_coded_jointly_have_no_grid():
    x = normal(1, 256)
    found = [n for n in BLOCKED if FORMATS[n].grid(FORMATS[n].fit(x, None)) is None]
    assert found == JOINT
    assert len(JOINT) == 7


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("weighted", [False, True])
@quick
@given(data=st.data())
def test_quantize_is_fit_round_and_pack(name, weighted, data):
    format_ = FORMATS[name]
    x = data.draw(finite_weights(2 * block_sizes(name)[0]))
    importance = gamma(x.shape[1]) if weighted else None
    params = format_.fit(x, seen_of(importance))
    (packed,) = format_.pack(format_.round(x, params), params)
    np.testing.assert_array_equal(packed_of(name, x, importance), packed)


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("extreme", extremes(256))
def test_extremes_give_a_whole_block(name, weighted, extreme):
    x = extremes(256)[extreme]
    importance = gamma(256) if weighted else None
    packed = packed_of(name, x, importance)
    assert packed.shape == FORMATS[name].parts((1, 256))[0].shape
    if abs(x).max() < 1e4:
        assert abs(weights_of(name, packed) - x).max() <= abs(x).max()


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize("weighted", [False, True])
def test_zeros_stay_zeros(name, weighted):
    x = np.zeros((2, 256), np.float32)
    packed = packed_of(name, x, gamma(256) if weighted else None)
    np.testing.assert_array_equal(weights_of(name, packed), x)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_stop_it(name, value):
    x = normal(2, 256)
    x[0, 7] = value
    clean = normal(2, 256)
    for importance in (None, gamma(256)):
        packed = packed_of(name, x, importance)
        # The other row does not suffer.
        np.testing.assert_array_equal(packed[1], packed_of(name, clean, importance)[1])


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_coded_one_by_one(name, weighted):
    x = normal(5, 512)
    importance = gamma(512) if weighted else None
    together = packed_of(name, x, importance)
    for i, row in enumerate(x):
        alone = packed_of(name, row.reshape(1, -1), importance)
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("weighted", [False, True])
@quick
@given(data=st.data())
def test_jointly_coded_weights_are_finite_and_no_worse_than_zeros(name, weighted, data):
    x = data.draw(finite_weights(512, limit=1e4))
    importance = gamma(512) if weighted else None
    y = weights_of(name, packed_of(name, x, importance)).astype(np.float64)
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    if abs(x).max() < 1e4:
        weight = 1 if importance is None else importance.astype(np.float64)
        assert (weight * np.square(y - x)).sum() <= (weight * np.square(x.astype(float))).sum()


@pytest.mark.parametrize("name", FORMATS)
def test_many_threads_at_once_give_the_same_bytes(name):
    x = normal(16, 1024)
    importance = gamma(1024)
    expected = packed_of(name, x, importance)
    with ThreadPoolExecutor(8) as pool:
        for packed in pool.map(lambda _: packed_of(name, x, importance), range(24)):
            np.testing.assert_array_equal(packed, expected)


@pytest.mark.parametrize("name", FORMATS)
def test_unaligned_and_read_only_bytes_are_read(name):
    packed = packed_of(name, normal(2, 256), None)
    buffer = bytes(1) + packed.tobytes()
    view = np.frombuffer(buffer, np.uint8, offset=1).reshape(packed.shape)
    np.testing.assert_array_equal(weights_of(name, view), weights_of(name, packed))


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ3_S", "NVFP4", "Q8_0"])
def test_dequantize_any_reads_what_gguf_reads(name):
    kind = GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    packed = np.random.default_rng(2).integers(0, 60, (3, 512 // block * size), dtype=np.uint8)
    ours = dequantize_any(packed, name)
    assert ours.dtype == np.float32
    assert ours.shape == (3, 512)
    np.testing.assert_array_equal(ours, gguf.quants.dequantize(packed, kind))


@pytest.mark.parametrize("name", ["Q8_K", "I32", "Q4_2", "no type"])
def test_dequantize_any_refuses_what_nobody_reads(name):
    with pytest.raises(UnsupportedError, match=name):
        dequantize_any(np.zeros((1, 256), np.uint8), name)


def test_numba_is_not_imported_with_the_formats():
    code = "import sys, qconvert.formats; print('numba' in sys.modules or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
