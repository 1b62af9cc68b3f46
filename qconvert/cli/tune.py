"""`qconvert tune`: quantize, and train what the file stores against the original."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.api.tuning import ROUNDS
from qconvert.cli import options, outcome, render
from qconvert.cli.quantize import TypeOption

if TYPE_CHECKING:
    from qconvert.run.tuning import Learnt


def tune(
    model: options.Model,
    type_: TypeOption = None,
    output: options.Output = None,
    calibration: options.Calibration = None,
    weights: Annotated[
        bool,
        typer.Option(
            "--weights",
            help="Train the codes of weights too (quantization-aware training): slower, and more "
            "memory, for types of few bits.",
        ),
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Learn from this, as `qconvert calibrate --data` takes it, and not from the "
            "calibration's tokens, which quantizing has fitted already. Repeatable.",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help=f"Tokens to learn from, repeats included; by default {ROUNDS} times the "
            "calibration's.",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="H", help="Learn for about so long instead."),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(
            min=1e-6,
            max=0.1,
            metavar="R",
            help="How far a scale moves in a step at most, in parts of itself.",
        ),
    ] = 0.001,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the order of the text.")] = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize MODEL, and bring the output nearer to it by training: scales, minima and norms, with
    --weights the codes too. Types and bytes are those of `qconvert quantize`.

    One window in eight of the calibration is not learnt from: what is best there is written, and
    where nothing helps the output is what quantize writes. An interrupted run is taken up again by
    the same command.

    \b
    Examples:
      qconvert tune ./model -c model.calib.safetensors -t q2_k -o model-q2.gguf
      qconvert tune ./model -c model.calib.safetensors -t q2_k --weights --hours 1 -o model-q2.gguf
      qconvert tune ./model -c model.calib.safetensors -t w4a16 --data book.txt -o model-w4/
    """
    from qconvert import api

    with render.watching(quiet, "tokens") as watcher:
        made = api.tune(
            model,
            type_ or (),
            output,
            calibration=calibration,
            weights=weights,
            data=data or (),
            tokens=tokens,
            hours=hours,
            rate=rate,
            seed=seed,
            device=device,
            threads=threads,
            force=force,
            dry_run=dry_run,
            watcher=watcher,
        )
    if as_json:
        outcome.print_all([_data(one, dry_run=dry_run) for one in made])
    elif dry_run:
        for one in made:
            outcome.print_tensors(one.plan)
            size = outcome.summary(one.plan, one.result.nbytes)
            render.show(f"would write {one.plan.target.path}: {size}")
            render.show(f"would train {_words(one)}")
    elif not quiet:
        for one in made:
            render.show_path(one.plan.target.path)
            render.show(outcome.summary(one.plan, one.result.nbytes))


def _words(learnt: "Learnt") -> str:
    return learnt.tuning.words["qconvert.tuned"]


def _data(learnt: "Learnt", *, dry_run: bool) -> dict[str, Any]:
    """A result for JSON."""
    made = outcome.describe(learnt.plan, learnt.result.paths)
    made |= outcome.more(learnt.result, dry_run)
    if dry_run:
        return made | {"tuning": _words(learnt)}
    return made | ({"tuning": learnt.outcome.data} if learnt.outcome else {})
