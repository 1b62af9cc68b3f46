"""`qconvert tune`: quantize, and train what the file stores against the original."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, outcome, render
from qconvert.cli.quantize import TypeOption
from qconvert.errors import PlanError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from qconvert.checkpoint import Checkpoint
    from qconvert.plan.types import Plan
    from qconvert.run.tuning import Learnt, Tuning

ROUNDS = 4
"""How often each window of the calibration is learnt from, if nothing else is said."""


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
    from qconvert.checkpoint import open_checkpoint
    from qconvert.model.open import open_model
    from qconvert.plan.fallbacks import notices
    from qconvert.plan.recipe import Recipe, placed
    from qconvert.plan.safetensors.schemes import find_types
    from qconvert.run.executor import default_threads
    from qconvert.run.quantize import plan_outputs
    from qconvert.run.training.start import beside
    from qconvert.run.tuning import Tuning, tune
    from qconvert.run.types import Run

    if not type_:
        raise UsageError("no type is given", "name one with -t, as in '-t q2_k'")
    if tokens is not None and hours is not None:
        raise UsageError("--tokens and --hours are two budgets", "give one of them")
    names = find_types(type_)
    recipes = placed(tuple(Recipe(name, calibration=calibration) for name in names), output)
    checkpoint = open_checkpoint(model, progress=False if quiet else None, headers_only=dry_run)
    opened = open_model(checkpoint)
    made = []
    with render.watching(quiet, "tokens") as watcher:
        run = Run(threads or default_threads(), watcher, device, dry_run, force)
        starts = [beside(recipe, checkpoint.source) for recipe in recipes]
        plans = plan_outputs(checkpoint, starts, run)
        samples = [_sample(plan) for plan in plans]
        for recipe, plan, sample in zip(recipes, plans, samples, strict=True):
            for notice in () if quiet else notices(plan):
                render.say(notice)
            tuning = Tuning(tokens or ROUNDS * sample.size, hours, rate, weights=weights, seed=seed)
            path = recipe.path(checkpoint.source)
            if dry_run:
                _show_plan(plan, path, tuning, as_json=as_json)
                continue
            more = _more(checkpoint, data or [], tuning, sample, run)
            made.append(tune(opened, plan, path, tuning, run, more))
    if not dry_run:
        _show(made, as_json=as_json, quiet=quiet)


def _sample(plan: "Plan") -> "np.ndarray":
    """The tokens of its calibration.

    Raises:
        PlanError: it has none, or none that is tuned on.
    """
    if plan.sample is None:
        raise PlanError(
            "tuning needs a calibration of this model with its tokens",
            "make one with `qconvert calibrate`, of two windows at least, and give it with -c",
        )
    return plan.sample


def _more(
    checkpoint: "Checkpoint", data: list[str], tuning: "Tuning", sample: "np.ndarray", run: Any
) -> "np.ndarray | None":
    """Windows of the text to learn from beside the calibration."""
    from qconvert.text.sample import draw_sample

    if not data:
        return None
    return draw_sample(
        data,
        checkpoint,
        tokens=tuning.tokens,
        window=sample.shape[1],
        seed=tuning.seed,
        watcher=run.watcher,
    ).tokens


def _show_plan(plan: "Plan", path: Path, tuning: "Tuning", *, as_json: bool) -> None:
    """What would be written, and what would be trained."""
    if as_json:
        made = outcome.describe(plan, []) | outcome.plan_data(plan)
        render.print_json(made | {"path": str(path), "tuning": tuning.words["qconvert.tuned"]})
        return
    outcome.print_tensors(plan)
    render.show(f"would write {path}: {outcome.summary(plan, plan.nbytes)}")
    render.show(f"would train {tuning.words['qconvert.tuned']}")


def _show(made: "list[Learnt]", *, as_json: bool, quiet: bool) -> None:
    """Where the outputs are, what they weigh, and what tuning gained."""
    if as_json:
        outcome.print_all([_data(one) for one in made])
    elif not quiet:
        for one in made:
            render.show_path(one.plan.target.path)
            render.show(outcome.summary(one.plan, one.result.nbytes))


def _data(learnt: "Learnt") -> dict[str, Any]:
    """A result for JSON."""
    made = outcome.describe(learnt.plan, learnt.result.paths)
    made |= outcome.result_data(learnt.result)
    if learnt.outcome is None:
        return made
    return made | {"tuning": learnt.outcome.data}
