"""Weights quantized while the model walks over its sample, one block in memory.

    for each block:
        for each input of its weights, in the order in which they are computed, and each output:
            see it                         in the block as it is by now, and in the original
            quantize the weights           and guard that on windows that were not shown
            put them into the store        where an interrupted run finds them
            have the block compute with them
        run both blocks                    later ones see what has become of earlier ones
    do the same with the output projection, which may be the token embedding

What each row decides for itself is written as it is streamed, byte by byte; so are the tensors
outside of blocks but the output projection. `qconvert.run.stored.with_made` plans the file of both.

Several outputs are made at once, so that the original runs once for all of them.

A run that is taken up begins with the last block that is complete: what goes into it is still on
the disk, since a block's output takes the place of the input of the block before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from qconvert.calibration.moments import Moments
from qconvert.containers.store import Store
from qconvert.formats.types import Arrays
from qconvert.forward.passage import Group
from qconvert.forward.walk import Block, Place, Walk
from qconvert.machine.watcher import Watcher
from qconvert.model.mapping import EMBEDDING
from qconvert.model.open import Model
from qconvert.plan.algorithms import factors_of, order_of
from qconvert.plan.types import TensorPlan
from qconvert.run.executor import Workers, at_work
from qconvert.run.fitting import (
    NEAREST,
    About,
    Bench,
    Task,
    about_matrix,
    make_matrix,
    make_table,
)
from qconvert.run.observation import Pair, observe, observe_output, side_by_side
from qconvert.run.smoothing import TOKENS, divisors, joint_of, multiplied

UNSEEN = 8
"""One window in so many is kept for the guard."""

HELPED = " helped"
"""Behind a tensor's name, what the store has of whether its algorithm helped, by matrix."""


@dataclass(frozen=True)
class Job:
    """An output whose weights are made.

    Attributes:
        tasks: by the GGUF names of weights in blocks; the others stay as they are.
        store: of an identity that says the walks', and all that the tasks depend on.
        norms: tensors that may change with the weights behind them; see `qconvert.run.smoothing`.
    """

    tasks: Mapping[str, Sequence[Task]]
    store: Store
    norms: Mapping[str, TensorPlan] = field(default_factory=dict)


@dataclass(frozen=True)
class Walks:
    """The model as it becomes for each output, and the original beside them, on one sample.

    Attributes:
        shown: the first windows, which algorithms are shown; the others are for the guard.
    """

    quantized: tuple[Walk, ...]
    original: Walk
    shown: int

    def __iter__(self) -> Iterator[tuple[tuple[Block, ...], Block]]:
        return zip(zip(*self.quantized, strict=True), self.original, strict=True)

    def __len__(self) -> int:
        return len(self.original)

    @property
    def every(self) -> tuple[Walk, ...]:
        return *self.quantized, self.original

    def begin_at(self, index: int) -> None:
        for walk in self.every:
            walk.begin = index

    def exist(self) -> bool:
        """Whether hidden states of an earlier run are there."""
        return all(walk.states.exist() for walk in self.every)


def open_walks(model: Model, tokens: np.ndarray, places: Sequence[Place]) -> Walks:
    """A walk for each place, with its hidden states in the folder there, and the original's in the
    first.

    Args:
        tokens: int [windows, window].
    """
    ordered, shown = in_order(tokens)
    beside = replace(places[0], states="original")
    *own, other = (Walk(model, ordered, place, cut=shown) for place in (*places, beside))
    return Walks(tuple(own), other, shown)


def in_order(tokens: np.ndarray) -> tuple[np.ndarray, int]:
    """The windows that are shown, and behind them those for the guard; and how many come first."""
    of = min(UNSEEN, len(tokens))
    unseen = np.arange(len(tokens)) % of == of - 1
    return np.concatenate((tokens[~unseen], tokens[unseen])), int(np.count_nonzero(~unseen))


def quantize_by_block(
    walks: Walks, jobs: Sequence[Job], watcher: Watcher, workers: Workers = 1
) -> list[dict[str, float]]:
    """Walk to the end; all that is made is in the stores then.

    Returns:
        For each job, of each tensor that an algorithm was to make, the share of its matrices for
        which that helps; the others are what streaming would write.

    Args:
        walks: one for each job, with its hidden states in the store's folder.
        workers: rows are quantized by.

    Raises:
        OutputError: no room.
        WeightError: NaN or infinity comes out of a block.
    """
    done = {sum(_mark(index) in job.store for index in range(len(walks))) for job in jobs}
    if not walks.exist() or len(done) > 1:  # who is ahead has no states for who is behind
        done = {0}
        for job in jobs:
            job.store.clear()
    walks.begin_at(max(done.pop() - 1, 0))
    size = walks.original.tokens.size * len(jobs)
    watcher.begin(len(walks) * size, walks.original.begin * size)
    saving: Future[None] | None = None
    with at_work(workers) as executor, ThreadPoolExecutor(1) as saver:
        bench = Bench(walks.original.model, executor)
        for blocks, beside in walks:
            with side_by_side(blocks, beside) as pairs:
                for group in pairs[0].groups:
                    for job, pair in zip(jobs, pairs, strict=True):
                        _quantize(bench, job, pair, group, walks.shown)
                if saving:  # whoever finds the mark takes up what the block in front gave
                    saving.result()
                for job in jobs:
                    job.store.put(_mark(beside.index), {})
                for block in (*blocks, beside):
                    block.run()
            saving = saver.submit(_sync, walks, beside.index + 1)
            watcher.advance(size, f"block {beside.index + 1} of {len(walks)}")
        for job, walk in zip(jobs, walks.quantized, strict=True):
            _quantize_output(bench, job, walk, walks.shown)
    return [_helped(job) for job in jobs]


