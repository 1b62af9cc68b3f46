"""What goes into the weights of a block, in the model that is being quantized and in the original.

Both blocks are computed once, side by side: the batches of both wait in front of the same product
(`qconvert.forward.passage`) until its weights have been made.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from qconvert.calibration.moments import Moments
from qconvert.forward.block import Block
from qconvert.forward.linears import rows_of
from qconvert.forward.passage import Group, Passage, passing
from qconvert.forward.residual import Writer, writers
from qconvert.forward.walk import Walk

STREAM = 0.75
"""How much of the stream's own error a layer that writes into it is asked to make up for: the best
share for tokens that were not shown is .75 on the median, of what its input lacks nearly all."""

TINY = 1e-30


@dataclass(frozen=True)
class Pair:
    """A block on its way, and the original's beside it.

    Attributes:
        groups: its inputs, in the order of their products.
        writers: the layers that add to the residual stream, by the name of the weight.
        outputs: of the same layers of the original.
    """

    block: Block
    beside: Block
    own: Passage
    other: Passage
    groups: tuple[Group, ...]
    writers: Mapping[str, Writer]
    outputs: "Mapping[str, Early]"


class Early:
    """A layer whose output is asked for before its block comes to it, and then not made again.

    Args:
        module: transformers'; its `forward` becomes this one's until its block is unloaded.
    """

    def __init__(self, module: Any) -> None:
        self._forward = module.forward
        self._made: dict[int, tuple[Any, Any]] = {}
        module.forward = self._again

    def early(self, x: Any) -> Any:
        """The output of an input that waits."""
        if id(x) not in self._made:  # with x, whose number nobody else has meanwhile
            self._made[id(x)] = x, self._forward(x)
        return self._made[id(x)][1]

    def _again(self, x: Any) -> Any:
        _, made = self._made.pop(id(x), (None, None))
        return self._forward(x) if made is None else made


@contextmanager
def side_by_side(blocks: Sequence[Block], beside: Block) -> Iterator[list[Pair]]:
    """Blocks of models that are being quantized, each with the original's, whose batches wait where
    they are asked to."""
    _, hidden = next(iter(beside.batches()))
    adding = writers(beside, hidden[:1])
    groups: dict[Group, None] = {}
    beside.forward(hidden[:1], lambda names, x, matrix: groups.setdefault(names), start=0)
    points = {writer.point for writer in adding.values()} - {""}
    with ExitStack() as stack:
        other = stack.enter_context(passing(beside, points, len(blocks)))
        outputs = {name: Early(beside.linears[name].module) for name in adding}
        yield [
            Pair(block, beside, own, other, tuple(groups), adding, outputs)
            for block in blocks
            for own in [stack.enter_context(passing(block, points, len(blocks)))]
        ]


def observe(
    pair: Pair, group: Group, shown: int, unseen: list[Any] | None = None
) -> tuple[Moments, Moments]:
    """What goes into some weights: of the first windows, which algorithms are shown, and of the
    others.

    The inputs of experts are not compared with the original's, of which every model may choose
    others.

    Args:
        shown: how many windows algorithms are shown; no batch has other ones besides.
        unseen: where inputs of the other windows go, [tokens, columns] of each batch.
    """
    both = Moments(), Moments()
    writer = pair.writers.get(group[0])
    batches = zip(pair.block.batches(), pair.beside.batches(), strict=True)
    for batch, ((start, hidden), (_, original)) in enumerate(batches):
        own = pair.own.to(batch, hidden, group)
        moments = both[start >= shown]
        if pair.block.linears[group[0]].parameter != "weight":
            for x, matrix in own.inputs:
                moments.observe(group, x, matrix)
            continue
        ((x, _),) = own.inputs
        beside = pair.other.to(batch, original, group)
        ((y, _),) = beside.inputs
        if unseen is not None and start >= shown:
            unseen.append(x)
        if writer is None:
            moments.observe(group, x, 0, off=y - x)
            continue
        stream = pair.other.stream(batch, writer.point)
        behind = stream - pair.own.stream(batch, writer.point)
        behind = STREAM / writer.factor * behind + _product(pair.beside, group[0], y - x)
        output = pair.outputs[group[0]].early(beside.held[0][0])
        pair.other.hold(batch, output)
        after = stream + writer.factor * output.flatten(0, -2).float()
        weight = _weights(after).to(x.dtype)
        moments.observe(group, x * weight, 0, behind=behind * weight)
    return both


def observe_output(walk: Walk, shown: int) -> tuple[Moments, Moments]:
    """What goes into the output projection behind the last block of the model as it becomes.

    It is not compared with the original's, for logits are no stream: a projection that makes up for
    what its input lacks has nearer logits in the mean of squares, and predictions that are further
    off.
    """
    both = Moments(), Moments()
    for (start, _), hidden in zip(walk.batches(), walk.last_hidden(), strict=True):
        both[start >= shown].observe((walk.output_name,), hidden.flatten(0, -2), 0)
    return both


def _product(block: Block, name: str, x: Any) -> Any:
    """What a weight makes of an input, without a bias: [tokens, rows]."""
    import torch

    line = block.linears[name]
    return torch.nn.functional.linear(x, rows_of(line, getattr(line.module, line.parameter)))


def _weights(after: Any) -> Any:
    """How much each token counts, [tokens, 1]: by the inverse root mean square of the original's
    stream behind the layer, which is given. The norm that reads the stream divides by that, so that
    an error counts relative to it; without this the few tokens with massive activations (arXiv
    2402.17762) would be all that counts."""
    return (after.square().mean(dim=1, keepdim=True) + TINY).rsqrt()
