"""The story: read, quantize and write, slab by slab, all at once.

Slabs of rows go through a pool of threads: each is read, checked, quantized and packed there,
and written in order. Kernels run on one core and see whole blocks, so the bytes do not depend on
the number of threads; memory holds a few slabs, whatever the model's size.
"""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from qconvert.architectures.assemble import assemble, assemble_bytes
from qconvert.checkpoint import Checkpoint
from qconvert.containers.gguf import Shard
from qconvert.containers.partial import PartialFile, partial_path
from qconvert.errors import OutputError, WeightError
from qconvert.formats import FORMATS
from qconvert.formats.types import block_sizes
from qconvert.plan import Plan, TensorPlan

SLAB_WEIGHTS = 1 << 18
"""Weights of a slab: large enough to hide Python's overhead, small enough to stay in the cache."""

F16_LIMIT = 65520.0
"""The least number that becomes infinite when it is rounded to F16."""

COMPILE_PATIENCE = 1.0
"""Seconds after which it is said that kernels are being compiled."""

Item = TypeVar("Item")
Out = TypeVar("Out")


class Watcher(Protocol):
    """Who wants to know how it goes."""

    def begin(self, total: int, done: int) -> None:
        """Weights of the whole output, and how many an earlier run has written."""

    def advance(self, weights: int, tensor: str) -> None:
        """So many more weights of this tensor are written."""

    def note(self, message: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True)
class Result:
    """What was written."""

    paths: tuple[Path, ...]
    nbytes: int
    seconds: float
    resumed: int


class Place(Protocol):
    """A tensor's place in a file."""

    @property
    def name(self) -> str: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def padded(self) -> int:
        """Bytes with the padding behind it."""


class File(Protocol):
    """A file to write, of any container: a header and then tensors."""

    @property
    def path(self) -> Path: ...

    @property
    def slots(self) -> Sequence[Place]: ...

    @property
    def nbytes(self) -> int:
        """The exact size."""

    def header(self) -> bytes: ...


@dataclass(frozen=True)
class Work:
    """What to make, and where it goes.

    Attributes:
        checkpoint: where the rows come from.
        tensors: every tensor of the files, in any order.
        files: their order is that of the shards.
        allow_nan: go on where weights are NaN or infinite.
    """

    checkpoint: Checkpoint
    tensors: tuple[TensorPlan, ...]
    files: Sequence[File]
    allow_nan: bool = False

    @property
    def formats(self) -> set[str]:
        return {tensor.format for tensor in self.tensors}


@dataclass(frozen=True)
class Slab:
    """Rows `start` to `stop` of a tensor."""

    tensor: TensorPlan
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == self.tensor.map.rows

    @property
    def weights(self) -> int:
        return (self.stop - self.start) * self.tensor.map.columns


def convert(plan: Plan, shards: tuple[Shard, ...], threads: int, watcher: Watcher) -> Result:
    """Write the files of a plan.

    Args:
        shards: `plan.shards(path)`.
        threads: how many slabs are worked on at once.

    Raises:
        WeightError: a weight is NaN or infinite and the recipe does not allow it.
        OutputError: no room, or the files cannot be written. What is complete stays beside the
            output and is used by the next run of the same plan.
    """
    work = Work(plan.model.checkpoint, plan.tensors, shards, plan.recipe.allow_nan)
    return write_files(work, threads, watcher)


def write_files(work: Work, threads: int, watcher: Watcher) -> Result:
    """Write files, whatever their container. Arguments and errors are those of `convert`."""
    started = time.monotonic()
    check_room(work.files)
    _compile_kernels(work.formats, watcher)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        headers = [file.header() for file in work.files]
        outs = [
            stack.enter_context(_open(work.checkpoint, file.path, header, work.allow_nan))
            for file, header in zip(work.files, headers, strict=True)
        ]
        try:
            resumed = _write(work, headers, outs, pool, 2 * threads, watcher)
        except WeightError:
            for out in outs:
                out.discard()
            raise
        for out in reversed(outs):  # the first shard last: it names the others
            out.commit()
    size = sum(file.nbytes for file in work.files)
    return Result(tuple(out.path for out in outs), size, time.monotonic() - started, resumed)


def _write(
    work: Work,
    headers: list[bytes],
    outs: list[PartialFile],
    pool: ThreadPoolExecutor,
    ahead: int,
    watcher: Watcher,
) -> int:
    """Write what is not written yet; the number of tensors that were."""
    by_name = {tensor.name: tensor for tensor in work.tensors}
    todo = [
        (out, by_name[slot.name], slot)
        for file, header, out in zip(work.files, headers, outs, strict=True)
        for slot in file.slots[_begin(file, header, out) :]
    ]
    total = sum(tensor.map.elements for tensor in work.tensors)
    watcher.begin(total, total - sum(tensor.map.elements for _, tensor, _ in todo))
    slabs = [(out, slot, slab) for out, tensor, slot in todo for slab in _slabs(tensor)]
    make = partial(_make, work.checkpoint, work.allow_nan)
    made = _in_order(pool, make, (slab for _, _, slab in slabs), ahead)
    spoiled: dict[str, int] = {}
    for (out, slot, slab), (data, nonfinite) in zip(slabs, made, strict=True):
        out.append(data.data)
        if nonfinite:
            spoiled[slab.tensor.name] = spoiled.get(slab.tensor.name, 0) + nonfinite
        if slab.is_last:
            out.append(bytes(slot.padded - slot.nbytes))
            out.mark()
        watcher.advance(slab.weights, slab.tensor.name)
    for name, count in spoiled.items():
        watcher.note(f"{name}: {count} weights are NaN or infinite")
    return len(work.tensors) - len(todo)


