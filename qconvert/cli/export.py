"""`qconvert export`: the same weights in the other container."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, outcome, render
from qconvert.containers.place import check_output
from qconvert.containers.target import paths_of
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qconvert.checkpoint import Checkpoint
    from qconvert.plan.recipe import Recipe
    from qconvert.plan.types import Plan
    from qconvert.run.stream import Result

AUTO = "auto"
CHOICES = (AUTO, "f32", "f16", "bf16")
OF_MMPROJ = (*CHOICES, "q8_0")


def export(
    model: options.Model,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .gguf file where MODEL is a Hugging Face checkpoint, a directory where it is "
            "a GGUF file, a .gguf or .dat file where it is a calibration; by default named after "
            "MODEL, in this folder.",
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="TYPE",
            help="f32, f16, bf16 or auto: the type that holds the source's weights, which for "
            "quantized ones is f32. With --mmproj also q8_0.",
            autocompletion=lambda incomplete: [c for c in OF_MMPROJ if c.startswith(incomplete)],
        ),
    ] = AUTO,
    mmproj: Annotated[
        bool,
        typer.Option(
            "--mmproj",
            help="Of a model that reads images: the part that does, which llama.cpp takes beside "
            "the language model (--mmproj FILE).",
        ),
    ] = False,
    split_max_size: options.SplitMaxSize = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Safetensors files of at most this size; 5G by default."),
    ] = None,
    ignore: options.Ignore = None,
    no_vocabulary: options.NoVocabulary = False,
    allow_nan: options.AllowNan = False,
    threads: options.Threads = None,
    adapter: options.Adapter = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Of an adapter: the model that it belongs to, if not the one that it names.",
        ),
    ] = None,
    cache_dir: options.CacheDir = None,
    push: options.Push = None,
    public: options.Public = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Change the container of MODEL and keep its weights.

    A Hugging Face checkpoint becomes a GGUF file; a GGUF file becomes a directory that
    transformers loads, quantized weights as plain numbers. A calibration becomes an importance
    matrix for llama.cpp's own tools, a LoRA adapter of PEFT's one that llama.cpp takes beside a
    model (--lora).

    Examples:

      qconvert export org/name --dtype bf16 -o model.gguf

      qconvert export model-Q4_K_M.gguf -o ./model

      qconvert export org/name --mmproj -o mmproj-name.gguf

      qconvert export calib.safetensors -o imatrix.gguf

      qconvert export ./adapter --base org/name -o lora.gguf
    """
    choices = OF_MMPROJ if mmproj else CHOICES
    if dtype.lower() not in choices:
        other = "; `qconvert quantize` makes models of other types" if not mmproj else ""
        raise UsageError(f"{dtype!r} is no dtype", f"choose {', '.join(choices)}{other}")
    from qconvert.containers.sizes import parse_size

    split = parse_size(split_max_size, "--split-max-size")
    shard = parse_size(max_shard_size, "--max-shard-size")
    flags = {"dry_run": dry_run, "as_json": as_json, "quiet": quiet}
    from qconvert.checkpoint import open_checkpoint

    if mmproj and (_is_calibration(Path(model)) or _is_adapter(Path(model))):
        raise UsageError(f"{model} is no model, and --mmproj is for these", "leave it out")
    if _is_calibration(Path(model)):
        if dtype != AUTO or split is not None or shard is not None or no_vocabulary or ignore:
            raise UsageError(
                "--dtype, --ignore, --no-vocabulary and sizes of parts are for models, and this "
                "is a calibration",
                "leave them out",
            )
        from qconvert.cli.export_importance import to_imatrix

        to_imatrix(Path(model), output, **flags)
        return
    if _is_adapter(Path(model)):
        from qconvert.cli.export_adapter import to_lora

        to_lora(Path(model), base, output, force=force, **flags)
        return
    if base is not None:
        raise UsageError("--base is for an adapter, and this is a model", "leave it out")
    from qconvert.plan.recipe import Recipe

    place, hub = options.to_hub(output, push, public)
    recipe = Recipe(
        dtype.lower(),
        output=None if place is None else Path(place),
        allow_nan=allow_nan,
        ignore=tuple(ignore or ()),
        vocabulary=not no_vocabulary,
        split_max_size=split,
        max_shard_size=shard,
    )
    if mmproj:
        from qconvert.cli.export_mmproj import check_options, to_mmproj

        check_options(recipe)
    checkpoint = open_checkpoint(
        model,
        progress=False if quiet else None,
        headers_only=dry_run,
        adapter=adapter,
    )
    if mmproj:
        to_mmproj(checkpoint, recipe, threads, hub=hub, force=force, **flags)
        return
    if checkpoint.container == "gguf":
        if split is not None or no_vocabulary or ignore:
            raise UsageError(
                "--split-max-size, --ignore and --no-vocabulary are for GGUF files, and this "
                "becomes a directory",
                "leave them out; --max-shard-size is for directories",
            )
        to_directory(checkpoint, recipe, threads, hub, force=force, **flags)
        return
    if shard is not None:
        raise UsageError(
            "--max-shard-size is for directories, and this becomes a GGUF file",
            "use --split-max-size",
        )
    to_gguf(checkpoint, recipe, threads, hub=hub, force=force, **flags)


