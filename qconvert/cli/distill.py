"""`qconvert distill`: train a smaller model to say what a larger one says."""

from pathlib import Path
from typing import Annotated

import typer

from qconvert.api.types import TOKENS, WINDOW
from qconvert.cli import options, render


def distill(
    student: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDENT]",
            help="The smaller model: a directory, as one of fewer layers, or a hub id. None with "
            "--like.",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="The model to learn from: a directory, a hub id or a GGUF file, with the "
            "student's tokenizer.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A config.json: begin with a student of these sizes that knows nothing yet but "
            "the teacher's tokens.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What to learn on, as `qconvert calibrate --data` takes it. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The directory to write."),
    ] = None,
    tokens: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Tokens of the text to learn from."),
    ] = 4 * TOKENS,
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="H", help="Learn for about so long, in several rounds."),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            min=1e-6,
            max=0.5,
            metavar="R",
            help="How far a weight moves in a step at most, in parts of its tensor's usual size.",
        ),
    ] = 0.01,
    lora: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="RANK",
            help="Train what is added to each matrix at this rank, in less memory; it is merged "
            "at the end.",
        ),
    ] = None,
    next_token: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="W",
            help="Learn the text's next token too, with this weight; the teacher's has 1.",
        ),
    ] = 0.0,
    hidden: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="W",
            help="Learn what leaves the teacher's blocks too, with this weight; for a student of "
            "the same width.",
        ),
    ] = 0.0,
    window: options.Window = WINDOW,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of draw and order.")] = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train STUDENT to foretell what the teacher foretells, and write it as a plain directory.

    Weights of blocks and norms are trained; token embeddings and output projection stay. Encoders
    learn the teacher's embeddings. One window in eight of the text is not learnt from: what is best
    there is written. An interrupted run is taken up again by the same command.

    \b
    Examples:
      qconvert distill ./small --teacher ./model --data book.txt -o small-taught/
      qconvert distill ./small --teacher org/name --data texts.jsonl --hours 2 -o small-taught/
      qconvert distill ./small --teacher ./model --data book.txt --lora 16 -o small-taught/
      qconvert distill --like config.json --teacher ./model --data book.txt -o new/
    """
    from qconvert import api

    with render.watching(quiet, "tokens") as watcher:
        made = api.distill(
            student,
            teacher,
            data or (),
            output,
            like=like,
            tokens=tokens,
            hours=hours,
            rate=rate,
            lora=lora,
            next_token=next_token,
            hidden=hidden,
            window=window,
            seed=seed,
            device=device,
            threads=threads,
            force=force,
            watcher=watcher,
        )
    if as_json:
        about = {"path": str(output), "bytes": made.result.nbytes, "data": made.data}
        render.print_json(about | {"distilling": made.outcome.data})
    elif not quiet:
        render.show_path(output)
        render.show(made.outcome.words)
