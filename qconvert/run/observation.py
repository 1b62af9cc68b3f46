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


@dataclass(frozen=True)
class Original:
    """A block of the original, as it ran.

    Attributes:
        groups: its inputs, in the order of their products.
        writers: the layers that add to the residual stream, by the name of the weight.
        inputs: by group, of each batch [tokens, columns]; not of experts, of which every model may
            choose others.
        streams: by the name of a writer, what it adds to, of each batch [tokens, hidden].
        norms: by the name of a writer, the root mean square of what it makes of that, of each
            batch [tokens, 1].
    """

    groups: tuple[Group, ...]
    writers: Mapping[str, Writer]
    inputs: Mapping[Group, list[Any]]
    streams: Mapping[str, list[Any]]
    norms: Mapping[str, list[Any]]


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
    norms: dict[str, list[Any]] = {name: [] for name in adding}

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
                norms[name].append(after.square().mean(dim=1, keepdim=True).sqrt())

        block.run(keep, keep_streams)
    return Original(tuple(groups), adding, inputs, streams, norms)


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
    name = group[0]
    writer = original.writers.get(name)
    out = None
    with streams_at(block, {writer.point} if writer else ()) as own:
        for batch, (start, hidden) in enumerate(block.batches()):
            wanted = original.inputs[group][batch] if group in original.inputs else None
            beside = None
            if writer:
                beside = (original.streams[name][batch], original.norms[name][batch])
            weights = None
            if WEIGHTS is not None:
                key = {"attn_q": "qkv", "attn_output": "o", "ffn_gate": "gu", "ffn_down": "d"}[
                    name.split(".")[2]
                ]
                weights = WEIGHTS[key][block.index][start : start + len(hidden)].flatten()[:, None]
                beside = (beside[0], 1 / weights) if beside else (None, 1 / weights)

            def see(
                names: Group,
                x: Any,
                matrix: int,
                start: int = start,
                wanted: Any = wanted,
                beside: Any = beside,
            ) -> None:
                if names == group:
                    stream = own[writer.point].flatten(0, 1) if writer else None
                    _add(both[start >= shown], names, x, matrix, wanted, stream, beside)

            out = block.forward(hidden, see, until=group, attended=attended[batch])
    if out is not None and group != original.groups[-1]:
        for kept in attended:
            kept.clear()  # it was computed with weights that will change
    return both


def _add(
    moments: Moments, group: Group, x: Any, matrix: int, wanted: Any, stream: Any, beside: Any
) -> None:
    """Add tokens of one input, beside what the original has in its place."""
    off = wanted - x if wanted is not None else None
    if beside is None or off is None:
        moments.observe(group, x, matrix, off)
        return
    ahead, norm = beside
    per_norm = (1 / (norm + 1e-30)).to(x.dtype) if TOKENS else 1.0
    behind = (ahead - stream) * per_norm if ahead is not None else None
    moments.observe(group, x * per_norm, matrix, off * per_norm, behind)


TOKENS = True
WEIGHTS = None
