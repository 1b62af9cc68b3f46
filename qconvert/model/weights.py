"""The weights of a model under Hugging Face's names: each with its part in the model, and the GGUF
tensor that it is a part of, by which a calibration calls it.

A directory has the names already; its family's table says which GGUF tensors are made of them. Of
a GGUF file the table is read backwards. Experts that lie in one tensor with three dimensions, as
transformers 5 holds them in memory, become one matrix each, under the names that the hub's
checkpoints and serving engines have for them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.model.families.parts.common import text_config
from qconvert.model.mapping import OUTPUT
from qconvert.model.reverse import Description
from qconvert.model.roles import Role, block_number, can_be_quantized, role_of
from qconvert.model.transforms import columns_of
from qconvert.model.types import Rows, Rule, TensorMap

EXPERTS = "_exps."
"""In the GGUF names of all experts of a layer."""


@dataclass(frozen=True)
class Weight:
    """A tensor under its Hugging Face name.

    Attributes:
        map: where its rows come from, of the shape that Hugging Face stores.
        role: its part in the model, as that of the GGUF tensor.
        dtype: that of what it is made of.
        gguf: the GGUF tensor that it is, or is a part of; empty where GGUF has no place for it.
        matrix: which of that tensor's matrices it is.
        first: the first of its rows there.
        order: of each group of `len(order)` rows, row k is row `order[k]` there.
        add: what GGUF's elements have in addition.
        conv1d: a matrix that is stored [in, out].
        columns: in which order GGUF has its columns; empty for the same.
        scattered: GGUF has its rows in several places, or its columns in another order.
        quantizable: whether it may be quantized: linear layers, token embeddings and the output.
        expert: one of a layer's experts.
    """

    map: TensorMap
    role: Role
    dtype: str
    gguf: str = ""
    matrix: int = 0
    first: int = 0
    order: tuple[int, ...] = ()
    add: float = 0.0
    conv1d: bool = False
    columns: tuple[int, ...] = ()
    scattered: bool = False
    quantizable: bool = False
    expert: bool = False

    @property
    def name(self) -> str:
        return self.map.name

    @property
    def block(self) -> int:
        """The number of its block; -1 outside."""
        return block_number(self.gguf)

    @property
    def matrix_map(self) -> TensorMap:
        """The weight as [out, in]."""
        if not self.conv1d:
            return self.map
        (*outer, inputs, outputs) = self.map.shape
        return replace(self.map, shape=(*outer, outputs, inputs), transpose=not self.map.transpose)


def weights_of_file(checkpoint: Checkpoint, description: Description) -> tuple[Weight, ...]:
    """Those of a GGUF file."""
    return tuple(
        _of_file(checkpoint, description.family.name, map_) for map_ in description.tensors
    )


def _of_file(checkpoint: Checkpoint, architecture: str, map_: TensorMap) -> Weight:
    part = map_.parts[0]
    info = checkpoint.tensors[part.source]
    height = info.shape[-2] if len(info.shape) > 1 else 1
    quantizable = can_be_quantized(part.source, info.shape, architecture)
    return Weight(
        map_,
        role_of(part.source),
        info.dtype,
        part.source,
        matrix=part.start // height if len(info.shape) > 2 else 0,
        first=part.start,
        order=map_.order,
        add=-map_.add,
        conv1d=map_.transpose,
        quantizable=quantizable,
        expert=quantizable and EXPERTS in part.source,
    )


def weights_of_directory(
    checkpoint: Checkpoint,
    description: Description,
    tensors: Sequence[TensorMap],
    tied: bool,
) -> tuple[Weight, ...]:
    """Those of a directory.

    Args:
        tensors: GGUF's.
        tied: the output projection is the token embedding.
    """
    family = description.family
    templates = _templates(family.rules(text_config(family, description.config)))
    uses = _uses(tensors, family.name, templates)
    fused = any(_is_fused(info, uses) for info in checkpoint.tensors.values())
    weights: list[Weight] = []
    for stored in description.tensors:
        info = checkpoint.tensors[stored.parts[0].source]
        if tied and stored.name.endswith(OUTPUT):
            continue
        if _is_fused(info, uses):
            weights += _single_experts(info, uses[info.name], templates)
        else:
            known = templates if fused else {}
            weights.append(_as_stored(stored, info, uses.get(info.name, []), known))
    return tuple(weights)


@dataclass(frozen=True)
class _Use:
    """A GGUF tensor that takes rows of a source: its `number`-th part, from row `position` on."""

    map: TensorMap
    part: Rows
    number: int
    position: int
    quantizable: bool

    @property
    def expert(self) -> bool:
        return self.quantizable and EXPERTS in self.map.name


def _uses(
    tensors: Sequence[TensorMap], architecture: str, templates: Mapping[str, str]
) -> dict[str, list[_Use]]:
    """Experts that no checkpoint has one by one stay as they are."""
    uses: dict[str, list[_Use]] = {}
    for map_ in tensors:
        position = 0
        quantizable = can_be_quantized(map_.name, map_.shape, architecture)
        if EXPERTS in map_.name:
            quantizable = quantizable and "{e}" in _template(map_.name, templates)
        for number, part in enumerate(map_.parts):
            uses.setdefault(part.source, []).append(_Use(map_, part, number, position, quantizable))
            position += len(part)
    return uses


def _is_fused(info: TensorInfo, uses: Mapping[str, list[_Use]]) -> bool:
    """Whether a tensor holds all experts of a layer."""
    return len(info.shape) == 3 and any(use.expert for use in uses.get(info.name, []))


def _as_stored(
    stored: TensorMap, info: TensorInfo, uses: list[_Use], templates: Mapping[str, str]
) -> Weight:
    if not uses or uses[0].map.unused:
        return Weight(stored, Role.OTHER, info.dtype)
    use, gguf = uses[0], uses[0].map
    name = stored.name
    if role_of(gguf.name) is Role.ROUTER:  # beside fused experts it goes by another name
        name = _renamed(gguf.name, name, templates) or name
    height = gguf.shape[-2] if len(gguf.shape) > 2 else 0
    columns = columns_of(gguf.steps)
    return Weight(
        replace(stored, name=name),
        role_of(gguf.name),
        info.dtype,
        gguf.name,
        matrix=use.position // height if height else 0,
        first=use.position,
        order=_inverse(gguf.order),
        add=gguf.add,
        conv1d=gguf.transpose and len(use.part) == info.rows,
        columns=columns,
        scattered=len(uses) > 1 or bool(columns),
        quantizable=use.quantizable,
        expert=use.expert,
    )


def _single_experts(
    info: TensorInfo, uses: list[_Use], templates: Mapping[str, str]
) -> Iterator[Weight]:
    """The matrices of all experts, [out, in], under the names of single ones."""
    experts, height, columns = info.shape
    for use in uses:
        turned = use.map.transpose
        whole = use.part.start == 0 and use.part.stop == info.rows
        name = _renamed(use.map.name, info.name, templates)
        for expert in range(experts) if whole else (use.number,):
            part = Rows(info.name, expert * height, (expert + 1) * height) if whole else use.part
            shape = (columns, len(part)) if turned else (len(part), columns)
            yield Weight(
                TensorMap(name.replace("{e}", str(expert)), shape, (part,), transpose=turned),
                role_of(use.map.name),
                info.dtype,
                use.map.name,
                matrix=expert,
                first=expert * shape[0],
                quantizable=True,
                expert=True,
            )


def _templates(rules: tuple[Rule, ...]) -> dict[str, str]:
    """The first name of a table for each GGUF tensor of the experts and their router."""
    found: dict[str, str] = {}
    for rule in rules:
        found.setdefault(rule.gguf, rule.hf)
    return found


def _renamed(gguf: str, name: str, templates: Mapping[str, str]) -> str:
    """The table's own name of a tensor, under the root that the checkpoint's names have."""
    block, template = str(block_number(gguf)), _template(gguf, templates)
    root, mark, _ = name.partition("layers.")
    if "{i}" not in template or not mark:
        return ""
    return root + mark + template.partition("layers.")[2].replace("{i}", block)


def _template(gguf: str, templates: Mapping[str, str]) -> str:
    return templates.get(gguf.replace(f"blk.{block_number(gguf)}.", "blk.{i}."), "")


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    back = [0] * len(order)
    for to, start in enumerate(order):
        back[start] = to
    return tuple(back)
