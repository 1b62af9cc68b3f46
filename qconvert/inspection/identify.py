"""What kind of thing a path is, told from its first bytes and its names."""

from pathlib import Path
from typing import Literal

from qconvert.calibration.file import FORMAT
from qconvert.calibration.imatrix_dat import is_dat
from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.checkpoint.fp8 import FLOAT_METHODS
from qconvert.checkpoint.gguf import read_gguf
from qconvert.checkpoint.huggingface import quantization_of, read_config
from qconvert.checkpoint.quantized.join import method_of
from qconvert.checkpoint.quantized.mlx import is_mlx
from qconvert.checkpoint.safetensors import read_metadata

Kind = Literal["checkpoint", "quantized", "calibration", "importance", "tensors"]
"""A model in full or in GGUF, quantized safetensors, what `calibrate` writes, an importance matrix
of llama.cpp, or a safetensors file of which nothing says what it is."""


def identify(path: Path) -> Kind:
    """The kind of a file or directory that exists.

    Raises:
        CheckpointError: it cannot be read.
    """
    if path.is_dir():
        return "quantized" if _is_quantized(path) else "checkpoint"
    magic = read_bytes_at(path, 0, min(4, file_size(path)))
    if magic == b"GGUF":
        kind = read_gguf(path)[0].get("general.type")
        return "importance" if kind is not None and kind.value == "imatrix" else "checkpoint"
    if path.suffix == ".safetensors":
        if read_metadata(path).get("format") == FORMAT:
            return "calibration"
        if not (path.parent / "config.json").exists():
            return "tensors"
        return "quantized" if _is_quantized(path.parent) else "checkpoint"
    if path.suffix not in (".bin", ".json") and is_dat(path):
        return "importance"
    return "checkpoint"


def _is_quantized(directory: Path) -> bool:
    """Whether its weights are codes that are shown by themselves; what is read like any source is
    none: fp8 with scales for blocks is how some models are published, and such are originals."""
    if not (directory / "config.json").exists():
        return False
    quantization = quantization_of(read_config(directory, base=True))  # refused on opening
    if not isinstance(quantization, dict):
        return False
    if method_of(quantization) is not None:
        return is_mlx(quantization)
    return quantization.get("quant_method") not in FLOAT_METHODS
