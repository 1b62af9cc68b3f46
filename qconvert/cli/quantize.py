"""`qconvert quantize`: a checkpoint to GGUF files and to directories of quantized safetensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qconvert.cli import options, outcome, render
from qconvert.errors import OutputError, UsageError

if TYPE_CHECKING:
    from qconvert.plan.recipe import Recipe


def complete_type(incomplete: str) -> list[str]:
    from qconvert.plan.gguf.file_types import FILE_TYPES
    from qconvert.plan.safetensors.schemes import DIRECTORIES

    return [name for name in (*FILE_TYPES, *DIRECTORIES) if name.startswith(incomplete.lower())]


TypeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        "-t",
        metavar="TYPE",
        help="q4_k_m, q8_0, iq4_xs ... for a GGUF file, w8a8, w4a16, fp8 ... for a directory of "
        "safetensors, mlx4, mlx6, mlx-mxfp4 ... for one that mlx-lm reads, lut4, lut6 ... for a "
        "plain checkpoint of few distinct values; repeatable.",
        autocompletion=complete_type,
    ),
]


def quantize(
    model: options.Model,
    type_: TypeOption = None,
    output: options.Output = None,
    calibration: options.Calibration = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TEXT]",
            help="Calibrate first, on a text as `qconvert calibrate --data` takes it; without one "
            "the model writes its own. The file stays beside the output. Repeatable.",
        ),
    ] = None,
    importance: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Importance of weights from here, not from -c."),
    ] = None,
    no_feedback: Annotated[
        bool,
        typer.Option(
            "--no-feedback",
            help="Do not run the model on the calibration's tokens again: faster, less faithful.",
        ),
    ] = False,
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
    pure: Annotated[
        bool, typer.Option("--pure", help="GGUF: the same type for all tensors, no mixture.")
    ] = False,
    output_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="GGUF: that of the output projection.")
    ] = None,
    embedding_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="GGUF: that of the token embeddings.")
    ] = None,
    no_fallback: Annotated[
        bool,
        typer.Option("--no-fallback", help="GGUF: refuse where rows do not divide into blocks."),
    ] = False,
    ignore: options.Ignore = None,
    no_vocabulary: options.NoVocabulary = False,
    split_max_size: options.SplitMaxSize = None,
    activations: Annotated[
        str | None,
        typer.Option(
            metavar="KIND", help="w8a8, fp8: dynamic (default), or static from the calibration."
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="fp8: a scale per tensor, channel (default) or block."),
    ] = None,
    group_size: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="wNa16, w4a8, gptqN, awq4: 32, 64, 128 (default) or channel; mlxN: 32, 64 "
            "(default) or 128; lutN: so many rows (default: all) share their values.",
        ),
    ] = None,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="wNa16, gptqN, w8a8: with zero points.")
    ] = False,
    weight_range: Annotated[
        str | None,
        typer.Option(metavar="ESTIMATOR", help="minmax, percentile, mse or entropy."),
    ] = None,
    activation_range: Annotated[
        str | None,
        typer.Option(metavar="ESTIMATOR", help="The same for static activations."),
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(metavar="P", help="For the estimator percentile; 99.99 by default."),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(metavar="ALPHA", help="w8a8: SmoothQuant with this exponent, or auto."),
    ] = None,
    strict_static: Annotated[
        bool,
        typer.Option("--strict-static", help="Static ranges even where they lose much."),
    ] = False,
    lm_head: Annotated[
        bool, typer.Option("--lm-head", help="Safetensors: quantize the output projection too.")
    ] = False,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Safetensors: quantize the embeddings too.")
    ] = False,
    kv: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Safetensors: scales for keys and values in fp8 (or int8), from the calibration.",
        ),
    ] = None,
    max_shard_size: options.MaxShardSize = None,
    under: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="An output of at most this size, 4GB or 500M: each tensor gets the type that "
            "loses least for its bytes.",
        ),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option(min=0.5, max=32, metavar="N", help="The same in bits for each weight."),
    ] = None,
    types: Annotated[
        str | None,
        typer.Option(metavar="TYPE,TYPE", help="Among which these choose: q3_k,iq4_xs,q6_k ..."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="All of these options from a YAML file."),
    ] = None,
    save_recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write these options to a YAML file."),
    ] = None,
    device: options.Device = "auto",
    allow_nan: options.AllowNan = False,
    threads: options.Threads = None,
    executor: options.Executor = "threads",
    workers: options.RayWorkers = None,
    address: options.Address = None,
    adapter: options.Adapter = None,
    cache_dir: options.CacheDir = None,
    push: options.Push = None,
    public: options.Public = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Quantize MODEL to a GGUF file that llama.cpp runs, to safetensors for transformers, vLLM and
    SGLang, to a directory for mlx-lm and LM Studio, or to several of them at once.

    An interrupted run is taken up again by the same command. Outputs appear when they are
    complete.

    \b
    Examples:
      qconvert quantize ./SmolLM2-135M-Instruct -t q4_k_m
      qconvert quantize org/name -t q5_k_m -o model.gguf -c name.calib.safetensors
      qconvert quantize ./model -t q4_k_m --override 'blk.*.ffn_down.weight=q6_k' --dry-run
      qconvert quantize ./model -t w8a8 --smooth auto -c model.calib.safetensors -o model-w8a8/
      qconvert quantize ./model -c model.calib.safetensors -t q4_k_m -t w4a16 -o out/
      qconvert quantize ./model -c model.calib.safetensors -t mlx4 -o model-mlx4/
      qconvert quantize ./model -c model.calib.safetensors --under 4GB -o model-4GB.gguf
      qconvert quantize ./model --calibrate notes.txt -t q4_k_m
    """
    from qconvert.algorithms.ranges import ESTIMATORS
    from qconvert.containers.sizes import parse_size
    from qconvert.plan.recipe import CACHE_TYPES, placed

    given = {
        "calibration": calibration,
        "importance": importance,
        "overrides": tuple(map(_override, override or ())) or None,
        "keep": tuple(keep or ()) or None,
        "feedback": False if no_feedback else None,
        "allow_nan": allow_nan or None,
        "pure": pure or None,
        "output_type": output_type,
        "embedding_type": embedding_type,
        "fallback": False if no_fallback else None,
        "ignore": tuple(ignore or ()) or None,
        "vocabulary": False if no_vocabulary else None,
        "split_max_size": parse_size(split_max_size, "--split-max-size"),
        "activations": _one_of("--activations", activations, ("dynamic", "static")),
        "strategy": _one_of("--strategy", strategy, ("tensor", "channel", "block")),
        "group_size": _group_size(group_size),
        "asymmetric": asymmetric or None,
        "weight_range": _one_of("--weight-range", weight_range, ESTIMATORS),
        "activation_range": _one_of("--activation-range", activation_range, ESTIMATORS),
        "percentile": _percentile(percentile),
        "smooth": _smooth(smooth),
        "strict_static": strict_static or None,
        "lm_head": lm_head or None,
        "embeddings": embeddings or None,
        "kv": _one_of("--kv", kv, CACHE_TYPES),
        "max_shard_size": parse_size(max_shard_size, "--max-shard-size"),
        "under": parse_size(under, "--under"),
        "bits": bits,
        "types": _types(types),
    }
    output, hub = options.to_hub(output, push, public)
    said = {name: value for name, value in given.items() if value is not None}
    _check_budget(type_ or [], said)
    asked = placed(_asked(type_ or [], recipe, said), output)
    from qconvert.checkpoint import open_checkpoint
    from qconvert.run.crew import crew_of
    from qconvert.run.executor import default_threads
    from qconvert.run.quantize import plan_outputs
    from qconvert.run.types import Run

    crew = crew_of(executor, threads, workers, address)
    device = crew.device(device)
    checkpoint = open_checkpoint(
        model,
        progress=False if quiet else None,
        headers_only=dry_run,
        adapter=adapter,
    )
    if calibrate:
        from qconvert.cli.calibrate import with_calibration

        asked = with_calibration(
            checkpoint, asked, calibrate, device, crew, dry_run=dry_run, quiet=quiet
        )
    with render.watching(quiet) as watcher:
        run = Run(threads or default_threads(), watcher, device, dry_run, force)
        planned = plan_outputs(checkpoint, asked, run)
    if save_recipe is not None:
        made = [one.recipe for one in planned]
        _save(made, save_recipe, checkpoint.source, quiet=quiet)
    flags: dict[str, Any] = {"force": force, "dry_run": dry_run, "as_json": as_json, "quiet": quiet}
    outcome.write(planned, crew, device=device, hub=hub, **flags)


