"""Which layers of a block write into the residual stream, and what the stream is before they do.

Nobody is asked what the family's code looks like: the block is run, and a layer writes where the
stream behind a point of the block is what it was at the point before, plus a multiple of the
layer's output. Points are what goes into the block and into its norms, and what comes out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qconvert.forward.block import Block

ALIKE = 0.98
"""The cosine from which on a layer's output counts as the difference of two points."""


@dataclass(frozen=True)
class Writer:
    """A layer that writes into the stream: stream + factor * output.

    Attributes:
        point: a module of the block, by name, whose input is the stream that it adds to; empty for
            the block itself.
    """

    point: str
    factor: float


def writers(block: Block, hidden: Any) -> dict[str, Writer]:
    """The layers of a block that write, by the GGUF names of their weights.

    Args:
        hidden: what goes into the block, [windows, window, hidden], from the first window on.
    """
    modules = {
        line.names: line.module
        for line in block.linears.values()
        if len(line.names) == 1 and line.parameter == "weight"
    }
    points = {
        name: module
        for name, module in block.module.named_modules()
        if name and all(p.dim() == 1 for p in module.parameters()) and list(module.parameters())
    }
    with _seen_by(points, inputs=True) as streams, _seen_by(modules, inputs=False) as outputs:
        out = block.forward(hidden, start=0)
    found = {}
    stream, point = hidden, ""
    for name, after in [*streams.items(), ("", out)]:
        if after.shape != stream.shape or (after == stream).all():
            continue
        for names, output in outputs.items():
            factor = _factor(after - stream, output)
            if factor:
                found[names[0]] = Writer(point, factor)
        stream, point = after, name
    return found


def _factor(difference: Any, output: Any) -> float:
    """By what an output was multiplied to make the difference; 0 where it did not make it."""
    if getattr(output, "shape", None) != difference.shape:
        return 0.0
    output, difference = output.float(), difference.float()
    product = (output * difference).sum(dim=-1).flatten()
    own, other = ((each * each).sum(dim=-1).flatten() for each in (output, difference))
    cosine = product / (own * other).clamp(min=1e-30).sqrt()
    return float((product / own).median()) if float(cosine.median()) > ALIKE else 0.0


@contextmanager
def _seen_by(modules: Any, *, inputs: bool) -> Iterator[dict[Any, Any]]:
    """By the keys of `modules`, the first argument of each, or what it gave, when it ran last."""
    seen: dict[Any, Any] = {}

    def keep(key: Any) -> Any:
        if inputs:
            return lambda _, args: seen.__setitem__(key, args[0])
        return lambda _, args, out: seen.__setitem__(key, out)

    hooks = [
        module.register_forward_pre_hook(keep(key))
        if inputs
        else module.register_forward_hook(keep(key))
        for key, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
