"""A projector's table applied to a checkpoint: every GGUF tensor, and the source rows it is made
of."""

import re
from collections.abc import Mapping, Sequence
from math import prod

from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import PlanError
from qconvert.model.mapping import misshapen, order_of_pairs
from qconvert.model.names import bare_name
from qconvert.model.shapes import empty_tensor
from qconvert.model.transforms import Columns, Some
from qconvert.model.types import Rows, TensorMap
from qconvert.model.vision.types import Line, Projector


def map_lines(
    projector: Projector, lines: Sequence[Line], tensors: Mapping[str, TensorInfo]
) -> tuple[tuple[TensorMap, ...], tuple[str, ...], tuple[str, ...]]:
    """Every tensor of the file, in the table's order.

    Args:
        tensors: the checkpoint's, by name.

    Returns:
        The tensors; the names of the tower's tensors that are left out; and those of them that
        nothing is known of.

    Raises:
        PlanError: a tensor is missing, empty or of another shape than the configuration says.
    """
    sources = _sources(projector, lines, tensors)
    made: list[TensorMap] = []
    for line in lines:
        info = sources.get(line.hf)
        if info is not None:
            made.append(_made(line, info))
        elif not line.optional:
            raise PlanError(
                f"the checkpoint has no tensor {line.hf}",
                "the vision tower may lie in another checkpoint, or a shard may be missing",
            )
    used = {part.source for tensor in made for part in tensor.parts}
    own, ignored = re.compile(projector.own), [re.compile(p) for p in projector.ignored]
    rest = {info.name: bare for bare, info in sources.items() if info.name not in used}
    left = {name: bare for name, bare in rest.items() if own.match(bare)}
    unknown = [n for n, bare in left.items() if not any(p.fullmatch(bare) for p in ignored)]
    filled = [name for name in unknown if tensors[name].elements]
    return tuple(made), tuple(left), tuple(filled)


def _sources(
    projector: Projector, lines: Sequence[Line], tensors: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """The tower's tensors, and what the table takes of the language model, by their bare names."""
    own, wanted = re.compile(projector.own), {line.hf for line in lines}
    sources: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        bare = bare_name(name)
        for wrapped, plain in projector.wrappers.items():
            if bare.startswith(wrapped):
                bare = plain + bare.removeprefix(wrapped)
        if bare not in wanted and not own.match(bare):
            continue
        if bare in sources:
            raise PlanError(f"{name} and {sources[bare].name} are two names of one tensor")
        sources[bare] = info
    return sources


def _made(line: Line, info: TensorInfo) -> TensorMap:
    stored = line.stored or line.shape
    if not info.elements:
        raise empty_tensor(info)
    if (info.shape or (1,)) != stored:
        raise misshapen(info, stored)
    if len(stored) == 1 and line.runs:
        ((start, stop),) = line.runs
        parts: tuple[Rows, ...] = (Rows(info.name, 0, 1, steps=(Some(start, stop),)),)
    elif line.runs:
        parts = tuple(Rows(info.name, start, stop) for start, stop in line.runs)
    else:
        steps = (Columns(line.columns),) if line.columns else ()
        parts = (Rows(info.name, 0, info.rows, steps=steps),)
    order = order_of_pairs(info.name, line.shape[0], line.heads)
    same_rows = line.runs or (prod(line.shape[:-1]), line.shape[-1]) == (info.rows, info.columns)
    return TensorMap(line.gguf, line.shape, parts, order, line.add, reshaped=not same_rows)
