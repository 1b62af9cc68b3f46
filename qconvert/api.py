"""The program from Python: its commands as functions, with the options' names.

    import qconvert
    made = qconvert.quantize("./model", "q4_k_m", "model.gguf", calibration="calib.safetensors")

Each gives the dataclass that its command prints as JSON. Where the command would print an error and
a hint, a `QconvertError` with both is raised. Sizes are numbers of bytes or "4GB". Nothing is
printed: a `watcher` hears of progress and of what a user should know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from qconvert.machine.watcher import Silent, Watcher

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qconvert.calibration.capture import Captured
    from qconvert.checkpoint import Checkpoint
    from qconvert.evaluation.divergence.types import Evaluation
    from qconvert.inspection import Inspection
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.types import Plan
    from qconvert.run.pruning.types import Pruned
    from qconvert.run.stream import Result

Where = str | Path
"""A path, or for models a hub id."""

Size = int | str
"""Bytes, or "4GB"."""

SILENT = Silent()


class Options(TypedDict, total=False):
    """Options of `quantize`; `qconvert.plan.recipe.Recipe` says what each means."""

    importance: Where
    override: Mapping[str, str]
    keep: Sequence[str]
    feedback: bool
    allow_nan: bool
    pure: bool
    output_type: str
    embedding_type: str
    ignore: Sequence[str]
    vocabulary: bool
    fallback: bool
    split_max_size: Size
    activations: Literal["dynamic", "static"]
    strategy: Literal["tensor", "channel", "block"]
    group_size: int | Literal["channel"]
    asymmetric: bool
    weight_range: str
    activation_range: str
    percentile: float
    smooth: float | Literal["auto"]
    strict_static: bool
    lm_head: bool
    embeddings: bool
    max_shard_size: Size
    under: Size
    bits: float
    types: Sequence[str]


def inspect(model: Where, types: Sequence[str] | None = None) -> "Inspection":
    """What a model is, and what each type of GGUF file would weigh. Reads headers and a few rows.

    Args:
        model: a directory, a hub id or a GGUF file.
        types: of GGUF files; None for all.

    Raises:
        CheckpointError: it cannot be read or trusted.
        HubError: the hub did not give it.
        UsageError: a type is not known.
    """
    from qconvert.checkpoint import open_checkpoint
    from qconvert.inspection import look_at

    checkpoint = open_checkpoint(str(model), progress=False, headers_only=True)
    return look_at(checkpoint) if types is None else look_at(checkpoint, types)


def calibrate(
    model: Where,
    output: Where | None = None,
    *,
    data: Where | Sequence[str] = (),
    tokens: int = 65536,
    window: int = 512,
    seed: int = 0,
    adapter: Where | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    watcher: Watcher = SILENT,
) -> "Captured":
    """Run a model over a sample of text, and write what its layers saw.

    Args:
        output: the file; by default NAME.calib.safetensors in this folder.
        data: a text, or several, as the command takes them; without one the model writes its own.

    Raises:
        UsageError, CheckpointError, HubError: the text cannot be had, or is too short.
        UnsupportedError: the model cannot be run here.
        OutputError: the file cannot be written.
    """
    from qconvert.calibration.capture import capture
    from qconvert.forward.device import choose_device
    from qconvert.plan.recipe import calibration_path
    from qconvert.run.executor import default_threads
    from qconvert.text.sample import draw_sample

    place = choose_device(device)
    checkpoint = _opened(model, watcher, adapter)
    named = [str(data)] if isinstance(data, str | Path) else [str(one) for one in data]
    sample = draw_sample(
        named,
        checkpoint,
        tokens=tokens,
        window=window,
        seed=seed,
        watcher=watcher,
        device="cpu" if place == "mps" else place,
    )
    return capture(
        checkpoint,
        sample,
        calibration_path(checkpoint.source) if output is None else Path(output),
        device=place,
        dtype=dtype,
        threads=threads or default_threads(),
        watcher=watcher,
    )


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
        model, type, output, calibration, adapter, _run(threads, watcher, device, dry=True), options
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

    run = _run(threads, watcher, device)
    made = _planned(model, type, output, calibration, adapter, run, options)
    return write_stale([made], run.threads, watcher, device, force=force)[0]


def export(
    model: Where,
    output: Where,
    *,
    dtype: Literal["auto", "f32", "f16", "bf16"] = "auto",
    adapter: Where | None = None,
    threads: int | None = None,
    force: bool = False,
    watcher: Watcher = SILENT,
) -> "Result":
    """Change the container and keep the weights: a directory becomes a GGUF file, a GGUF file a
    directory.

    Args:
        dtype: of all weights; "auto" is the type that holds the source's.

    Raises:
        As `quantize`.
    """
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.safetensors.export import make_export_plan
    from qconvert.run.outputs import write_stale
    from qconvert.run.quantize import float_type, plan_outputs

    checkpoint, run = _opened(model, watcher, adapter), _run(threads, watcher)
    recipe = Recipe(dtype, output=Path(output))
    if checkpoint.container == "gguf":
        made = make_export_plan(checkpoint, recipe)
    else:
        wanted = float_type(checkpoint) if dtype == "auto" else dtype
        (made,) = plan_outputs(checkpoint, [replace(recipe, type=wanted)], run)
    return write_stale([made], run.threads, watcher, force=force)[0]


def evaluate(
    files: Where | Sequence[Where],
    reference: Where,
    data: Where,
    *,
    tokens: int | None = None,
    window: int = 512,
    backend: Literal["auto", "torch", "transformers", "llama.cpp"] = "auto",
    exact: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    watcher: Watcher = SILENT,
) -> "Evaluation":
    """How far files are from the original that they were made of, on a text.

    Args:
        files: GGUF files, directories or hub ids.
        reference: the original.
        data: a text, as the command takes it.

    Raises:
        UsageError, CheckpointError, UnsupportedError: a file cannot be compared.
        WeightError: a model's logits are NaN or infinite.
    """
    from qconvert.evaluation.divergence.evaluate import Choices
    from qconvert.evaluation.divergence.evaluate import evaluate as run
    from qconvert.evaluation.runtimes.settings import Settings

    several = [files] if isinstance(files, str | Path) else list(files)
    choices = Choices(tokens, window, backend, exact, settings=Settings(device, dtype, threads))
    return run(str(reference), str(data), several, choices, watcher)


def prune(
    model: Where,
    calibration: Where,
    output: Where | None = None,
    *,
    layers: int | None = None,
    ffn: int | None = None,
    heads: int | None = None,
    hidden: int | None = None,
    experts: int | None = None,
    to: int | str | None = None,
    under: Size | None = None,
    type: str | None = None,
    sparsity: float | str | None = None,
    multiple: int = 256,
    tokens: int = 4096,
    max_shard_size: Size | None = None,
    adapter: Where | None = None,
    device: str = "auto",
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    watcher: Watcher = SILENT,
) -> "Pruned":
    """Make a model smaller by leaving out what matters least.

    Args:
        calibration: what `calibrate` wrote.
        output: a new directory; by default NAME-pruned in this one.
        layers, ffn, heads, hidden, experts: what shall be left of each.
        to: parameters that shall be left, a number or "6B".
        under: bytes that a file of `type` may have.
        sparsity: set weights to zero instead: 0.5 or "2:4".
        multiple: sizes stay multiples of this, where they are.
        tokens: of the calibration, to try cuts on.
        dry_run: only say what it would be.

    Raises:
        UsageError: sizes or options do not fit.
        UnsupportedError: the model, or a part of it, cannot be cut.
        PlanError: the calibration is another model's or too short, or a budget cannot be met.
        OutputError: it cannot be written, or something is there.
    """
    from qconvert.plan.recipe import model_name
    from qconvert.run.pruning.prune import prune as run
    from qconvert.run.pruning.types import Wanted, check_wanted, parse_count

    wanted = Wanted(
        layers,
        ffn,
        heads,
        hidden,
        experts,
        parse_count(to) if isinstance(to, str) else to,
        _bytes(under, "under"),
        type,
        None if sparsity is None else str(sparsity),
        multiple,
        tokens,
        _bytes(max_shard_size, "max_shard_size"),
    )
    check_wanted(wanted)
    checkpoint = _opened(model, watcher, adapter)
    path = Path(output) if output else Path(f"{model_name(checkpoint.source)}-pruned")
    how = replace(_run(threads, watcher, device, dry=dry_run), force=force)
    return run(checkpoint, Path(calibration), path, wanted, how)


def _run(threads: int | None, watcher: Watcher, device: str = "auto", *, dry: bool = False) -> Any:
    from qconvert.run.executor import default_threads
    from qconvert.run.types import Run

    return Run(threads or default_threads(), watcher, device, dry)


def _opened(
    model: Where, watcher: Watcher, adapter: Where | None, *, dry: bool = False
) -> "Checkpoint":
    """The model; downloads are shown on a terminal, if anything is."""
    from qconvert.checkpoint import open_checkpoint

    progress = False if isinstance(watcher, Silent) else None
    merged = None if adapter is None else Path(adapter)
    return open_checkpoint(str(model), progress=progress, headers_only=dry, adapter=merged)


def _planned(
    model: Where,
    type_: str,
    output: Where | None,
    calibration: Where | None,
    adapter: Where | None,
    run: Any,
    options: Options,
) -> "Plan":
    from qconvert.run.quantize import plan_outputs

    recipe = _recipe(type_, output, calibration, options)
    checkpoint = _opened(model, run.watcher, adapter, dry=run.dry)
    return plan_outputs(checkpoint, [recipe], run)[0]


def _recipe(
    type_: str, output: Where | None, calibration: Where | None, options: Options
) -> "Recipe":
    from qconvert.errors import UsageError
    from qconvert.plan.recipe import DEFAULTS, Recipe, with_given
    from qconvert.plan.safetensors.schemes import find_types, is_scheme

    (name,) = find_types([type_])
    given: dict[str, Any] = dict(options)
    if "override" in given:
        given["overrides"] = tuple(given.pop("override").items())
    unknown = [option for option in given if option not in DEFAULTS]
    if unknown:
        raise UsageError(f"quantize has no option {unknown[0]}", f"choose {', '.join(DEFAULTS)}")
    for option in ("under", "split_max_size", "max_shard_size"):
        if option in given:
            given[option] = _bytes(given[option], option)
    for option in ("keep", "ignore", "types"):
        if option in given:
            given[option] = tuple(given[option])
    if "importance" in given:
        given["importance"] = Path(given["importance"])
    if calibration is not None:
        given["calibration"] = Path(calibration)
    (recipe,) = with_given([Recipe(name)], given)
    if output is None:
        return recipe
    path = Path(output)
    is_place = path.suffix == ".gguf" or is_scheme(name)
    return replace(recipe, output=path) if is_place else replace(recipe, folder=path)


def _bytes(size: Size | None, option: str) -> int | None:
    from qconvert.containers.sizes import parse_size

    return parse_size(size, option) if isinstance(size, str) else size
