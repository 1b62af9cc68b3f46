"""From what the user asks for to outputs that can be written.

recipes -> statistics (the model works on the sample again where these take it) -> plans
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qconvert.calibration.importance import Importance, importance_of
from qconvert.calibration.types import Calibration
from qconvert.checkpoint import Checkpoint, TensorInfo
from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.containers.directory import check_directory
from qconvert.containers.folder import work_folder
from qconvert.errors import PlanError, UsageError
from qconvert.model.by_modules import has_family, open_by_modules
from qconvert.model.open import Model, open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import is_mlx, is_scheme
from qconvert.plan.statistics import Statistics
from qconvert.plan.types import Plan
from qconvert.run.budget import budget_of, within_budget
from qconvert.run.types import Run

if TYPE_CHECKING:
    from qconvert.run.activations.prepare import Activations

Measured = Calibration | Importance
"""What was measured of a model's inputs: by this program, or by llama.cpp."""

FEWEST_WINDOWS = 2
"""One to be shown to algorithms, and one for the guard."""

ACTIVATION_RANGE = "mse"
"""The usual estimator of static activations' ranges."""


def plan_outputs(checkpoint: Checkpoint, recipes: Sequence[Recipe], run: Run) -> list[Plan]:
    """Plan every output.

    Raises:
        UsageError: two outputs have one place, or an output is the source itself.
        CheckpointError: a calibration or an importance matrix cannot be read.
        PlanError: an output cannot be made; see `make_plan`.
    """
    check_places(checkpoint, recipes)
    named = {path for one in recipes for path in (one.calibration, one.importance) if path}
    measured = {path: read_statistics(path, checkpoint) for path in sorted(named)}
    model = _open(checkpoint, recipes, run)
    _check_vocabulary(model, recipes)
    plans = []
    for recipe in recipes:
        sample, notices = _sample(recipe, measured)
        statistics = Statistics(_importance(recipe, measured), notices=notices, sample=sample)
        if is_scheme(recipe.type) and not is_mlx(recipe.type):
            statistics = _with_activations(statistics, model, recipe, measured, run)
            statistics = _with_peaks(statistics, recipe, measured)
            statistics = _with_caches(statistics, model, recipe, measured, run)
        if recipe.has_budget:
            recipe = _within_budget(model, recipe, statistics, measured, run)
        plan = make_plan(model, recipe, statistics)
        path = plan.target.path
        works = (smoothing_of(path), budget_of(path), caches_of(path))
        plans.append(replace(plan, works=tuple(map(work_folder, works))))
    return plans


def _open(checkpoint: Checkpoint, recipes: Sequence[Recipe], run: Run) -> Model:
    """What the source means. For directories of safetensors alone a class needs no family."""
    alone = all(is_scheme(recipe.type) and not is_mlx(recipe.type) for recipe in recipes)
    if checkpoint.container == "gguf" or not alone or has_family(checkpoint.config):
        is_read = any(one.has_budget or is_scheme(one.type) for one in recipes)
        return open_model(checkpoint, is_sketch=run.dry and not is_read)
    return open_by_modules(checkpoint)


