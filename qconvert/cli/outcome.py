"""What `quantize` says: the plan of every output before, and what was written after."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qconvert.cli import render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from qconvert.run.quantize import Planned
    from qconvert.run.work import Result


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
    from qconvert.run.outputs import write_outputs
    from qconvert.run.stream import default_threads

    for one in planned:
        if one.options.folder is not None:
            one.options.folder.mkdir(exist_ok=True)
    with render.watching(quiet) as watcher:
        outputs = [one.output for one in planned]
        results = write_outputs(outputs, threads or default_threads(), watcher)
    show_results(planned, results, as_json=as_json, quiet=quiet)


def notices(planned: "Planned") -> list[str]:
    """What the user should know of an output."""
    from qconvert.plan.safetensors.schemes import is_scheme

    if not is_scheme(planned.options.type):
        fallbacks = [line for line in planned.lines if line.reason]
        return [*planned.notices, *render.fallback_lines(fallbacks, len(planned.lines))]
    return list(planned.notices)  # which name the fallbacks, as the model card does


def describe(planned: "Planned", paths: "Sequence[Path]") -> dict[str, Any]:
    """What plan and result have in common, for JSON."""
    return {
        "path": str(planned.output.target.path),
        "paths": [str(path) for path in paths],
        "file_type": planned.options.type,
        "bits_per_weight": round(planned.bits_per_weight, 4),
        "tensors": dict(planned.kinds),
        "fallbacks": [
            {
                "name": line.name,
                "wanted": line.wanted,
                "type": line.format,
                "extra_bytes": line.extra_bytes,
                "reason": line.reason,
            }
            for line in planned.lines
            if line.reason
        ],
        "notices": list(planned.notices),
    }


def show_plans(planned: "Sequence[Planned]", as_json: bool) -> None:
    """The plans of `--dry-run`: every tensor."""
    if as_json:
        print_all([_plan_as_data(one) for one in planned])
        return
    for one in planned:
        table = render.make_table("tensor", "shape", "from", "to", ">bytes")
        for line in one.lines:
            shape = " x ".join(map(str, line.shape))
            kind = f"{line.format} (not {line.wanted})" if line.reason else line.format
            render.add_row(table, line.name, shape, line.source, kind, str(line.nbytes))
        render.print_table(table)
        print(f"would write {one.output.target.path}: {summary(one, one.nbytes)}")


def _plan_as_data(planned: "Planned") -> dict[str, Any]:
    from qconvert.containers.target import paths_of

    tensors = [
        {
            "name": line.name,
            "shape": list(line.shape),
            "source_type": line.source,
            "type": line.format,
            "bytes": line.nbytes,
        }
        for line in planned.lines
    ]
    return {
        **describe(planned, paths_of(planned.output.target)),
        "bytes": planned.nbytes,
        "plan": tensors,
    }


def summary(planned: "Planned", nbytes: int) -> str:
    """Sizes and formats in a line."""
    kinds = ", ".join(f"{count} {name}" for name, count in planned.kinds.items())
    return (
        f"{human_bytes(nbytes)} ({nbytes} bytes), "
        f"{planned.bits_per_weight:.2f} bits per weight, {kinds}"
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
            for path in (
                result.paths if one.output.target.path in result.paths else [one.output.target.path]
            ):
                print(path)
            print(f"{summary(one, result.nbytes)}, {result.seconds:.1f} s")


def print_all(outputs: list[dict[str, Any]]) -> None:
    """One output by itself, several in a list."""
    render.print_json(outputs[0] if len(outputs) == 1 else {"outputs": outputs})
