"""The numbers of a model that the mixtures read."""

from collections.abc import Mapping
from dataclasses import dataclass

from qconvert.checkpoint.metadata import Field
from qconvert.errors import CheckpointError


@dataclass(frozen=True)
class ModelFacts:
    """What the mixtures must know of a model.

    Attributes:
        architecture: GGUF's `general.architecture`.
        blocks: the number of blocks (layers).
        heads: attention heads of the first block.
        kv_heads: key and value heads of the first block.
        experts: experts per block; 0 for a dense model.
    """

    architecture: str
    blocks: int
    heads: int = 0
    kv_heads: int = 0
    experts: int = 0

    @property
    def group(self) -> int:
        """Heads that share one key and value head; 0 without attention."""
        return self.heads // self.kv_heads if self.kv_heads else 0


def facts_from_metadata(metadata: Mapping[str, Field]) -> ModelFacts:
    """Reads them from GGUF's key-value pairs.

    Raises:
        CheckpointError: a key is missing or is no count.
    """
    field = metadata.get("general.architecture")
    if field is None or not isinstance(field.value, str):
        raise CheckpointError("the metadata has no general.architecture")
    name = field.value
    heads = _count(metadata, f"{name}.attention.head_count", 0)
    return ModelFacts(
        architecture=name,
        blocks=_count(metadata, f"{name}.block_count", None),
        heads=heads,
        kv_heads=_count(metadata, f"{name}.attention.head_count_kv", heads),
        experts=_count(metadata, f"{name}.expert_count", 0),
    )


def _count(metadata: Mapping[str, Field], key: str, default: int | None) -> int:
    """A count, or the first of a list of counts (one per block)."""
    if key not in metadata:
        if default is None:
            raise CheckpointError(f"the metadata has no {key}")
        return default
    value = metadata[key].value
    if isinstance(value, (list, tuple)) or hasattr(value, "__array__"):
        value = value[0] if len(value) else None
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise CheckpointError(f"{key} is not a count: {str(metadata[key].value)[:40]}")
    return number
