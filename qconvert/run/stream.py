"""The story: read, quantize and write, slab by slab, all at once.

Slabs of rows go through a pool of threads: each is read, checked, quantized and packed there,
and written in order. Kernels run on one core and see whole blocks, so the bytes do not depend on
the number of threads; memory holds a few slabs, whatever the model's size.

Several outputs of one checkpoint are written side by side, in the order of the source's tensors,
so that it is read from the disk once.
"""

import heapq
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import numpy as np

from qconvert.checkpoint.open import check_unchanged
from qconvert.containers.partial import PartialFile, partial_path
from qconvert.containers.place import check_place
from qconvert.containers.room import ELSEWHERE, check_free
from qconvert.containers.target import File, Slot
from qconvert.errors import CheckpointError, WeightError
from qconvert.formats.floats import measure
from qconvert.kernels import are_kept
from qconvert.machine.watcher import Watcher
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.clustered import Clustered
from qconvert.run.executor import Executor, Workers, at_work
from qconvert.run.making import job_of, largest_weight, make
from qconvert.run.slabs import cut


@dataclass(frozen=True)
class Result:
    """What was written; of a plan alone, what would be.

    Attributes:
        helped: as the plan has it.
        exact: the tensors in formats of blocks that give the source's numbers back to the last bit.
        clustered: of weights that have few distinct values, what they come to.
    """

    plan: Plan
    paths: tuple[Path, ...]
    nbytes: int
    seconds: float
    resumed: int
    helped: Mapping[str, float] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    clustered: Clustered | None = None


