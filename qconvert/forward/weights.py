"""The parameters of transformers' modules, read from any checkpoint by name.

A parameter that the checkpoint stores under its own name is read as it is. One that it stores in
pieces or under an older name (experts one by one, BERT's gamma and beta) is found through its
family's table: the lines that make the same GGUF tensor are alternatives for each other. Of a GGUF
file, the table read backwards gives Hugging Face's tensors first.

Names are compared bare: without "model.", "transformer." and what else wraps a model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from qconvert.checkpoint import Checkpoint, read_bytes
from qconvert.errors import PlanError
from qconvert.model.assemble import assemble, overlapping
from qconvert.model.mapping import in_file_order
from qconvert.model.names import bare_name
from qconvert.model.open import Model
from qconvert.model.shapes import read_sizes
from qconvert.model.transforms import Some
from qconvert.model.types import Rule, TensorMap

SLAB = 1 << 24
"""Elements that are converted at once."""

STORED = {"bfloat16": "BF16", "float32": "F32", "float16": "F16"}
"""torch's names of types, and safetensors'."""


@dataclass(frozen=True)
class Parameters:
    """Where the parameters of transformers' model come from.

    Attributes:
        maps: by bare name, how each stored tensor is read.
        lines: by GGUF name, the lines of the family's table that may make it.
        targets: by bare name of a parameter, the GGUF tensors that are made of it, each with the
            line that says so; in the order of their rows.
    """

    model: Model
    maps: Mapping[str, TensorMap]
    lines: Mapping[str, tuple[Rule, ...]]
    targets: Mapping[str, tuple[tuple[str, Rule], ...]]

    @property
    def checkpoint(self) -> Checkpoint:
        return self.model.checkpoint

    @property
    def is_causal(self) -> bool:
        """Whether it is a decoder and not an encoder."""
        return not self.model.family.encoder

    def targets_of(self, parameter: str) -> tuple[tuple[str, Rule], ...]:
        """The GGUF tensors in a parameter, by its name in transformers' model."""
        return self.targets.get(bare_name(parameter), ())


def find_parameters(model: Model) -> Parameters:
    """Find every tensor.

    Raises:
        UnsupportedError: an unknown family.
        PlanError: tensors are missing or have other shapes than the configuration says.
    """
    family, settings = model.family, model.settings
    maps = {
        bare_name(map_.name): replace(map_, shape=map_.shape or (1,))
        for map_ in model.description.tensors
    }
    blocks = read_sizes(family.name, family.metadata(settings))["blocks"]
    lines = dict(in_file_order(family.rules(settings), blocks))
    targets: dict[str, list[tuple[str, Rule]]] = {}
    for name, rules in lines.items():
        for rule in rules:
            if "{e}" not in rule.hf:
                targets.setdefault(bare_name(rule.hf), []).append((name, rule))
    for pairs in targets.values():
        pairs.sort(key=lambda pair: pair[1].rows or (0, 0))
    by_parameter = {name: tuple(pairs) for name, pairs in targets.items()}
    return Parameters(model, maps, lines, by_parameter)


def read_parameter(parameters: Parameters, name: str, shape: tuple[int, ...], dtype: str) -> Any:
    """A parameter of transformers' model.

    Args:
        name: in the model, "model.layers.0.self_attn.q_proj.weight".
        shape: as the model has it.
        dtype: torch's name of it.

    Returns:
        A tensor on the CPU, the caller's own.

    Raises:
        PlanError: the checkpoint lacks it, or has it in another shape.
        CheckpointError: the file cannot be read.
    """
    import torch

    single, shape = shape, shape or (1,)
    pieces = pieces_of(parameters, name, shape)
    direct = _as_stored(parameters, pieces, dtype)
    if direct is not None:
        return torch.from_numpy(direct).view(getattr(torch, dtype)).reshape(single)
    out = torch.empty(shape, dtype=getattr(torch, dtype))
    rows = out.view(-1, shape[-1])
    done = 0
    for piece in pieces:
        for start, stop in _slabs(piece):
            values = assemble(piece, parameters.checkpoint.tensors, start, stop)
            count = values.size // shape[-1]
            rows[done : done + count].copy_(torch.from_numpy(values).view(count, shape[-1]))
            done += count
    return out.reshape(single)


