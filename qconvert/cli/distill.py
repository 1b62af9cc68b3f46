"""`qconvert distill`: train a smaller model to say what a larger one says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qconvert.cli import options, render
from qconvert.cli.calibrate import TOKENS, WINDOW
from qconvert.errors import PlanError, UsageError

if TYPE_CHECKING:
    from qconvert.checkpoint import Checkpoint


def distill(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            help="The smaller model: a directory, as one of fewer layers, or a hub id.",
        ),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            metavar="MODEL",
            help="The model to learn from: a directory, a hub id or a GGUF file, with the "
            "student's tokenizer.",
        ),
    ],
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
    window: options.Window = WINDOW,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of draw and order.")] = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
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
    """
    from qconvert.checkpoint import open_checkpoint
    from qconvert.containers.directory import check_directory
    from qconvert.model.open import open_model
    from qconvert.run.distilling import Distilling, distill
    from qconvert.run.executor import default_threads
    from qconvert.run.types import Run
    from qconvert.text.sample import draw_sample

    if not data:
        raise UsageError("no text is given to learn on", "name one with --data")
    if output is None:
        raise UsageError("no directory is named for the result", "name one with -o")
    check_directory(output)
    progress = False if quiet else None
    small, large = (open_checkpoint(one, progress=progress) for one in (student, teacher))
    _check_tokenizers(small, large)
    with render.watching(quiet, "tokens") as watcher:
        sample = draw_sample(data, small, tokens=tokens, window=window, seed=seed, watcher=watcher)
        how = Distilling(tokens, hours, rate, seed=seed)
        run = Run(threads or default_threads(), watcher, device)
        opened = open_model(small), open_model(large)
        made = distill(*opened, sample.tokens, output, how, run)
    if as_json:
        about = {"path": str(output), "bytes": made.result.nbytes, "data": sample.source}
        render.print_json(about | {"distilling": made.outcome.data})
    elif not quiet:
        render.show_path(output)
        render.show(made.outcome.words)


def _check_tokenizers(small: "Checkpoint", large: "Checkpoint") -> None:
    """Refuse two models that read other tokens.

    Raises:
        PlanError: the message names the first token that differs.
    """
    from qconvert.text.tokenizer import first_difference, has_tokenizer, load_tokenizer

    if not has_tokenizer(large):
        return
    found = first_difference(load_tokenizer(small), load_tokenizer(large))
    if found:
        raise PlanError(
            f"{small.source} and {large.source} have different tokenizers: {found}",
            "a student learns from a teacher that reads the same tokens",
        )
