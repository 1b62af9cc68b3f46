"""Files that appear complete or not at all, and whose writing can be taken up again.

The bytes go to `.NAME.partial` beside the output. A journal `.NAME.partial.journal` says which
pieces are complete:

    line 1   identity: what is being written (a digest)
    line n   "END CRC32": the partial file is complete up to byte END; the CRC-32 is that of the
             bytes since the END before

A run that finds both, with its own identity, checks the pieces and goes on behind the last good
one. When everything is there, the file is synced and renamed over the output. The previous file
at that path is untouched until then.
"""

import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from qconvert.containers.place import make_place
from qconvert.containers.whole import lock, sync
from qconvert.errors import OutputError

FLUSH_BYTES = 32 << 20
"""How much may be written before the disk is asked to take it, so that the last sync is short."""

CHECK_BYTES = 4 << 20


def partial_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def journal_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial.journal")


@dataclass
class PartialFile:
    """An output in the making: append, mark, commit. Not safe to share between threads.

    Attributes:
        path: where the finished file will be.
        position: bytes that are written.
        marked: bytes that the journal vouches for.
    """

    path: Path
    identity: str
    position: int = 0
    marked: int = 0
    _crc: int = 0
    _file: int = -1
    _journal: int = -1
    _flusher: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _flushing: Future | None = None
    _flushed: int = 0

    def __enter__(self) -> "PartialFile":
        """Open or take up the partial file.

        Raises:
            OutputError: the directory cannot be written, or another run writes this file.
        """
        make_place(self.path)
        try:
            self._file = os.open(partial_path(self.path), os.O_RDWR | os.O_CREAT, 0o666)
            lock(self._file, self.path)
            self._journal = os.open(
                journal_path(self.path), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666
            )
            self._take_up()
        except OSError as error:
            self._close()
            raise OutputError(
                f"cannot write {self.path}: {error.strerror}",
                "choose another place with -o",
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def append(self, data: memoryview | bytes) -> None:
        """Write behind what is there.

        Raises:
            OutputError: the disk is full or fails; what is marked stays for the next run.
        """
        if not memoryview(data).nbytes:
            return  # such a view cannot be cast
        view = memoryview(data).cast("B")
        try:
            while view:
                count = os.write(self._file, view)
                self._crc = zlib.crc32(view[:count], self._crc)
                self.position += count
                view = view[count:]
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror}",
                "make room and run the same command again: it goes on where it stopped",
            ) from error
        self._flush_behind()

    def mark(self) -> None:
        """Vouch for everything written so far."""
        line = f"{self.position} {self._crc:08x}\n".encode()
        try:
            os.write(self._journal, line)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}", "make room") from error
        self.marked, self._crc = self.position, 0

    def commit(self) -> None:
        """Make the file durable and give it its name."""
        try:
            if self._flushing:
                self._flushing.result()
            os.fsync(self._file)
            partial_path(self.path).replace(self.path)
            journal_path(self.path).unlink(missing_ok=True)
            sync(self.path.parent)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error

    def discard(self) -> None:
        """Leave nothing behind."""
        partial_path(self.path).unlink(missing_ok=True)
        journal_path(self.path).unlink(missing_ok=True)

    def _take_up(self) -> None:
        identity, pieces = _read_journal(self._journal)
        if identity == self.identity:
            self.position = _check_pieces(self._file, pieces)
        if identity != self.identity or self.position == 0:
            self.position = 0
            os.ftruncate(self._journal, 0)
            os.write(self._journal, f"{self.identity}\n".encode())
        elif pieces and pieces[-1][0] != self.position:
            kept = "".join(f"{end} {crc:08x}\n" for end, crc in pieces if end <= self.position)
            os.ftruncate(self._journal, 0)
            os.write(self._journal, f"{self.identity}\n{kept}".encode())
        self.marked = self._flushed = self.position
        os.ftruncate(self._file, self.position)
        os.lseek(self._file, self.position, os.SEEK_SET)

    def _flush_behind(self) -> None:
        if self.position - self._flushed < FLUSH_BYTES:
            return
        if self._flushing is None or self._flushing.done():
            self._flushed = self.position
            self._flushing = self._flusher.submit(os.fdatasync, self._file)

    def _close(self) -> None:
        self._flusher.shutdown(wait=True)
        for descriptor in (self._file, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._journal = -1


def _read_journal(descriptor: int) -> tuple[str, list[tuple[int, int]]]:
    """The identity and the (end, crc) pieces; what cannot be understood ends the list."""
    size = os.fstat(descriptor).st_size
    lines = os.pread(descriptor, size, 0).decode("ascii", "replace").split("\n")
    pieces: list[tuple[int, int]] = []
    for line in lines[1:-1]:  # the last one lacks its newline: torn or empty
        try:
            end, crc = line.split(" ")
            pieces.append((int(end), int(crc, 16)))
        except ValueError:
            break
    return lines[0] if len(lines) > 1 else "", pieces


def _check_pieces(descriptor: int, pieces: list[tuple[int, int]]) -> int:
    """How far the file holds what the journal says."""
    good = 0
    for end, expected in pieces:
        if end <= good or _crc_of(descriptor, good, end) != expected:
            break
        good = end
    return good


def _crc_of(descriptor: int, start: int, stop: int) -> int | None:
    crc = 0
    while start < stop:
        data = os.pread(descriptor, min(CHECK_BYTES, stop - start), start)
        if not data:
            return None
        crc = zlib.crc32(data, crc)
        start += len(data)
    return crc
