"""The types that a budget gave, by block: as a table, and as a small map."""

from typing import TYPE_CHECKING

from qconvert.cli import render

if TYPE_CHECKING:
    from qconvert.plan.types import Plan, TensorPlan


def show_allocation(planned: "Plan") -> None:
    """A row for each block, and a line for each kind of weight with a digit for each block."""
    by_block = _by_block(planned)
    kinds = list(dict.fromkeys(kind for row in by_block.values() for kind in row))
    rows = [
        (block, *(row[kind].format if kind in row else "" for kind in kinds))
        for block, row in by_block.items()
    ]
    render.print_table((">block", *kinds), rows)
    width = max(map(len, kinds), default=0)
    for kind in kinds:
        digits = [f"{_bits(row[kind]):.0f}" if kind in row else "." for row in by_block.values()]
        marks = (digit if len(digit) == 1 else "#" for digit in digits)
        render.show(f"{kind:>{width}}  {''.join(marks)}")
    render.show(f"{'':>{width}}  bits of a weight, block by block; # for ten and more")


def _bits(tensor: "TensorPlan") -> float:
    return 8 * tensor.nbytes / max(tensor.map.elements, 1)


def _by_block(planned: "Plan") -> "dict[int, dict[str, TensorPlan]]":
    """Matrices in blocks, by the block's number and the kind's name, GGUF's."""
    from qconvert.model.roles import block_number
    from qconvert.plan.algorithms import gguf_name

    found: dict[int, dict[str, TensorPlan]] = {}
    for tensor in planned.tensors:
        name = gguf_name(tensor)
        block = block_number(name)
        if block >= 0 and len(tensor.shape) > 1 and name.endswith(".weight"):
            found.setdefault(block, {})[name.split(".")[-2]] = tensor
    return dict(sorted(found.items()))
