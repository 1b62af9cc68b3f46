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
activations stay in memory while it waits. Everything happens in one thread.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qconvert.forward.block import Block

Group = tuple[str, ...]
"""The GGUF names of weights that share an input."""


@dataclass
class Stop:
    """What a batch waits in front of.

    Attributes:
        names: of weights; the first of those that share the input, of experts all.
        inputs: [tokens, columns] and the number of the matrix; of each expert that has any.
    """

    names: Group
    inputs: list[tuple[Any, int]]


@dataclass
class _Run:
    """A batch under way."""

    routine: Any
    stop: Stop | None = None
    last: Any = None
    streams: dict[str, Any] = field(default_factory=dict)
    out: Any = None


class Passage:
    """The batches of a block.

    Args:
        block: that runs for nobody else meanwhile. Leave with `close`.
        points: modules of the block, by name, whose inputs are kept; "" for the block itself.
    """

    def __init__(self, block: "Block", points: Collection[str] = ()) -> None:
        self.block = block
        self._runs: dict[int, _Run] = {}
        self._now: _Run | None = None
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
        while run.stop is None or run.stop.names[0] != group[0]:
            if run.routine.dead:
                raise ValueError(f"{group} are not in front of batch {batch}")
            self._go_on(run)
        return run.stop

    def stream(self, batch: int, point: str) -> Any:
        """What has gone into a point, [tokens, hidden]."""
        return self._runs[batch].streams[point].flatten(0, 1)

    def finish(self, batch: int, hidden: Any) -> Any:
        """What comes out for a batch, which is forgotten."""
        run = self._runs.get(batch) or self._begin(batch, hidden)
        while not run.routine.dead:
            self._go_on(run)
        del self._runs[batch]
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
        run.stop = Stop(names, [(x.reshape(-1, x.shape[-1]), matrix) for x, matrix in inputs])
        self._wait()

    def close(self) -> None:
        """Forget all batches."""
        for hook in self._hooks:
            hook.remove()
        self.block.passage = None
        for run in self._runs.values():
            if run.routine:
                run.routine.throw()
        self._runs.clear()

    def _begin(self, batch: int, hidden: Any) -> _Run:
        from greenlet import greenlet

        def through() -> None:
            run.out = self.block.forward(hidden)

        run = _Run(greenlet(through))
        run.streams[""] = hidden
        self._runs[batch] = run
        return run

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

        return keep


@contextmanager
def passing(block: "Block", points: Collection[str] = ()) -> Iterator[Passage]:
    """A passage that is closed behind its use."""
    import torch

    passage = Passage(block, points)
    try:
        with torch.no_grad():
            yield passage
    finally:
        passage.close()