def read_rows_of(parameters: Parameters, name: str, rows: Any, dtype: str) -> Any:
    """Some rows of a table [entries, columns], in ascending order; arguments as above."""
    import torch

    table = parameters.maps.get(bare_name(name))
    if table is None:
        raise _missing(name)
    wanted = [int(row) for row in rows]
    if wanted and wanted[-1] >= table.rows:
        raise PlanError(
            f"the sample has token {wanted[-1]}, and {name} has {table.rows} rows",
            "the tokenizer may belong to another model",
        )
    out = torch.empty((len(wanted), table.columns), dtype=getattr(torch, dtype))
    done = 0
    for start, stop in _runs(wanted):
        values = assemble(table, parameters.checkpoint.tensors, start, stop)
        out[done : done + len(values)].copy_(torch.from_numpy(values))
        done += len(values)
    return out


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring rows together."""
    begin = 0
    for index in range(1, len(rows) + 1):
        if index == len(rows) or rows[index] != rows[index - 1] + 1:
            yield rows[begin], rows[index - 1] + 1
            begin = index


def pieces_of(parameters: Parameters, name: str, shape: tuple[int, ...]) -> list[TensorMap]:
    """The stored tensors whose rows, one behind the other, are the parameter's.

    Raises:
        PlanError: the checkpoint lacks some, or has them in another shape.
    """
    bare = bare_name(name)
    if bare in parameters.maps:
        piece, pairs = parameters.maps[bare], parameters.targets_of(name)
        turned = any(rule.transpose_on_load for _, rule in pairs)
        turned = turned and piece.shape == (*shape[:-2], *shape[:-3:-1])
        pieces = [_turned(piece) if turned else piece]
        fits = pieces[0].shape == shape
    else:
        pieces = _by_table(parameters, bare, shape)
        fits = sum(piece.elements for piece in pieces) == prod(shape)
        fits = fits and all(piece.columns == shape[-1] for piece in pieces)
    if not pieces:
        raise _missing(name)
    if not fits:
        stored = " + ".join(str(list(piece.shape)) for piece in pieces[:2])
        raise PlanError(
            f"{name} has shape {stored}, but transformers' model asks for {list(shape)}",
            "config.json may belong to another model",
        )
    return pieces


def _turned(map_: TensorMap) -> TensorMap:
    """Each matrix [in, out]."""
    (*outer, height, width) = map_.shape
    return replace(map_, shape=(*outer, width, height), transpose=not map_.transpose)


def _by_table(parameters: Parameters, bare: str, shape: tuple[int, ...]) -> list[TensorMap]:
    chosen, owns = [], []
    for target, own in parameters.targets.get(bare, ()):
        rules = [
            rule for rule in parameters.lines[target] if _first_source(rule) in parameters.maps
        ]
        if not rules:
            return []
        chosen.append(rules[0])
        owns.append(own)
    if len(chosen) == 1 and chosen[0].rows and not owns[0].rows and "{e}" not in chosen[0].hf:
        return [_part(parameters.maps[bare_name(chosen[0].hf)], *chosen[0].rows)]
    if not any("{e}" in rule.hf for rule in chosen):
        sources = dict.fromkeys(bare_name(rule.hf) for rule in chosen)
        return [parameters.maps[source] for source in sources]
    names = [
        bare_name(rule.hf.replace("{e}", str(expert)))
        for expert in range(shape[0])
        for rule in chosen
    ]
    missing = [name for name in names if name not in parameters.maps]
    if missing:
        raise _missing(missing[0])
    return [parameters.maps[name] for name in names]


def _part(whole: TensorMap, start: int, stop: int) -> TensorMap:
    """Rows of a matrix that is stored together with others, or elements of such a bias."""
    if len(whole.shape) == 1:
        steps = (*whole.parts[0].steps, Some(start, stop))
        return replace(whole, shape=(stop - start,), parts=(replace(whole.parts[0], steps=steps),))
    parts = tuple(overlapping(whole.parts, start, stop))
    return replace(whole, shape=(stop - start, *whole.shape[1:]), parts=parts)


def _first_source(rule: Rule) -> str:
    return bare_name(rule.hf.replace("{e}", "0"))


def _as_stored(parameters: Parameters, pieces: list[TensorMap], dtype: str) -> Any:
    """The bytes themselves, where nothing has to be computed: uint8, one dimension; else None."""
    piece = pieces[0]
    if len(pieces) > 1 or len(piece.parts) > 1 or piece.order or piece.is_computed:
        return None
    part = piece.parts[0]
    info = parameters.checkpoint.tensors[part.source]
    if info.dtype != STORED[dtype] or not info.is_plain:
        return None
    return read_bytes(info, part.start, part.stop).reshape(-1)


def _slabs(tensor: TensorMap) -> Iterator[tuple[int, int]]:
    group = len(tensor.order) or 1
    step = max(SLAB // (tensor.columns * group), 1) * group
    if tensor.transpose and len(tensor.shape) == 3:
        step = max(SLAB // (tensor.columns * tensor.matrix_rows), 1) * tensor.matrix_rows
    elif tensor.transpose or len(tensor.shape) == 1:
        step = tensor.rows
    for start in range(0, tensor.rows, step):
        yield start, min(start + step, tensor.rows)


def _missing(name: str) -> PlanError:
    return PlanError(
        f"the checkpoint has no tensor {name}",
        hint="a shard may be missing, or config.json may belong to another model",
    )
