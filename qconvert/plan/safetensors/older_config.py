"""`quantization_config` of config.json as AutoGPTQ and GPTQModel, and as AutoAWQ write it.

Both say one way of storing linear layers for the whole model, and which layers are not stored so:
GPTQModel by regular expressions, AutoAWQ by parts of names. Serving engines join some layers into
one, and look for the name of that.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from qconvert.model.open import Model
from qconvert.plan.safetensors.choices import Choice
from qconvert.plan.safetensors.config import kept_linears, patterns

JOINED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
"""What vLLM and SGLang call the layer that one of Hugging Face's is in."""


def older_config(model: Model, choices: Sequence[Choice]) -> dict[str, Any]:
    """The section of config.json for the layouts "gptq" and "awq"."""
    form = next(choice.scheme.weights for choice in choices if choice.scheme)
    said: dict[str, Any] = {
        "quant_method": form.layout,
        "bits": form.bits,
        "group_size": form.group_size or -1,
    }
    kept = list(dict.fromkeys(_with_joined(kept_linears(choices))))
    if form.layout == "awq":
        heads = ["lm_head"] if model.tied else []
        skipped = list(dict.fromkeys([*kept, *heads]))
        zero_point = {"zero_point": True, "version": "gemm"}
        return {**said, **zero_point, "modules_to_not_convert": skipped or None}
    inner = [name for name in kept if "." in name]
    dynamic: dict[str, Any] = {
        f"-:{pattern.removeprefix('re:')}": {} for pattern in patterns(inner)
    }
    return {
        **said,
        "desc_act": False,
        "sym": form.symmetric,
        "lm_head": False,
        "checkpoint_format": "gptq",
        "pack_dtype": "int32",
        **({"dynamic": dynamic} if dynamic else {}),
    }


def _with_joined(modules: Sequence[str]) -> Iterator[str]:
    for module in modules:
        yield module
        stem, dot, last = module.rpartition(".")
        if last in JOINED:
            yield f"{stem}{dot}{JOINED[last]}"
