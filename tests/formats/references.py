"""Weights and importances on which searches for scales are compared with ggml's."""

from functools import cache

import gguf
import libgguf
import numpy as np
from formats.packed import packed_of
from gguf import GGMLQuantizationType
from packages import minilm_archive, smollm2_gguf
from safetensors.numpy import load

RANDOM = 160
REAL = 40


@cache
def real_tensors() -> list[np.ndarray]:
    """Rows of 256 weights and more of two models: float32 [12, columns]."""
    found = [matrix for matrix in minilm() if matrix.shape[1] % 256 == 0][: REAL // 4]
    # 384 columns do not divide: take them as rows of 768.
    wide = [m.reshape(-1, 768) for m in minilm() if m.shape[1] == 384 and len(m) % 2 == 0]
    found += wide[: REAL // 2 - len(found)]
    return found + smollm2()[: REAL - len(found)]


def minilm() -> list[np.ndarray]:
    """The matrices of all-MiniLM-L6-v2, their first rows."""
    state = load(minilm_archive().read("model.safetensors"))
    matrices = [tensor for _, tensor in sorted(state.items()) if tensor.ndim == 2]
    return [np.ascontiguousarray(matrix[:24], np.float32) for matrix in matrices]


def smollm2() -> list[np.ndarray]:
    """Matrices of SmolLM2-135M. Stored as Q4_1, its weights lie on a grid of 16 values in every
    32; every other tensor is permuted, so that its blocks are as any model's."""
    rng = np.random.default_rng(3)
    found = []
    for tensor in gguf.GGUFReader(smollm2_gguf()).tensors:
        if tensor.data.ndim < 2 or ("attn_q" not in tensor.name and "ffn_down" not in tensor.name):
            continue
        rows = gguf.quants.dequantize(tensor.data[:32], tensor.tensor_type)
        x = rows.reshape(-1, 1536 if rows.shape[1] == 1536 else 768)[:12]
        found.append(x if len(found) % 2 else rng.permuted(x.reshape(-1)).reshape(x.shape))
    return [np.ascontiguousarray(x, np.float32) for x in found]


def random_tensor(seed: int) -> np.ndarray:
    """float32 [8, 512 or 768], of one of twenty kinds."""
    rng = np.random.default_rng(seed)
    shape = (8, 256 * int(rng.integers(2, 4)))
    normal = rng.standard_normal(shape)
    column = np.arange(shape[1])
    kinds = [
        lambda: normal * 0.02,
        lambda: rng.laplace(size=shape) * 0.05,
        lambda: rng.standard_t(3, shape) * 0.02,
        lambda: rng.standard_t(1.5, shape) * 0.02,
        lambda: normal * np.where(column % 97 == 5, 30, 1) * 0.02,
        lambda: normal * np.exp(rng.standard_normal(shape[1])),
        lambda: normal * np.exp(rng.standard_normal((8, shape[1] // 32))).repeat(32, 1),
        lambda: normal * 1e-5,
        lambda: normal * 1e-7,
        lambda: normal * 1e4,
        lambda: rng.uniform(0.5, 1, shape),
        lambda: -rng.uniform(0.5, 1, shape),
        lambda: rng.uniform(-1, 1, shape),
        lambda: normal * 0.1 + 0.5,
        lambda: normal * (rng.random(shape) < 0.05),
        lambda: np.full(shape, rng.uniform(-1, 1)),
        lambda: np.repeat(rng.standard_normal((8, 1)), shape[1], 1),
        lambda: np.sign(normal) * 0.05,
        lambda: rng.integers(-1, 2, shape) * 0.13,
        lambda: np.where(column % 256 == 7, 10, 1e-3) * normal,
    ]
    return np.ascontiguousarray(kinds[seed % len(kinds)](), np.float32)


def tensor_of(seed: int) -> np.ndarray:
    return random_tensor(seed) if seed < RANDOM else real_tensors()[seed - RANDOM]


def random_importance(seed: int, columns: int) -> np.ndarray:
    """float32 [columns]: mean squares as calibration gives them, some with zeros."""
    rng = np.random.default_rng(1000 + seed)
    kinds = [
        rng.gamma(0.5, 1.0, columns),
        np.exp(2 * rng.standard_normal(columns)),
        np.ones(columns),
        rng.uniform(0.5, 1.5, columns) * 1e-6,
        rng.gamma(0.5, 1.0, columns) * (rng.random(columns) < 0.7),
    ]
    return kinds[int(rng.integers(len(kinds)))].astype(np.float32)


def errors(
    name: str, x: np.ndarray, importance: np.ndarray | None, *, itself: bool = False
) -> tuple[float, float]:
    """The weighted squared errors of our bytes and of ggml's, both as gguf dequantizes them.

    Args:
        itself: weighted by the squares of the weights.
    """
    kind = GGMLQuantizationType[name]
    weight = 1.0 if importance is None else importance.astype(np.float64)
    if itself:
        weight = x.astype(np.float64) ** 2

    def error(packed: np.ndarray) -> float:
        off = gguf.quants.dequantize(packed, kind).astype(np.float64) - x
        return float((off * off * weight).sum())

    ours = packed_of(name, x, importance)
    return error(ours), error(libgguf.quantize_rows(x, kind, importance))
