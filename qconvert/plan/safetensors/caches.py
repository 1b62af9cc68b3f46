"""The stored scales of a quantized cache of keys and values, as compressed-tensors has them.

    kv_cache_scheme     in `quantization_config`: float8 or int8, one range for a tensor
    <attention>.k_scale, <attention>.v_scale     [1], of the dtype of the model

A key is stored as code = key / k_scale, behind rotary positions. Serving engines read float8 alone.
Source: the compressed-tensors package, quantization/lifecycle/apply and initialize.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from qconvert.checkpoint.dtypes import PLAIN
from qconvert.containers.target import Slot
from qconvert.errors import PlanError
from qconvert.formats.safetensors.types import ScaleDtype
from qconvert.model.open import Model
from qconvert.model.types import TensorMap
from qconvert.plan.blocks import Blocks
from qconvert.plan.recipe import CacheType
from qconvert.plan.statistics import Cache
from qconvert.plan.types import TensorPlan

REACH: Mapping[CacheType, float] = {"fp8": 448.0, "int8": 127.5}
"""What compressed-tensors divides the largest value by."""

SMALLEST = 2.0**-24
"""Of scales, where all values are zeros."""

PROJECTIONS = (".k_proj.weight", ".qkv_proj.weight")
"""By which compressed-tensors tells attention that has keys and values."""


def cached(model: Model) -> dict[int, str]:
    """By block, the name of the attention that has a cache.

    Raises:
        PlanError: there is none whose keys and values are stored by head.
    """
    found = {
        weight.block: weight.name.removesuffix(end)
        for weight in model.weights
        for end in PROJECTIONS
        if weight.block is not None and weight.gguf and weight.name.endswith(end)
    }
    if not found or model.family.encoder:
        raise PlanError(
            f"{model.architecture} has no cache of keys and values that --kv could store scales of",
            "leave out --kv",
        )
    return found


def cache_tensors(
    model: Model, type_: CacheType, caches: Mapping[int, Cache] | None, dtype: ScaleDtype
) -> list[TensorPlan]:
    """The scales as tensors.

    Args:
        caches: what was seen; None where only sizes are planned.
    """
    made = []
    for block, module in cached(model).items():
        seen = (np.nan, np.nan) if caches is None else (caches[block].keys, caches[block].values)
        for letter, largest in zip("kv", seen, strict=True):
            name = f"{module}.{letter}_scale"
            scale = np.array([max(largest / REACH[type_], SMALLEST)], np.float32)
            map_ = TensorMap(name, (1,), value=scale)
            slots = (Slot(name, (1,), dtype, PLAIN[dtype]),)
            made.append(
                TensorPlan(name, (1,), "F32", map_, slots, Blocks(name, dtype, 1), dtype, dtype)
            )
    return made


def cache_args(type_: CacheType) -> dict[str, Any]:
    """`kv_cache_scheme` of config.json."""
    from compressed_tensors.quantization import QuantizationArgs

    args = QuantizationArgs(
        num_bits=8,
        type="float" if type_ == "fp8" else "int",
        strategy="tensor",
        symmetric=True,
        dynamic=False,
    )
    dumped: dict[str, Any] = json.loads(args.model_dump_json())
    return dumped