def _begin(file: File, header: bytes, out: PartialFile) -> int:
    """Write the header, or find how many tensors an earlier run has completed."""
    if out.marked == 0:
        out.append(header)
        out.mark()
        return 0
    end = len(header)
    for index, slot in enumerate(file.slots):
        if end + slot.padded > out.marked:
            return index
        end += slot.padded
    return len(file.slots)


def _open(checkpoint: Checkpoint, path: Path, header: bytes, allow_nan: bool) -> PartialFile:
    """The file in the making, identified by all that its bytes depend on."""
    digest = sha256(header)
    for source in checkpoint.files:
        stat = source.stat()
        digest.update(f"{source.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    digest.update(repr(allow_nan).encode())
    return PartialFile(path, digest.hexdigest())


def check_room(files: Sequence[File]) -> None:
    """Refuse to start what cannot end.

    Raises:
        OutputError: the disk lacks room, or there is no such directory.
    """
    folder = files[0].path.parent
    if not folder.is_dir():
        raise OutputError(f"no directory {folder}", "create it first, or choose another with -o")
    partials = [partial_path(file.path) for file in files]
    present = sum(path.stat().st_size for path in partials if path.exists())
    needed = sum(file.nbytes for file in files) - present
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{needed / 1e9:.2f} GB are needed in {folder} and {free / 1e9:.2f} GB are free",
            "make room, or choose another place with -o",
        )


def _slabs(tensor: TensorPlan) -> Iterator[Slab]:
    """Cuts at whole groups of reordered rows, and at matrices where each has its importance."""
    rows, columns = tensor.map.rows, tensor.map.columns
    group = len(tensor.map.order) or 1
    step = rows if tensor.map.transpose else max(SLAB_WEIGHTS // (columns * group), 1) * group
    matrix = rows
    if tensor.importance is not None and len(tensor.importance) > 1:
        matrix = rows // len(tensor.importance)
    for first in range(0, rows, matrix):
        for start in range(first, first + matrix, step):
            yield Slab(tensor, start, min(start + step, first + matrix))


def _make(checkpoint: Checkpoint, allow_nan: bool, slab: Slab) -> tuple[np.ndarray, int]:
    """The packed bytes of a slab, and how many of its weights are NaN or infinite."""
    from qconvert.formats.floats import count_nonfinite

    tensor = slab.tensor
    rows = assemble(tensor.map, checkpoint.tensors, slab.start, slab.stop)
    nonfinite = count_nonfinite(rows.reshape(-1))
    if nonfinite and not allow_nan:
        raise WeightError(
            f"{tensor.name} holds weights that are NaN or infinite",
            "the checkpoint is damaged; --allow-nan goes on all the same",
        )
    if tensor.format == "F16":
        _check_range(tensor.name, rows)
    if _is_moved(checkpoint, tensor):
        return assemble_bytes(tensor.map, checkpoint.tensors, slab.start, slab.stop), nonfinite
    format_ = FORMATS[tensor.format]
    if nonfinite and format_.block > 1:
        rows = np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    return format_.quantize(rows, _importance(slab)), nonfinite


def _check_range(name: str, rows: np.ndarray) -> None:
    """Refuse finite weights that would become infinite."""
    largest = float(np.max(np.abs(rows), initial=0.0, where=np.isfinite(rows)))
    if largest >= F16_LIMIT:
        raise WeightError(
            f"{name} holds a weight of {largest:g}, beyond F16, which ends at 65504",
            "choose bf16 or f32",
        )


def _is_moved(checkpoint: Checkpoint, tensor: TensorPlan) -> bool:
    """Whether the stored blocks can stay as they are."""
    if tensor.map.value is not None or tensor.map.add or tensor.map.transpose:
        return False
    dtypes = {checkpoint.tensors[part.source].dtype for part in tensor.map.parts}
    return dtypes == {tensor.format} and block_sizes(tensor.format)[0] > 1


def _importance(slab: Slab) -> np.ndarray | None:
    values = slab.tensor.importance
    if values is None:
        return None
    matrix = slab.start * len(values) // slab.tensor.map.rows
    return np.ascontiguousarray(values[matrix], dtype=np.float32)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[Item], Out], items: Iterable[Item], ahead: int
) -> Iterator[Out]:
    """Results in the order of the items, with at most `ahead` of them under way."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _compile_kernels(formats: Collection[str], watcher: Watcher) -> None:
    """Run each kernel once on one block: compiled now, in one thread, or loaded from the cache."""
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(_run_kernels, formats)
        try:
            compiling.result(timeout=COMPILE_PATIENCE)
        except FutureTimeoutError:
            watcher.note("compiling the kernels (once on this machine) ...")
            compiling.result()


def _run_kernels(formats: Collection[str]) -> None:
    from qconvert.formats.floats import count_nonfinite

    count_nonfinite(np.zeros(1, np.float32))
    for format_ in (FORMATS[name] for name in formats if name in FORMATS):
        format_.quantize(np.zeros((1, format_.block), np.float32), None)


def default_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
