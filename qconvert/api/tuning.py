"""A quantized file, brought nearer to its original by training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.calibrating import texts
from qconvert.api.types import SILENT, Where, opened
from qconvert.errors import UsageError
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    import numpy as np

    from qconvert.checkpoint import Checkpoint
    from qconvert.run.tuning import Learnt, Tuning

ROUNDS = 4
"""How often each window of the calibration is learnt from, if nothing else is said."""


def tune(
    model: Where,
    type: str | Sequence[str],
    output: Where | None = None,
    *,
    calibration: Where | None = None,
    weights: bool = False,
    data: Where | Sequence[Where] = (),
    tokens: int | None = None,
    hours: float | None = None,
    rate: float = 0.001,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    watcher: Watcher = SILENT,
) -> "tuple[Learnt, ...]":
    """Quantize, and train what is stored against the original; a result for each type.

    Args:
        type: of a GGUF file, or a scheme of safetensors; several make several outputs.
        output: a .gguf file, or a folder; by default NAME-TYPE in this one.
        calibration: what `calibrate` wrote of this model; it cannot be left out.
        weights: train the codes too, not scales, minima and norms alone.
        data: learn from this, as `calibrate` takes it, and not from the calibration's tokens.
        tokens: to learn from, repeats included; None is four times the calibration's.
        hours: learn for about so long instead.
        rate: how far a scale moves in a step at most, in parts of itself.
        seed: of the order of the text.
        force: replace what is there and is something else.
        dry_run: only plan; the results say what would be.

    Raises:
        UsageError: options do not fit.
        PlanError: there is no calibration with tokens, or nothing can be trained.
        As `quantize`.
    """
    from qconvert.model.open import open_model
    from qconvert.plan.fallbacks import notices
    from qconvert.plan.recipe import Recipe, placed
    from qconvert.plan.safetensors.schemes import find_types
    from qconvert.run.executor import default_threads
    from qconvert.run.quantize import plan_outputs
    from qconvert.run.training.start import beside
    from qconvert.run.tuning import Tuning, planned, sample_of
    from qconvert.run.tuning import tune as run_tuning
    from qconvert.run.types import Run

    names = find_types([type] if isinstance(type, str) else type)
    if not names:
        raise UsageError("no type is given", "name one with -t, as in '-t q2_k'")
    if tokens is not None and hours is not None:
        raise UsageError("--tokens and --hours are two budgets", "give one of them")
    file = None if calibration is None else Path(calibration)
    recipes = placed(
        tuple(Recipe(name, calibration=file) for name in names),
        None if output is None else str(output),
    )
    checkpoint = opened(model, watcher, None, dry=dry_run)
    run = Run(threads or default_threads(), watcher, device, dry_run, force)
    plans = plan_outputs(checkpoint, [beside(one, checkpoint.source) for one in recipes], run)
    samples = [sample_of(plan) for plan in plans]
    opened_model = open_model(checkpoint)
    made = []
    for recipe, plan, sample in zip(recipes, plans, samples, strict=True):
        for notice in notices(plan):
            watcher.note(notice)
        tuning = Tuning(tokens or ROUNDS * sample.size, hours, rate, weights=weights, seed=seed)
        path = recipe.path(checkpoint.source)
        if dry_run:
            made.append(planned(plan, path, tuning))
            continue
        more = _more(checkpoint, texts(data), tuning, sample.shape[1], watcher)
        made.append(run_tuning(opened_model, plan, path, tuning, run, more))
    return tuple(made)


def _more(
    checkpoint: "Checkpoint",
    data: tuple[str, ...],
    tuning: "Tuning",
    window: int,
    watcher: Watcher,
) -> "np.ndarray | None":
    """Windows of the text to learn from beside the calibration."""
    from qconvert.text.sample import draw_sample

    if not data:
        return None
    return draw_sample(
        data,
        checkpoint,
        tokens=tuning.tokens,
        window=window,
        seed=tuning.seed,
        watcher=watcher,
    ).tokens
