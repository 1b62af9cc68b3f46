"""What `quantize` says of its outputs."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qconvert.cli import render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from qconvert.plan.types import Plan
    from qconvert.run.clustered import Clustered
    from qconvert.run.stream import Result


def describe(planned: "Plan", paths: "Sequence[Path]") -> dict[str, Any]:
    """What plan and result have in common, for JSON."""
    return {
        "path": str(planned.target.path),
        "paths": [str(path) for path in paths],
        "file_type": planned.recipe.type,
        "bits_per_weight": round(planned.bits_per_weight, 4),
        "tensors": dict(planned.formats),
        "fallbacks": [
            {
                "name": line.name,
                "wanted": line.wanted,
                "type": line.format,
                "extra_bytes": line.extra_bytes,
                "reason": line.reason,
            }
            for line in planned.fallbacks
        ],
        "notices": list(planned.notices),
    }


def show_plan(planned: "Plan") -> None:
    """Every tensor, for `--dry-run`."""
    print_kinds(planned)
    print_tensors(planned)
    if planned.recipe.has_budget:
        from qconvert.cli.allocation import show_allocation

        show_allocation(planned)
    render.show(f"would write {planned.target.path}: {summary(planned, planned.nbytes)}")


def print_kinds(planned: "Plan") -> None:
    """What each kind of tensor becomes, over all blocks."""
    kinds: dict[str, Counter[str]] = {}
    sizes: Counter[str] = Counter()
    for line in planned.tensors:
        kind = re.sub(r"\.\d+\.", ".*.", line.name)
        kinds.setdefault(kind, Counter())[line.format] += 1
        sizes[kind] += line.nbytes
    rows = [
        (kind, ", ".join(f"{count} {name}" for name, count in formats.items()), sizes[kind])
        for kind, formats in kinds.items()
    ]
    render.print_table(("tensors", "to", ">bytes"), rows)


def print_tensors(planned: "Plan") -> None:
    """Every tensor, as it is and as it will be."""
    rows = [
        (
            line.name,
            " x ".join(map(str, line.shape)),
            line.source,
            f"{line.format} (not {line.wanted})" if line.reason else line.format,
            line.nbytes,
        )
        for line in planned.tensors
    ]
    render.print_table(("tensor", "shape", "from", "to", ">bytes"), rows)


def plan_data(planned: "Plan") -> dict[str, Any]:
    """What a plan tells besides, for JSON: the size, and every tensor."""
    tensors = [
        {
            "name": line.name,
            "shape": list(line.shape),
            "source_type": line.source,
            "type": line.format,
            "bytes": line.nbytes,
        }
        for line in planned.tensors
    ]
    return {"bytes": planned.nbytes, "plan": tensors}


def gain_line(planned: "Sequence[Plan]") -> str:
    """What a calibration would do for outputs of few bits that have none; empty for no such."""
    from qconvert.plan.algorithms import would_gain

    names = [one.target.path.name for one in planned if would_gain(one)]
    if not names:
        return ""
    return (
        f"{', '.join(names)}: made without a calibration; with one, a quarter to a half of "
        "the divergence was left on the models that were measured: add --calibrate"
    )


def result_data(result: "Result") -> dict[str, Any]:
    """What a result tells besides, for JSON."""
    return {
        "bytes": result.nbytes,
        "seconds": round(result.seconds, 3),
        "resumed_tensors": result.resumed,
        **({"feedback": dict(result.helped)} if result.helped else {}),
        **({"exact": list(result.exact)} if result.exact else {}),
        **({"clustered": asdict(result.clustered)} if result.clustered else {}),
    }


def clustered_line(found: "Clustered") -> str:
    """What clustered weights come to."""
    return (
        f"{found.tensors} tensors of at most {found.values} distinct values: "
        f"{human_bytes(found.packed)} as codes and tables, {human_bytes(found.compressed)} "
        "compressed by zlib as they lie (measured, level 1)"
    )


def exact_line(result: "Result") -> str:
    """How many tensors lose nothing though they are quantized."""
    from qconvert.errors import shorten

    kinds = Counter(line.format for line in result.plan.tensors if line.name in set(result.exact))
    words = ", ".join(f"{count} {name}" for name, count in kinds.items())
    return (
        f"{result.plan.target.path.name}: exactly the source's numbers in {words}: "
        f"{shorten(list(result.exact))}"
    )


def summary(planned: "Plan", nbytes: int, *, bits: bool = True) -> str:
    """Sizes and formats in a line."""
    kinds = ", ".join(f"{count} {name}" for name, count in planned.formats.items())
    weight = f", {planned.bits_per_weight:.2f} bits per weight" if bits else ""
    return f"{human_bytes(nbytes)} ({nbytes} bytes){weight}, {kinds}"


def show_results(made: "Sequence[Result]", *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """Where the outputs are, and what they weigh; or what they would be."""
    if as_json:
        print_all([describe(one.plan, one.paths) | more(one, dry_run) for one in made])
    elif dry_run:
        for one in made:
            show_plan(one.plan)
    elif not quiet:
        for one in made:
            path = one.plan.target.path
            for file in one.paths if path in one.paths else [path]:
                render.show_path(file)
            render.show(f"{summary(one.plan, one.nbytes)}, {one.seconds:.1f} s")
            if one.clustered:
                render.say(clustered_line(one.clustered))
            if one.exact:
                render.say(exact_line(one))
        if gain := gain_line([one.plan for one in made if not one.exact]):
            render.say(gain)


def more(result: "Result", dry_run: bool) -> dict[str, Any]:
    return plan_data(result.plan) if dry_run else result_data(result)


def print_all(outputs: list[dict[str, Any]]) -> None:
    """The same shape for one output and for several."""
    render.print_json({"outputs": outputs})
