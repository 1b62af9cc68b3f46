"""What `inspect` prints of a checkpoint: what it is, and what it would weigh."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qconvert.cli import render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from qconvert.checkpoint import TensorInfo
    from qconvert.checkpoint.metadata import Field
    from qconvert.inspection import Inspection
    from qconvert.inspection.grids import Grid
    from qconvert.plan.types import Plan

LEAST_PLAIN = 15
"""Bits per weight below which a file counts as quantized."""

ITEMS_SHOWN = 4
TEXT_SHOWN = 60


def show(found: "Inspection", type_: str | None, tensors: bool) -> None:
    """A directory or a GGUF file with a model in it."""
    show_overview(found)
    if found.checkpoint.container == "gguf":
        show_metadata(found)
    if tensors:
        show_tensors(found.checkpoint.tensors.values())
        show_planned(found)
    show_file_types(found)
    if type_:
        for line in [line for plan in found.plans for line in about_type(plan)]:
            render.show(line)
    for problem in _gathered(found.problems):
        render.say(problem)


def _gathered(problems: Iterable[str]) -> list[str]:
    """One line for the types that fail for the same reason."""
    names: dict[str, list[str]] = {}
    for problem in problems:
        name, colon, why = problem.partition(": ")
        is_type = colon and " " not in name
        names.setdefault(why if is_type else problem, []).append(name if is_type else "")
    return [f"{', '.join(who)}: {why}" if any(who) else why for why, who in names.items()]


def about_type(plan: "Plan") -> list[str]:
    """What is to be known of one type that is not told of the model already."""
    from qconvert.plan.fallbacks import fallback_lines
    from qconvert.plan.safetensors.schemes import is_scheme

    if is_scheme(plan.recipe.type):
        return list(plan.notices)
    return fallback_lines(plan)


def as_data(found: "Inspection") -> dict[str, Any]:
    """The JSON form."""
    return {
        "kind": "checkpoint",
        "source": found.checkpoint.source,
        "container": found.checkpoint.container,
        "architecture": found.architecture,
        "parameters": found.parameters,
        "size_bytes": found.checkpoint.nbytes,
        "bits_per_weight": round(_bits(found), 4),
        "context_length": found.context_length,
        "tokenizer": found.tokenizer,
        "dtypes": dtypes_data(found.dtypes),
        "metadata": {key: _shown(field, cut=False) for key, field in found.metadata.items()},
        "tensors": tensors_data(found.checkpoint.tensors.values()),
        "file_types": [
            {
                "name": plan.recipe.type,
                "bytes": plan.nbytes,
                "bits_per_weight": round(plan.bits_per_weight, 4),
                "fallbacks": [tensor.name for tensor in plan.fallbacks],
            }
            for plan in found.plans
        ],
        "vision": found.vision,
        "grids": [asdict(grid) for grid in found.grids],
        "problems": list(found.problems),
    }


def dtypes_data(dtypes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    return {name: {"tensors": count, "bytes": size} for name, (count, size) in dtypes.items()}


def tensors_data(tensors: "Iterable[TensorInfo]") -> list[dict[str, Any]]:
    return [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
            "bytes": tensor.stored_bytes,
        }
        for tensor in tensors
    ]


def dtypes_text(dtypes: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(
        f"{name}: {count} tensors, {human_bytes(size)}" for name, (count, size) in dtypes.items()
    )


def show_facts(title: str, facts: Mapping[str, str]) -> None:
    """A name, and lines about it."""
    render.show(title)
    for key, value in facts.items():
        render.show(f"  {key:<13} {value}")


def show_overview(found: "Inspection") -> None:
    checkpoint = found.checkpoint
    rows = {
        "architecture": found.architecture,
        "parameters": f"{render.human_count(found.parameters)} ({found.parameters})",
        "context": str(found.context_length or "not said"),
        "tokenizer": found.tokenizer or "none",
        "tensors": f"{len(checkpoint.tensors)} in {len(checkpoint.files)} files, "
        f"{human_bytes(checkpoint.nbytes)} ({checkpoint.nbytes} bytes)",
        "dtypes": dtypes_text(found.dtypes),
    }
    if found.vision:
        rows["vision"] = found.vision
    if checkpoint.container == "gguf":
        rows["file type"] = f"{_file_type(found)}, {_bits(found):.2f} bits per weight"
    if found.grids:
        rows["grids"] = "; ".join(map(grid_text, found.grids))
    show_facts(checkpoint.source, rows)


def _bits(found: "Inspection") -> float:
    return 8 * found.checkpoint.nbytes / max(found.parameters, 1)


def _file_type(found: "Inspection") -> str:
    """What a GGUF file calls its mixture; else the format of most of its bytes."""
    from qconvert.plan.gguf.file_types import FILE_TYPES

    number = found.checkpoint.metadata.get("general.file_type")
    names = [kind.name for kind in FILE_TYPES.values() if number and kind.ftype == number.value]
    most = max(found.dtypes, key=lambda name: found.dtypes[name][1], default="none")
    return (names[0] if names else most).upper()


def grid_text(grid: "Grid") -> str:
    """Which weights lie on a grid, and what keeps them."""
    return (
        f"{grid.tensors} of {grid.looked_at} weights lie on a {grid.bits}-bit grid of "
        f"{grid.block}, by some of their rows: {grid.type} keeps them exactly"
    )


def show_metadata(found: "Inspection") -> None:
    render.show("  metadata")
    for key, field in found.checkpoint.metadata.items():
        render.show(f"    {key} = {_shown(field, cut=True)}")


def _shown(field: "Field", cut: bool) -> Any:
    """A value; long arrays and texts shortened, for JSON arrays only counted when very long."""
    value = field.value
    if isinstance(value, str):
        line = " ".join(value.split()) if cut else value
        return f"{line[:TEXT_SHOWN]}..." if cut and len(line) > TEXT_SHOWN else line
    if not isinstance(value, Sequence) and not hasattr(value, "tolist"):
        return value
    first = [_item(item, cut) for item in value[:ITEMS_SHOWN]]
    if len(value) <= ITEMS_SHOWN:
        return first
    return f"{len(value)} items: {', '.join(map(str, first))}, ..."


def _item(item: Any, cut: bool) -> Any:
    """One of an array's, which may be an array."""
    if isinstance(item, tuple):
        return _shown(item, cut)  # type: ignore[arg-type]
    return item.item() if hasattr(item, "item") else item


