"""What `quantize` says: the plan of every output before, and what was written after."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qconvert.cli import options, render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from qconvert.plan.types import Plan
    from qconvert.run.clustered import Clustered
    from qconvert.run.crew import Crew
    from qconvert.run.stream import Result


def write(
    planned: "Sequence[Plan]",
    crew: "Crew",
    *,
    device: str = "auto",
    hub: options.Hub = options.NOWHERE,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what will be done, do it, and say what was done."""
    from qconvert.plan.algorithms import by_sample, cost
    from qconvert.plan.effort import effort_line

    if not quiet:
        for one in planned:
            if len(planned) > 1 and notices(one):
                render.say(f"{one.recipe.type}:")
            for notice in notices(one):
                render.say(notice)
    if dry_run:
        if not quiet:
            for numbers in by_sample(planned):
                render.say(cost([planned[number] for number in numbers]))
            render.say(effort_line(planned, crew.workers or 1, crew.cores))
        show_plans(planned, as_json)
        return
    from qconvert.run.outputs import write_stale

    with render.watching(quiet) as watcher, crew.at_work(watcher) as workers:
        results = write_stale(planned, workers, watcher, device, force=force)
    paths = [one.target.path for one in planned]
    upload(
        hub, [result.paths for result in results], paths, planned[0].checkpoint.source, quiet=quiet
    )
    show_results(planned, results, as_json=as_json, quiet=quiet)


def upload(
    hub: options.Hub,
    files: "Sequence[Sequence[Path]]",
    places: "Sequence[Path]",
    source: str,
    *,
    quiet: bool,
) -> None:
    """Put what was made on the hub, if that was asked for, and say where it is.

    Args:
        files: of each output.
        places: what each is called.
        source: what the model is called that they were made of.
    """
    if hub.repo is None:
        return
    from qconvert.run import upload as uploading

    made = uploading.upload(
        files,
        places,
        hub.repo,
        base=source,
        public=hub.public,
        progress=False if quiet else None,
    )
    if not quiet:
        render.say(
            f"{made.repo} has {len(made.files)} files, {human_bytes(made.nbytes)}: {made.url}"
        )


def notices(planned: "Plan") -> list[str]:
    """What the user should know of an output."""
    from qconvert.plan.fallbacks import fallback_lines
    from qconvert.plan.safetensors.schemes import is_scheme

    if not is_scheme(planned.recipe.type):
        return [*planned.notices, *fallback_lines(planned)]
    return list(planned.notices)  # which name the fallbacks, as the model card does


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


def show_plans(planned: "Sequence[Plan]", as_json: bool) -> None:
    """The plans of `--dry-run`: every tensor."""
    if as_json:
        print_all([_plan_as_data(one) for one in planned])
        return
    for one in planned:
        print_kinds(one)
        print_tensors(one)
        if one.recipe.has_budget:
            from qconvert.cli.allocation import show_allocation

            show_allocation(one)
        render.show(f"would write {one.target.path}: {summary(one, one.nbytes)}")


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


def _plan_as_data(planned: "Plan") -> dict[str, Any]:
    from qconvert.containers.target import paths_of

    return {**describe(planned, paths_of(planned.target)), **plan_data(planned)}


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


def exact_line(planned: "Plan", result: "Result") -> str:
    """How many tensors lose nothing though they are quantized."""
    from qconvert.errors import shorten

    kinds = Counter(line.format for line in planned.tensors if line.name in set(result.exact))
    words = ", ".join(f"{count} {name}" for name, count in kinds.items())
    return (
        f"{planned.target.path.name}: exactly the source's numbers in {words}: "
        f"{shorten(list(result.exact))}"
    )


def summary(planned: "Plan", nbytes: int, *, bits: bool = True) -> str:
    """Sizes and formats in a line."""
    kinds = ", ".join(f"{count} {name}" for name, count in planned.formats.items())
    weight = f", {planned.bits_per_weight:.2f} bits per weight" if bits else ""
    return f"{human_bytes(nbytes)} ({nbytes} bytes){weight}, {kinds}"


def show_results(
    planned: "Sequence[Plan]", results: "Sequence[Result]", *, as_json: bool, quiet: bool
) -> None:
    """Where the outputs are, and what they weigh."""
    pairs = list(zip(planned, results, strict=True))
    if as_json:
        print_all([describe(one, result.paths) | result_data(result) for one, result in pairs])
    elif not quiet:
        for one, result in pairs:
            for path in result.paths if one.target.path in result.paths else [one.target.path]:
                render.show_path(path)
            render.show(f"{summary(one, result.nbytes)}, {result.seconds:.1f} s")
            if result.clustered:
                render.say(clustered_line(result.clustered))
            if result.exact:
                render.say(exact_line(one, result))
        if gain := gain_line([one for one, result in pairs if not result.exact]):
            render.say(gain)


def print_all(outputs: list[dict[str, Any]]) -> None:
    """The same shape for one output and for several."""
    render.print_json({"outputs": outputs})
