"""Weights quantized while the model walks over its sample, one block in memory.

    for each block:
        for each input of its weights, in the order in which they are computed:
            see it                         in the block as it is by now, and in the original
            quantize the weights           and guard that on windows that were not shown
            put them into the store        where an interrupted run finds them
            have the block compute with them
        run both blocks                    later ones see what has become of earlier ones

What each row decides for itself is written as it is streamed, byte by byte; so are the tensors
outside of blocks. `qconvert.run.stored.with_made` plans the file of both.

A run that is taken up begins with the last block that is complete: what goes into it is still on
the disk, since a block's output takes the place of the input of the block before.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.algorithms.damping import factored
from qconvert.algorithms.drift import Strength, output_error, retargeted
from qconvert.calibration.moments import Drift, Moments
from qconvert.checkpoint import Checkpoint
from qconvert.containers.store import Store
from qconvert.formats.quantize import Algorithm, quantize, stacked
from qconvert.formats.types import Arrays, Format, Seen, Weights
from qconvert.forward.residual import Writer, stream_before, writers
from qconvert.forward.walk import Block, Place, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.assemble import assemble
from qconvert.model.open import Model
from qconvert.plan.types import TensorPlan
from qconvert.run.executor import Threads

NEAREST = "nearest"

UNSEEN = 8
"""One window in so many is kept for the guard."""

ROWS = 128
"""Rows of a weight that are quantized at a time, a multiple of every format's `row_step`."""

STRENGTHS = (Strength(0.5, 0.5),)
"""What is tried of the correction for drift."""


@dataclass(frozen=True)
class Task:
    """A weight of a block, and how it is quantized.

    Attributes:
        tensor: as it is planned; of experts, all of a block.
        algorithm: a name in `ALGORITHMS`; "nearest" for what streaming would write.
    """

    tensor: TensorPlan
    format: Format
    algorithm: str = NEAREST

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def matrices(self) -> int:
        return self.tensor.map.rows // self.tensor.map.shape[-2]


@dataclass(frozen=True)
class Walks:
    """The model that is being quantized, and the original beside it, on one sample."""

    quantized: Walk
    original: Walk

    def __iter__(self) -> Iterator[tuple[Block, Block]]:
        return zip(self.quantized, self.original, strict=True)

    def __len__(self) -> int:
        return len(self.quantized)

    def begin_at(self, index: int) -> None:
        self.quantized.begin = self.original.begin = index

    def exist(self) -> bool:
        """Whether hidden states of an earlier run are there."""
        return self.quantized.states.exist() and self.original.states.exist()


def open_walks(model: Model, tokens: np.ndarray, place: Place) -> Walks:
    """Both walks, with their hidden states in the folder of the place.

    Args:
        tokens: int [windows, window].
    """
    beside = replace(place, states="original")
    return Walks(Walk(model, tokens, place), Walk(model, tokens, beside))


def quantize_by_block(
    walks: Walks, tasks: Mapping[str, Task], store: Store, watcher: Watcher, threads: int = 1
) -> None:
    """Walk to the end; all that is made is in the store then.

    Args:
        walks: with their hidden states in the store's folder.
        tasks: by the GGUF names of weights in blocks; the others stay as they are.
        store: of an identity that says the walks', and all that the tasks depend on.
        threads: rows that are quantized at once.

    Raises:
        OutputError: no room.
        WeightError: NaN or infinity comes out of a block.
    """
    if not walks.exist():
        store.clear()
    walks.begin_at(max(sum(_mark(index) in store for index in range(len(walks))) - 1, 0))
    size = walks.quantized.tokens.size
    watcher.begin(len(walks) * size, walks.quantized.begin * size)
    checkpoint = walks.quantized.model.checkpoint
    with Threads(threads) as executor:
        for block, original in walks:
            here = {name: tasks[name] for name in block.linears if name in tasks}
            _quantize(Making(checkpoint, store, executor, watcher), block, original, here)
            store.put(_mark(block.index), {})
            for each, walk in ((block, walks.quantized), (original, walks.original)):
                each.run()
                walk.states.sync(block.index + 1)
            watcher.advance(size, f"block {block.index + 1} of {len(walks)}")


def _mark(index: int) -> str:
    """What the store has when it has all of a block."""
    return f"block {index}"


@dataclass(frozen=True)
class Making:
    """What it takes to make weights."""

    checkpoint: Checkpoint
    store: Store
    executor: Threads
    watcher: Watcher


def _quantize(making: Making, block: Block, original: Block, tasks: Mapping[str, Task]) -> None:
    """Make what the store lacks, and install all of it, one input after the other."""
    groups, adding = [tuple(tasks)], dict[str, Writer]()
    if any(task.algorithm != NEAREST for task in tasks.values()):
        hidden = next(iter(original.batches()))[1][:1]
        groups, adding = _groups(original, hidden), writers(original, hidden)
    for group in groups:
        here = {name: tasks[name] for name in group if name in tasks}
        missing = [task for task in here.values() if task.name not in making.store]
        if any(task.algorithm != NEAREST for task in missing):
            seen, unseen = _observe(block, original, group, adding.get(group[0]))
        else:
            seen = unseen = Moments()
        for name, task in here.items():
            if task in missing:
                _make_all(making, name, task, seen, unseen, adding.get(name))
            block.install(name, _rows_made(task, making.store))


def _groups(block: Block, hidden: Any) -> list[tuple[str, ...]]:
    """The weights of a block, those of one input together, in the order of their products."""
    found: dict[tuple[str, ...], None] = {}
    block.forward(hidden, lambda names, x, matrix: found.setdefault(names))
    return list(found)


