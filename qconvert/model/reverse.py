"""A family's table read backwards: from a GGUF file to Hugging Face's tensors and `config.json`.

Every line of a table is undone: halves from neighbouring rotary pairs, fused matrices from their
parts, single experts from a stack, matrices stored [in, out], norms less what was added. A
Hugging Face tensor is then a `TensorMap` over GGUF tensors, and is assembled like any other.

What was read is held against what would be written: the configuration must give the file's own
metadata again, its shapes must be the tensors', and no tensor may be left over. So a file that is
built in another way than its family in transformers is refused rather than misread.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import numpy as np

from qconvert.checkpoint import Checkpoint, TensorInfo, read_rows
from qconvert.checkpoint.metadata import Metadata
from qconvert.errors import PlanError, UnsupportedError
from qconvert.model.families import family_of_file
from qconvert.model.families.parts.common import text_config
from qconvert.model.mapping import in_file_order
from qconvert.model.shapes import expected_shape, sizes_by_block
from qconvert.model.transforms import inverse
from qconvert.model.types import Family, Rows, Rule, TensorMap

UNCOMPARED = ("vocab_size",)
"""Keys that need not agree: the embedding's rows decide."""

HARMLESS = (
    "attention.value_length",
    "pooling_type",
    "rope.dimension_count",
    "rope.scaling.finetuned",
)
"""Keys that some converters write for all families and others leave out, or that go elsewhere."""

ROTARY_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class Description:
    """A GGUF model as Hugging Face sees it.

    Attributes:
        family: the family.
        config: `config.json`.
        tensors: Hugging Face's, each made of the file's.
        notices: keys of the file that `config.json` has no place for.
    """

    family: Family
    config: dict[str, Any]
    tensors: tuple[TensorMap, ...]
    notices: tuple[str, ...] = ()


def describe(checkpoint: Checkpoint) -> Description:
    """What a GGUF file is in Hugging Face's terms.

    Raises:
        UnsupportedError: a family that is not written back, or a model that transformers would
            run in another way.
        CheckpointError: the metadata is absurd.
        PlanError: tensors are missing or have other shapes than the metadata says.
    """
    family = family_of_file(checkpoint)
    assert family.config is not None
    config = family.config(checkpoint)
    settings = text_config(family, config)
    metadata = family.metadata(settings)
    notices = _compare_keys(family.name, checkpoint.metadata, metadata)
    _compare_tables(family, settings, checkpoint)
    tensors = reverse_tensors(family, settings, metadata, checkpoint.tensors)
    return Description(family, config, tensors, notices)


