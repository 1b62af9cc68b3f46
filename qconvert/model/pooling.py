"""How an embedding model makes one vector of a text, as sentence-transformers describes it.

modules.json           the modules in order, each with its type and directory
1_Pooling/config.json  "pooling_mode_mean_tokens": true, or (newer) "pooling_mode": "mean"
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import PoolingType

from qconvert.checkpoint.metadata import Field, Metadata, u32
from qconvert.checkpoint.modules import read_description
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.types import Family

MODES = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "lasttoken": PoolingType.LAST}
FLAGS = {
    "pooling_mode_mean_tokens": PoolingType.MEAN,
    "pooling_mode_cls_token": PoolingType.CLS,
    "pooling_mode_lasttoken": PoolingType.LAST,
}

FOLDER = "1_Pooling"
MODULES = "sentence_transformers.models."


def pooling_metadata(path: Path, family: Family) -> Metadata:
    """`{name}.pooling_type` for a directory that says how it pools; nothing for others.

    Args:
        path: the checkpoint's directory.

    Raises:
        CheckpointError: the description cannot be read.
        UnsupportedError: another way of pooling.
    """
    modules = path / "modules.json"
    if not family.pooled or not modules.is_file():
        return {}
    folder = _pooling_folder(read_description(path, modules.name))
    if folder is None:
        return {}
    settings = read_description(path, f"{folder}/config.json")
    if not isinstance(settings, Mapping):
        raise CheckpointError(f"{folder}/config.json is no object")
    return {f"{family.name}.pooling_type": u32(_pooling_type(settings))}


def pooling_files(metadata: Mapping[str, Field], name: str, width: int) -> dict[str, Any]:
    """The description for sentence-transformers, by file; nothing where the file does not say how
    it pools, or in a way without a name.

    Args:
        metadata: of a GGUF file.
        name: `general.architecture`.
        width: elements of an embedding.
    """
    field = metadata.get(f"{name}.pooling_type")
    flags = [
        flag for flag, pooling in FLAGS.items() if field is not None and field.value == pooling
    ]
    if not flags:
        return {}
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": MODULES + kind}
        for number, (path, kind) in enumerate((("", "Transformer"), (FOLDER, "Pooling")))
    ]
    settings = {flag: flag in flags for flag in FLAGS}
    return {
        "modules.json": modules,
        f"{FOLDER}/config.json": {"word_embedding_dimension": width, **settings},
    }


def _pooling_folder(modules: Any) -> str | None:
    if not isinstance(modules, list):
        raise CheckpointError("modules.json is no list")
    for module in modules:
        if isinstance(module, Mapping) and str(module.get("type", "")).endswith("Pooling"):
            return str(module.get("path", ""))
    return None


def _pooling_type(settings: Mapping[str, Any]) -> PoolingType:
    for flag, pooling in FLAGS.items():
        if settings.get(flag):
            return pooling
    mode = settings.get("pooling_mode")
    if isinstance(mode, str) and mode in MODES:
        return MODES[mode]
    raise UnsupportedError(
        "the model pools in a way that GGUF has no name for",
        hint=f"known: {', '.join(MODES)}",
    )
