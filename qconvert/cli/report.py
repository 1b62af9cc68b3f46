"""`qconvert report`: quantize to several types, measure them all, and show which one to take."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qconvert.cli import options, render
from qconvert.cli.quantize import complete_type
from qconvert.errors import PartError
from qconvert.machine.watcher import KEPT

if TYPE_CHECKING:
    from qconvert.report.types import Report


def report(
    model: options.Model,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            metavar="TYPE",
            help="GGUF types and schemes of safetensors, as in `quantize`; repeatable. By default "
            "a ladder from q8_0 to q2_k.",
            autocompletion=complete_type,
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="The folder of the report."),
    ] = Path("report"),
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="What the files are held against, where MODEL was made of another: pruned, "
            "distilled. By default MODEL itself.",
        ),
    ] = None,
    adapter: options.Adapter = None,
    calibration: options.Calibration = None,
    ways: Annotated[
        bool,
        typer.Option(
            "--ways",
            help="With -c: of each type also a file without it, one without feedback, and one "
            "of the same size whose tensors' types are chosen.",
        ),
    ] = False,
    data: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="What the files are tested on: a .txt, .md, .jsonl, .parquet or .csv file, a "
            "data set of the hub, or self: the model writes it (the default; a real text is "
            "better).",
        ),
    ] = "self",
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Take the first N tokens of the text; all by default, 16384 of self.",
        ),
    ] = None,
    window: options.Window = 512,
    under: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Name the file nearest to the original of at most this size: 4GB; or a device "
            "that it has to fit: phone, pi or laptop-8gb.",
        ),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Name the smallest file whose perplexity is this near to the original's: 1%. With "
            "--under, the nearest that is both.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts to be answered: .txt, .md or .jsonl."),
    ] = None,
    answer_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens of an answer, at most.")
    ] = 64,
    speed: Annotated[bool, typer.Option(help="Measure speed and memory.")] = True,
    answers: Annotated[bool, typer.Option(help="Let all files answer the prompts.")] = True,
    sensitivity: Annotated[
        bool, typer.Option(help="Measure which parts of the chosen file cost most.")
    ] = True,
    no_vocabulary: options.NoVocabulary = False,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    threads: options.Cores = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize MODEL to several types, measure all of them, and show which one to take.

    The folder gets report.html (one file, for any browser, without a network), the plots, the
    table as JSON and CSV, and the files themselves. What is there already is used again: an
    interrupted run is taken up by the same command, and one more type costs that one type.

    \b
    Examples:
      qconvert report ./model --data wiki.txt
      qconvert report org/name -c name.calib.safetensors --data wiki.txt -t q8_0 -t q4_k_m -t w8a8
      qconvert report ./model --data wiki.txt --under 4GB
      qconvert report ./smaller --reference ./model -c smaller.calib.safetensors --data wiki.txt
      qconvert report ./model --data wiki.txt --within 1% --json | jq .choice.path
    """
    from qconvert import api
    from qconvert.api.types import SILENT

    found = api.make_report(
        model,
        type_ or (),
        output,
        reference=reference,
        adapter=adapter,
        calibration=calibration,
        ways=ways,
        data=data,
        tokens=tokens,
        window=window,
        under=under,
        within=options.parse_share("--within", within),
        prompts=prompts,
        answer_tokens=answer_tokens,
        speed=speed,
        answers=answers,
        sensitivity=sensitivity,
        vocabulary=not no_vocabulary,
        backend=backend,  # type: ignore[arg-type]  # which it checks
        device=device,
        threads=threads,
        watcher=SILENT if quiet else lambda unit: render.watching(False, unit, KEPT),
    )
    if as_json:
        from qconvert.report.columns import as_data

        render.print_json(as_data(found))
    elif not quiet:
        show(found, output / "report.html")
    _conclude(found)


def show(found: "Report", page: Path) -> None:
    """The picture (on a terminal), the table, and the choice."""
    from qconvert.report import figures
    from qconvert.report.choosing import front
    from qconvert.report.columns import has_speed
    from qconvert.report.terminal import text_plot

    if sys.stdout.isatty():
        render.show("\n".join(text_plot(found)) + "\n")
    timed = has_speed(found)
    head = ("file", ">size", ">bits", ">KL divergence", ">perplexity", ">change")
    table = []
    best = front(found.rows)
    for row in found.rows:
        error = figures.error_of(row.divergence.standard_error)
        generated = row.speed.generated_per_second.median if row.speed else float("nan")
        cells = (
            row.name + (" " if row in best else " *"),
            figures.size(row.nbytes),
            figures.number(row.bits_per_weight),
            f"{figures.nats(row.divergence.mean)} {error}",
            figures.number(row.perplexity),
            figures.fixed_percent(row.perplexity_ratio - 1, signed=True),
            *([figures.rate(generated)] if timed else []),
        )
        table.append([cell.replace("\N{NO-BREAK SPACE}", " ") for cell in cells])
    render.print_table((*head, *([">tokens/s"] if timed else [])), table)
    if any(row not in best for row in found.rows):
        render.show("* another file is both smaller and closer to the original")
    taken = found.choice.row
    if taken is not None:
        rule = found.choice.rule.replace("\N{NO-BREAK SPACE}", " ")
        render.show(f"take {taken.name}, {rule}: {page.parent / taken.path}")
    render.show_path(page)


def _conclude(found: "Report") -> None:
    """A wish that no file meets is a failure.

    Raises:
        PartError: there is none.
    """
    from qconvert.report.choosing import why_none

    if found.choice.row is None:
        why = why_none(found.rows, found.wish).replace("\N{NO-BREAK SPACE}", " ")
        raise PartError(why, "add types with -t, or ask for less")
