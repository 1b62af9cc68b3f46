"""Rotary embeddings, from GGUF's keys and factors back to `config.json`: the converse of `rope.py`.

They are written as `rope_theta` and `rope_scaling`, which transformers 4 and 5 both read.
"""

from collections.abc import Mapping
from math import log
from typing import Any

import numpy as np

from qconvert.checkpoint import read_rows
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.rope import llama3_factors

LLAMA3_CONTEXTS = (8192, *(1 << power for power in range(6, 24)))
"""Original contexts to try before the factors are solved for one: Llama 3's own, then others."""


def rope_config(keys: Keys, theta: float = 10000.0) -> dict[str, Any]:
    """`rope_theta` and, where frequencies are stretched, `rope_scaling`.

    Args:
        theta: the base where the file states none.

    Raises:
        UnsupportedError: a stretching that transformers has no name for.
    """
    config: dict[str, Any] = {"rope_theta": keys.real("rope.freq_base", default=theta)}
    kind = keys.value("rope.scaling.type")
    if config["rope_theta"] <= 1.0:
        raise CheckpointError(
            f"{keys.name}.rope.freq_base is {config['rope_theta']:g}, not above one"
        )
    if kind not in (None, "none", "linear", "yarn", "longrope"):
        raise UnsupportedError(f"rotary scaling of an unknown kind: {kind!r:.40}")
    if keys.has_tensor("rope_freqs.weight"):
        config["rope_scaling"] = _llama3(keys, config["rope_theta"])
    elif kind == "linear":
        config["rope_scaling"] = {
            "rope_type": "linear",
            "factor": keys.real("rope.scaling.factor"),
        }
    elif kind == "yarn":
        config["rope_scaling"] = _yarn(keys)
    return config


def _yarn(keys: Keys) -> dict[str, Any]:
    factor = keys.real("rope.scaling.factor")
    scaling = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": keys.whole("rope.scaling.original_context_length"),
    }
    if keys.has("rope.scaling.attn_factor"):
        usual = 1.0 if factor <= 1.0 else 0.1 * log(factor) + 1.0
        scaling["attention_factor"] = keys.real("rope.scaling.attn_factor") * usual
    return scaling


def read_factors(keys: Keys, name: str) -> np.ndarray:
    """A table of factors: float32 [half of the elements that turn].

    Raises:
        CheckpointError: it is longer than a head or holds what is no factor.
    """
    info = keys.checkpoint.tensors[name]
    if len(info.shape) != 1 or not 1 <= info.elements <= keys.head_size:
        raise CheckpointError(f"{name} has shape {list(info.shape)}, which fits no head")
    values = read_rows(info, 0, 1).reshape(-1)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise CheckpointError(f"{name} holds what is no factor")
    return values


def _llama3(keys: Keys, theta: float) -> dict[str, Any]:
    """The settings of Llama 3's stretching from what each frequency is divided by."""
    factors = read_factors(keys, "rope_freqs.weight")
    size = keys.head_size
    if len(factors) != size // 2:
        raise CheckpointError(f"rope_freqs.weight has {len(factors)} factors for heads of {size}")
    factor = float(str(factors.max()))
    guesses = [_settings(factor, 4.0, original) for original in LLAMA3_CONTEXTS]
    guesses += _solved(factors, factor, theta, size)
    for guess in guesses:
        if _explains(guess, factors, theta, size):
            return guess
    raise UnsupportedError("rope_freqs.weight holds factors that transformers has no rule for")


def _settings(factor: float, high: float, original: int) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _solved(factors: np.ndarray, factor: float, theta: float, size: int) -> list[dict[str, Any]]:
    """Between the kept and the stretched ones, 1 / factor grows linearly with the frequency. The
    line fixes the settings but for their unit: `low_freq_factor` is one."""
    share = (1.0 / factors.astype(np.float64) - 1.0 / factor) / (1.0 - 1.0 / factor or 1.0)
    mixed = (share > 1e-6) & (share < 1 - 1e-6)
    if mixed.sum() < 2:
        return []
    frequency = 1.0 / (2 * np.pi * theta ** (np.arange(0, size, 2) / size))
    (x, *_, last), (y, *_, end) = frequency[mixed], share[mixed]
    slope = (end - y) / (last - x)
    offset = y - slope * x
    if not (offset < 0 < slope):
        return []
    original = round(-slope / offset)
    if not 1 <= original < 2**31:
        return []
    return [_settings(factor, round(1.0 - 1.0 / offset, digits), original) for digits in (1, 6)]


def _explains(guess: Mapping[str, Any], factors: np.ndarray, theta: float, size: int) -> bool:
    config = {
        "rope_theta": theta,
        "rope_scaling": guess,
        "head_dim": size,
        "hidden_size": size,
        "num_attention_heads": 1,
    }
    given = llama3_factors(config)["rope_freqs.weight"]
    return bool(np.allclose(given, factors, rtol=1e-5, atol=0.0))
