"""`qconvert evaluate`: how far files are from their original, and whether that is near enough."""

import os
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, render
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qconvert.evaluation.gates import Verdict
    from qconvert.evaluation.types import Evaluation

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def evaluate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="GGUF files and directories of safetensors."),
    ],
    reference: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="The original: a directory, a hub id or a GGUF file.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="A .txt, .md, .jsonl, .parquet or .csv file, a data set of the hub, - for "
            "standard input, or self: the original writes it.",
        ),
    ],
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Take the first N tokens of the text; all by default."
        ),
    ] = None,
    window: Annotated[
        int, typer.Option(min=2, metavar="N", help="Tokens of each window, with BOS.")
    ] = 512,
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="torch, transformers or llama.cpp; auto takes what runs the file in use.",
        ),
    ] = "auto",
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Keep the original's hidden states, and state divergences exactly."
        ),
    ] = False,
    device: options.Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(metavar="TYPE", help="f32, bf16 or f16, of torch's products; auto is f32."),
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cores to use; all by default.")
    ] = None,
    max_kld: Annotated[
        float | None,
        typer.Option(metavar="X", help="Fail where the mean KL divergence is larger."),
    ] = None,
    max_perplexity_increase: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Fail where perplexity grew by more: 2% or 0.02."),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each file's gates as JUnit XML.")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the table as markdown; in GitHub's jobs it is on the job's page.",
        ),
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare each FILE with the original that it was made of, on a text.

    Perplexity and the KL divergence of the predicted distributions are measured as llama-perplexity
    does. The original is run once, and what matters of it is kept in the user's cache for later
    runs (QCONVERT_CACHE names another folder).

    \b
    Examples:
      qconvert evaluate out/*.gguf --reference ./model --data wiki.txt
      qconvert evaluate q4.gguf ./model-w8a8 --reference org/name --data wiki.txt --tokens 32768
      qconvert evaluate q4.gguf --reference ./model --data wiki.txt --json | jq .files[0].perplexity
      qconvert evaluate q4.gguf --reference ./model --data wiki.txt \\
          --max-kld 0.05 --max-perplexity-increase 2% --junit gates.xml
    """
    from qconvert.evaluation.evaluate import Choices
    from qconvert.evaluation.evaluate import evaluate as run
    from qconvert.evaluation.gates import judge, make_gates
    from qconvert.evaluation.settings import Settings
    from qconvert.evaluation.subject import BACKENDS

    started = time.monotonic()
    gates = make_gates(max_kld, max_perplexity_increase)
    if backend not in BACKENDS:
        raise UsageError(f"{backend!r} is not a backend", f"choose {', '.join(BACKENDS)}")
    for path in (junit, summary):
        if path is not None:
            _check_place(path)
    settings = Settings(device, dtype, threads)
    choices = Choices(tokens, window, backend, exact, settings=settings)
    with render.watching(quiet, "tokens") as watcher:
        evaluation = run(reference, data, files, choices, watcher)
    verdicts = judge(evaluation, gates)
    _write(evaluation, verdicts, junit, summary, time.monotonic() - started)
    if as_json:
        render.print_json(describe(evaluation, verdicts))
    elif not quiet:
        show(evaluation)
    conclude(verdicts)


def _check_place(path: Path) -> None:
    options.check_output(path)
    if not path.parent.is_dir():
        raise UsageError(f"no directory {path.parent}", "create it first, or choose another")


def _write(
    evaluation: "Evaluation",
    verdicts: "Sequence[Verdict]",
    junit: Path | None,
    summary: Path | None,
    seconds: float,
) -> None:
    """What CI systems read, whether a gate failed or not."""
    from qconvert.evaluation.junit import to_junit, write_whole
    from qconvert.evaluation.step_summary import append, to_markdown

    if junit is not None:
        files = [file.path for file in evaluation.files]
        write_whole(junit, to_junit(files, verdicts, seconds))
    if summary is not None:
        write_whole(summary, to_markdown(evaluation, verdicts).encode())
    page = os.environ.get(STEP_SUMMARY)
    if page:
        append(Path(page), to_markdown(evaluation, verdicts))


def describe(evaluation: "Evaluation", verdicts: "Sequence[Verdict]") -> dict[str, Any]:
    """The result for JSON."""
    from qconvert.evaluation.data import as_data, number

    gates = [
        {
            "path": str(verdict.path),
            "gate": verdict.gate,
            "value": number(verdict.value),
            "limit": verdict.limit,
            "passed": verdict.passed,
            "message": verdict.message,
        }
        for verdict in verdicts
    ]
    return as_data(evaluation) | {"gates": gates}


def show(evaluation: "Evaluation") -> None:
    """The table, what the user should know of files, and how sure their order is."""
    from qconvert.evaluation.step_summary import cells

    table = render.make_table(
        "file", "type", ">size", ">bpw", ">perplexity", ">KL divergence", ">99%", ">same top",
        "backend",
    )  # fmt: skip
    for file in evaluation.files:
        render.add_row(table, *cells(file))
    render.print_table(table)
    print(
        f"{evaluation.scored} tokens of {render.printable(evaluation.data)} scored in windows of "
        f"{evaluation.window}; the original's perplexity is {evaluation.reference_perplexity:.4f}"
    )
    for line in [*order_lines(evaluation), *bound_lines(evaluation)]:
        print(render.printable(line))
    for file in evaluation.files:
        for notice in file.notices:
            render.say(f"{file.path}: {notice}")


def order_lines(evaluation: "Evaluation") -> list[str]:
    """The files by divergence, and for each how sure it is that it is nearer than the next."""
    from qconvert.evaluation.bootstrap import DRAWS, LEAST_WINDOWS, SURE

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
    from qconvert.evaluation.reference_compact import TARGET

    bound = evaluation.bound
    if bound == 0:
        return []
    line = f"mean divergences are within {bound:.1g} of exact ones (three standard errors)"
    return [line + ("; --exact has none" if bound > TARGET else "")]


def conclude(verdicts: "Sequence[Verdict]") -> None:
    """Fail with the reasons where a file misses a gate."""
    from qconvert.evaluation.gates import failures

    missed = failures(verdicts)
    for verdict in missed:
        render.say(f"error: {verdict.path}: {verdict.message}")
    if missed:
        raise typer.Exit(1)
