"""GGUF's `general.*` keys: what the model is and where it comes from.

The `gguf` package reads the model card and names for us; size labels and names follow the GGUF
naming convention (ggml/docs/gguf.md).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFValueType, GGUFWriter
from gguf import Metadata as GeneralMetadata
from gguf.utility import size_label

from qconvert.architectures.types import Config, TensorMap
from qconvert.metadata import Field, Metadata, text

SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
"""Names in generation_config.json and in GGUF."""


def general_metadata(
    path: Path, source: str, architecture: str, config: Config, tensors: Sequence[TensorMap]
) -> Metadata:
    """Keys for a model in a Hugging Face directory.

    Args:
        source: hub id or directory name; where the names come from.
    """
    writer = GGUFWriter(None, "")
    writer.kv_data[0].clear()
    total = sum(tensor.elements for tensor in tensors)
    described = _describe(path, source, total)
    described.size_label = _size_label(config, tensors)
    _add_sampling(described, path)
    described.set_gguf_meta_model(writer)
    keys = {
        key: Field(value.type, value.value, _item_type(value.value))
        for key, value in writer.kv_data[0].items()
    }
    return {"general.architecture": text(architecture), "general.type": text("model"), **keys}


def _item_type(value: Any) -> GGUFValueType | None:
    """The writer leaves open what its lists hold (tags, languages)."""
    return GGUFValueType.get_type(value[0]) if isinstance(value, list) and value else None


def _describe(path: Path, source: str, total: int) -> GeneralMetadata:
    """The model card's words, or at least a name; a broken card must not stop a conversion."""
    identity = source.partition("@")[0]
    try:
        card = GeneralMetadata.load_model_card(path)
    except Exception:  # the card is free text from strangers, and the reader trusts it
        card = {}
    try:
        return GeneralMetadata.apply_metadata_heuristic(
            GeneralMetadata(), card, None, Path(identity), total
        )
    except Exception:
        return GeneralMetadata(name=Path(identity).name)


def _add_sampling(described: GeneralMetadata, path: Path) -> None:
    """The sampling parameters that the model's authors recommend."""
    try:
        recommended = GeneralMetadata.load_generation_config(path)
    except Exception:  # as above: a wrong file beside the weights is no reason to stop
        return
    for name in SAMPLING:
        value = recommended.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(described, f"sampling_{SAMPLING[name]}", value)


def _size_label(config: Config, tensors: Sequence[TensorMap]) -> str:
    experts = sum(tensor.elements for tensor in tensors if "_exps." in tensor.name)
    total = sum(tensor.elements for tensor in tensors)
    count = int(config.get("num_local_experts") or config.get("num_experts") or 0)
    if not experts or count <= 0:
        return str(size_label(total, total, 0, 0))
    return str(size_label(total, total - experts, experts // count, count))
