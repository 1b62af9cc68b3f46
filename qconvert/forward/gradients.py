"""What the model foretells, derived by what its layers give: block by block, from the last to the
first.

    walk through        what goes into each block stays on the disk
    at the head         of each token one that might follow is drawn from what the model foretells
    walk back           each block is computed again, with what is needed to derive it

The derived loss is that of the drawn tokens, -log p, summed over the tokens. Over many draws the
mean square of its gradient g is the diagonal of Fisher's information: where what a layer gives
changes by a little d, what the model foretells diverges by half of E (g d)^2.

Memory holds one block, its activations and their gradients for a batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from qconvert.forward.block import Block
from qconvert.forward.head import Head
from qconvert.forward.walk import Walk

LOGITS = 1 << 24
"""Logits that are derived at a time."""


@dataclass(frozen=True)
class Product:
    """A product of a batch.

    Attributes:
        names: of the weights that share the input, GGUF's.
        matrix: the expert; else 0.
        start: the first window of the batch.
        x: the input, [tokens, columns].
        slopes: by weight, what the loss is derived by its output: [tokens, rows].
    """

    names: tuple[str, ...]
    matrix: int
    start: int
    x: Any
    slopes: dict[str, Any]


Visit = Callable[[Product], None]


def walk_through(walk: Walk, advance: Callable[[int], None]) -> None:
    """Have the hidden states of all blocks on the disk.

    Args:
        walk: at a place that keeps them.
        advance: called with the windows of each batch.

    Raises:
        UnsupportedError: blocks pass more to each other than hidden states.
    """
    walk.check_alone("derived")
    for block in walk:
        block.run(advance=advance)
        walk.states.sync(block.index + 1)


def derive_at_head(walk: Walk, visit: Visit, seed: int = 0) -> None:
    """Show the product of the output projection, and keep what the loss is derived by the output of
    the last block.

    Args:
        seed: of the draw.

    Raises:
        UnsupportedError: the model has no output projection, because it is an encoder.
    """
    import torch

    head = Head(walk.source, walk.device, walk.dtype)
    slopes = _slopes(walk)
    slopes.create()
    draw = torch.Generator(device=walk.device).manual_seed(seed)
    for start, stop in walk.batches():
        hidden = walk.states.read(len(walk), start, stop).to(walk.device).requires_grad_()
        with torch.enable_grad():
            last = walk.behind(hidden, start, gradients=True)
        flat = last.detach().flatten(0, 1)
        back = torch.empty_like(flat)
        step = max(LOGITS // head.rows, 1)
        for first in range(0, len(flat), step):
            x, by_x, by_logits = _derive_logits(head, flat[first : first + step], draw)
            visit(Product((walk.output_name,), 0, start, x, {walk.output_name: by_logits}))
            back[first : first + step] = by_x
        slopes.write(len(walk), start, torch.autograd.grad(last, hidden, back.view_as(last))[0])
    slopes.sync(len(walk))


def walk_back(walk: Walk, begin: int, visit: Visit) -> Iterator[Block]:
    """The blocks from `begin` to the first, each when its products have been shown."""
    slopes = _slopes(walk)
    for index in range(begin, -1, -1):
        block = walk.load(index)
        for start, hidden in block.batches():
            behind = slopes.read(index + 1, start, start + len(hidden)).to(walk.device)
            slopes.write(index, start, _derive_block(block, start, hidden, behind, visit))
        slopes.sync(index)
        yield block
        block.unload()


def slopes_of_embedding(walk: Walk) -> Iterator[Any]:
    """What the loss is derived by what goes into the first block, of each batch
    [windows, window, hidden]."""
    slopes = _slopes(walk)
    return (slopes.read(0, start, stop) for start, stop in walk.batches())


def embedding_factor(walk: Walk) -> float:
    """What the model multiplies a token's embedding with, by least squares over the sample."""
    table = walk.skeleton.model.get_input_embeddings().weight.float()
    own, product = 0.0, 0.0
    for start, stop in walk.batches():
        rows = table[walk.numbers(start, stop)]
        own += float(rows.square().sum())
        product += float((rows * walk.states.read(0, start, stop).to(rows)).sum())
    return product / own


def _slopes(walk: Walk) -> Any:
    return replace(walk.states, name=f"{walk.states.name}-slopes", files=2)


def _derive_logits(head: Head, x: Any, draw: Any) -> tuple[Any, Any, Any]:
    """The input of the projection, and what the loss of drawn tokens is derived by it and by the
    projection's output."""
    import torch

    x = x.clone().requires_grad_()
    kept: list[Any] = []
    hook = head.module.register_forward_hook(lambda module, args, out: kept.append(out))
    with torch.enable_grad():
        logits = head.logits(x)
    hook.remove()
    back = torch.softmax(logits.detach().float(), dim=-1)
    drawn = torch.multinomial(back, 1, generator=draw)
    back.scatter_add_(1, drawn, torch.full_like(drawn, -1, dtype=back.dtype))
    by_x, by_output = torch.autograd.grad(logits, (x, kept[0]), back.to(logits.dtype))
    return x.detach(), by_x, by_output.reshape(len(x), -1)


def _derive_block(block: Block, start: int, hidden: Any, behind: Any, visit: Visit) -> Any:
    """Show the products of a batch; gives what the loss is derived by the block's input."""
    import torch

    inputs: list[tuple[tuple[str, ...], int, Any]] = []
    outputs: dict[tuple[str, int], Any] = {}

    def observe(names: tuple[str, ...], x: Any, matrix: int) -> None:
        inputs.append((names, matrix, x.detach()))

    def give(names: tuple[str, ...], out: Any, matrix: int) -> None:
        outputs[names[0], matrix] = out[0] if isinstance(out, tuple) else out  # routers give more

    hidden = hidden.clone().requires_grad_()
    out = block.forward(hidden, observe, gradients=True, give=give)
    by = torch.autograd.grad(out, (hidden, *outputs.values()), behind, allow_unused=True)
    slopes = dict(zip(outputs, by[1:], strict=True))
    for names, matrix, x in inputs:
        found = {name: _rows_of(block, name, matrix, slopes) for name in names}
        visit(Product(names, matrix, start, x, {k: v for k, v in found.items() if v is not None}))
    return by[0]


def _rows_of(block: Block, name: str, matrix: int, slopes: dict[tuple[str, int], Any]) -> Any:
    """A weight's own among those of its module's output; None where the output was of no use."""
    line = block.linears[name]
    whole = slopes.get((line.names[0], matrix))
    if whole is None:
        return None
    whole = whole.reshape(-1, whole.shape[-1])
    return whole if line.rows is None else whole[:, line.rows]
