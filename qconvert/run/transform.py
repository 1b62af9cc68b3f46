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

from qconvert.checkpoint import Checkpoint, TensorInfo, fingerprint
from qconvert.checkpoint.dtypes import PLAIN
from qconvert.checkpoint.overlay import overlay
from qconvert.containers.target import Slot
from qconvert.errors import UnsupportedError
from qconvert.machine.watcher import Watcher
from qconvert.model.tokenizers.export import json_bytes
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.directory import directory_plan
from qconvert.plan.safetensors.files import small_files
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs
from qconvert.run.stored import written
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
    slots = [_slot(own) for own in checkpoint.tensors.values()]
    tensors = tuple(written(laid.tensors[slot.name], slot) for slot in slots)
    files = {
        **small_files(checkpoint.path),
        "config.json": json_bytes(plain_config(checkpoint.config)),
        **change.files,
    }
    made_by = {"qconvert.source.fingerprint": fingerprint(checkpoint), **change.made_by}
    return directory_plan(laid, recipe, tensors, made_by, (), lambda plan: files)


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


def _slot(own: TensorInfo) -> Slot:
    """What a tensor is written as, whatever its values."""
    dtype = own.dtype if own.dtype in PLAIN and own.scale is None else "F32"
    return Slot(own.name, own.shape, dtype, own.elements * PLAIN[dtype])


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model whose weights are numbers."""
    plain = {name: value for name, value in config.items() if name != QUANTIZATION}
    inner = plain.get("text_config")
    if isinstance(inner, Mapping) and QUANTIZATION in inner:
        plain["text_config"] = plain_config(inner)
    return plain
