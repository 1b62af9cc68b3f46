"""The blocks of a walk, computed by workers: batches of windows go through them there.

    here                                            a worker
    block, first window, what goes in  ---------->  has the block's weights, which it read itself
    what comes out, what was observed  <----------

What comes out is written here, and what was observed is added up here, in the order of the windows:
bytes are those of a walk in one process. A batch goes into a block as soon as it has come out of
the one before, so workers do not wait for each other at the end of a block. Each has one block in
memory, and the rows of the embedding that the sample needs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qconvert.calibration.capture import Visits
from qconvert.calibration.statistics import Collector, Glimpse, glimpse
from qconvert.checkpoint import Checkpoint
from qconvert.forward.block import Block, check_finite
from qconvert.forward.device import DTYPES
from qconvert.forward.experts import Inputs
from qconvert.forward.states import BITS
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model
from qconvert.run.executor import Executor


class Batch(NamedTuple):
    """Windows in front of a block.

    Attributes:
        start: the first of them.
        hidden: the bits of what goes in, [windows, window, hidden].
    """

    block: int
    start: int
    hidden: np.ndarray


class Visited(NamedTuple):
    """Windows behind a block.

    Attributes:
        hidden: the bits of what comes out.
        seen: what went into its weights, where that was asked for.
        matrices: how many each of the block's weights has.
    """

    block: int
    start: int
    hidden: np.ndarray
    seen: list[Glimpse]
    matrices: Mapping[str, int]


@dataclass
class Visit:
    """A job: a batch through a block. It is called by one thread of its process at a time, and what
    it keeps there for the next call saves time alone.

    Attributes:
        checkpoint: the model.
        tokens: int [windows, window].
        place: how to compute; nothing is written.
        is_observed: whether to tell what goes into weights.
        inputs: what is made of the inputs of products, if anything; see `Walk`.
    """

    checkpoint: Checkpoint
    tokens: np.ndarray
    place: Place
    is_observed: bool = True
    inputs: Callable[[Checkpoint], Inputs | None] | None = None
    _walk: Walk | None = field(default=None, repr=False)
    _block: Block | None = field(default=None, repr=False)

    def __call__(self, batch: Batch) -> Visited:
        """
        Raises:
            WeightError: NaN or infinity comes out.
            CheckpointError: the model has changed.
        """
        block = self._at(batch.block)
        seen: list[Glimpse] = []

        def observe(weights: tuple[str, ...], x: Any, matrix: int) -> None:
            seen.append(glimpse(weights, x, matrix))

        assert self._walk is not None
        hidden = _numbers(batch.hidden, self._walk.dtype).to(self._walk.device)
        out = block.forward(hidden, observe if self.is_observed else None)
        check_finite(block, out)
        return Visited(batch.block, batch.start, _bits(out), seen, block.matrices)

    def _at(self, index: int) -> Block:
        if self._walk is None:
            inputs = self.inputs(self.checkpoint) if self.inputs else None
            self._walk = Walk(open_model(self.checkpoint), self.tokens, self.place, inputs=inputs)
        if self._block is None or self._block.index != index:
            if self._block is not None:
                self._block.unload()
            self._block = self._walk.load(index)
        return self._block


def visits_over(executor: Executor, cores: int) -> Visits:
    """Calibration with the workers of an executor.

    Args:
        cores: of each worker.
    """

    def visits(
        walk: Walk,
        collector: Collector,
        advance: Callable[[int, int], None],
        before_write: Callable[[], None],
    ) -> Iterator[tuple[int, Mapping[str, int]]]:
        for one, is_last in visited(executor, walk, _visit(walk, cores)):
            for seen in one.seen:
                collector.add(seen)
            if not one.start:
                before_write()
            _write(walk, one)
            advance(one.block, len(one.hidden))
            if is_last:
                yield one.block, one.matrices

    return visits


def go_through(
    executor: Executor,
    cores: int,
    walk: Walk,
    inputs: Callable[[Checkpoint], Inputs | None],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Have the sample behind the last block, with nothing observed.

    Args:
        progress: called with how many blocks are done and how many there are.
    """
    job = replace(_visit(walk, cores), is_observed=False, inputs=inputs)
    for one, is_last in visited(executor, walk, job):
        _write(walk, one)
        if is_last and progress:
            progress(one.block + 1, len(walk))


def visited(executor: Executor, walk: Walk, job: Visit) -> Iterator[tuple[Visited, bool]]:
    """Each batch behind each block, in order, and whether it is the block's last. What came out has
    to be written before the next is asked for."""
    walk.check_alone("run by several processes")
    batches = list(walk.batches())
    if walk.begin:
        walk.states.create()
    else:
        walk.embed()

    def ready() -> Iterator[Batch]:
        for index in range(walk.begin, len(walk)):
            for start, stop in batches:
                yield Batch(index, start, _bits(walk.states.read(index, start, stop)))

    for one in executor.map(job, ready(), len(batches)):
        yield one, one.start == batches[-1][0]


def _visit(walk: Walk, cores: int) -> Visit:
    dtype = next(name for name, own in DTYPES.items() if own == walk.dtype)
    place = Place(Path(), walk.device, dtype, cores, walk.batch)
    return Visit(walk.model.checkpoint, walk.tokens, place)


def _write(walk: Walk, one: Visited) -> None:
    walk.states.write(one.block + 1, one.start, _numbers(one.hidden, walk.dtype))


def _bits(values: Any) -> np.ndarray:
    """Of a tensor, for travelling: numpy has no bfloat16."""
    import torch

    kind = BITS[str(values.dtype).removeprefix("torch.")]
    bits: np.ndarray = values.contiguous().cpu().view(getattr(torch, kind.__name__)).numpy()
    return bits


def _numbers(bits: np.ndarray, dtype: str) -> Any:
    import torch

    return torch.from_numpy(bits if bits.flags.writeable else bits.copy()).view(
        getattr(torch, dtype)
    )
