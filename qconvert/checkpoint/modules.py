"""Linear layers that sentence-transformers puts behind a model, each in a directory of its own.

modules.json                     the modules in order, each with its type and directory
2_Dense/config.json              "in_features", "out_features", "bias", "activation_function"
2_Dense/model.safetensors        linear.weight [out_features, in_features]
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import inside, parse_json, read_small
from qconvert.checkpoint.safetensors import read_safetensors
from qconvert.checkpoint.types import TensorInfo

MODULES, WEIGHTS = "modules.json", "model.safetensors"


def read_description(path: Path, name: str) -> Any:
    """What one of sentence-transformers' files says.

    Raises:
        CheckpointError: it cannot be read; see `read_small`.
    """
    return parse_json(read_small(path, name), f"{name:.200}")


def dense_folders(path: Path) -> list[str]:
    """Where the layers are, in order.

    Raises:
        CheckpointError: the list of modules cannot be read.
    """
    if not (path / MODULES).is_file():
        return []
    modules = read_description(path, MODULES)
    listed = modules if isinstance(modules, list) else []
    return [
        str(module.get("path", ""))
        for module in listed
        if isinstance(module, Mapping) and str(module.get("type", "")).endswith(".Dense")
    ]


def dense_file(path: Path, folder: str) -> Path:
    """The weights of one.

    Raises:
        CheckpointError: the folder's name leads elsewhere.
    """
    return inside(path, folder, path / MODULES) / WEIGHTS


def dense_settings(path: Path) -> dict[str, Any]:
    """What describes the layers, by folder; of those that are there.

    Raises:
        CheckpointError: a description cannot be read.
    """
    folders = [folder for folder in dense_folders(path) if dense_file(path, folder).is_file()]
    return {folder: read_description(path, f"{folder}/config.json") for folder in folders}


def dense_weights(path: Path) -> list[TensorInfo]:
    """Their tensors, each named with its folder; of those that are there.

    Raises:
        CheckpointError: a file cannot be read.
    """
    return [
        replace(info, name=f"{folder}/{info.name}")
        for folder in dense_settings(path)
        for info in read_safetensors(dense_file(path, folder)).values()
    ]