@dataclass
class Writing:
    """A file that is being written.

    Attributes:
        held: by name, what is written of tensors whose place has not come yet.
    """

    plan: Plan
    file: File
    header: bytes
    out: PartialFile
    held: dict[str, list[np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A place to fill, with the `part`-th of the pieces that a tensor is made into."""

    writing: Writing
    place: Slot
    tensor: TensorPlan
    part: int


def write_files(
    works: Sequence[tuple[Plan, Sequence[File]]], workers: Workers, watcher: Watcher
) -> list[Result]:
    """Write files of one checkpoint, whatever their container; a result for each plan.

    Args:
        works: plans, each with its files of weights where they are until all is done.
        workers: slabs are made by.

    Raises:
        WeightError: a weight is NaN, infinite or beyond its format, and the recipe does not
            allow it.
        CheckpointError: a source cannot be read, or has changed since it was opened.
        OutputError: no room, or the files cannot be written. What is complete stays beside the
            output and is used by the next run of the same plan.
    """
    started = time.monotonic()
    check_room([file for _, files in works for file in files])
    _compile_kernels([plan for plan, _ in works], watcher)
    with ExitStack() as stack:
        executor = stack.enter_context(at_work(workers))
        headers = [[(file, file.header()) for file in files] for _, files in works]
        lines = [
            [
                Writing(plan, file, header, stack.enter_context(_open(plan, file.path, header)))
                for file, header in of_plan
            ]
            for (plan, _), of_plan in zip(works, headers, strict=True)
        ]
        outs = [writing.out for line in lines for writing in line]
        try:
            resumed, exact = _write(lines, executor, watcher)
            for plan, _ in works:
                check_unchanged(plan.checkpoint)
        except (WeightError, CheckpointError):
            for out in outs:
                out.discard()
            raise
        for out in reversed(outs):  # the first shard last: it names the others
            out.commit()
    seconds = time.monotonic() - started
    return [
        Result(
            plan,
            tuple(file.path for file in files),
            sum(file.nbytes for file in files),
            seconds,
            count,
            exact=kept,
        )
        for (plan, files), count, kept in zip(works, resumed, exact, strict=True)
    ]


def _write(
    lines: Sequence[Sequence[Writing]], executor: Executor, watcher: Watcher
) -> tuple[list[int], list[tuple[str, ...]]]:
    """Write what is not written yet; for each line, the number of tensors that were, and those of
    the others that are exact."""
    missing = [[step for writing in line for step in _missing_steps(writing)] for line in lines]
    todo = _side_by_side(missing)
    tensors = [tensor for line in lines for tensor in line[0].plan.tensors]
    total = sum(tensor.map.elements for tensor in tensors)
    watcher.begin(total, total - sum(s.tensor.map.elements for s in todo if s.part == 0))
    streamed = [(s, slab) for s in todo if s.part == 0 for slab in cut(s.tensor)]
    peaks: dict[tuple[str, ...], float] = {}
    jobs = (job_of(s.writing.plan, slab, _peak(s, peaks, executor)) for s, slab in streamed)
    made = executor.map(make, jobs)
    losses: Counter[tuple[str, str]] = Counter()
    exact: dict[tuple[int, str], bool] = {}
    for step in todo:
        writing, place, name = step.writing, step.place, step.tensor.name
        if step.part == 0:
            # The slabs come first: when they end, nothing is taken from the next tensor's.
            for slab, done in zip(cut(step.tensor), made):  # noqa: B905
                writing.out.append(done.pieces[0].data)
                key = (id(writing.plan), name)
                exact[key] = done.exact and exact.get(key, True)
                _hold(step, done.pieces)
                for count, what in done.losses(step.tensor.format):
                    losses[name, what] += count
                watcher.advance(slab.weights, name)
        else:
            for piece in writing.held.pop(place.name, None) or _made_again(step, peaks, executor):
                writing.out.append(piece.data)
        writing.out.append(bytes(place.padded - place.nbytes))
        writing.out.mark()
    for (name, what), count in losses.items():
        if count:
            watcher.note(f"{name}: {count} {what}")
    resumed = [
        len(line[0].plan.tensors) - sum(step.part == 0 for step in steps)
        for line, steps in zip(lines, missing, strict=True)
    ]
    kept = [
        tuple(t.name for t in line[0].plan.tensors if exact.get((id(line[0].plan), t.name)))
        for line in lines
    ]
    return resumed, kept


def _hold(step: Step, pieces: tuple[np.ndarray, ...]) -> None:
    """Keep what has its place later in the file."""
    for slot, piece in zip(step.tensor.slots[1:], pieces[1:], strict=True):
        step.writing.held.setdefault(slot.name, []).append(piece)


def _made_again(
    step: Step, peaks: dict[tuple[str, ...], float], executor: Executor
) -> list[np.ndarray]:
    """A held piece that an earlier run took with it when it was interrupted."""
    plan, peak = step.writing.plan, _peak(step, peaks, executor)
    slabs = list(cut(step.tensor))
    first = make(job_of(plan, slabs[0], peak)).pieces[step.part]
    if first.nbytes == step.place.nbytes:
        return [first]
    jobs = [job_of(plan, slab, peak) for slab in slabs]
    return [slab.pieces[step.part] for slab in executor.map(make, jobs)]


def _missing_steps(writing: Writing) -> list[Step]:
    """The places that are still empty; the header is written if it is not there."""
    by_slot = {
        slot.name: (tensor, index)
        for tensor in writing.plan.tensors
        for index, slot in enumerate(tensor.slots)
    }
    steps = [Step(writing, place, *by_slot[place.name]) for place in writing.file.slots]
    if writing.out.marked == 0:
        writing.out.append(writing.header)
        writing.out.mark()
        return steps
    end = len(writing.header)
    for index, step in enumerate(steps):
        end += step.place.padded
        if end > writing.out.marked:
            return steps[index:]
    return []


def _side_by_side(lines: Sequence[list[Step]]) -> list[Step]:
    """Steps of several outputs, each in its order, by where the first one meets their source."""
    order: dict[str, int] = {}
    for source in (part.source for step in lines[0] for part in step.tensor.map.parts):
        order.setdefault(source, len(order))
    keyed = []
    for number, line in enumerate(lines):
        places = (
            max((order.get(part.source, 0) for part in step.tensor.map.parts), default=0)
            for step in line
        )
        reached = accumulate(places, max)  # no output overtakes itself
        keyed.append([(place, number, n, line[n]) for n, place in enumerate(reached)])
    return [step for *_, step in heapq.merge(*keyed, key=lambda entry: entry[:3])]


def _peak(step: Step, known: dict[tuple[str, ...], float], executor: Executor) -> float:
    """The largest absolute value over a tensor's peers; 0 if it does not ask."""
    plan, peers = step.writing.plan, step.tensor.peers
    if not peers:
        return 0.0
    key = tuple(peer.name for peer in peers)
    if key not in known:
        jobs = [job_of(plan, slab) for peer in peers for slab in cut(peer)]
        known[key] = max(executor.map(largest_weight, jobs))
    return known[key]


def _open(plan: Plan, path: Path, header: bytes) -> PartialFile:
    """The file in the making, identified by all that its bytes depend on."""
    digest = sha256(header)
    for source in plan.checkpoint.files:
        stat = source.stat()
        digest.update(f"{source.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    digest.update(repr(plan.recipe.allow_nan).encode())
    return PartialFile(path, digest.hexdigest())


def check_room(files: Sequence[File]) -> None:
    """Refuse to start what cannot end.

    Raises:
        OutputError: the disk lacks room, or what stands above a file is no directory.
    """
    needed: dict[int, int] = {}
    for file in files:
        folder, partial = check_place(file.path), partial_path(file.path)
        disk = folder.stat().st_dev
        present = partial.stat().st_size if partial.exists() else 0
        needed[disk] = needed.get(disk, 0) + file.nbytes - present
        check_free(folder, needed[disk], ELSEWHERE)


def _compile_kernels(plans: Sequence[Plan], watcher: Watcher) -> None:
    """Run each kernel once on some rows: compiled now, in one thread, or loaded from the cache."""
    from qconvert.kernels.compiling import when_compiling

    kinds = {
        tensor.coding.kernel: tensor
        for plan in plans
        for tensor in plan.tensors
        if not tensor.coding.moved
    }
    often = "once on this machine" if are_kept() else "in each run: there is no place to keep them"
    with when_compiling(lambda: watcher.note(f"compiling the kernels ({often}) ...")):
        _run_kernels(list(kinds.values()))


def _run_kernels(tensors: Sequence[TensorPlan]) -> None:
    measure(np.zeros(1, np.float32))
    for tensor in tensors:
        coding, map_ = tensor.coding, tensor.map
        rows = np.zeros((min(coding.row_step, map_.rows), map_.columns), np.float32)
        coding.make(coding.prepare(rows, 0), 0, 1.0)
