"""What a cut costs, measured: the divergence from the original's predictions.

A cut is tried on the model as it is. A block that is left out is passed by, and columns that are
left out of a weight are zeros, which gives the same as a smaller model would. Many trials go
through the model together, one block in memory at a time; each begins where it first differs from
the base, which is what is left out already.

What goes into each block of the base stays on the disk. Trials with the same base do not run it
again, and another base is run from where it differs from the one before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from qconvert.forward.block import Block
from qconvert.forward.head import Head
from qconvert.forward.linears import rows_of
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import Model
from qconvert.model.roles import block_number

LOGITS = 1 << 25
"""Numbers that are compared at a time."""

LARGEST = 700.0
"""The largest loss whose perplexity is a number."""

TOGETHER = 1 << 31
"""Bytes of hidden states of trials that go through the model at once."""


class Cost(NamedTuple):
    """What a cut costs on some tokens.

    Attributes:
        divergence: KL of the predicted distributions from the original's, in nats, the mean.
        perplexity: of the tokens that come next.
    """

    divergence: float
    perplexity: float


@dataclass(frozen=True, eq=False)
class Trial:
    """Something left out.

    Attributes:
        gone: blocks.
        columns: bool [columns], those that stay, by the GGUF names of weights in blocks.
    """

    gone: frozenset[int] = frozenset()
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def of_block(self, index: int) -> dict[str, np.ndarray]:
        return {n: mask for n, mask in self.columns.items() if block_number(n) == index}

    def without(self, block: int) -> "Trial":
        return replace(self, gone=self.gone | {block})

    def differs(self, other: "Trial", index: int) -> bool:
        """Whether the two leave out different things of a block."""
        own, its = self.of_block(index), other.of_block(index)
        is_same = own.keys() == its.keys() and all((own[n] == its[n]).all() for n in own)
        return not is_same or (index in self.gone) != (index in other.gone)


NOTHING = Trial()


class Judge:
    """A model's predictions on some windows, which trials are compared with.

    Args:
        tokens: int [windows, window].
        place: for the hidden states, and where to compute.
        advance: called with the tokens that have gone through a block.
    """

    def __init__(
        self,
        model: Model,
        tokens: np.ndarray,
        place: Place,
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> None:
        self.model, self.tokens, self.place, self.advance = model, tokens, place, advance
        # Others have their states in the same folder.
        name = f"judged-{sha256(tokens.tobytes()).hexdigest()[:12]}"
        walk = self._walk = Walk(model, tokens, replace(place, states=name, kept=True))
        walk.check_alone("pruned")
        self.batches = list(walk.batches())
        self.layers = len(walk)
        self.head = Head(walk.source, walk.device, walk.dtype)
        walk.embed()
        for index in range(self.layers):
            block = walk.load(index)
            block.run()
            block.unload()
            advance(tokens.size)
        self._base, self._ready = NOTHING, self.layers
        self.reference = list(walk.last_hidden())
        self.nbytes = walk.states.nbytes

    @property
    def own(self) -> Cost:
        """The original's: no divergence, and its perplexity."""
        return self.compare([self.reference], self.head)[0]

    def costs(self, trials: Sequence[Trial], base: Trial = NOTHING) -> list[Cost]:
        """What each trial costs.

        Args:
            base: what all of them leave out.
        """
        most = max(TOGETHER // self.nbytes, 1)
        return [
            cost
            for start in range(0, len(trials), most)
            for cost in self._together(trials[start : start + most], base)
        ]

    def compare(self, several: Sequence[Sequence[Any]], head: Head) -> list[Cost]:
        """Of other hidden states behind the last norm, each by batch, and the projection behind
        them."""
        import torch

        step = max(LOGITS // self.head.rows, 1)
        sums = np.zeros((len(several), 2))
        for batch, (start, stop) in enumerate(self.batches):
            base = self.reference[batch][:, :-1].flatten(0, 1)
            its = [one[batch][:, :-1].flatten(0, 1) for one in several]
            next_ = torch.from_numpy(self.tokens[start:stop, 1:].astype(np.int64)).reshape(-1, 1)
            for first in range(0, len(base), step):
                rows = slice(first, first + step)
                p = _log_probabilities(self.head, base[rows])
                wanted, weights = next_[rows].to(p.device), p.exp()
                for number, one in enumerate(its):
                    q = _log_probabilities(head, one[rows])
                    divergence = torch.sum((p - q).mul_(weights), dtype=torch.float64)
                    sums[number] += float(divergence), -float(q.gather(1, wanted).double().sum())
        return [
            Cost(max(float(kl), 0.0), float(np.exp(min(loss, LARGEST))))
            for kl, loss in sums / self.tokens[:, 1:].size
        ]

    def _together(self, trials: Sequence[Trial], base: Trial) -> list[Cost]:
        """The base goes through the model, where its states are not there yet, and trials beside
        it from where they leave it."""
        walk, streams = self._walk, [list[Any]() for _ in trials]
        self._begin(base)
        for index in range(self.layers):
            own = [n for n, t in enumerate(trials) if streams[n] or t.differs(base, index)]
            if not own and index < self._ready:
                continue
            block = walk.load(index)
            hidden = [one for _, one in block.batches()]
            for number in own:
                streams[number] = self._through(block, streams[number] or hidden, trials[number])
            if index == self._ready:
                outs = self._through(block, hidden, base)
                for (start, _), one in zip(self.batches, outs, strict=True):
                    walk.states.write(index + 1, start, one)
                self._ready = index + 1
            block.unload()
        return self.compare([self._behind(walk, stream) for stream in streams], self.head)

    def _begin(self, base: Trial) -> None:
        """Count the blocks whose outputs are those of this base."""
        if base is self._base:
            return
        differing = (i for i in range(self.layers) if base.differs(self._base, i))
        self._base, self._ready = base, min(self._ready, next(differing, self.layers))

    def _behind(self, walk: Walk, stream: list[Any]) -> list[Any]:
        """Behind the last norm; the base's where a trial never left it."""
        if not stream:
            return list(walk.last_hidden())
        starts = [start for start, _ in self.batches]
        return [walk.behind(one, start) for one, start in zip(stream, starts, strict=True)]

    def _through(self, block: Block, hidden: list[Any], trial: Trial) -> list[Any]:
        if block.index in trial.gone:
            return [one.clone() for one in hidden]
        with without_columns(block, trial.of_block(block.index)):
            out = [block.forward(one) for one in hidden]
        self.advance(self.tokens.size)
        return out


def _log_probabilities(head: Head, hidden: Any) -> Any:
    import torch

    with torch.no_grad():
        return torch.log_softmax(head.logits(hidden).float(), -1)


@contextmanager
def without_columns(block: Block, columns: Mapping[str, np.ndarray]) -> Iterator[None]:
    """A block whose weights have zeros in the columns that do not stay."""
    import torch

    kept = {}
    for name, mask in columns.items():
        line = block.linears[name]
        own = rows_of(line, getattr(line.module, line.parameter))
        kept[name] = own.clone()
        block.install(name, own * torch.from_numpy(mask).to(own))
    try:
        yield
    finally:
        for name, own in kept.items():
            block.install(name, own)
