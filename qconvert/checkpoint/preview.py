"""A repository's weights without their bytes: headers are fetched, the rest is a hole.

What only looks at names, shapes and sizes (inspecting, planning) need not wait for a download, and
what reads a few tensors waits for the files that hold these.
"""

import atexit
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

WHOSE = "of.json"
"""Beside a preview: the repository that it is of."""


def preview(repo: str, snapshot: Path, shards: Sequence[str]) -> Path:
    """A directory like the snapshot, whose shards hold their headers and read as zeros.

    It goes when the program ends.

    Args:
        repo: "org/name".
        snapshot: the cache's directory of the commit, with all small files.
        shards: the safetensors files of the repository.
    """
    from huggingface_hub import HfApi

    outer = Path(tempfile.mkdtemp(prefix="qconvert-"))
    atexit.register(shutil.rmtree, outer, ignore_errors=True)
    folder = outer / snapshot.name
    shutil.copytree(snapshot, folder, ignore=shutil.ignore_patterns(*shards))
    for shard in shards:
        header = HfApi().parse_safetensors_file_metadata(repo, shard, revision=snapshot.name)
        entries = {
            name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": info.data_offsets}
            for name, info in header.tensors.items()
        }
        _write_hollow(folder / shard, entries)
    (outer / WHOSE).write_text(json.dumps(repo))
    return folder


def whose(path: Path) -> str | None:
    """The repository that a directory is a preview of; None where it is none."""
    note = path.parent / WHOSE
    return str(json.loads(note.read_text())) if note.is_file() else None


def fill(repo: str, folder: Path, shards: Collection[str]) -> None:
    """Make files of a preview whole, by way of the cache.

    Args:
        shards: their names.
    """
    from huggingface_hub import snapshot_download

    names = [escape(shard) for shard in shards]
    snapshot = Path(snapshot_download(repo, revision=folder.name, allow_patterns=names))
    for shard in shards:
        (folder / shard).unlink()
        (folder / shard).symlink_to(snapshot / shard)


def _write_hollow(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    text = json.dumps(entries).encode()
    ends = [entry["data_offsets"][1] for entry in entries.values()]
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + max(ends, default=0))