ANY = "q8_0"
"""The type of a GGUF file with a budget, until its tensors' types are chosen."""

GROUP_SIZES = ("32", "64", "128", "channel")


def _asked(types: Sequence[str], recipe: Path | None, said: dict[str, Any]) -> tuple["Recipe", ...]:
    """The outputs: those of the recipe, or one for each type, with what the command line said."""
    from qconvert.plan.recipe import Recipe, with_given
    from qconvert.plan.safetensors.schemes import find_types

    if recipe is None:
        names = types or ([ANY] if {"under", "bits"} & said.keys() else [])
        outputs = tuple(Recipe(name) for name in find_types(names))
    else:
        from qconvert.plan.document import options_of, read_document

        outputs = options_of(read_document(recipe), types)
    if not outputs:
        raise UsageError("no type is given", "name one with -t, as in '-t q4_k_m'")
    return with_given(outputs, said)


def _save(asked: Sequence["Recipe"], path: Path, source: str, *, quiet: bool) -> None:
    """Write the recipe, but not over another one."""
    from qconvert.checkpoint.files import file_size, read_bytes_at
    from qconvert.plan.saving import document_of, write_document

    text = write_document(document_of(asked), path.parent, [f"Written for {source}."])
    try:
        if path.exists() and read_bytes_at(path, 0, file_size(path)) != text.encode():
            raise UsageError(f"{path} exists and says something else", "name another file")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    if not quiet:
        render.say(f"wrote {path}")


