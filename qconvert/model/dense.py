"""Layers that sentence-transformers puts behind the mean of all tokens, which llama.cpp multiplies
with too, for EmbeddingGemma.
"""

from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint import read_rows
from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.modules import dense_file, dense_folders, read_description
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import prefixed, whole
from qconvert.model.types import Config, Family, TensorMap

NAMES = ("dense_2", "dense_3")
"""GGUF's, for the first and the second."""

WEIGHT = "linear.weight"
PLAIN = "torch.nn.modules.linear.Identity"


def dense_tensors(path: Path, family: Family, settings: Config) -> tuple[TensorMap, ...]:
    """The layers of a directory; none where a file cannot say them.

    Raises:
        CheckpointError: a description cannot be read, or sizes do not fit each other.
    """
    folders = dense_folders(path)
    if not family.dense or len(folders) != len(NAMES):
        return ()
    described = [_described(path, folder) for folder in folders]
    if not all(_is_plain(one) for one in described):
        return ()
    width = whole(settings, "hidden_size")
    inner = whole(described[0], "out_features")
    sizes = ((inner, width), (width, inner))
    made = zip(NAMES, folders, sizes, strict=True)
    return tuple(
        TensorMap(f"{name}.weight", shape, value=_read(path, folder, shape))
        for name, folder, shape in made
    )


def dense_keys(family: Family, tensors: tuple[TensorMap, ...]) -> Metadata:
    """How wide they are."""
    keys: Metadata = {}
    for tensor in tensors:
        name = tensor.name.removesuffix(".weight")
        if name in NAMES:
            rows, columns = tensor.shape
            keys |= {f"{name}_feat_in": u32(columns), f"{name}_feat_out": u32(rows)}
    return prefixed(family.name, keys)


def dense_notices(path: Path, family: Family, tensors: tuple[TensorMap, ...]) -> tuple[str, ...]:
    """What is left out."""
    folders = dense_folders(path) if family.pooled else []
    if not folders or any(tensor.name.startswith(NAMES) for tensor in tensors):
        return ()
    return (f"layers behind the pooling have no place in GGUF: {', '.join(folders)}",)


def _described(path: Path, folder: str) -> dict[str, Any]:
    name = f"{folder}/config.json"
    settings = read_description(path, name)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{name:.200} is no object")
    return settings


def _is_plain(settings: Config) -> bool:
    """Whether a layer multiplies and does nothing else."""
    return not settings.get("bias") and settings.get("activation_function", PLAIN) == PLAIN


def _read(path: Path, folder: str, shape: tuple[int, int]) -> np.ndarray:
    file = dense_file(path, folder)
    info = read_safetensors(file).get(WEIGHT)
    if info is None or info.shape != shape:
        stored = "missing" if info is None else f"of shape {list(info.shape)}"
        raise CheckpointError(f"{file}: {WEIGHT} is {stored}, and should be {list(shape)}")
    return read_rows(info, 0, info.rows)
