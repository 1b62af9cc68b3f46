"""`qconvert quantize`: a checkpoint to GGUF files and to directories of quantized safetensors."""

from pathlib import Path
from typing import Annotated

import typer

from qconvert.cli import options, outcome, render


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
    from qconvert import api
    from qconvert.plan.overrides import split_override

    with render.watching(quiet, "steps" if calibrate else "weights") as watcher:
        made = api.quantize_all(
            model,
            type_ or (),
            output,
            recipe=recipe,
            save_recipe=save_recipe,
            calibrate=calibrate or (),
            adapter=adapter,
            device=device,
            threads=threads,
            executor=executor,
            workers=workers,
            address=address,
            push=push,
            public=public,
            force=force,
            dry_run=dry_run,
            watcher=watcher,
            calibration=calibration,
            importance=importance,
            override=[split_override(one) for one in override or ()],
            keep=keep,
            feedback=not no_feedback,
            allow_nan=allow_nan,
            pure=pure,
            output_type=output_type,
            embedding_type=embedding_type,
            fallback=not no_fallback,
            ignore=ignore,
            vocabulary=not no_vocabulary,
            split_max_size=split_max_size,
            activations=activations,
            strategy=strategy,
            group_size=group_size,
            asymmetric=asymmetric,
            weight_range=weight_range,
            activation_range=activation_range,
            percentile=percentile,
            smooth=smooth,
            strict_static=strict_static,
            lm_head=lm_head,
            embeddings=embeddings,
            kv=kv,
            max_shard_size=max_shard_size,
            under=under,
            bits=bits,
            types=None if types is None else types.split(","),
        )
    outcome.show_results(made, dry_run=dry_run, as_json=as_json, quiet=quiet)
