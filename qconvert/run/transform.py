"""From checkpoint to checkpoint: a Hugging Face directory with the same tensors, or with some that
have changed. What commands do that change weights ends here, so that each can follow another.

    config.json and the small files             as they are
    model.safetensors, or shards and an index   every tensor under its own name, streamed

A tensor keeps its dtype, and its very bytes where it has not changed. One that is stored as codes
or with scales becomes F32, the only type that holds its numbers exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qconvert import __version__
from qconvert.checkpoint import Checkpoint, TensorInfo, fingerprint
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.checkpoint.overlay import overlay
from qconvert.containers.directory import MAX_SHARD_SIZE, Directory
from qconvert.containers.target import Slot
from qconvert.errors import UnsupportedError
from qconvert.machine.watcher import Watcher
from qconvert.model.tokenizers.export import json_bytes
from qconvert.model.types import Rows, TensorMap
from qconvert.plan.blocks import Blocks
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.files import small_files
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.outputs import write_outputs
from qconvert.run.stream import Result

QUANTIZATION = "quantization_config"


@dataclass(frozen=True)
class Change:
    """What a directory has that its source has not.

    Attributes:
        tensors: other values, by the names of the checkpoint: those of a `Store`, say.
        made_by: what to record of how they were made, for the header of each file.
        files: small files by name, beside the source's or in their place.
    """

    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    made_by: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


UNCHANGED = Change()


def plan_transform(checkpoint: Checkpoint, recipe: Recipe, change: Change = UNCHANGED) -> Plan:
    """Decide what the directory will hold.

    Args:
        recipe: names the output; its `max_shard_size` and `allow_nan` count.

    Raises:
        UnsupportedError: the checkpoint is a GGUF file.
        ValueError: a tensor that the checkpoint does not have, or in another shape.
        CheckpointError: small files cannot be read or trusted.
    """
    if checkpoint.container != "huggingface":
        raise UnsupportedError(
            f"{checkpoint.source} is no Hugging Face directory",
            "make one of it first: qconvert export",
        )
    laid = overlay(checkpoint, change.tensors)
    tensors = tuple(
        _plan_tensor(laid.tensors[name], _dtype(own)) for name, own in checkpoint.tensors.items()
    )
    made_by = {
        "format": "pt",
        "qconvert.version": __version__,
        "qconvert.source": checkpoint.source,
        "qconvert.source.fingerprint": fingerprint(checkpoint),
        **change.made_by,
    }
    config = {"config.json": json_bytes(_plain(checkpoint.config))}
    target = Directory(
        recipe.path(checkpoint.source),
        [slot for tensor in tensors for slot in tensor.slots],
        made_by,
        {**small_files(checkpoint.path), **config, **change.files},
        recipe.max_shard_size or MAX_SHARD_SIZE,
    )
    return Plan(laid, recipe, tensors, target, sum(tensor.nbytes for tensor in tensors))


def transform(
    checkpoint: Checkpoint,
    path: Path,
    change: Change = UNCHANGED,
    *,
    threads: int,
    watcher: Watcher,
    max_shard_size: int | None = None,
) -> Result:
    """Write the directory, in bounded memory; it appears when it is complete.

    Raises:
        OutputError: something is there already, no room, or it cannot be written. What is done
            is used by the next run that wants the same.
        WeightError: a weight is NaN or infinite.
        Also what `plan_transform` raises.
    """
    recipe = Recipe("copy", output=path, max_shard_size=max_shard_size)
    return write_outputs([plan_transform(checkpoint, recipe, change)], threads, watcher)[0]


def _dtype(own: TensorInfo) -> str:
    """What a tensor is written as, whatever its values."""
    is_plain = own.dtype in PLAIN and own.scale is None and own.codes is None
    return own.dtype if is_plain else "F32"


def _plan_tensor(info: TensorInfo, dtype: str) -> TensorPlan:
    rows = TensorMap(info.name, info.shape or (1,), (Rows(info.name, 0, info.rows),))
    moved = info.dtype == dtype and info.scale is None
    slot = Slot(info.name, info.shape, dtype, info.elements * PLAIN[dtype])
    coding = Blocks(info.name, dtype, rows.rows, moved)
    return TensorPlan(info.name, info.shape, info.dtype, rows, (slot,), coding, dtype, dtype)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model whose weights are numbers."""
    plain = {name: value for name, value in config.items() if name != QUANTIZATION}
    inner = plain.get("text_config")
    if isinstance(inner, Mapping) and QUANTIZATION in inner:
        plain["text_config"] = _plain(inner)
    return plain
