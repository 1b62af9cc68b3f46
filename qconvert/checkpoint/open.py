"""Which reader opens what the user names."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.checkpoint.foreign import foreign_files
from qconvert.checkpoint.gguf import open_gguf
from qconvert.checkpoint.huggingface import SINGLE, open_directory, open_weights
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError

CACHED = "models--"
"""How the folder of a repository begins in a hub's cache: models--org--name."""

HUB_ID = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)(?:[:/](?P<file>[^@:]+\.gguf))?(?:@(?P<revision>[^@:]+))?"
)

ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://(?:models/)?)"
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]+\.gguf))?)?/?(?:[?#].*)?"
)


def open_checkpoint(
    model: str,
    *,
    progress: bool | None = None,
    headers_only: bool = False,
    adapter: Path | None = None,
) -> Checkpoint:
    """Open a checkpoint, reading headers alone.

    Args:
        model: a directory, a .gguf file (of several shards, the first), a .safetensors, .bin,
            .pt or .pth file with a config.json beside it, or a hub id: org/name, org/name@revision,
            org/name:file.gguf. A path that exists goes before a hub id.
        progress: show downloads on standard error; None does so on a terminal.
        headers_only: do not download weights that will not be read.
        adapter: a directory of PEFT's, which is merged as rows are read.

    Raises:
        CheckpointError: it cannot be read or cannot be trusted.
        HubError: the hub did not give it.
        UnsupportedError: a layout that is not read, or an adapter that cannot be merged.
        PlanError: the adapter is another model's.
    """
    return open_path(*locate(model, progress=progress, headers_only=headers_only), adapter)


def locate(
    model: str, *, progress: bool | None = None, headers_only: bool = False
) -> tuple[str, Path]:
    """Where a model is: its name, and a directory or file, which may be anything yet.

    Raises:
        CheckpointError: there is none.
        HubError: the hub did not give it.
    """
    path = Path(model)
    if model and _exists(path):
        return _called(path), path
    match = HUB_ID.fullmatch(_without_site(model))
    if match is None or model.startswith((".", "~", "/")):
        raise CheckpointError(
            f"{model!r:.300}: no such file or directory",
            "name a directory, a .gguf file or a hub id (org/name)",
        )
    from qconvert.checkpoint.hub import fetch

    return fetch(match["repo"], match["file"], match["revision"], progress, headers_only)


def _without_site(model: str) -> str:
    """A hub id of what is copied from a browser's address line or from a llama.cpp command."""
    match = ADDRESS.fullmatch(model)
    if match is None:
        return model
    file = f":{match['file']}" if match["file"] else ""
    revision = f"@{match['revision']}" if match["revision"] not in (None, "main") else ""
    return f"{match['repo']}{file}{revision}"


def _called(path: Path) -> str:
    """A model's name by where it is: that of a link rather than of what is behind it, that of the
    repository for a snapshot in a hub's cache, that of the directory for the usual file in it."""
    whole = path if path.name not in ("", "..") else path.resolve()
    if whole.name in SINGLE:
        whole = whole.absolute().parent
    parents = whole.absolute().parents
    if len(parents) > 1 and parents[0].name == "snapshots" and parents[1].name.startswith(CACHED):
        return f"{parents[1].name.removeprefix(CACHED).replace('--', '/', 1)}@{whole.name}"
    return whole.name


def open_path(name: str, path: Path, adapter: Path | None = None) -> Checkpoint:
    """Open what `locate` found, with an adapter merged into it.

    Who names an adapter has said what it is merged into: the weights of a directory, whatever
    adapter it holds besides.
    """
    opened = _open(name, path, base=adapter is not None)
    if adapter is not None:
        from qconvert.checkpoint.adapter import merge, read_adapter

        opened = merge(opened, read_adapter(adapter))
    return with_states(opened)


def with_weights(
    checkpoint: Checkpoint,
    tensors: Iterable[str],
    *,
    progress: bool | None = None,
    adapter: Path | None = None,
) -> Checkpoint:
    """A checkpoint that was opened for its headers, with the files that hold these tensors; what
    lies in others reads as zeros.

    Raises:
        HubError: the hub did not give them.
        CheckpointError: they are not what their headers said.
    """
    from qconvert.checkpoint.preview import whose

    path = checkpoint.path
    repo = whose(path)
    if repo is None:
        return checkpoint
    from qconvert.checkpoint.hub import fetch_shards

    wanted = replace(checkpoint, tensors={name: checkpoint.tensors[name] for name in tensors})
    fetch_shards(repo, path, [f.name for f in wanted.files if f.parent == path], progress)
    return open_path(checkpoint.source, path, adapter)


def with_states(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint that knows what its files are like now."""
    return replace(checkpoint, states={file: _state(file) for file in checkpoint.files})


def check_unchanged(checkpoint: Checkpoint) -> None:
    """Refuse what was read of files that somebody has written to in the meantime.

    Raises:
        CheckpointError: a file is not as it was when it was opened.
    """
    for file, state in checkpoint.states.items():
        if _state(file) != state:
            raise CheckpointError(
                f"{file} changed while it was being read",
                "run the command again when nothing writes to the checkpoint",
            )


def _state(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _open(name: str, path: Path, *, base: bool) -> Checkpoint:
    if path.is_dir():
        return open_directory(path, name, base=base)
    if path.name.endswith(".index.json") or path.name == "config.json":
        raise CheckpointError(f"{path} is not a checkpoint", f"name its directory: {path.parent}")
    if path.suffix != ".gguf" and (found := foreign_files([path.name])):
        raise UnsupportedError(f"{path} is {found[0]}, which is not read", found[1])
    if path.suffix in (".safetensors", ".bin", ".pt", ".pth"):
        return open_weights(path, name, base=base)
    file_size(path)
    if path.suffix == ".gguf" or read_bytes_at(path, 0, 4) == b"GGUF":
        return open_gguf(path, name)
    raise CheckpointError(
        f"{path} is no kind of checkpoint that is known",
        "name a directory, a .gguf or .safetensors file, or a hub id (org/name)",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
