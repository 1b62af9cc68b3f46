"""What the functions have in common."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from qconvert.errors import UsageError
from qconvert.machine.watcher import Silent, Watcher

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint
    from qconvert.run.types import Run


Where = str | Path
"""A path, or for models a hub id."""

Size = int | str
"""Bytes, or "4GB"."""

SILENT = Silent()

TOKENS, WINDOW = 65536, 512
"""Of a calibration's sample, if nothing else is said."""


class Options(TypedDict, total=False):
    """What an output shall be; `qconvert.plan.recipe.Recipe` says what each means. None is as if
    it were not given."""

    calibration: Where | None
    importance: Where | None
    override: Mapping[str, str] | Sequence[tuple[str, str]] | None
    keep: Sequence[str] | None
    feedback: bool
    allow_nan: bool
    pure: bool
    output_type: str | None
    embedding_type: str | None
    ignore: Sequence[str] | None
    vocabulary: bool
    fallback: bool
    split_max_size: Size | None
    activations: str | None
    strategy: str | None
    group_size: int | str | None
    asymmetric: bool
    weight_range: str | None
    activation_range: str | None
    percentile: float | None
    smooth: float | str | None
    strict_static: bool
    lm_head: bool
    embeddings: bool
    kv: str | None
    max_shard_size: Size | None
    under: Size | None
    bits: float | None
    types: Sequence[str] | None


class Work(Options, total=False):
    """The same, and how it is made; see `quantize_all`."""

    calibrate: Where | Sequence[Where]
    adapter: Where | None
    device: str
    threads: int | None
    executor: str
    workers: int | None
    address: str | None
    push: str | None
    public: bool
    force: bool
    watcher: Watcher


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


def to_hub(output: Where | None, repo: str | None, public: bool) -> tuple[str | None, str | None]:
    """What an output and `push` say: where files go here, and the repository that gets them too.

    Raises:
        UsageError: the two name different repositories, or one that is no repository.
    """
    text = None if output is None else str(output)
    match = re.fullmatch(r"hf:/+(?:models/)?(.+)", text or "")
    if match is not None:
        if repo not in (None, match[1]):
            raise UsageError("-o and --push name two repositories", "give one of them")
        text, repo = None, match[1]
    if repo is not None:
        from qconvert.run.upload import check_repository

        check_repository(repo)
    elif public:
        raise UsageError("--public is for a repository, and none is named", "add --push org/name")
    return text, repo


def put_on_hub(
    repo: str | None,
    files: Sequence[Sequence[Path]],
    places: Sequence[Path],
    source: str,
    watcher: Watcher,
    *,
    public: bool,
) -> None:
    """Put what was made on the hub, if a repository is named, and say where it is.

    Args:
        files: of each output.
        places: what each is called.
        source: what the model is called that they were made of.
    """
    if repo is None:
        return
    from qconvert.containers.sizes import human_bytes
    from qconvert.run.upload import upload

    progress = False if isinstance(watcher, Silent) else None
    made = upload(files, places, repo, base=source, public=public, progress=progress)
    size = human_bytes(made.nbytes)
    watcher.note(f"{made.repo} has {len(made.files)} files, {size}: {made.url}")
