"""What the functions have in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from qconvert.machine.watcher import Silent, Watcher

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint
    from qconvert.run.types import Run


Where = str | Path
"""A path, or for models a hub id."""

Size = int | str
"""Bytes, or "4GB"."""

SILENT = Silent()


class Options(TypedDict, total=False):
    """Options of `quantize`; `qconvert.plan.recipe.Recipe` says what each means."""

    importance: Where
    override: Mapping[str, str]
    keep: Sequence[str]
    feedback: bool
    allow_nan: bool
    pure: bool
    output_type: str
    embedding_type: str
    ignore: Sequence[str]
    vocabulary: bool
    fallback: bool
    split_max_size: Size
    activations: Literal["dynamic", "static"]
    strategy: Literal["tensor", "channel", "block"]
    group_size: int | Literal["channel"]
    asymmetric: bool
    weight_range: str
    activation_range: str
    percentile: float
    smooth: float | Literal["auto"]
    strict_static: bool
    lm_head: bool
    embeddings: bool
    kv: Literal["fp8", "int8"]
    max_shard_size: Size
    under: Size
    bits: float
    types: Sequence[str]


def run_of(
    threads: int | None, watcher: Watcher, device: str = "auto", *, dry: bool = False
) -> "Run":
    from qconvert.run.executor import default_threads
    from qconvert.run.types import Run

    return Run(threads or default_threads(), watcher, device, dry)


def opened(
    model: Where, watcher: Watcher, adapter: Where | None, *, dry: bool = False
) -> "Checkpoint":
    """The model; downloads are shown on a terminal, if anything is."""
    from qconvert.checkpoint import open_checkpoint

    progress = False if isinstance(watcher, Silent) else None
    merged = None if adapter is None else Path(adapter)
    return open_checkpoint(str(model), progress=progress, headers_only=dry, adapter=merged)


def bytes_of(size: Size | None, option: str) -> int | None:
    from qconvert.containers.sizes import parse_size

    return parse_size(size, option) if isinstance(size, str) else size
