"""Formats with an importance, against ggml's own search with the same one: Q4_0, Q4_1, Q5_0 and
Q5_1 on all kinds of weights, and every format on those of a real model with its real importance."""

from functools import cache

import gguf
import libgguf
import numpy as np
import pytest
from common import random_tokens
from formats.packed import packed_of, weights_of
from gguf import GGMLQuantizationType
from llama_inputs import gather
from packages import minilm_archive, smollm2_gguf
from safetensors.numpy import load

NAMES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1"]
RANDOM = 164
REAL = 36


@cache
def real_tensors() -> list[np.ndarray]:
    """The first rows of matrices of all-MiniLM-L6-v2, float32 [64, columns]."""
    state = load(minilm_archive().read("model.safetensors"))
    matrices = [tensor for _, tensor in sorted(state.items()) if tensor.ndim == 2][:REAL]
    return [np.ascontiguousarray(matrix[:64], np.float32) for matrix in matrices]


def random_tensor(rng: np.random.Generator) -> np.ndarray:
    shape = (int(rng.integers(4, 65)), 32 * int(rng.integers(4, 33)))
    draws = [
        rng.standard_normal(shape),
        rng.standard_t(4, shape),
        rng.laplace(size=shape),
        rng.uniform(-1, 1, shape),
        rng.standard_normal(shape) + rng.standard_normal((1, shape[1])),
    ]
    x = draws[rng.integers(len(draws))] * 2.0 ** rng.integers(-12, 4)
    return x.astype(np.float32)


def random_importance(rng: np.random.Generator, columns: int) -> np.ndarray:
    draws = [
        rng.gamma(0.5, 1.0, columns),
        np.exp(2 * rng.standard_normal(columns)),
        np.ones(columns),
        rng.uniform(0.5, 1.5, columns) * 1e-6,
    ]
    return draws[rng.integers(len(draws))].astype(np.float32)


def weighted_error(name: str, packed: np.ndarray, x: np.ndarray, importance: np.ndarray) -> float:
    off = weights_of(name, packed).astype(np.float64) - x
    return float((off * off * importance).sum())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(RANDOM + REAL))
def test_weighted_error_is_at_most_the_references(name, seed):
    rng = np.random.default_rng(seed)
    x = random_tensor(rng) if seed < RANDOM else real_tensors()[seed - RANDOM]
    importance = random_importance(rng, x.shape[1])
    theirs = libgguf.quantize_rows(x, GGMLQuantizationType[name], importance)
    ours = packed_of(name, x, importance)
    limit = weighted_error(name, theirs, x, importance)
    assert weighted_error(name, ours, x, importance) <= limit


@pytest.mark.parametrize("name", NAMES)
def test_importance_lowers_the_weighted_error(name):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((32, 1024)).astype(np.float32)
    importance = rng.gamma(0.5, 1.0, 1024).astype(np.float32)
    plain = weighted_error(name, packed_of(name, x, None), x, importance)
    weighted = weighted_error(name, packed_of(name, x, importance), x, importance)
    assert weighted < 0.9 * plain


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_the_importance_does_not_matter(name):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 512)).astype(np.float32)
    importance = rng.gamma(0.5, 1.0, 512).astype(np.float32)
    expected = packed_of(name, x, importance)
    for factor in (2.0**-60, 2.0**60):
        scaled = importance * np.float32(factor)
        np.testing.assert_array_equal(packed_of(name, x, scaled), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_senseless_importance_gives_sensible_weights(name, value):
    x = np.random.default_rng(7).standard_normal((4, 256)).astype(np.float32)
    importance = np.full(256, value, np.float32)
    off = weights_of(name, packed_of(name, x, importance)) - x
    assert abs(off).max() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_unseen_columns_get_the_nearest_code_or_the_outermost(name):
    x = np.random.default_rng(8).standard_normal((4, 256)).astype(np.float32)
    importance = np.ones(256, np.float32)
    importance[::3] = 0
    off = weights_of(name, packed_of(name, x, importance)) - x
    widest_step = (x.max() - x.min()) / 15
    # Clipped towards zero, a weight is off by less than itself.
    assert (abs(off) <= np.maximum(abs(x), widest_step / 2)).all()


@pytest.fixture(scope="module")
def smollm2() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Of every matrix of SmolLM2's blocks: its name, rows of it, and what llama.cpp multiplies its
    columns with, squared, on average. Where the columns do not divide 256, as many as do; the rows
    are permuted here and there, since the file's weights lie on a grid of 32."""
    sums = gather(smollm2_gguf(), [random_tokens(96, 49152)])
    rng = np.random.default_rng(9)
    found = []
    for tensor in gguf.GGUFReader(smollm2_gguf()).tensors:
        if not tensor.name.startswith("blk.") or tensor.name not in sums:
            continue
        total, count = sums[tensor.name]
        x = gguf.quants.dequantize(tensor.data[::12], tensor.tensor_type)
        columns = rng.permutation(x.shape[1])[: x.shape[1] // 256 * 256]
        mean = (total[0] / count[0]).astype(np.float32)
        found.append((tensor.name, np.ascontiguousarray(x[:, columns], np.float32), mean[columns]))
    return found


ALL = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", *NAMES]


@pytest.mark.parametrize("name", ALL)
def test_weighted_error_is_at_most_the_references_on_every_tensor_of_a_real_model(name, smollm2):
    worse = {}
    for tensor, x, importance in smollm2:
        theirs = libgguf.quantize_rows(x, GGMLQuantizationType[name], importance)
        limit = weighted_error(name, theirs, x, importance)
        ours = weighted_error(name, packed_of(name, x, importance), x, importance)
        if not ours <= limit:
            worse[tensor] = ours / limit
    assert len(smollm2) == 210
    assert not worse
