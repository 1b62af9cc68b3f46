"""What `evaluate` shows: the table, how sure the order is, and the result for JSON."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from qconvert.cli import render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from qconvert.evaluation.divergence.types import Evaluation
    from qconvert.evaluation.extras import Extras
    from qconvert.evaluation.speed.measure import Speed


def describe(evaluation: "Evaluation") -> dict[str, Any]:
    """The result for JSON."""
    from qconvert.evaluation.divergence.data import as_data, number
    from qconvert.evaluation.extras import extras_as_data

    gates = [
        {
            "path": str(verdict.path),
            "gate": verdict.gate,
            "value": number(verdict.value),
            "limit": verdict.limit,
            "passed": verdict.passed,
            "message": verdict.message,
        }
        for verdict in evaluation.verdicts
    ]
    found = as_data(evaluation)
    for file, more in zip(found["files"], evaluation.extras, strict=True):
        file |= extras_as_data(more)
    return found | {"gates": gates}


def show(evaluation: "Evaluation") -> None:
    """The table, what the user should know of files, and how sure their order is."""
    from qconvert.evaluation.gates.step_summary import cells

    columns = ("file", "type", ">size", ">bpw", ">perplexity", ">KL divergence", ">99%")
    render.print_table((*columns, ">same top", "backend"), map(cells, evaluation.files))
    render.show(
        f"{evaluation.scored} tokens of {render.printable(evaluation.data)} scored in windows of "
        f"{evaluation.window}; the original's perplexity is {evaluation.reference_perplexity:.4f}"
    )
    for line in [*order_lines(evaluation), *bound_lines(evaluation)]:
        render.show(line)
    for file in evaluation.files:
        for notice in file.notices:
            render.say(f"{file.path}: {notice}")


def show_extras(files: Sequence[str], extras: Sequence["Extras"]) -> None:
    """Speed and the results of tasks, where they were asked for."""
    if any(one.speed for one in extras):
        pairs = zip(files, extras, strict=True)
        columns = ("file", ">load", ">prompt", ">generated", ">per token", ">peak memory")
        timed = [(file, *_speed_cells(one.speed)) for file, one in pairs if one.speed is not None]
        render.print_table((*columns, "runtime"), timed)
    results = [
        (file, task, metric, _result(value))
        for file, one in zip(files, extras, strict=True)
        for task, metrics in one.tasks.get("tasks", {}).items()
        for metric, value in metrics.items()
    ]
    if results:
        render.print_table(("file", "task", "metric", ">value"), results)


def _result(found: dict[str, float | None]) -> str:
    """What a task gave, with its error where that is known."""
    error = found["standard_error"]
    return f"{found['value']:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _speed_cells(speed: "Speed") -> list[str]:
    return [
        f"{speed.load_seconds.median:.2f} s",
        f"{speed.prompt_per_second.median:.1f} tokens/s",
        f"{speed.generated_per_second.median:.1f} tokens/s",
        f"{speed.milliseconds_per_token.median:.1f} ms",
        human_bytes(speed.peak_bytes),
        f"{speed.runtime}, {speed.threads} threads",
    ]


def order_lines(evaluation: "Evaluation") -> list[str]:
    """The files by divergence, and for each how sure it is that it is nearer than the next."""
    from qconvert.evaluation.divergence.bootstrap import DRAWS, LEAST_WINDOWS, SURE

    files = evaluation.files
    if len(files) < 2:
        return []
    if not evaluation.better:
        return [
            f"fewer than {LEAST_WINDOWS} windows cannot tell which is nearer: use a longer text"
        ]
    order = sorted(range(len(files)), key=lambda index: files[index].divergence.mean)
    lines = [f"nearer to the original, in so many of {DRAWS} samples of the windows:"]
    for i, j in pairwise(order):
        share = evaluation.better[i, j] if i < j else 1 - evaluation.better[j, i]
        sure = "" if share >= SURE else " (not sure)"
        lines.append(f"  {share:6.1%}  {files[i].path} than {files[j].path}{sure}")
    return lines


def bound_lines(evaluation: "Evaluation") -> list[str]:
    """What the compact reference may have cost."""
    from qconvert.evaluation.divergence.compact import TARGET

    bound = evaluation.bound
    if bound == 0:
        return []
    line = f"mean divergences are within {bound:.1g} of exact ones (three standard errors)"
    return [line + ("; --exact has none" if bound > TARGET else "")]