def float_type(tensors: Iterable[TensorInfo]) -> str:
    """The float type of most of the bytes of tensors; f32 for all but f16 and bf16."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    most = max(sizes, key=sizes.__getitem__, default="F32")
    return most.lower() if most in ("F16", "BF16") else "f32"


def _within_budget(
    model: Model,
    recipe: Recipe,
    statistics: Statistics,
    measured: Mapping[Path, Measured],
    run: Run,
) -> Recipe:
    """With a type for each tensor.

    Raises:
        PlanError: there is no calibration with tokens, or the budget is too small.
    """
    why = (
        "a budget needs a calibration of this model with its tokens: what each tensor loses is "
        "measured on them"
    )
    tokens = _calibration(recipe, measured, why).sample.tokens
    return within_budget(model, recipe, statistics, tokens, run)


MAKE_ONE = "add --calibrate, or make one with `qconvert calibrate` and give it with -c"


def _calibration(
    recipe: Recipe, measured: Mapping[Path, Measured], why: str, hint: str = MAKE_ONE
) -> Calibration:
    """The calibration that a recipe names.

    Args:
        why: it is needed.

    Raises:
        PlanError: there is none.
    """
    found = measured.get(recipe.calibration) if recipe.calibration else None
    if not isinstance(found, Calibration):
        raise PlanError(why, hint)
    return found


def _with_activations(
    statistics: Statistics,
    model: Model,
    recipe: Recipe,
    measured: Mapping[Path, Measured],
    run: Run,
) -> Statistics:
    """With smoothing and the ranges of inputs, where a recipe asks for them. The directory is
    planned without them first: what cannot be made is said before the model works.

    Raises:
        PlanError: there is no calibration, or the directory cannot be made.
    """
    from qconvert.plan.safetensors.recipe import scheme_of

    inputs = scheme_of(recipe).inputs
    if inputs is None or (inputs.dynamic and recipe.smooth is None):
        return statistics
    what = "static activations need" if recipe.smooth is None else "--smooth needs"
    hint = "make one with `qconvert calibrate`, and give it with -c"
    calibration = _calibration(recipe, measured, f"{what} a calibration of this model", hint)
    if run.dry and recipe.smooth is not None:
        return statistics  # sizes do not depend on what the model would have to be run for
    make_plan(model, recipe, statistics)
    done = _activations(model, calibration, recipe, run)
    ranges = None if inputs.dynamic else done.ranges
    return replace(
        statistics,
        ranges=ranges,
        smoothing=done.smoothing,
        notices=(*statistics.notices, *done.notices),
    )


def _with_peaks(
    statistics: Statistics, recipe: Recipe, measured: Mapping[Path, Measured]
) -> Statistics:
    """With the largest values of inputs, where what is stored of these follows from them.

    Raises:
        UsageError: other inputs are to be smoothed, which would change these.
        PlanError: there is no calibration.
    """
    from qconvert.plan.safetensors.recipe import exceptions, scheme_of

    asked = (scheme_of(recipe), *(scheme for _, scheme in exceptions(recipe)))
    name = next((scheme.name for scheme in asked if scheme and scheme.is_local), "")
    if not name:
        return statistics
    if recipe.smooth is not None:
        raise UsageError(f"--smooth changes inputs whose scale {name} stores", "leave one out")
    why = f"{name} stores a scale of each layer's input, which a calibration of this model tells"
    inputs = _calibration(recipe, measured, why).by_weight.items()
    return replace(statistics, peaks={name: one.absmax.max(axis=1) for name, one in inputs})


def _with_caches(
    statistics: Statistics,
    model: Model,
    recipe: Recipe,
    measured: Mapping[Path, Measured],
    run: Run,
) -> Statistics:
    """With the largest keys and values of each block, where their scales are to be stored.

    Raises:
        PlanError: there is no calibration with tokens, or the model has no such cache.
    """
    if recipe.kv is None:
        return statistics
    from qconvert.forward.walk import Place
    from qconvert.plan.safetensors.caches import cached
    from qconvert.run.activations.caches import see_caches

    blocks = tuple(cached(model))
    why = "--kv needs a calibration of this model, on whose tokens keys and values are seen"
    calibration = _calibration(recipe, measured, why)
    if run.dry:
        return statistics  # the bytes are known
    make_plan(model, recipe, statistics)  # what cannot be made is said before the model works
    path = recipe.path(model.checkpoint.source)
    if not run.force:
        check_directory(path)
    tokens, place = calibration.sample.tokens, Place(path.parent, run.device, threads=run.threads)
    seen = see_caches(model, tokens, blocks, place, caches_of(path), run.watcher)
    return replace(statistics, caches=seen)


def _activations(model: Model, calibration: Calibration, recipe: Recipe, run: Run) -> "Activations":
    """Smoothing and stored ranges; the model is run again where they ask for it."""
    from qconvert.algorithms.ranges import estimator
    from qconvert.forward.walk import Place
    from qconvert.plan.safetensors.recipe import scheme_of
    from qconvert.run.activations.prepare import prepare_activations

    form = scheme_of(recipe).inputs
    assert form is not None
    name = recipe.activation_range or ACTIVATION_RANGE
    percentile = recipe.percentile if name == "percentile" else None
    path = recipe.path(model.checkpoint.source)
    if not run.force:
        check_directory(path)
    return prepare_activations(
        model,
        calibration,
        form,
        smooth=recipe.smooth,
        estimator=estimator(name, percentile),
        strict_static=recipe.strict_static,
        place=Place(path.parent, run.device, threads=run.threads),
        work=smoothing_of(path),
        watcher=run.watcher,
    )


def smoothing_of(path: Path) -> Path:
    """What the work of smoothing an output is called."""
    return path.with_name(f"{path.name}.smoothing")


def caches_of(path: Path) -> Path:
    """What the work of looking at an output's keys and values is called."""
    return path.with_name(f"{path.name}.kv")


