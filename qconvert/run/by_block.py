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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.algorithms.damping import factored
from qconvert.algorithms.drift import best_strength, corrections, output_error, retargeted
from qconvert.calibration.moments import Drift, Moments
from qconvert.checkpoint import Checkpoint
from qconvert.containers.store import Store
from qconvert.formats.quantize import Algorithm, quantize, slab_of, stacked
from qconvert.formats.types import Arrays, Format, Seen, Weights
from qconvert.forward.walk import Block, Place, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.assemble import assemble
from qconvert.model.open import Model
from qconvert.plan.algorithms import FEEDBACK
from qconvert.plan.types import TensorPlan
from qconvert.run.executor import Threads
from qconvert.run.observation import Attended, Original, observe, run_original

NEAREST = "nearest"

UNSEEN = 8
"""One window in so many is kept for the guard."""

ROWS = 128
"""Rows of a weight that are quantized at a time, a multiple of every format's `row_step`."""

DRIFT_SHARE = 0.1
STRENGTHS = None
HELPED = " helped"
"""Behind a tensor's name, what the store has of whether its algorithm helped, by matrix."""

LOG = False


@dataclass(frozen=True)
class Task:
    """A weight of a block, and how it is quantized.

    Attributes:
        tensor: as it is planned; of experts, all of a block or one.
        algorithm: a name in `ALGORITHMS`; "nearest" for what streaming would write.
        first: which matrix of the weight is the tensor's first.
    """

    tensor: TensorPlan
    format: Format
    algorithm: str = NEAREST
    first: int = 0

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def matrices(self) -> int:
        return self.tensor.map.rows // self.tensor.map.shape[-2]


@dataclass(frozen=True)
class Walks:
    """The model that is being quantized, and the original beside it, on one sample.

    Attributes:
        shown: the first windows, which algorithms are shown; the others are for the guard.
    """

    quantized: Walk
    original: Walk
    shown: int

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
    of = min(UNSEEN, len(tokens))
    unseen = np.arange(len(tokens)) % of == of - 1
    ordered = np.concatenate((tokens[~unseen], tokens[unseen]))
    beside = replace(place, states="original")
    shown = int(np.count_nonzero(~unseen))
    own, other = (Walk(model, ordered, each, cut=shown) for each in (place, beside))
    return Walks(own, other, shown)


