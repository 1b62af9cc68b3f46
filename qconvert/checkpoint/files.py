"""Small guards between a checkpoint's files and the rest: what is read is hostile until checked."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qconvert.errors import CheckpointError

MAX_JSON = 100_000_000
MAX_DEPTH = 64
LINKED = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Small files of which nothing is handed on as it stands: links may lead anywhere. Those of the
same name in a module's folder are."""

SMALL = (".json", ".jinja", ".model", ".txt", ".tiktoken", ".md")
"""How the names of small files end: configurations, tokenizers, templates, the model card."""


def file_size(path: Path) -> int:
    """The size in bytes of a regular file.

    Raises:
        CheckpointError: it is missing, unreadable, or no regular file (a pipe would block).
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise CheckpointError(f"{path} is a directory, not a regular file", "name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{path} is not a regular file", "name one")
    return status.st_size


def read_bytes_at(path: Path, offset: int, count: int) -> bytes:
    """Bytes `offset` to `offset + count` of a file; fewer where it ends before that."""
    try:
        # A pipe is not waited for; it cannot be read at an offset either.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb", 0) as file:
            parts = []
            while count > 0:
                part = os.pread(file.fileno(), count, offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                count -= len(part)
    except (OSError, OverflowError) as error:
        raise _unreadable(path, error) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def parse_json(text: bytes, what: str) -> Any:
    """Strict JSON: UTF-8, no key twice.

    Raises:
        CheckpointError: it is anything else; `what` names it in the message.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        if b"\\u" in text:
            # Half of a surrogate pair is valid JSON, and cannot be written or shown anywhere.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        check_depth(value)
        return value
    except RecursionError as error:
        raise CheckpointError(f"{what}: JSON is nested too deeply") from error
    except ValueError as error:
        raise CheckpointError(f"{what}: not valid JSON: {error}") from error


def check_depth(value: Any) -> None:
    """Refuse what is nested deeper than anybody means it, before something recurs into it.

    Raises:
        ValueError: it is.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    size = file_size(path)
    if size > MAX_JSON:
        raise CheckpointError(f"{path} is too large for a JSON file: {size} bytes")
    value = parse_json(read_bytes_at(path, 0, size), str(path))
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def inside(directory: Path, name: str, where: Path) -> Path:
    """The path of a file that an index names, once it is known to be a plain file name.

    A link under that name may lead anywhere: people keep weights on another disk. What is read of
    them are numbers, and of config.json and the index settings and names.

    Raises:
        CheckpointError: the name is not a plain file name.
    """
    if any(character in name for character in "/\\\0"):
        raise CheckpointError(
            f"{where}: {name!r:.80} points outside the directory",
            "an index may only name files beside itself",
        )
    if name in ("", ".", "..") or not name.isprintable() or len(os.fsencode(name)) > 255:
        raise CheckpointError(f"{where}: {name!r:.80} is not a file name")
    return directory / name


def _check_stays(path: Path, directory: Path) -> None:
    """Refuse a link that leads out of a checkpoint's directory, or of its hub cache's `blobs`
    (`models--org--name/snapshots/<commit>/file -> ../../blobs/<hash>`)."""
    try:
        home, target = directory.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    allowed = [home]
    if home.parent.name == "snapshots" and "--" in home.parent.parent.name:
        allowed.append((home.parent.parent / "blobs").resolve())
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise CheckpointError(
            f"{path} is a link to a file outside its directory",
            "put the file itself into the directory",
        )


def read_small(root: Path, name: str) -> bytes:
    """A small file of a checkpoint: what stands beside its weights.

    Args:
        root: the checkpoint's directory.
        name: of the file, or "folder/file".

    Raises:
        CheckpointError: it is no regular file, too large, or a link leads out of the checkpoint
            (other than into the `blobs` of a hub's cache); what a link shows would end in a file
            that is handed on.
    """
    path = root / name
    return read_bytes_at(path, 0, _check_small(path, root))


def _check_small(path: Path, root: Path) -> int:
    """The size of a small file of a checkpoint; see `read_small`."""
    size = file_size(path)
    if path.name not in LINKED or path.parent != root:
        _check_stays(path, root)
    if size > MAX_JSON:
        raise CheckpointError(f"{path} has {size} bytes, which is no small file")
    return size


def read_small_text(root: Path, name: str) -> str:
    """The same as text; UTF-8.

    Raises:
        CheckpointError: it is no text, or see `read_small`.
    """
    try:
        return read_small(root, name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name} cannot be read: {error}") from None


def check_small_files(directory: Path) -> None:
    """Every small file that a library may read of a checkpoint's directory by itself.

    Raises:
        CheckpointError: see `read_small`.
    """
    for place in (directory, directory / "additional_chat_templates"):
        try:
            names = sorted(entry.name for entry in place.iterdir()) if place.is_dir() else []
        except OSError as error:
            raise CheckpointError(f"{place}: {reason(error)}") from error
        for name in names:
            path = place / name
            if path.suffix in SMALL and not path.is_dir():
                _check_small(path, directory)


def check_tensor(path: Path, name: str, shape: Sequence[int]) -> None:
    """Refuse names that would garble what is printed, and empty tensors of absurd extent."""
    if not name or not name.isprintable():
        raise CheckpointError(f"{path}: {name!r:.200} is no name for a tensor")
    if 0 in shape and max(shape) >= 1 << 31:
        raise CheckpointError(f"{path}: tensor {name!r:.200} has an impossible shape")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Damage is one cause of several."""
    causes = ((FileNotFoundError, "check its name"), (PermissionError, "check who may read it"))
    hint = next((hint for kind, hint in causes if isinstance(error, kind)), "")
    return CheckpointError(f"{path}: {reason(error)}", hint)


def reason(error: BaseException) -> str:
    """The part of an operating system's error that tells the user something."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r:.80} appears twice")
    return result