def show_tensors(tensors: "Iterable[TensorInfo]") -> None:
    rows = [
        (one.name, " x ".join(map(str, one.shape)), one.dtype, one.stored_bytes) for one in tensors
    ]
    render.print_table(("tensor", "shape", "dtype", ">bytes"), rows)


def show_planned(found: "Inspection") -> None:
    if len(found.plans) != 1:
        return
    rows = [(tensor.name, tensor.format, tensor.nbytes) for tensor in found.plans[0].tensors]
    render.print_table(("written as", "type", ">bytes"), rows)


def show_file_types(found: "Inspection") -> None:
    """What each type would weigh; of a quantized file, those that would be smaller."""
    quantized = found.checkpoint.container == "gguf" and _bits(found) < LEAST_PLAIN
    limit = found.checkpoint.nbytes if quantized else math.inf
    if not any(plan.nbytes < limit for plan in found.plans):
        return
    rows = [
        (
            plan.recipe.type,
            human_bytes(plan.nbytes),
            plan.nbytes,
            f"{plan.bits_per_weight:.2f}",
            f"{len(plan.fallbacks)} of {len(plan.tensors)} tensors" if plan.fallbacks else "",
        )
        for plan in sorted(found.plans, key=lambda plan: -plan.nbytes)
        if plan.nbytes < limit
    ]
    render.print_table((">type", ">size", ">bytes", ">bits per weight", ">fallbacks"), rows)
