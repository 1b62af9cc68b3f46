"""A checkpoint under Hugging Face's names: each weight, its part in the model, and what a
calibration calls it.

A directory has the names already; its family's table says which tensors are linear weights. Of a
GGUF file the table is read backwards. Experts that lie in one tensor with three dimensions, as
transformers 5 holds them in memory, become one matrix each, under the names that the hub's
checkpoints and serving engines have for them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.model.families import find_architecture, map_tensors
from qconvert.model.families.common import text_config
from qconvert.model.mapping import CAUSAL, OUTPUT
from qconvert.model.reverse import describe
from qconvert.model.types import Architecture, Rows, Rule, TensorMap

Role = Literal["linear", "expert", "router", "embedding", "output", "other"]

LINEAR = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_shexp)?)\.weight")
EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_exps\.weight")
ROUTER = re.compile(r"blk\.\d+\.ffn_gate_inp\.weight")
BLOCK = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Weight:
    """A tensor under its Hugging Face name.

    Attributes:
        map: where its rows come from, of the shape that Hugging Face stores.
        role: its part in the model.
        dtype: that of what it is made of.
        gguf: the GGUF tensor that it is, or is a part of; empty where GGUF has no place for it.
        matrix: which of that tensor's matrices it is.
        first: the first of its rows there.
        order: of each group of `len(order)` rows, row k is row `order[k]` there.
        add: what GGUF's elements have in addition.
        conv1d: a matrix that is stored [in, out].
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

    @property
    def name(self) -> str:
        return self.map.name

    @property
    def block(self) -> int:
        """The number of its block; -1 outside."""
        match = BLOCK.match(self.gguf)
        return int(match[1]) if match else -1

    @property
    def matrix_map(self) -> TensorMap:
        """The weight as [out, in]."""
        if not self.conv1d:
            return self.map
        shape = self.map.shape[::-1]
        return TensorMap(self.name, shape, self.map.parts, transpose=not self.map.transpose)