def _override(text: str) -> tuple[str, str]:
    """'PATTERN=TYPE' as a pair."""
    from qconvert.plan.overrides import split_override

    return split_override(text)


def _check_budget(types: Sequence[str], said: dict[str, Any]) -> None:
    from qconvert.plan.safetensors.schemes import is_scheme

    if "under" in said and "bits" in said:
        raise UsageError("--under and --bits are two budgets", "give one of them")
    wrong = [name for name in types if not is_scheme(name)]
    if {"under", "bits"} & said.keys() and wrong:
        raise UsageError(
            f"with a budget each tensor's type is chosen, so -t {wrong[0]:.40} has no meaning",
            f"name the types to choose among: --types {wrong[0]:.40},...",
        )


def _types(text: str | None) -> tuple[str, ...] | None:
    """The types that `--types` lists."""
    from qconvert.plan.document import find_any

    return None if text is None else tuple(find_any(name.strip()) for name in text.split(","))


def _one_of(option: str, value: str | None, choices: Sequence[str]) -> str | None:
    if value is not None and value.lower() not in choices:
        raise UsageError(f"{option} {value!r:.40} is not known", f"choose {', '.join(choices)}")
    return value.lower() if value is not None else None


def _group_size(value: str | None) -> int | str | None:
    found = _one_of("--group-size", value, GROUP_SIZES)
    return int(found) if found is not None and found.isdigit() else found


def _percentile(value: float | None) -> float | None:
    from qconvert.formats.safetensors.types import PERCENTILES

    if value is not None and not PERCENTILES[0] < value <= PERCENTILES[1]:
        raise UsageError(f"--percentile {value:g} is out of range", "choose 99.9, 99.99 or so")
    return value


def _smooth(value: str | None) -> float | str | None:
    from qconvert.algorithms.smooth import is_alpha

    if value is None or value == "auto":
        return value
    try:
        alpha = float(value)
    except ValueError:
        alpha = -1.0
    if not is_alpha(alpha):
        raise UsageError(f"--smooth {value!r:.40} is no exponent", "choose 0 to 1, or auto")
    return alpha
