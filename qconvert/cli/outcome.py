"""What `quantize` says: the plan of every output before, and what was written after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qconvert.cli import render

if TYPE_CHECKING:
    from pathlib import Path

    from qconvert.conversion import Planned
    from qconvert.plan import Plan
    from qconvert.work import Result


def write(
    planned: "Sequence[Planned]", threads: int | None, *, dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Say what will be done, do it, and say what was done."""
    if not quiet:
        for one in planned:
            if len(planned) > 1 and notices(one):
                render.say(f"{one.options.type}:")
            for notice in notices(one):
                render.say(notice)
    if dry_run:
        show_plans(planned, as_json)
        return
    from qconvert.outputs import write_outputs
    from qconvert.pipeline import default_threads

    for one in planned:
        if one.options.folder is not None:
            one.options.folder.mkdir(exist_ok=True)
    with render.watching(quiet) as watcher:
        outputs = [one.output for one in planned]
        results = write_outputs(outputs, threads or default_threads(), watcher)
    show_results(planned, results, as_json=as_json, quiet=quiet)


def notices(planned: "Planned") -> list[str]:
    """What the user should know of an output."""
    return [*planned.plan.notices, *render.fallback_lines(planned.plan)]


def describe(planned: "Planned", paths: "Sequence[Path]") -> dict[str, Any]:
    """What plan and result have in common, for JSON."""
    plan = planned.plan
    return {
        "path": str(planned.output.path),
        "paths": [str(path) for path in paths],
        "file_type": planned.options.type,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "tensors": plan.formats,
        "fallbacks": [
            {
                "name": tensor.name,
                "wanted": tensor.wanted,
                "type": tensor.format,
                "extra_bytes": tensor.extra_bytes,
                "reason": tensor.reason,
            }
            for tensor in plan.fallbacks
        ],
        "notices": list(plan.notices),
    }


def show_plans(planned: "Sequence[Planned]", as_json: bool) -> None:
    """The plans of `--dry-run`: every tensor."""
    if as_json:
        print_all([_plan_as_data(one) for one in planned])
        return
    for one in planned:
        table = render.make_table("tensor", "shape", "from", "to", ">bytes")
        for tensor in one.plan.tensors:
            shape = " x ".join(map(str, tensor.map.shape))
            source = one.plan.source_type(tensor.map)
            name = f"{tensor.format} (not {tensor.wanted})" if tensor.is_fallback else tensor.format
            render.add_row(table, tensor.name, shape, source, name, str(tensor.nbytes))
        render.print_table(table)
        print(f"would write {one.output.path}: {summary(one.plan, one.plan.nbytes)}")


def _plan_as_data(planned: "Planned") -> dict[str, Any]:
    plan = planned.plan
    tensors = [
        {
            "name": tensor.name,
            "shape": list(tensor.map.shape),
            "source_type": plan.source_type(tensor.map),
            "type": tensor.format,
            "bytes": tensor.nbytes,
        }
        for tensor in plan.tensors
    ]
    return {**describe(planned, planned.output.paths), "bytes": plan.nbytes, "plan": tensors}


def summary(plan: "Plan", nbytes: int) -> str:
    """Sizes and formats in a line."""
    kinds = ", ".join(f"{count} {name}" for name, count in plan.formats.items())
    return (
        f"{render.human_bytes(nbytes)} ({nbytes} bytes), "
        f"{plan.bits_per_weight:.2f} bits per weight, {kinds}"
    )


def show_results(
    planned: "Sequence[Planned]", results: "Sequence[Result]", *, as_json: bool, quiet: bool
) -> None:
    """Where the outputs are, and what they weigh."""
    pairs = list(zip(planned, results, strict=True))
    if as_json:
        print_all(
            [
                {
                    **describe(one, result.paths),
                    "bytes": result.nbytes,
                    "seconds": round(result.seconds, 3),
                    "resumed_tensors": result.resumed,
                }
                for one, result in pairs
            ]
        )
    elif not quiet:
        for one, result in pairs:
            for path in result.paths if one.output.path in result.paths else [one.output.path]:
                print(path)
            print(f"{summary(one.plan, result.nbytes)}, {result.seconds:.1f} s")


def print_all(outputs: list[dict[str, Any]]) -> None:
    """One output by itself, several in a list."""
    render.print_json(outputs[0] if len(outputs) == 1 else {"outputs": outputs})