@dataclass(frozen=True)
class Source:
    """A model in Hugging Face's terms.

    Attributes:
        architecture: its family.
        config: `config.json`.
        weights: in the order of the files.
        shapes: of the GGUF tensors that they make, by name, row-major.
        tied: the output projection is the token embedding.
        notices: what is lost on the way.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    config: Mapping[str, Any]
    weights: tuple[Weight, ...]
    shapes: Mapping[str, tuple[int, ...]]
    tied: bool
    notices: tuple[str, ...] = ()


def read_source(checkpoint: Checkpoint) -> Source:
    """Every weight of a checkpoint under its Hugging Face name.

    Raises:
        UnsupportedError: an unknown family, or a GGUF file that cannot be written back.
        PlanError: tensors are missing or do not fit the configuration.
        CheckpointError: the configuration cannot be read.
    """
    if checkpoint.container == "gguf":
        return _from_gguf(checkpoint)
    return _from_directory(checkpoint)


def role_of(gguf: str) -> Role:
    """The part that a tensor plays, told from its GGUF name."""
    if gguf in ("output.weight", "token_embd.weight"):
        return "output" if gguf == "output.weight" else "embedding"
    for pattern, role in _ROLES:
        if pattern.fullmatch(gguf):
            return role
    return "other"


_ROLES: tuple[tuple[re.Pattern[str], Role], ...] = (
    (LINEAR, "linear"),
    (EXPERTS, "expert"),
    (ROUTER, "router"),
)


def _from_gguf(checkpoint: Checkpoint) -> Source:
    description = describe(checkpoint)
    weights = []
    for map_ in description.tensors:
        part = map_.parts[0]
        info = checkpoint.tensors[part.source]
        height = info.shape[-2] if len(info.shape) > 1 else 1
        weights.append(
            Weight(
                map_,
                role_of(part.source),
                info.dtype,
                part.source,
                matrix=part.start // height if len(info.shape) > 2 else 0,
                first=part.start,
                order=map_.order,
                add=-map_.add,
                conv1d=map_.transpose,
            )
        )
    config = description.config
    tied = config.get("tie_word_embeddings") is True
    architecture = description.architecture
    notices = [*description.notices]
    if architecture.name == "bert":
        notices.append("a GGUF file has no pooler: transformers will draw one at random")
    shapes = {info.name: info.shape for info in checkpoint.tensors.values()}
    return Source(checkpoint, architecture, config, tuple(weights), shapes, tied, tuple(notices))


@dataclass(frozen=True)
class _Use:
    """A GGUF tensor that takes rows of a source: its `number`-th part, from row `position` on."""

    map: TensorMap
    part: Rows
    number: int
    position: int


def _from_directory(checkpoint: Checkpoint) -> Source:
    architecture = find_architecture(checkpoint.config)
    mapped, _ = map_tensors(architecture, checkpoint.config, checkpoint.tensors)
    settings = text_config(checkpoint.config)
    tied = _is_tied(settings, mapped)
    uses = _uses(mapped)
    templates = _templates(architecture.rules(settings))
    fused = any(_is_fused(info, uses) for info in checkpoint.tensors.values())
    weights: list[Weight] = []
    for info in checkpoint.tensors.values():
        if tied and info.name.endswith(OUTPUT):
            continue
        if _is_fused(info, uses):
            weights += _single_experts(info, uses[info.name], templates)
        else:
            weights.append(_as_stored(info, uses.get(info.name, []), templates if fused else {}))
    shapes = {tensor.name: tensor.shape for tensor in mapped}
    return Source(checkpoint, architecture, checkpoint.config, tuple(weights), shapes, tied)


def _is_tied(settings: Mapping[str, Any], mapped: tuple[TensorMap, ...]) -> bool:
    """Whether a causal model has no output projection of its own."""
    classes = settings.get("architectures") or [""]
    is_causal = CAUSAL.search(str(classes[0])) is not None
    return is_causal and all(tensor.name != "output.weight" for tensor in mapped)


def _uses(mapped: tuple[TensorMap, ...]) -> dict[str, list[_Use]]:
    uses: dict[str, list[_Use]] = {}
    for map_ in mapped:
        position = 0
        for number, part in enumerate(map_.parts):
            uses.setdefault(part.source, []).append(_Use(map_, part, number, position))
            position += part.stop - part.start
    return uses


def _is_fused(info: TensorInfo, uses: Mapping[str, list[_Use]]) -> bool:
    """Whether a tensor holds all experts of a layer."""
    return len(info.shape) == 3 and any(
        EXPERTS.fullmatch(use.map.name) for use in uses.get(info.name, [])
    )


def _as_stored(info: TensorInfo, uses: list[_Use], templates: Mapping[str, str]) -> Weight:
    rows = (Rows(info.name, 0, info.rows),)
    if not uses:
        return Weight(TensorMap(info.name, info.shape, rows), "other", info.dtype)
    use, gguf = uses[0], uses[0].map
    name = info.name
    if role_of(gguf.name) == "router":  # beside fused experts it goes by another name
        name = _renamed(gguf.name, info.name, templates) or name
    height = gguf.shape[-2] if len(gguf.shape) > 2 else 0
    return Weight(
        TensorMap(name, info.shape, rows),
        role_of(gguf.name),
        info.dtype,
        gguf.name,
        matrix=use.position // height if height else 0,
        first=use.position,
        order=_inverse(gguf.order),
        add=gguf.add,
        conv1d=gguf.transpose,
    )


def _single_experts(
    info: TensorInfo, uses: list[_Use], templates: Mapping[str, str]
) -> Iterator[Weight]:
    """The matrices of all experts, under the names of single ones."""
    experts, height, columns = info.shape
    for use in uses:
        whole = use.part.start == 0 and use.part.stop == info.rows
        name = _renamed(use.map.name, info.name, templates)
        for expert in range(experts) if whole else (use.number,):
            part = Rows(info.name, expert * height, (expert + 1) * height) if whole else use.part
            rows = part.stop - part.start
            yield Weight(
                TensorMap(name.replace("{e}", str(expert)), (rows, columns), (part,)),
                "expert",
                info.dtype,
                use.map.name,
                matrix=expert,
                first=expert * rows,
            )


def _templates(rules: tuple[Rule, ...]) -> dict[str, str]:
    """The first name of a table for each GGUF tensor of the experts and their router."""
    found: dict[str, str] = {}
    for rule in rules:
        found.setdefault(rule.gguf, rule.hf)
    return found


def _renamed(gguf: str, name: str, templates: Mapping[str, str]) -> str:
    """The table's own name of a tensor, under the root that the checkpoint's names have."""
    block = BLOCK.match(gguf)
    template = templates.get(BLOCK.sub("blk.{i}.", gguf), "")
    root, mark, _ = name.partition("layers.")
    if not template or block is None or not mark:
        return ""
    return root + mark + template.partition("layers.")[2].replace("{i}", block[1])


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    back = [0] * len(order)
    for to, start in enumerate(order):
        back[start] = to
    return tuple(back)
