"""`config.json` as mlx-lm reads it, with `quantization`: how weights are stored, and by name of a
layer how those are that differ.

`quantization_config` says the same once more, which is how the hub tells a quantized model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qconvert.model.mlx.families import MlxFamily
from qconvert.model.open import Model
from qconvert.plan.mlx.choices import Choice
from qconvert.plan.mlx.types import Storage
from qconvert.plan.safetensors.config import DTYPES, retyped, untied

LEFT_OUT = ("_name_or_path", "vision_config", "quantization_config", "quantization")
"""What is no longer so, or of no use there."""

STATED_ANEW = ("rope_parameters", "rope_scaling")


def config_json(
    model: Model, family: MlxFamily, choices: Sequence[Choice], dtype: str
) -> dict[str, Any]:
    """`config.json` of the quantized model.

    Args:
        dtype: of the numbers that are not quantized: "F32", "F16" or "BF16".

    Raises:
        UnsupportedError: mlx-lm would run the model in another way than transformers.
    """
    settings = {**family.settings(model.settings), "tie_word_embeddings": model.tied}
    config = {
        key: retyped(key, value, dtype)
        for key, value in model.config.items()
        if key not in LEFT_OUT
    }
    if not model.tied:
        config = untied(config)
    if not {"dtype", "torch_dtype"} & set(config):
        config["torch_dtype"] = DTYPES[dtype]
    if family.wrapper:
        inner = _with(config.get("text_config") or {}, settings)
        config |= {"text_config": inner, "vocab_size": settings["vocab_size"]}
    else:
        config = _with(config, settings)
    config |= {"model_type": family.model_type}
    quantization = quantization_of(choices)
    both = {"quantization": quantization, "quantization_config": quantization}
    return dict(sorted({**config, **both}.items()))


def _with(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with those that mlx-lm reads."""
    others = {key: value for key, value in config.items() if key not in STATED_ANEW}
    return {**others, **settings}


def quantization_of(choices: Sequence[Choice]) -> dict[str, Any]:
    """How most weights are stored, and by name of a layer how the others are."""
    sizes: Counter[Storage] = Counter()
    for choice in choices:
        if choice.storage is not None:
            sizes[choice.storage] += choice.weight.map.elements
    usual = max(sizes, key=lambda one: (sizes[one], one.bits, one.group_size, one.mode))
    found = dict(usual.setting)
    for choice in choices:
        if choice.storage is not None and choice.storage.setting != usual.setting:
            setting = choice.storage.setting
            if setting["mode"] == "affine":  # which older versions know under no name
                del setting["mode"]
            found[choice.weight.name.removesuffix(".weight")] = setting
    return found