def _observe(
    block: Block, original: Block, group: tuple[str, ...], adding: Writer | None
) -> tuple[Moments, Moments]:
    """What goes into some weights, of each window in one of both."""
    import torch

    both = Moments(), Moments()
    point = adding.point if adding else None
    with _stream(block, point) as own, _stream(original, point) as other:
        for (start, hidden), (_, before) in zip(block.batches(), original.batches(), strict=True):
            kept = torch.arange(start, start + len(hidden)) % UNSEEN == UNSEEN - 1
            for moments, windows in zip(both, (~kept, kept), strict=True):
                if not windows.any():
                    continue
                wanted = _inputs(original, before[windows], group)
                observe = partial(_see_both, moments, group, wanted, own, other)
                block.forward(hidden[windows], observe, until=group)
    return both


@contextmanager
def _stream(block: Block, point: str | None) -> Iterator[dict[str, Any]]:
    if point is None:
        yield {}
    else:
        with stream_before(block, point) as seen:
            yield seen


def _inputs(block: Block, hidden: Any, group: tuple[str, ...]) -> list[Any]:
    """What goes into weights that share an input; nothing of experts, of which each model may
    choose others."""
    found: list[Any] = []

    def keep(names: tuple[str, ...], x: Any, matrix: int) -> None:
        if names == group:
            found.append(x.clone())

    block.forward(hidden, keep, until=group)
    return found if block.linears[group[0]].parameter == "weight" else []


def _see_both(
    moments: Moments,
    group: tuple[str, ...],
    wanted: list[Any],
    own: Mapping[str, Any],
    other: Mapping[str, Any],
    names: tuple[str, ...],
    x: Any,
    matrix: int,
) -> None:
    """Observer of one input: with what the original has in its place."""
    if names != group:
        return
    off = wanted[0].float() - x.float() if wanted else None
    behind = None
    if own and wanted:
        ahead, stream = (each[""].flatten(0, 1).float() for each in (other, own))
        behind = ahead - stream
    moments.observe(names, x, matrix, off, behind)


def _make_all(
    making: Making, name: str, task: Task, seen: Moments, unseen: Moments, adding: Writer | None
) -> None:
    """Make every matrix of a weight, and put them into the store."""
    made = []
    for matrix in range(task.matrices):
        about = [
            About(own, moments.drift_of(name, matrix)) if own else None
            for moments in (seen, unseen)
            if (own := moments.of(name, matrix)) or True
        ]
        made.append(_make(making, task, matrix, about[0], about[1], adding))
    if task.algorithm != NEAREST and not any(helped for _, helped in made):
        making.watcher.note(f"{task.name}: {task.algorithm} does not help, and is left out")
    pieces = zip(*(arrays for arrays, _ in made), strict=True)
    names = [slot.name for slot in task.tensor.slots]
    making.store.put(task.name, dict(zip(names, map(np.concatenate, pieces), strict=True)))


@dataclass(frozen=True)
class About:
    """What was observed of a matrix."""

    seen: Seen
    drift: Drift | None


def _make(
    making: Making,
    task: Task,
    matrix: int,
    about: About | None,
    unseen: About | None,
    adding: Writer | None,
) -> tuple[Arrays, bool]:
    """What a matrix becomes, and whether that is the algorithm's."""
    map_, coding = task.tensor.map, task.tensor.coding
    start = matrix * map_.shape[-2]
    peak = _peak(making.checkpoint, task.tensor)
    x = _prepared(making.checkpoint, task.tensor, start, start + map_.shape[-2])
    streamed = coding.make(x, start, peak)
    if task.algorithm == NEAREST or about is None:
        return streamed, False
    algorithm = ALGORITHMS[task.algorithm]
    seen = factored(about.seen)
    factor = adding.factor if adding else 1.0
    candidates = [streamed]
    for strength in STRENGTHS if about.drift else [None]:
        target = x if strength is None else retargeted(x, seen, about.drift, strength, factor)
        candidates.append(_by_rows(making, task.format, target, seen, peak or None, algorithm))
    if unseen is None:
        return streamed, False
    errors = [
        output_error(task.format.dequantize(one), x, unseen.seen, unseen.drift, factor)
        for one in candidates
    ]
    best = int(np.argmin(errors))
    return candidates[best], best > 0


def _by_rows(
    making: Making,
    format_: Format,
    x: Weights,
    seen: Seen,
    peak: float | None,
    algorithm: Algorithm,
) -> Arrays:
    """Some rows at a time on every thread; linear algebra has one for each."""
    import torch

    def some(start: int) -> Arrays:
        return quantize(format_, x[start : start + ROWS], seen, peak, algorithm)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = list(making.executor.map(some, range(0, len(x), ROWS)))
    finally:
        torch.set_num_threads(threads)
    return stacked(format_, made, (len(x), x.shape[1]), ROWS)


def _peak(checkpoint: Checkpoint, tensor: TensorPlan) -> float:
    """The largest absolute value over a tensor's peers; 0 without any."""
    rows = (_prepared(checkpoint, peer, 0, peer.map.rows) for peer in tensor.peers)
    return max((float(np.abs(x).max(initial=0)) for x in rows), default=0.0)


def _prepared(checkpoint: Checkpoint, tensor: TensorPlan, start: int, stop: int) -> Weights:
    rows = assemble(tensor.map, checkpoint.tensors, start, stop)
    return np.ascontiguousarray(tensor.coding.prepare(rows, start))


def _rows_made(task: Task, store: Store) -> Any:
    """What a weight has become, as numbers in transformers' order of rows."""
    import torch

    made, map_ = store.get(task.name), task.tensor.map
    x = task.format.dequantize(tuple(made[slot.name] for slot in task.tensor.slots))
    if map_.order:
        groups = x.reshape(-1, len(map_.order), map_.columns)
        x = groups[:, np.argsort(map_.order)]
    return torch.tensor(x.reshape(map_.shape))
