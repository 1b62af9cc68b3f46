"""Bytes of the simple formats against ggml's compiled reference quantizers."""

import libgguf
import numpy as np
import pytest
from formats.packed import packed_of, weights_of
from formats.weights import extremes, finite_weights
from gguf import GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qconvert.formats.types import block_sizes

LEGACY = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
EXACT = [*LEGACY, "TQ1_0", "TQ2_0", "MXFP4", "F32", "F16", "BF16"]
thorough = settings(max_examples=150, suppress_health_check=list(HealthCheck))


def reference(name: str, x: np.ndarray) -> np.ndarray:
    return libgguf.quantize_rows(x, GGMLQuantizationType[name]).view(np.uint8)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("spread", [1e-6, 0.02, 1.0, 3000.0])
@pytest.mark.parametrize("grid", ["float32", "bfloat16"])
def test_a_million_random_weights(name, spread, grid):
    x = np.random.default_rng(3).standard_t(5, (256, 1024)).astype(np.float32)
    x *= np.float32(spread)
    if grid == "bfloat16":
        x = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    np.testing.assert_array_equal(packed_of(name, x, None), reference(name, x))


@pytest.mark.parametrize("name", EXACT)
@thorough
@given(data=st.data())
def test_any_finite_weights(name, data):
    x = data.draw(finite_weights(2 * max(block_sizes(name)[0], 32)))
    np.testing.assert_array_equal(packed_of(name, x, None), reference(name, x))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("extreme", extremes(256))
def test_extremes(name, extreme):
    x = extremes(256)[extreme]
    np.testing.assert_array_equal(packed_of(name, x, None), reference(name, x))


@pytest.mark.parametrize("name", ["Q8_0", "TQ1_0", "TQ2_0", "MXFP4"])
def test_importance_has_no_say_where_it_has_none_in_ggml(name):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((8, 512)).astype(np.float32)
    importance = rng.gamma(0.5, 1.0, 512).astype(np.float32)
    theirs = libgguf.quantize_rows(x, GGMLQuantizationType[name], importance)
    np.testing.assert_array_equal(packed_of(name, x, importance), theirs)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("others", [[], [5.0], [-5.0], [5.0, -5.0]])
def test_zeros_of_either_sign_in_any_order(name, others):
    x = np.random.default_rng(5).choice(np.array([0.0, -0.0, *others], np.float32), (400, 256))
    np.testing.assert_array_equal(packed_of(name, x, None), reference(name, x))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("largest", [127.0, -127.0, 8.0, -8.0, 16.0, -16.0, 15.0, 31.0, 1.0])
def test_weights_at_and_beside_every_half(name, largest):
    halves = (np.arange(-255, 256, 2) / 2).astype(np.float32)
    near = np.concatenate([np.nextafter(halves, 0), halves, np.nextafter(halves, halves * 2)])
    near = near[abs(near) <= abs(largest)].astype(np.float32)
    x = np.random.default_rng(6).choice(near, (50, 256))
    x[:, ::32] = largest
    x[:, 1::32] = 0
    np.testing.assert_array_equal(packed_of(name, x, None), reference(name, x))


@pytest.mark.parametrize("name", EXACT)
def test_no_rows_give_no_bytes(name):
    packed = packed_of(name, np.empty((0, 256), np.float32), None)
    assert len(packed) == 0
    assert weights_of(name, packed).shape == (0, 256)
