"""What was measured stays, so that the next run measures only what is new.

A record is a JSON file, with arrays beside it where there are some. Its name is a digest of all
that its figures depend on; what does not is found under the same name again. A record that cannot
be read is made anew.

    .measured/scores-3f9a....json    .measured/scores-3f9a....npz
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.containers.whole import replacing, write_whole
from qconvert.errors import OutputError

SAMPLES, SAMPLE = 64, 4096
"""Of each file of weights so many pieces of so many bytes are looked at."""


@dataclass(frozen=True)
class Keep:
    """A folder of records."""

    folder: Path

    def find(self, kind: str, about: Iterable[object]) -> Any:
        """A record's data; None where there is none.

        Args:
            about: all that it depends on.
        """
        try:
            record = json.loads(self._path(kind, about, "json").read_text(encoding="utf-8"))
            return record["data"] if record["digest"] == _digest(record["data"]) else None
        except (OSError, ValueError, RecursionError, TypeError, KeyError):
            return None  # it is damaged

    def find_arrays(self, kind: str, about: Iterable[object]) -> dict[str, np.ndarray] | None:
        """A record's arrays; None where there are none."""
        try:
            with np.load(self._path(kind, about, "npz"), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except Exception:  # which errors what is damaged raises is left open by the libraries
            return None

    def put(
        self,
        kind: str,
        about: Iterable[object],
        data: Any,
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Keep a record.

        Raises:
            OutputError: it cannot be written.
        """
        about = tuple(about)
        make_folder(self.folder)
        if arrays is not None:
            path = self._path(kind, about, "npz")
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        write_whole(self._path(kind, about, "json"), _record(data))

    def _path(self, kind: str, about: Iterable[object], suffix: str) -> Path:
        digest = sha256(repr(tuple(about)).encode()).hexdigest()[:24]
        return self.folder / f"{kind}-{digest}.{suffix}"


def _record(data: Any) -> bytes:
    return json.dumps({"data": data, "digest": _digest(data)}).encode()


def _digest(data: Any) -> str:
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def make_folder(path: Path) -> None:
    """A folder, if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {path}: {error.strerror}", "choose another with -o"
        ) from error


def content_digest(files: Iterable[Path]) -> str:
    """SHA-256 over sizes and samples of files; it tells files apart and protects from nothing.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = sha256()
    for path in files:
        size = file_size(path)
        digest.update(size.to_bytes(8, "little"))
        last = max(0, size - SAMPLE)
        for start in sorted({last * part // (SAMPLES - 1) for part in range(SAMPLES)}):
            digest.update(read_bytes_at(path, start, min(SAMPLE, size - start)))
    return digest.hexdigest()
