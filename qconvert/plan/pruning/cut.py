"""What stays of a model, and which rows and columns of each tensor that is.

Every GGUF tensor's shape is spelled in words ("ffn", "hidden": `qconvert.model.shapes`), so a cut
says once for each word what stays, and every tensor of every family follows from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qconvert.errors import UnsupportedError
from qconvert.model.open import Model
from qconvert.model.shapes import SHAPES, Sizes, sizes_by_block

Mask = np.ndarray
"""bool, true where something stays."""

PARTS = ("layers", "ffn", "heads", "hidden", "experts")
"""What can be cut, as the options are called."""


@dataclass(frozen=True, eq=False)
class Cut:
    """What stays; what is not mentioned stays whole. Blocks go by the numbers that they had.

    Attributes:
        blocks: those that stay, ascending.
        ffn: neurons of the feed-forward, by block.
        groups: heads of keys and values, each with the queries that share it, by block.
        experts: by block.
        hidden: channels of the residual stream.
        norms: what norms are multiplied with as they act, by GGUF name.
    """

    blocks: tuple[int, ...]
    ffn: Mapping[int, Mask] = field(default_factory=dict)
    groups: Mapping[int, Mask] = field(default_factory=dict)
    experts: Mapping[int, Mask] = field(default_factory=dict)
    hidden: Mask | None = None
    norms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, alike in all blocks.

    Attributes:
        kv: heads of keys and values.
        head: elements of a head.
        experts: of each block; 0 in dense models.
    """

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv: int
    head: int
    experts: int


def shape_of(model: Model) -> Shape:
    """Of a model.

    Raises:
        UnsupportedError: blocks differ in their sizes.
    """
    sizes = sizes_of(model)
    first = sizes(0)
    if any(sizes(block) != first for block in range(first["blocks"])):
        raise UnsupportedError(
            f"{model.checkpoint.source}: its blocks differ in their sizes, and are not cut",
            "tune or quantize it as it is",
        )
    head = first["head"]
    return Shape(
        first["blocks"],
        first["hidden"],
        first["expert_ffn"] if first["experts"] else first["ffn"],
        first["query"] // head,
        first["key"] // head,
        head,
        first["experts"],
    )


def sizes_of(model: Model) -> Sizes:
    family = model.family
    return sizes_by_block(family.name, family.metadata(model.settings))


def dimensions_of(model: Model, name: str) -> tuple[str, ...]:
    """The words for a GGUF tensor's shape."""
    bare = name.split(".", 2)[2] if name.startswith("blk.") else name
    return model.family.shapes.get(bare) or SHAPES[bare]


def masks(cut: Cut, shape: Shape, block: int) -> dict[str, Mask]:
    """What stays of each dimension that a cut touches, by the word for it.

    Args:
        block: outside of blocks -1.
    """
    found: dict[str, Mask] = {}
    if cut.hidden is not None:
        found["hidden"] = cut.hidden
    if block in cut.ffn:
        ffn = cut.ffn[block]
        found |= {"ffn": ffn, "expert_ffn": ffn, "gate_up": np.concatenate([ffn, ffn])}
    if block in cut.experts:
        found["experts"] = cut.experts[block]
    if block in cut.groups:
        key = np.repeat(cut.groups[block], shape.head)
        query = query_mask(cut.groups[block], shape)
        found |= {"query": query, "key": key}
        found["query_key_value"] = np.concatenate([query, key, key])
    return found


def query_mask(groups: Mask, shape: Shape) -> Mask:
    """The elements of queries, of the groups that stay."""
    return np.repeat(groups, shape.heads // shape.kv * shape.head)
