"""What goes into the weights of a block, in the model that is being quantized and in the original.

The original's block runs once, and what goes into its weights is kept until the block is done. The
quantized model's block runs as far as an input for each input in turn, since weights in front of it
have changed; what attention gives stays from the pass that computes it first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qconvert.calibration.moments import Moments
from qconvert.forward.block import Block
from qconvert.forward.residual import Writer, outputs_of, streams_at, writers

Group = tuple[str, ...]
"""The GGUF names of weights that share an input."""

TINY = 1e-30


@dataclass(frozen=True)
class Original:
    """A block of the original, as it ran.

    Attributes:
        groups: its inputs, in the order of their products.
        writers: the layers that add to the residual stream, by the name of the weight.
        inputs: by group, of each batch [tokens, columns]; not of experts, of which every model may
            choose others.
        streams: by the name of a writer, what it adds to, of each batch [tokens, hidden].
        weights: by the name of a writer, how much a token counts, of each batch [tokens, 1]: by
            the inverse root mean square of the stream behind the layer. The norm that reads the
            stream divides by that, so that an error counts relative to it; without this the few
            tokens with massive activations (arXiv 2402.17762) would be all that counts.
    """

    groups: tuple[Group, ...]
    writers: Mapping[str, Writer]
    inputs: Mapping[Group, list[Any]]
    streams: Mapping[str, list[Any]]
    weights: Mapping[str, list[Any]]


def run_original(block: Block) -> Original:
    """Run a block to the next one.

    Raises:
        WeightError: NaN or infinity comes out.
    """
    _, hidden = next(iter(block.batches()))
    adding = writers(block, hidden[:1])
    groups: dict[Group, None] = {}
    inputs: dict[Group, list[Any]] = {}
    streams: dict[str, list[Any]] = {name: [] for name in adding}
    weights: dict[str, list[Any]] = {name: [] for name in adding}

    def keep(names: Group, x: Any, matrix: int) -> None:
        groups[names] = None
        if block.linears[names[0]].parameter == "weight":
            inputs.setdefault(names, []).append(x.clone())

    points = {writer.point for writer in adding.values()}
    with streams_at(block, points) as before, outputs_of(block, adding) as outputs:

        def keep_streams(windows: int) -> None:
            for name, writer in adding.items():
                stream = before[writer.point].flatten(0, 1)
                after = stream.float() + writer.factor * outputs[name].flatten(0, 1).float()
                streams[name].append(stream.clone())
                size = after.square().mean(dim=1, keepdim=True)
                weights[name].append((size + TINY).rsqrt().to(stream.dtype))

        block.run(keep, keep_streams)
    return Original(tuple(groups), adding, inputs, streams, weights)


Attended = list[dict[Any, Any]]
"""What attention gave in a block, by batch; see `Block.forward`."""


def observe(
    block: Block, original: Original, group: Group, attended: Attended, shown: int
) -> tuple[Moments, Moments]:
    """What goes into some weights: of the first windows, which algorithms are shown, and of the
    others.

    Args:
        attended: of the passes before; what is computed first is put there.
        shown: how many windows algorithms are shown; no batch has other ones besides.
    """
    both = Moments(), Moments()
    writer = original.writers.get(group[0])
    wanted = original.inputs.get(group)
    out = None
    with streams_at(block, {writer.point} if writer else ()) as streams:
        for batch, (start, hidden) in enumerate(block.batches()):
            seen: list[tuple[Any, int]] = []

            def keep(names: Group, x: Any, matrix: int, seen: Any = seen) -> None:
                if names == group:
                    seen.append((x, matrix))

            out = block.forward(hidden, keep, until=group, attended=attended[batch])
            moments = both[start >= shown]
            for x, matrix in seen:
                off = None if wanted is None else wanted[batch] - x
                if writer is None or off is None:
                    moments.observe(group, x, matrix, off)
                    continue
                behind = original.streams[group[0]][batch] - streams[writer.point].flatten(0, 1)
                weight = original.weights[group[0]][batch]
                moments.observe(group, x * weight, matrix, off * weight, behind * weight)
    if out is not None and group != original.groups[-1]:
        for kept in attended:
            kept.clear()  # it was computed with weights that will change
    return both
