"""The tensors of a smaller model: which rows and columns of which stored ones.

A stored tensor is known by the GGUF tensors that are made of it, whose dimensions have names. Their
masks are taken back through the way by which its rows went there: parts of fused tensors, experts,
matrices that are stored [in, out].
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qconvert.checkpoint import TensorInfo
from qconvert.errors import UnsupportedError
from qconvert.model.open import Model
from qconvert.model.roles import block_number
from qconvert.model.transforms import Chosen
from qconvert.model.types import Rows, TensorMap
from qconvert.plan.pruning.cut import Cut, Mask, Shape, dimensions_of, masks


@dataclass(frozen=True, eq=False)
class Kept:
    """What stays of a stored tensor.

    Attributes:
        rows: bool [rows], its outer dimensions flattened.
        columns: bool [columns].
        block: its number, as it was.
        expert: of a tensor that holds one, its number, as it was.
        gguf: a GGUF tensor that is made of it.
    """

    rows: Mask
    columns: Mask
    block: int
    expert: int | None
    gguf: str


def tensors_of(model: Model, cut: Cut, shape: Shape) -> tuple[TensorMap, ...]:
    """The tensors of the smaller model, in the order of the files, each made of one that is stored.

    Raises:
        UnsupportedError: a tensor is stored in a way that cannot be cut.
    """
    kept: dict[str, Kept] = {}
    for tensor in model.tensors:
        block = block_number(tensor.name)
        if not tensor.parts or (block >= 0 and block not in cut.blocks):
            continue
        for source, one in _kept_by(model, tensor, masks(cut, shape, block)):
            if source in kept:
                one.rows[kept[source].rows] = True
            kept[source] = one
    infos = model.checkpoint.tensors
    return tuple(
        _cut(infos[name], kept[name], cut)
        for name in infos
        if name in kept and kept[name].rows.any()
    )


def _kept_by(model: Model, tensor: TensorMap, of: Mapping[str, Mask]) -> Iterator[tuple[str, Kept]]:
    """What a GGUF tensor keeps of the stored ones that it is made of."""
    words = dimensions_of(model, tensor.name)
    each = [
        of.get(word, np.ones(size, bool)) for word, size in zip(words, tensor.shape, strict=True)
    ]
    if tensor.reshaped and not all(mask.all() for mask in each):
        raise UnsupportedError(f"{tensor.name} is stored in another shape, and cannot be cut")
    if tensor.transpose and len(each) > 1:
        each = [*each[:-2], each[-1], each[-2]]
    *outer, columns = each
    if tensor.order:
        last = columns if not outer else outer[-1]
        restored = _before(last, tensor.order)
        outer, columns = ([*outer[:-1], restored], columns) if outer else (outer, restored)
    rows = np.ones(1, bool)
    for mask in outer:
        rows = np.logical_and.outer(rows, mask).reshape(-1)
    stacked = len(each) > 2 and len(tensor.parts) == len(each[0])
    position = 0
    for number, part in enumerate(tensor.parts):
        info = model.checkpoint.tensors[part.source]
        own = np.zeros(info.rows, bool)
        own[part.start : part.stop : part.stride] = rows[position : position + len(part)]
        position += len(part)
        expert = number if stacked and len(info.shape) < len(each) else None
        yield part.source, Kept(own, columns, block_number(tensor.name), expert, tensor.name)


def _before(mask: Mask, order: tuple[int, ...]) -> Mask:
    """A mask of reordered rows, for the rows as they were."""
    found = np.empty_like(mask).reshape(-1, len(order))
    found[:, np.array(order)] = mask.reshape(-1, len(order))
    return found.reshape(-1)


def _cut(info: TensorInfo, kept: Kept, cut: Cut) -> TensorMap:
    rows, columns = np.flatnonzero(kept.rows), kept.columns
    steps = () if columns.all() else (Chosen(np.flatnonzero(columns)),)
    ends = np.flatnonzero(np.diff(rows) != 1) + 1
    parts = tuple(
        Rows(info.name, int(run[0]), int(run[-1]) + 1, steps=steps) for run in np.split(rows, ends)
    )
    return TensorMap(_renamed(info.name, kept, cut), _shape(info, kept), parts)


def _shape(info: TensorInfo, kept: Kept) -> tuple[int, ...]:
    columns = int(kept.columns.sum())
    if len(info.shape) < 2:
        return (columns,)
    matrices = kept.rows.reshape(-1, info.shape[-2])
    stay = matrices.any(axis=1)
    height = int(matrices[stay][0].sum())
    outer = (int(stay.sum()),) if len(info.shape) > 2 else ()
    return (*outer, height, columns)


def _renamed(name: str, kept: Kept, cut: Cut) -> str:
    """With the numbers that block and expert have now. A block's number is the first in a name."""
    if kept.block >= 0:
        new = cut.blocks.index(kept.block)
        name = name.replace(f".{kept.block}.", f".{new}.", 1)
    if kept.expert is not None and kept.block in cut.experts:
        new = int(cut.experts[kept.block][: kept.expert].sum())
        name = re.sub(rf"(experts\.){kept.expert}\.", rf"\g<1>{new}.", name)
    return name
