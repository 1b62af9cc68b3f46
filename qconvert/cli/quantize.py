"""`qconvert quantize`: a checkpoint to a quantized GGUF file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, render
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from qconvert.plan import Plan
    from qconvert.work import Result


def complete_file_type(incomplete: str) -> list[str]:
    from qconvert.recipes.file_types import FILE_TYPES

    return [name for name in FILE_TYPES if name.startswith(incomplete.lower())]


FileTypeOption = Annotated[
    str,
    typer.Option(
        "--type",
        "-t",
        metavar="TYPE",
        help="The file type, such as q4_k_m, q8_0, iq4_xs; `qconvert inspect MODEL` lists them.",
        autocompletion=complete_file_type,
    ),
]


def quantize(
    model: options.Model,
    file_type: FileTypeOption,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file; by default NAME-TYPE.gguf in this folder.",
        ),
    ] = None,
    importance: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An importance matrix in llama.cpp's GGUF form."),
    ] = None,
    pure: Annotated[
        bool, typer.Option("--pure", help="The same type for all tensors, without a mixture.")
    ] = False,
    output_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="The type of the output projection.")
    ] = None,
    embedding_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="The type of the token embeddings.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=TYPE",
            help="The type of the tensors whose whole name matches a glob or /regex/; "
            "repeatable, the last match counts.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Tensors that stay as they are; repeatable."),
    ] = None,
    no_fallback: Annotated[
        bool,
        typer.Option("--no-fallback", help="Refuse where rows do not divide into blocks."),
    ] = False,
    allow_nan: options.AllowNan = False,
    split_max_size: options.SplitMaxSize = None,
    threads: options.Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and write nothing.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize MODEL to a GGUF file that llama.cpp runs.

    An interrupted run is taken up again by the same command. The file appears when it is
    complete.

    \b
    Examples:
      qconvert quantize ./SmolLM2-135M-Instruct -t q4_k_m
      qconvert quantize org/name -t q5_k_m -o model.gguf --importance imatrix.gguf
      qconvert quantize ./model -t q4_k_m --override 'blk.*.ffn_down.weight=q6_k' --dry-run
    """
    from qconvert.recipes.types import make_recipe

    if output is not None:
        options.check_output(output)
    recipe = make_recipe(
        file_type,
        pure=pure,
        output_type=output_type,
        embedding_type=embedding_type,
        overrides=override or (),
        keep=keep or (),
        fallback=not no_fallback,
        allow_nan=allow_nan,
    )
    limit = options.parse_size(split_max_size)
    from qconvert.calibration.imatrix import read_importance
    from qconvert.checkpoint import open_checkpoint
    from qconvert.plan import make_plan, read_model

    checkpoint = open_checkpoint(model, progress=False if quiet else None, headers_only=dry_run)
    matrix = read_importance(importance) if importance else None
    plan = make_plan(read_model(checkpoint), recipe, matrix)
    path = output or default_path(plan)
    write_plan(plan, path, limit, threads, dry_run=dry_run, as_json=as_json, quiet=quiet)


def default_path(plan: "Plan") -> Path:
    """NAME-TYPE.gguf in the current directory."""
    source = plan.model.checkpoint.source.partition("@")[0].rstrip("/")
    name = Path(source).name.removesuffix(".gguf") or "model"
    return Path(f"{name}-{plan.recipe.file_type.name.upper()}.gguf")


def write_plan(
    plan: "Plan",
    path: Path,
    split_max_size: int | None,
    threads: int | None,
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say what will be done, do it, and say what was done."""
    from qconvert.pipeline import convert, default_threads

    shards = plan.shards(path, split_max_size)
    sources = {file.resolve() for file in plan.model.checkpoint.files}
    if any(shard.path.resolve() in sources for shard in shards):
        raise UsageError(f"{path} is the source itself", "name another file with -o")
    if not quiet:
        for notice in (*plan.notices, *render.fallback_lines(plan)):
            render.say(notice)
    if dry_run:
        show_plan(plan, [shard.path for shard in shards], as_json)
        return
    with render.watching(quiet) as watcher:
        result = convert(plan, shards, threads or default_threads(), watcher)
    show_result(plan, result, as_json=as_json, quiet=quiet)


def describe(plan: "Plan", paths: list[Path]) -> dict[str, Any]:
    """What plan and result have in common, for JSON."""
    return {
        "path": str(paths[0]),
        "paths": [str(path) for path in paths],
        "file_type": plan.recipe.file_type.name,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "tensors": plan.formats,
        "fallbacks": [
            {
                "name": tensor.name,
                "wanted": tensor.wanted,
                "type": tensor.format,
                "extra_bytes": tensor.extra_bytes,
                "reason": tensor.reason,
            }
            for tensor in plan.fallbacks
        ],
        "notices": list(plan.notices),
    }


def show_plan(plan: "Plan", paths: list[Path], as_json: bool) -> None:
    """The plan of `--dry-run`: every tensor."""
    if as_json:
        tensors = [
            {
                "name": tensor.name,
                "shape": list(tensor.map.shape),
                "source_type": plan.model.source_type(tensor.map),
                "type": tensor.format,
                "bytes": tensor.nbytes,
            }
            for tensor in plan.tensors
        ]
        render.print_json({**describe(plan, paths), "bytes": plan.nbytes, "plan": tensors})
        return
    table = render.make_table("tensor", "shape", "from", "to", ">bytes")
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.map.shape))
        source = plan.model.source_type(tensor.map)
        name = f"{tensor.format} (not {tensor.wanted})" if tensor.is_fallback else tensor.format
        render.add_row(table, tensor.name, shape, source, name, str(tensor.nbytes))
    render.print_table(table)
    print(f"would write {paths[0]}: {summary(plan, plan.nbytes)}")


def summary(plan: "Plan", nbytes: int) -> str:
    kinds = ", ".join(f"{count} {name}" for name, count in plan.formats.items())
    return (
        f"{render.human_bytes(nbytes)} ({nbytes} bytes), "
        f"{plan.bits_per_weight:.2f} bits per weight, {kinds}"
    )


def show_result(plan: "Plan", result: "Result", *, as_json: bool, quiet: bool) -> None:
    if as_json:
        render.print_json(
            {
                **describe(plan, list(result.paths)),
                "bytes": result.nbytes,
                "seconds": round(result.seconds, 3),
                "resumed_tensors": result.resumed,
            }
        )
    elif not quiet:
        for path in result.paths:
            print(path)
        print(f"{summary(plan, result.nbytes)}, {result.seconds:.1f} s")