def quantize_by_block(
    walks: Walks,
    tasks: Mapping[str, Sequence[Task]],
    store: Store,
    watcher: Watcher,
    threads: int = 1,
) -> dict[str, float]:
    """Walk to the end; all that is made is in the store then.

    Returns:
        Of each tensor that an algorithm was to make, the share of its matrices for which that
        helps; the others are what streaming would write.

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
        making = Making(checkpoint, store, executor, walks.shown)
        for block, beside in walks:
            here = {name: tasks[name] for name in block.linears if name in tasks}
            original = run_original(beside)
            attended = _quantize(making, block, original, here)
            store.put(_mark(block.index), {})
            block.run(attended=attended)
            for walk in (walks.quantized, walks.original):
                walk.states.sync(block.index + 1)
            watcher.advance(size, f"block {block.index + 1} of {len(walks)}")
    names = [task.name for of in tasks.values() for task in of if task.algorithm != NEAREST]
    return {name: float(store.get(name)[f"{name}{HELPED}"].mean()) for name in names}


def _mark(index: int) -> str:
    """What the store has when it has all of a block."""
    return f"block {index}"


@dataclass(frozen=True)
class Making:
    """What it takes to make weights."""

    checkpoint: Checkpoint
    store: Store
    executor: Threads
    shown: int


def _quantize(
    making: Making, block: Block, original: Original, tasks: Mapping[str, Sequence[Task]]
) -> Attended:
    """Make what the store lacks, and install all of it, one input after the other."""
    attended: Attended = [{} for _ in block.batches()]
    for group in original.groups:
        here = {name: tasks[name] for name in group if name in tasks}
        missing = [task for of in here.values() for task in of if task.name not in making.store]
        seen = unseen = Moments()
        if any(task.algorithm != NEAREST for task in missing):
            seen, unseen = observe(block, original, group, attended, making.shown)
        writer = original.writers.get(group[0])
        factor = writer.factor if writer else 1.0
        _make_group(making, group[0], missing, seen, unseen, factor)
        for name, of in here.items():
            block.install(name, _rows_made(of, making.store))
    return attended


@dataclass(frozen=True)
class About:
    """What was observed of the inputs of a matrix.

    Attributes:
        seen, drift: of tokens that algorithms are shown.
        unseen, other_drift: of those that they are not shown.
        factor: by what the layer's output is multiplied before it is added to the stream.
    """

    seen: Seen
    smooth: Seen
    drift: Drift | None
    unseen: Seen
    other_drift: Drift | None
    factor: float


def _make_group(
    making: Making,
    name: str,
    tasks: Sequence[Task],
    seen: Moments,
    unseen: Moments,
    factor: float,
) -> None:
    """Make weights that share their input, that of the named weight, and put them into the
    store."""
    made: dict[str, list[tuple[Arrays, bool]]] = {task.name: [] for task in tasks}
    for matrix in sorted({task.first + k for task in tasks for k in range(task.matrices)}):
        about = _about(name, matrix, seen, unseen, factor)
        for task in tasks:
            if task.first <= matrix < task.first + task.matrices:
                made[task.name].append(_make(making, task, matrix - task.first, about))
    for task in tasks:
        pieces = zip(*(arrays for arrays, _ in made[task.name]), strict=True)
        names = [slot.name for slot in task.tensor.slots]
        arrays = dict(zip(names, map(np.concatenate, pieces), strict=True))
        if task.algorithm != NEAREST:
            helped = [helped for _, helped in made[task.name]]
            arrays[f"{task.name}{HELPED}"] = np.array(helped, np.uint8)
        making.store.put(task.name, arrays)


def _about(name: str, matrix: int, seen: Moments, unseen: Moments, factor: float) -> About | None:
    """None where no token reached a matrix, or none of those for the guard did."""
    own, other = (moments.of(name, matrix) for moments in (seen, unseen))
    if own is None or other is None:
        return None
    drifts = (moments.drift_of(name, matrix) for moments in (seen, unseen))
    drift, other_drift = drifts
    return About(factored(own), factored(own, DRIFT_SHARE), drift, other, other_drift, factor)


def _make(making: Making, task: Task, matrix: int, about: About | None) -> tuple[Arrays, bool]:
    """What a matrix becomes, and whether that is the algorithm's."""
    map_ = task.tensor.map
    start = matrix * map_.shape[-2]
    peak = _peak(making.checkpoint, task.tensor)
    x = _prepared(making.checkpoint, task.tensor, start, start + map_.shape[-2])
    streamed = _streamed(making, task, x, start, peak)
    if task.algorithm == NEAREST or about is None:
        return streamed, False
    algorithm = ALGORITHMS[task.algorithm]
    target = x
    if (
        task.algorithm == FEEDBACK
        and about.drift
        and about.other_drift
        and about.smooth.factor is not None
    ):
        made = corrections(x, about.smooth, about.drift, about.factor)
        strength = STRENGTHS or best_strength(
            made, x, about.unseen, about.other_drift, about.factor
        )
        if LOG:
            print("#", task.name, strength)
        target = retargeted(x, made, strength)
    candidates = [
        streamed,
        _by_rows(making, task.format, target, about.seen, peak or None, algorithm),
    ]
    errors = [
        output_error(task.format.dequantize(one), x, about.unseen, about.other_drift, about.factor)
        for one in candidates
    ]
    best = int(np.argmin(errors))
    return candidates[best], best > 0


def _streamed(making: Making, task: Task, x: Weights, start: int, peak: float) -> Arrays:
    """What streaming would write."""
    step = ROWS
    coding = task.tensor.coding

    def some(first: int) -> Arrays:
        return coding.make(x[first : first + step], start + first, peak)

    made = list(making.executor.map(some, range(0, len(x), step)))
    return stacked(task.format, made, (len(x), x.shape[1]), step)


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

    shape = (len(x), x.shape[1])
    parts = format_.parts(shape)

    def some(start: int) -> Arrays:
        made = quantize(format_, x[start : start + ROWS], seen, peak, algorithm)
        return slab_of(made, parts, shape, start == 0)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = list(making.executor.map(some, range(0, len(x), ROWS)))
    finally:
        torch.set_num_threads(threads)
    return stacked(format_, made, shape, ROWS)


def _peak(checkpoint: Checkpoint, tensor: TensorPlan) -> float:
    """The largest absolute value over a tensor's peers; 0 without any."""
    rows = (_prepared(checkpoint, peer, 0, peer.map.rows) for peer in tensor.peers)
    return max((float(np.abs(x).max(initial=0)) for x in rows), default=0.0)


def _prepared(checkpoint: Checkpoint, tensor: TensorPlan, start: int, stop: int) -> Weights:
    rows = assemble(tensor.map, checkpoint.tensors, start, stop)
    return np.ascontiguousarray(tensor.coding.prepare(rows, start))


def _rows_made(tasks: Sequence[Task], store: Store) -> Any:
    """What a weight has become, as numbers in transformers' order of rows."""
    import torch

    ordered = sorted(tasks, key=lambda task: task.first)
    rows = [torch.tensor(_numbers(task, store)) for task in ordered]
    return rows[0] if len(rows) == 1 else torch.stack(rows)


def _numbers(task: Task, store: Store) -> np.ndarray:
    """float32, of the shape of its tensor as rows are read."""
    made, map_ = store.get(task.name), task.tensor.map
    x = task.format.dequantize(tuple(made[slot.name] for slot in task.tensor.slots))
    if map_.order:
        groups = x.reshape(-1, len(map_.order), map_.columns)
        x = groups[:, np.argsort(map_.order)]
    return np.ascontiguousarray(x).reshape(map_.shape)