def _sync(walks: Walks, block: int) -> None:
    """Have the disk take what goes into a block of every model."""
    for walk in walks.every:
        walk.states.sync(block)


def _quantize_output(bench: Bench, job: Job, walk: Walk, shown: int) -> None:
    """Make what the store lacks of the output projection."""
    name = walk.output_name
    missing = [task for task in job.tasks.get(name, ()) if task.name not in job.store]
    if not missing:
        return
    both = observe_output(walk, shown)
    about = about_matrix(bench, name, 0, both, is_table=name == EMBEDDING)
    for task in missing:
        arrays, helped = make_table(bench, task, about)
        _keep(job.store, task, arrays, helped)


def _helped(job: Job) -> dict[str, float]:
    tasks = [task for of in job.tasks.values() for task in of if task.algorithm != NEAREST]
    of_each = {task.name: job.store.get(task.name) for task in tasks}
    return {name: float(of[f"{name}{HELPED}"].mean()) for name, of in of_each.items()}


def _mark(index: int) -> str:
    """What the store has when it has all of a block."""
    return f"block {index}"


def _quantize(bench: Bench, job: Job, pair: Pair, group: Group, shown: int) -> None:
    """Make what the store lacks of the weights of an input, and install all of them."""
    import torch

    here = {name: job.tasks[name] for name in group if name in job.tasks}
    missing = [task for of in here.values() for task in of if task.name not in job.store]
    joint = joint_of(bench.model, pair.block.index, group, here, job.norms)
    both = (Moments(), Moments())
    unseen: list[Any] = []
    if any(task.algorithm != NEAREST for task in missing):
        both = observe(pair, group, shown, unseen if joint else None)
    about = lru_cache(1)(partial(about_matrix, bench, group[0], both=both))
    if joint:
        x = torch.cat(unseen)[:TOKENS].cpu() if unseen else None
        every = [task for of in here.values() for task in of]
        divisor = divisors(bench, job.store, joint, every, about(0), x)
        if divisor is not None:
            here = {name: [multiplied(t, divisor) for t in of] for name, of in here.items()}
            missing = [multiplied(task, divisor) for task in missing]
    _make_group(bench, job.store, missing, about)
    for name, of in here.items():
        pair.block.install(name, _rows_made(of, job.store))


def _make_group(
    bench: Bench,
    store: Store,
    tasks: Sequence[Task],
    about: Callable[[int], About | None],
) -> None:
    """Make weights that share their input, and put them into the store.

    Args:
        about: of the input, by matrix.
    """
    made: dict[str, list[tuple[Arrays, bool]]] = {task.name: [] for task in tasks}
    for matrix in sorted({task.first + k for task in tasks for k in range(task.matrices)}):
        for task in tasks:
            if task.first <= matrix < task.first + task.matrices:
                one = make_matrix(bench, task, matrix - task.first, about(matrix))
                made[task.name].append(one)
    for task in tasks:
        pieces = zip(*(arrays for arrays, _ in made[task.name]), strict=True)
        arrays = tuple(map(np.concatenate, pieces))
        _keep(store, task, arrays, [helped for _, helped in made[task.name]])


def _keep(store: Store, task: Task, arrays: Arrays, helped: Sequence[bool]) -> None:
    """Put what a task has made into the store, and of each part whether its algorithm helped."""
    names = [slot.name for slot in task.tensor.slots]
    kept = dict(zip(names, arrays, strict=True))
    if task.algorithm != NEAREST:
        kept[f"{task.name}{HELPED}"] = np.array(helped, np.uint8)
    store.put(task.name, kept)


def _rows_made(tasks: Sequence[Task], store: Store) -> Any:
    """What a weight has become, as numbers in transformers' order of rows, without what it was
    multiplied with."""
    import torch

    ordered = sorted(tasks, key=lambda task: task.first)
    rows = [torch.tensor(_numbers(task, store)) for task in ordered]
    return rows[0] if len(rows) == 1 else torch.stack(rows)


def _numbers(task: Task, store: Store) -> np.ndarray:
    """float32, of the shape of its tensor as rows are read."""
    made, map_ = store.get(task.name), task.tensor.map
    x = task.format.dequantize(tuple(made[slot.name] for slot in task.tensor.slots))
    factors = factors_of(task.tensor)
    if factors is not None:  # the model in the walk has its norms as they were
        x = x if factors.columns is None else x / factors.columns
        x = x if factors.rows is None else x / factors.rows[:, None]
    order = order_of(task.tensor)
    if order:
        groups = x.reshape(-1, len(order), map_.columns)
        x = groups[:, np.argsort(order)]
    return np.ascontiguousarray(x).reshape(map_.shape)
