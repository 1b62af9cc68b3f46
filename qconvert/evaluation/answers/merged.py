"""A model with an adapter merged into it, as a directory: for runtimes, which load files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from qconvert.checkpoint import Checkpoint
from qconvert.machine.watcher import Silent
from qconvert.run.transform import transform


@contextmanager
def merged(checkpoint: Checkpoint, threads: int, folder: Path | None = None) -> Iterator[Path]:
    """The directory, for as long as it is needed.

    Args:
        checkpoint: opened with its adapter.
        folder: where it is written; None for the system's folder of temporary files.

    Raises:
        UnsupportedError: weights are stored in a way that is not copied.
        OutputError: there is no room.
    """
    with TemporaryDirectory(prefix="qconvert-", dir=folder) as place:
        path = Path(place) / "merged"
        transform(checkpoint, path, threads=threads, watcher=Silent())
        yield path
