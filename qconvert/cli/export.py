"""`qconvert export`: the same weights in the other container."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.api.exporting import AUTO, OF_MMPROJ
from qconvert.cli import options, outcome, render
from qconvert.containers.sizes import human_bytes

if TYPE_CHECKING:
    from qconvert.calibration.imatrix_write import Matrix
    from qconvert.run.adapter_file import Written
    from qconvert.run.stream import Result


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
    from qconvert import api
    from qconvert.calibration.imatrix_write import Matrix
    from qconvert.run.stream import Result

    with render.watching(quiet) as watcher:
        made = api.export(
            model,
            output,
            dtype=dtype,  # type: ignore[arg-type]  # which it checks
            mmproj=mmproj,
            split_max_size=split_max_size,
            max_shard_size=max_shard_size,
            ignore=ignore or (),
            vocabulary=not no_vocabulary,
            allow_nan=allow_nan,
            threads=threads,
            adapter=adapter,
            base=base,
            push=push,
            public=public,
            force=force,
            dry_run=dry_run,
            watcher=watcher,
        )
    if isinstance(made, Matrix):
        tokens = made.windows * made.window
        about = {"weights": made.weights, "tokens": tokens, "notices": list(made.notices)}
        words = f"{made.weights} weights, {made.windows} x {made.window} tokens"
        show_file(made, about, words, dry_run=dry_run, as_json=as_json, quiet=quiet)
    elif not isinstance(made, Result):
        about = {"weights": made.weights, "rank": made.rank, "alpha": made.alpha}
        words = f"{made.weights} weights, rank {made.rank}, alpha {made.alpha:g}"
        show_file(made, about, words, dry_run=dry_run, as_json=as_json, quiet=quiet)
    elif made.plan.target.path.suffix == ".gguf":
        outcome.show_results([made], dry_run=dry_run, as_json=as_json, quiet=quiet)
    else:
        show_directory(made, dry_run=dry_run, as_json=as_json, quiet=quiet)


def show_file(
    made: "Matrix | Written",
    about: dict[str, Any],
    words: str,
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """A file that is no model."""
    if as_json and made.nbytes:
        outcome.print_all([{"path": str(made.path), "bytes": made.nbytes, **about}])
    elif not quiet:
        render.show_path(f"would write {made.path}" if dry_run else made.path)
        if made.nbytes:
            render.show(f"{human_bytes(made.nbytes)} ({made.nbytes} bytes), {words}")


def describe(made: "Result") -> dict[str, Any]:
    """A directory, for JSON."""
    plan, path = made.plan, made.plan.target.path
    config = json.loads(plan.target.small_files[path / "config.json"])
    return {
        "path": str(path),
        "architecture": config["architectures"][0],
        "parameters": plan.parameters,
        "tensors": plan.formats,
        "notices": list(plan.notices),
        "paths": [str(file) for file in made.paths],
    }


def show_directory(made: "Result", *, dry_run: bool, as_json: bool, quiet: bool) -> None:
    """A Hugging Face directory; or what it would be, tensor by tensor."""
    plan = made.plan
    size = outcome.summary(plan, made.nbytes, bits=False)
    if as_json:
        outcome.print_all([describe(made) | outcome.more(made, dry_run)])
    elif dry_run:
        outcome.print_tensors(plan)
        count = len(plan.target.weight_files)
        render.show(f"would write {plan.target.path}: {count} safetensors files, {size}")
    elif not quiet:
        render.show_path(plan.target.path)
        render.show(f"{size}, {made.seconds:.1f} s")
