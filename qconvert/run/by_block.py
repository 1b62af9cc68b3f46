"""Weights quantized while the model walks over its sample, one block in memory.

    for each block:
        see what goes into its weights     from blocks that are quantized already
        quantize each, and guard it        on windows that the algorithm does not see
        put it into the store              where an interrupted run finds it
        have the block compute with it     so later blocks see what it has become

What each row decides for itself is written as it is streamed, byte by byte; so are the tensors
outside of blocks. `qconvert.run.stored.with_made` plans the file of both.

A run that is taken up begins with the last block that is complete: what goes into it is still on
the disk, since a block's output takes the place of the input of the block before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qconvert.algorithms import ALGORITHMS
from qconvert.algorithms.guard import guarded
from qconvert.calibration.moments import Moments
from qconvert.checkpoint import Checkpoint
from qconvert.containers.store import Store
from qconvert.formats.quantize import quantize
from qconvert.formats.types import Arrays, Format, Seen, Weights
from qconvert.forward.walk import Block, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.assemble import assemble
from qconvert.plan.types import TensorPlan

NEAREST = "nearest"

UNSEEN = 8
"""One window in so many is kept for the guard."""


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


def quantize_by_block(
    walk: Walk, tasks: Mapping[str, Task], store: Store, watcher: Watcher
) -> None:
    """Walk to the end; all that is made is in the store then.

    Args:
        walk: from the first block on, with its hidden states in the store's folder.
        tasks: by the GGUF names of weights in blocks; the others stay as they are.
        store: of an identity that says the walk's, and all that the tasks depend on.

    Raises:
        OutputError: no room.
        WeightError: NaN or infinity comes out of a block.
    """
    if not walk.states.exist():
        store.clear()
    walk.begin = max(sum(_mark(index) in store for index in range(len(walk))) - 1, 0)
    size = walk.tokens.size
    watcher.begin(len(walk) * size, walk.begin * size)
    for block in walk:
        here = {name: tasks[name] for name in block.linears if name in tasks}
        _quantize(walk.model.checkpoint, block, here, store, watcher)
        store.put(_mark(block.index), {})
        block.run()
        walk.states.sync(block.index + 1)
        watcher.advance(size, f"block {block.index + 1} of {len(walk)}")


def _mark(index: int) -> str:
    """What the store has when it has all of a block."""
    return f"block {index}"


def _quantize(
    checkpoint: Checkpoint,
    block: Block,
    tasks: Mapping[str, Task],
    store: Store,
    watcher: Watcher,
) -> None:
    """Make what the store lacks, and install all of it."""
    missing = {name: task for name, task in tasks.items() if task.name not in store}
    seen, unseen = Moments(), Moments()
    if any(task.algorithm != NEAREST for task in missing.values()):
        _observe(block, seen, unseen)
    for name, task in missing.items():
        about = [
            (seen.of(name, matrix), unseen.of(name, matrix)) for matrix in range(task.matrices)
        ]
        made = [_make(checkpoint, task, matrix, *both) for matrix, both in enumerate(about)]
        if task.algorithm != NEAREST and not any(helped for _, helped in made):
            watcher.note(f"{task.name}: {task.algorithm} does not help, and is left out")
        pieces = zip(*(arrays for arrays, _ in made), strict=True)
        names = [slot.name for slot in task.tensor.slots]
        store.put(task.name, dict(zip(names, map(np.concatenate, pieces), strict=True)))
    for name, task in tasks.items():
        block.install(name, _rows_made(task, store))


def _observe(block: Block, seen: Moments, unseen: Moments) -> None:
    """Show what goes into the block's weights, of each window to one of both."""
    import torch

    for start, hidden in block.batches():
        kept = torch.arange(start, start + len(hidden)) % UNSEEN == UNSEEN - 1
        for moments, windows in ((seen, hidden[~kept]), (unseen, hidden[kept])):
            if len(windows):
                block.forward(windows, moments.observe)


def _make(
    checkpoint: Checkpoint, task: Task, matrix: int, seen: Seen | None, unseen: Seen | None
) -> tuple[Arrays, bool]:
    """What a matrix becomes, and whether that is the algorithm's."""
    map_, coding = task.tensor.map, task.tensor.coding
    start = matrix * map_.shape[-2]
    peak = _peak(checkpoint, task.tensor)
    x = _prepared(checkpoint, task.tensor, start, start + map_.shape[-2])
    streamed = coding.make(x, start, peak)
    if task.algorithm == NEAREST or seen is None:
        return streamed, False
    made = quantize(task.format, x, seen, peak or None, ALGORITHMS[task.algorithm])
    best = guarded(task.format, x, made, streamed, unseen)
    return best, best is made


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