def _compare_keys(name: str, stored: Mapping[str, Any], meant: Metadata) -> tuple[str, ...]:
    """Hold the file's keys against those that the configuration would give."""
    own = {key: field for key, field in stored.items() if key.startswith(f"{name}.")}
    for key, field in meant.items():
        short = key.removeprefix(f"{name}.")
        if key in own and short not in UNCOMPARED and not _same(own[key].value, field.value):
            raise UnsupportedError(
                f"{key} is {own[key].value!r:.60} in the file, and transformers' model of this "
                f"family would have {field.value!r:.60}",
            )
    lost = [key for key in own if key not in meant and key.removeprefix(f"{name}.") not in HARMLESS]
    if not lost:
        return ()
    return (f"config.json has no place for {', '.join(lost)}, which may matter",)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and not isinstance(other, list):
        return all(_same(item, other) for item in one)
    if isinstance(one, float) or isinstance(other, float):
        usable = isinstance(one, int | float) and isinstance(other, int | float)
        return usable and isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _compare_tables(family: Family, settings: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Hold the file's rotary tables against those that the configuration would give."""
    meant = family.constants(settings)
    stored = [name for name in ROTARY_TABLES if name in checkpoint.tensors]
    for name in {*stored, *meant}:
        info = checkpoint.tensors.get(name)
        fits = info is not None and name in meant and info.elements == meant[name].size
        if fits and info is not None:
            values = read_rows(info, 0, info.rows).reshape(-1)
            fits = bool(np.allclose(values, meant[name].reshape(-1), rtol=1e-5, atol=0))
        if not fits:
            raise UnsupportedError(f"{name} turns heads in a way that config.json cannot say")


def reverse_tensors(
    family: Family,
    settings: Mapping[str, Any],
    metadata: Metadata,
    tensors: Mapping[str, TensorInfo],
) -> tuple[TensorMap, ...]:
    """Hugging Face's tensors, each as rows of GGUF's.

    Args:
        settings: those of `config.json`.
        metadata: what the family makes of it.
        tensors: GGUF's, by name.

    Raises:
        PlanError: a tensor is missing or has another shape than the metadata says.
        UnsupportedError: a tensor has no place in the family.
    """
    sizes = sizes_by_block(family.name, metadata)
    pieces: dict[str, list[_Piece]] = {}
    used = set(ROTARY_TABLES)
    for name, rules in in_file_order(family.rules(settings), sizes(0)["blocks"]):
        info = tensors.get(name)
        if info is None:
            if all(rule.optional for rule in rules):
                continue
            raise PlanError(f"the file has no tensor {name}", "it may be cut short, or a shard")
        shape = expected_shape(family, name, sizes)
        if info.shape != shape:
            raise PlanError(
                f"{name} has shape {list(info.shape)}, but the metadata asks for {list(shape)}"
            )
        used.add(name)
        pieces.setdefault(rules[0].hf, []).append(_Piece(rules[0], info))
    unknown = [name for name in tensors if name not in used]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UnsupportedError(
            f"{unknown[0]}{more} has no place in transformers' {settings['architectures'][0]}"
        )
    return tuple(made for name, group in pieces.items() for made in _make(name, group))


@dataclass(frozen=True)
class _Piece:
    """A line of the table and the GGUF tensor that it made."""

    rule: Rule
    info: TensorInfo

    @property
    def taken(self) -> tuple[int, int]:
        return self.rule.rows or (0, 0)

    def rows(self, start: int, stop: int, stride: int = 1) -> Rows:
        """Rows of the GGUF tensor, with the values that Hugging Face has."""
        return Rows(self.info.name, start, stop, stride, inverse(self.rule.steps))

    def turn(self, number: int) -> Iterator[Rows]:
        """The rows of one matrix or period; neighbours of each head are parted into halves."""
        height = self.taken[1] - self.taken[0]
        start, stop = number * height, (number + 1) * height
        if not self.rule.heads:
            yield self.rows(start, stop)
            return
        size = len(_halves(self.rule, self.info.shape[0]))
        if height % size:
            raise PlanError(f"{self.info.name}: {height} rows are no whole heads of {size}")
        for first in range(start, stop, size):
            yield self.rows(first, first + size, 2)
            yield self.rows(first + 1, first + size, 2)


def _make(name: str, pieces: Sequence[_Piece]) -> list[TensorMap]:
    """One tensor, or one for each expert."""
    piece = pieces[0]
    rule, info = piece.rule, piece.info
    if rule.rows is not None:
        return [_fused(name, pieces)]
    if "{e}" in name:
        height = info.shape[1]
        return [
            TensorMap(
                name.replace("{e}", str(expert)),
                info.shape[1:],
                (piece.rows(expert * height, (expert + 1) * height),),
                add=-rule.add,
            )
            for expert in range(info.shape[0])
        ]
    whole = (piece.rows(0, info.rows),)
    if rule.transpose and len(info.shape) > 1:
        shape = (*info.shape[:-2], info.shape[-1], info.shape[-2])
        return [TensorMap(name, shape, whole, transpose=True)]
    if rule.stored:
        return [TensorMap(name, rule.stored, whole, add=-rule.add, reshaped=True)]
    order = _halves(rule, info.shape[0])
    return [TensorMap(name, info.shape, whole, order, -rule.add)]


def _fused(name: str, pieces: Sequence[_Piece]) -> TensorMap:
    """The parts of a fused tensor by turns: one turn, or one for each matrix or period."""
    ordered = sorted(pieces, key=lambda piece: piece.taken)
    reached = 0
    for piece in ordered:
        if piece.taken[0] != reached or piece.rule.add:
            raise PlanError(f"{piece.info.name} leaves a gap in {name}")
        reached = piece.taken[1]
    turns = {piece.info.rows // (piece.taken[1] - piece.taken[0]) for piece in ordered}
    if len(turns) > 1 or ordered[0].rule.period not in (0, reached):
        raise PlanError(f"the parts of {name} do not fill it")
    parts = tuple(part for turn in range(*turns) for piece in ordered for part in piece.turn(turn))
    (*outer, _, columns) = ordered[0].info.shape
    height = sum(piece.info.shape[-2] for piece in ordered)
    return TensorMap(name, (*outer, height, columns), parts)


def _halves(rule: Rule, rows: int) -> tuple[int, ...]:
    """Neighbours to halves: of a head's rows 0 1 2 3 4 5 the order is 0 2 4 | 1 3 5."""
    if not rule.heads:
        return ()
    size, rest = divmod(rows, rule.heads)
    if rest or size % 2:
        raise PlanError(f"{rule.gguf}: {rows} rows are no {rule.heads} heads of even size")
    return (*range(0, size, 2), *range(1, size, 2))