def _is_calibration(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    from qconvert.inspection.identify import identify

    return identify(path) == "calibration"


def _is_adapter(path: Path) -> bool:
    from qconvert.checkpoint.foreign import ADAPTER

    return (path / ADAPTER).is_file() and not (path / "config.json").exists()


def to_gguf(checkpoint: "Checkpoint", recipe: "Recipe", threads: int | None, **flags: Any) -> None:
    """Hugging Face to GGUF: what `quantize` does with a float type."""
    from qconvert.machine.watcher import Silent
    from qconvert.run.crew import Crew
    from qconvert.run.quantize import float_type, plan_outputs
    from qconvert.run.types import Run

    output = recipe.output
    if output is not None:
        check_output(output)
        if output.suffix != ".gguf":
            raise UsageError(
                f"{output} is no .gguf file, which a Hugging Face checkpoint is exported to",
                "name a file that ends in .gguf with -o",
            )
    name = float_type(checkpoint.tensors.values()) if recipe.type == AUTO else recipe.type
    asked = replace(recipe, type=name)
    planned = plan_outputs(checkpoint, [asked], Run(1, Silent()))
    outcome.write(planned, Crew(threads=threads), **flags)


def to_directory(
    checkpoint: "Checkpoint",
    recipe: "Recipe",
    threads: int | None,
    hub: options.Hub = options.NOWHERE,
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """GGUF to a Hugging Face directory."""
    from qconvert.plan.safetensors.export import make_export_plan
    from qconvert.run.executor import default_threads
    from qconvert.run.outputs import write_stale

    path = recipe.output or default_directory(checkpoint)
    _check_place(path)
    plan = make_export_plan(checkpoint, replace(recipe, output=path))
    if not quiet:
        for notice in plan.notices:
            render.say(notice)
    if dry_run:
        show_plan(plan, as_json)
        return
    with render.watching(quiet) as watcher:
        (result,) = write_stale([plan], threads or default_threads(), watcher, force=force)
    outcome.upload(hub, [result.paths], [path], checkpoint.source, quiet=quiet)
    show_result(plan, result, as_json=as_json, quiet=quiet)


def default_directory(checkpoint: "Checkpoint") -> Path:
    """The name of the GGUF file, without its ending, in the current directory."""
    from qconvert.plan.recipe import model_name

    return Path(model_name(checkpoint.source))


def _check_place(path: Path) -> None:
    if str(path) == "-":
        raise UsageError("standard output cannot hold a directory", "name one with -o")
    if path.suffix == ".gguf" or path.is_file():
        raise UsageError(
            f"{path} is a file's name, and a GGUF file is exported to a directory",
            "name a directory with -o; `qconvert quantize` turns GGUF into GGUF",
        )
    if not path.name:
        raise UsageError(f"{path} cannot be the output", "name a new directory with -o")


def describe(plan: "Plan", paths: "Sequence[Path]") -> dict[str, Any]:
    """What plan and result have in common, for JSON."""
    path = plan.target.path
    config = json.loads(plan.target.small_files[path / "config.json"])
    return {
        "path": str(path),
        "architecture": config["architectures"][0],
        "parameters": plan.parameters,
        "tensors": plan.formats,
        "notices": list(plan.notices),
        "paths": [str(file) for file in paths],
    }


def show_plan(plan: "Plan", as_json: bool) -> None:
    """The plan of `--dry-run`: every tensor."""
    if as_json:
        outcome.print_all([describe(plan, paths_of(plan.target)) | outcome.plan_data(plan)])
        return
    outcome.print_tensors(plan)
    size = outcome.summary(plan, plan.nbytes, bits=False)
    count = len(plan.target.weight_files)
    render.show(f"would write {plan.target.path}: {count} safetensors files, {size}")


def show_result(plan: "Plan", result: "Result", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        outcome.print_all([describe(plan, result.paths) | outcome.result_data(result)])
    elif not quiet:
        render.show_path(plan.target.path)
        render.show(f"{outcome.summary(plan, result.nbytes, bits=False)}, {result.seconds:.1f} s")
