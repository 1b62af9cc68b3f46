"""ModelOpt: layers of NVFP4, MXFP4, FP8 and plain ones side by side.

hf_quant_config.json, or in newer checkpoints `quantization_config`, says how; what a layer is can
be told from its tensors (`qconvert.checkpoint.quantized.float4` has the table). FP8 is read as
other fp8 is.
Source: ModelOpt, torch/export/unified_export_hf.py and convert_hf_config.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import inside, read_json_object
from qconvert.checkpoint.foreign import ORIGINAL
from qconvert.checkpoint.quantized.float4 import EXPONENTS, join_mxfp4, join_nvfp4
from qconvert.checkpoint.quantized.parts import Parts, need
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

FILE = "hf_quant_config.json"
METHOD = "modelopt"
ENDINGS = (".weight", ".weight_scale", ".weight_scale_2", ".pre_quant_scale")
BEYOND = (".svdquant_lora_a", ".svdquant_lora_b")
"""What is added to weights besides their codes."""


def read_settings(directory: Path) -> dict[str, Any] | None:
    """What the file beside config.json says, as a `quantization_config`; None without one.

    Raises:
        CheckpointError: it cannot be read or is another's.
    """
    path = directory / FILE
    if not path.exists():
        return None
    settings = read_json_object(inside(directory, FILE, directory))
    quantization = settings.get("quantization")
    if not isinstance(quantization, dict):
        raise CheckpointError(f"{path}: quantization is not an object")
    return {**quantization, "quant_method": METHOD}


def is_coded(parts: Parts) -> bool:
    """Whether a layer is stored as integers, of whatever kind."""
    return ".weight" in parts and parts[".weight"].dtype in ("U8", "I8")


def join(stem: str, parts: Parts, quantization: Mapping[str, Any], turned: bool) -> TensorInfo:
    """A layer's weight, where it is one of float4.

    Raises:
        CheckpointError: its tensors do not fit each other.
        UnsupportedError: it is stored in another way.
    """
    scale = parts.get(".weight_scale")
    codes = need(parts, stem, ".weight", ("U8", "I8"))
    if scale is None:
        raise CheckpointError(f"the tensor {stem + '.weight_scale'!r:.200} is missing")
    if codes.dtype == "U8" and scale.dtype == "F8_E4M3":
        return join_nvfp4(stem, parts, turned)
    known = codes.dtype == "U8" and scale.dtype in EXPONENTS and ".pre_quant_scale" not in parts
    if known and ".weight_scale_2" not in parts:
        return join_mxfp4(
            f"{stem}.weight", codes, need(parts, stem, ".weight_scale", EXPONENTS), turned
        )
    raise UnsupportedError(
        f"how {codes.name} is stored ({quantization.get('quant_algo')!s:.40}) is not read", ORIGINAL
    )
