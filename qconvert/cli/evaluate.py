"""`qconvert evaluate`: how far files are from their original, and whether that is near enough."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qconvert.cli import options, render
from qconvert.containers.place import check_output
from qconvert.machine.watcher import ANEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qconvert.evaluation.divergence.types import Evaluation
    from qconvert.evaluation.gates.gates import Verdict

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
    window: options.Window = 512,
    backend: options.Backend = "auto",
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
    threads: options.Cores = None,
    executor: options.Executor = "threads",
    workers: options.RayWorkers = None,
    address: options.Address = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Measure speed and memory too, in the file's runtime.")
    ] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            help="Run a task of lm-eval too, by name or from a YAML file. Repeatable.",
        ),
    ] = None,
    task_limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Examples of each task; all by default.")
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
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A PEFT adapter that is merged into the original."),
    ] = None,
    cache_dir: options.CacheDir = None,
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
      qconvert evaluate q4.gguf --reference ./model --data wiki.txt --json | jq '.files[0]'
      qconvert evaluate q4.gguf --reference ./model --data wiki.txt \\
          --max-kld 0.05 --max-perplexity-increase 2% --junit gates.xml
    """
    from qconvert import api
    from qconvert.cli.evaluate_shown import describe, show, show_extras

    started = time.monotonic()
    increase = options.parse_share("--max-perplexity-increase", max_perplexity_increase)
    for path in (junit, summary):
        if path is not None:
            check_output(path)
    with render.watching(quiet, "tokens", ANEW) as watcher:
        found = api.evaluate(
            files,
            reference,
            data,
            tokens=tokens,
            window=window,
            backend=backend,  # type: ignore[arg-type]  # which it checks
            exact=exact,
            adapter=adapter,
            device=device,
            dtype=dtype,
            threads=threads,
            executor=executor,
            workers=workers,
            address=address,
            speed=speed,
            tasks=tasks or (),
            task_limit=task_limit,
            max_kld=max_kld,
            max_perplexity_increase=increase,
            watcher=watcher,
        )
    _write(found, junit, summary, time.monotonic() - started)
    if as_json:
        render.print_json(describe(found))
    elif not quiet:
        show(found)
        show_extras(files, found.extras)
    conclude(found.verdicts)


def _write(
    evaluation: "Evaluation", junit: Path | None, summary: Path | None, seconds: float
) -> None:
    """What CI systems read, whether a gate failed or not."""
    from qconvert.containers.whole import write_whole
    from qconvert.evaluation.gates.junit import to_junit
    from qconvert.evaluation.gates.step_summary import append, to_markdown

    if junit is not None:
        files = [file.path for file in evaluation.files]
        write_whole(junit, to_junit(files, evaluation.verdicts, seconds))
    if summary is not None:
        write_whole(summary, to_markdown(evaluation, evaluation.verdicts).encode())
    page = os.environ.get(STEP_SUMMARY)
    if page:
        append(Path(page), to_markdown(evaluation, evaluation.verdicts))


def conclude(verdicts: "Sequence[Verdict]") -> None:
    """Fail with the reasons where a file misses a gate."""
    from qconvert.evaluation.gates.gates import failures

    missed = failures(verdicts)
    for verdict in missed:
        render.say_error(f"{verdict.path}: {verdict.message}")
    if missed:
        raise typer.Exit(1)
