"""A model in fewer bits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qconvert.api.types import SILENT, Options, Where, bytes_of, opened, run_of
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qconvert.plan.recipe import Recipe
    from qconvert.plan.types import Plan
    from qconvert.run.stream import Result
    from qconvert.run.types import Run


def plan_quantize(
    model: Where,
    type: str,
    output: Where | None = None,
    *,
    calibration: Where | None = None,
    adapter: Where | None = None,
    device: str = "auto",
    threads: int | None = None,
    watcher: Watcher = SILENT,
    **options: "Unpack[Options]",
) -> "Plan":
    """What `quantize` would write, tensor by tensor. Nothing is written; with a budget the model
    runs. Arguments and errors are those of `quantize`."""
    return _planned(
        model,
        type,
        output,
        calibration,
        adapter,
        run_of(threads, watcher, device, dry=True),
        options,
    )


def quantize(
    model: Where,
    type: str,
    output: Where | None = None,
    *,
    calibration: Where | None = None,
    adapter: Where | None = None,
    device: str = "auto",
    threads: int | None = None,
    force: bool = False,
    watcher: Watcher = SILENT,
    **options: "Unpack[Options]",
) -> "Result":
    """Write a model in fewer bits. What is there already and up to date is left.

    Args:
        model: a directory, a hub id or a GGUF file.
        type: of a GGUF file, a scheme of safetensors, or a type of MLX.
        output: a .gguf file, or a folder; by default NAME-TYPE in this one.
        calibration: what `calibrate` wrote, or an importance matrix.
        adapter: a directory of PEFT's, merged as the model is read.
        force: replace what is there and is something else.
        options: see `Options`.

    Raises:
        UsageError: an option is not known, or does not fit.
        CheckpointError, HubError, UnsupportedError: the model cannot be had, read or converted.
        PlanError: what is asked for cannot be made of this model.
        WeightError: a weight is NaN or infinite.
        OutputError: it cannot be written, or something else is there.
    """
    from qconvert.run.outputs import write_stale

    run = run_of(threads, watcher, device)
    made = _planned(model, type, output, calibration, adapter, run, options)
    return write_stale([made], run.threads, watcher, device, force=force)[0]


def _planned(
    model: Where,
    type_: str,
    output: Where | None,
    calibration: Where | None,
    adapter: Where | None,
    run: "Run",
    options: Options,
) -> "Plan":
    from qconvert.run.quantize import plan_outputs

    recipe = _recipe(type_, output, calibration, options)
    checkpoint = opened(model, run.watcher, adapter, dry=run.dry)
    return plan_outputs(checkpoint, [recipe], run)[0]


def _recipe(
    type_: str, output: Where | None, calibration: Where | None, options: Options
) -> "Recipe":
    from qconvert.errors import UsageError
    from qconvert.plan.recipe import DEFAULTS, Recipe, placed, with_given
    from qconvert.plan.safetensors.schemes import find_types

    (name,) = find_types([type_])
    given: dict[str, Any] = dict(options)
    if "override" in given:
        given["overrides"] = tuple(given.pop("override").items())
    unknown = [option for option in given if option not in DEFAULTS]
    if unknown:
        raise UsageError(f"quantize has no option {unknown[0]}", f"choose {', '.join(DEFAULTS)}")
    for option in ("under", "split_max_size", "max_shard_size"):
        if option in given:
            given[option] = bytes_of(given[option], option)
    for option in ("keep", "ignore", "types"):
        if option in given:
            given[option] = tuple(given[option])
    if "importance" in given:
        given["importance"] = Path(given["importance"])
    if calibration is not None:
        given["calibration"] = Path(calibration)
    (recipe,) = with_given([Recipe(name)], given)
    return placed((recipe,), None if output is None else str(output))[0]