def read_statistics(path: Path, checkpoint: Checkpoint) -> Measured:
    """A calibration of this model, or an importance matrix of llama.cpp.

    Raises:
        CheckpointError: it is neither.
        PlanError: it belongs to another model.
    """
    from qconvert.calibration.file import check_calibration, read_calibration
    from qconvert.calibration.imatrix import read_importance
    from qconvert.calibration.imatrix_dat import is_dat

    if read_bytes_at(path, 0, min(4, file_size(path))) == b"GGUF" or is_dat(path):
        return read_importance(path)
    calibration = read_calibration(path)
    check_calibration(calibration, checkpoint)
    return calibration


def _importance(recipe: Recipe, measured: Mapping[Path, Measured]) -> Importance | None:
    """That of `--importance`, else what the calibration gives."""
    path = recipe.importance or recipe.calibration
    found = measured[path] if path else None
    return importance_of(found) if isinstance(found, Calibration) else found


def _sample(
    recipe: Recipe, measured: Mapping[Path, Measured]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The tokens of its calibration, where the model shall run on them, and why it shall not."""
    found = measured.get(recipe.calibration) if recipe.calibration else None
    if not recipe.feedback or not isinstance(found, Calibration):
        return None, ()
    windows = len(found.sample.tokens)
    if windows < FEWEST_WINDOWS:
        return None, (
            f"feedback is left out: it takes at least {FEWEST_WINDOWS} windows of tokens,"
            f" and the calibration has {windows}",
        )
    return found.sample.tokens, ()


def _check_vocabulary(model: Model, recipes: Sequence[Recipe]) -> None:
    """Refuse GGUF files that could not read text, unless that is asked for."""
    asked = any(one.vocabulary and not is_scheme(one.type) for one in recipes)
    if asked and not model.has_vocabulary:
        raise PlanError(
            f"{model.checkpoint.source} has no tokenizer: a GGUF file of it would have no "
            "vocabulary",
            "put tokenizer.json or tokenizer.model beside the weights, or go on with "
            "--no-vocabulary",
        )


def check_places(checkpoint: Checkpoint, recipes: Sequence[Recipe]) -> None:
    """Refuse two outputs at one place, and one over the source.

    Raises:
        UsageError: there is such an output.
    """
    taken = {path.resolve(): "the source" for path in (*checkpoint.files, checkpoint.path)}
    for recipe in recipes:
        path = recipe.path(checkpoint.source)
        real = path.resolve()
        if taken.get(real) == "the source":
            raise UsageError(f"{path} is the source itself", "name another output with -o")
        if real in taken:
            raise UsageError(
                f"{taken[real]} and {recipe.type} would both be written to {path}",
                "give each an output of its own",
            )
        taken[real] = recipe.type
