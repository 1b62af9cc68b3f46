"""Directories for MLX in tests: written, and read back by our own formats into transformers' models
of the originals.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import save_model
from compressed_models import stored_arrays

from qconvert.formats.safetensors.scales import read
from qconvert.plan.mlx.tensors import MlxWeight
from qconvert.plan.types import Plan

CHANGES: Mapping[str, Mapping[str, Any]] = {
    # What mlx-lm does not have, left out.
    "gemma3": {
        "final_logit_softcapping": None,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
        },
    },
    "gpt2": {"n_inner": None, "tied": True},
}

FAMILIES = (
    *("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"),
    *("gemma3", "phi3", "gpt2", "olmo2", "granite", "smollm3"),
)


def save_wide(family: str, directory: Path, **changes: Any) -> Any:
    """A tiny model that mlx-lm runs too, with rows that groups divide."""
    return save_model(family, directory, **{"wide": True, **CHANGES.get(family, {}), **changes})


def restored(plan: Plan, path: Path) -> dict[str, np.ndarray]:
    """float32 of every weight of a directory, by mlx-lm's name, in the shape it has there."""
    arrays = stored_arrays(path)
    found = {}
    for tensor in plan.tensors:
        parts = [arrays.pop(slot.name) for slot in tensor.slots]
        if isinstance(tensor.coding, MlxWeight):
            flat = tuple(part.reshape(-1, part.shape[-1]) for part in parts)
            found[tensor.name] = tensor.coding.format.dequantize(flat).reshape(tensor.shape)
        else:
            found[tensor.name] = read(parts[0])
    assert not arrays
    return found


def put_into(model: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Give transformers' model these weights, by mlx-lm's names; all of its own are replaced."""
    import torch

    left = {name.replace(".block_sparse_moe.", ".mlp."): own for name, own in weights.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own = _of_parameter(name, left)
            if ".c_" in name and own.ndim > 1:  # GPT-2's Conv1D
                own = own.T
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(own)))
        model.tie_weights()
    assert not left, list(left)


def _of_parameter(name: str, weights: dict[str, np.ndarray]) -> np.ndarray:
    name = name.replace("transformer.", "model.")
    before, mark, after = name.partition("experts.")
    if not mark:
        return weights.pop(name)
    if after == "down_proj":
        return weights.pop(f"{before}switch_mlp.down_proj.weight")
    both = [weights.pop(f"{before}switch_mlp.{part}_proj.weight") for part in ("gate", "up")]
    return np.concatenate(both, axis=1)
