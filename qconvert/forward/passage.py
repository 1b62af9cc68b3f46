"""Batches on their way through a block, each of which waits in front of a product until it is told
to go on.

    passage = Passage(block, points)
    for group in groups:                    # the names of weights that share an input
        for batch in ...:
            passage.to(batch, group)        # runs as far as there; gives the input
        ...                                 # weights may be installed: what follows sees them
    for batch in ...:
        passage.finish(batch)               # what comes out of the block

So a block is computed once, though each weight is made of what goes into it when those in front
have been made already. transformers' own code runs in a coroutine for each batch (greenlet), whose
activations stay in memory while it waits, or on the disk where they are many. Everything happens in
one thread.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import ref

from qconvert.containers.room import WAITING, waiting_bytes
from qconvert.forward.device import free_memory
from qconvert.forward.linears import Linear, rows_of
from qconvert.forward.parking import Parked, park, unpark

if TYPE_CHECKING:
    from qconvert.forward.block import Block

SHARE = 0.3
"""Of a GPU's free memory, for batches that wait there."""

Group = tuple[str, ...]
"""The GGUF names of weights that share an input."""


@dataclass
class Stop:
    """What a batch waits in front of.

    Attributes:
        names: of weights; the first of those that share the input, of experts all.
        held: the input as the model has it, and the number of the matrix; of each expert that has
            any.
        line: the first of the weights.
    """

    names: Group
    held: list[tuple[Any, int]]
    line: Linear

    @property
    def inputs(self) -> list[tuple[Any, int]]:
        """The same as [tokens, columns]."""
        return [(self.line.arranged(x), matrix) for x, matrix in self.held]


@dataclass
class _Run:
    """A batch under way.

    Attributes:
        seen: tensors that may still be there, as weak references.
        parked: what of them is on the disk.
    """

    number: int
    routine: Any
    stop: Stop | None = None
    last: Any = None
    streams: dict[str, Any] = field(default_factory=dict)
    out: Any = None
    seen: list[Any] = field(default_factory=list)
    parked: Parked | None = None


class Passage:
    """The batches of a block.

    Args:
        block: that runs for nobody else meanwhile. Leave with `close`.
        points: modules of the block, by name, whose inputs are kept; "" for the block itself.
        beside: how many others of its kind there are.
    """

    def __init__(self, block: "Block", points: Collection[str] = (), beside: int = 0) -> None:
        self.block = block
        self._runs: dict[int, _Run] = {}
        self._starts = [start for start, _ in block.walk.batches()]
        self._now: _Run | None = None
        self._awake: _Run | None = None
        self.parks = (1 + beside) * _bytes_waiting(block) > _room(block.walk.device)
        block.passage = self
        self._hooks = [
            block.module.get_submodule(point).register_forward_pre_hook(self._keep(point))
            for point in points
        ]

    def to(self, batch: int, hidden: Any, group: Group) -> Stop:
        """Have a batch go on until it is in front of the weights of a group.

        Args:
            hidden: what goes into the block, [windows, window, hidden].

        Raises:
            ValueError: it does not come there.
        """
        run = self._runs.get(batch) or self._begin(batch, hidden)
        self._wake(run)
        while run.stop is None or run.stop.names[0] != group[0]:
            if run.routine.dead:
                raise ValueError(f"{group} are not in front of batch {batch}")
            self._go_on(run)
        return run.stop

    def stream(self, batch: int, point: str) -> Any:
        """What has gone into a point, [tokens, hidden]."""
        return self._runs[batch].streams[point].flatten(0, 1)

    def hold(self, batch: int, tensor: Any) -> None:
        """Have a tensor wait with a batch, which somebody else has."""
        self._runs[batch].seen.append(ref(tensor))

    def finish(self, batch: int, hidden: Any) -> Any:
        """What comes out for a batch, which is forgotten."""
        run = self._runs.get(batch) or self._begin(batch, hidden)
        self._wake(run)
        while not run.routine.dead:
            self._go_on(run)
        del self._runs[batch]
        self._path(run).unlink(missing_ok=True)
        return run.out

    def arrive(self, names: Group, x: Any) -> None:
        """Called in front of a product: the batch waits, unless it has done so with this input."""
        run = self._now
        assert run is not None
        if run.last is not x:
            self.arrive_with(names, [(x, 0)])
            run.last = x

    def arrive_with(self, names: Group, inputs: list[tuple[Any, int]]) -> None:
        """Called in front of products of several matrices."""
        run = self._now
        assert run is not None
        run.stop = Stop(names, inputs, self.block.linears[names[0]])
        run.last = None  # an input that comes again behind another one is waited for again
        run.seen.extend(ref(x) for x, _ in inputs)
        self._wait()

    def close(self) -> None:
        """Forget all batches."""
        for hook in self._hooks:
            hook.remove()
        self.block.passage = None
        for run in self._runs.values():
            if run.routine:
                run.routine.throw()
            self._path(run).unlink(missing_ok=True)
        self._runs.clear()

    def _begin(self, batch: int, hidden: Any) -> _Run:
        from greenlet import greenlet

        def through() -> None:
            run.out = self.block.forward(hidden, start=self._starts[batch])

        run = _Run(batch, greenlet(through))
        run.streams[""] = hidden
        self._runs[batch] = run
        return run

    def _wake(self, run: _Run) -> None:
        """Have what a batch needs in memory, and what the last one needs on the disk."""
        if not self.parks or self._awake is run:
            return
        before = self._awake
        if before is not None and before.number in self._runs:
            alive = {id(t): t for t in (seen() for seen in before.seen) if t is not None}
            before.seen = [ref(tensor) for tensor in alive.values()]
            before.parked = park(self._path(before), alive.values())
        if run.parked is not None:
            unpark(run.parked)
            run.parked = None
        self._awake = run

    def _path(self, run: _Run) -> Path:
        states = self.block.walk.states
        return states.folder / f"{states.name}-waiting-{run.number}"

    def _go_on(self, run: _Run) -> None:
        self._now = run
        run.routine.switch()
        self._now = None

    def _wait(self) -> None:
        from greenlet import getcurrent

        getcurrent().parent.switch()

    def _keep(self, point: str) -> Any:
        def keep(module: Any, args: Any) -> None:
            if self._now is not None:
                self._now.streams[point] = args[0]
                self._now.seen.append(ref(args[0]))

        return keep


def _room(device: str) -> int:
    """Bytes that may wait where the block is computed."""
    return max(WAITING, int(SHARE * free_memory(device))) if device == "cuda" else WAITING


def _bytes_waiting(block: "Block") -> int:
    """By all batches."""
    states = block.walk.states
    windows, window, width = states.shape
    lines = block.linears.values()
    widest = max(rows_of(line, getattr(line.module, line.parameter)).shape[-1] for line in lines)
    return waiting_bytes(windows * window, width, widest, states.itemsize)


@contextmanager
def passing(block: "Block", points: Collection[str] = (), beside: int = 0) -> Iterator[Passage]:
    """A passage that is closed behind its use. Arguments are those of `Passage`."""
    import torch

    passage = Passage(block, points, beside)
    # Around closing too: a batch that is given up leaves its own settings of gradients behind,
    # which are those that it found.
    with torch.no_grad():
        try:
            yield passage
        finally:
            passage.close()
