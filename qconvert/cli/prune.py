"""`qconvert prune`: a smaller checkpoint, by leaving out what matters least."""

from pathlib import Path
from typing import Annotated

import typer

from qconvert.cli import options, outcome, render


def prune(
    model: options.Model,
    calibration: Annotated[
        Path,
        typer.Option(
            "--calibration",
            "-c",
            metavar="FILE",
            help="What `qconvert calibrate` wrote: parts are judged on its tokens.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="A new directory; by default named after MODEL, in this folder.",
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Leave N layers; those go without which predictions diverge least.",
        ),
    ] = None,
    ffn: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leave N neurons of each layer's feed-forward."),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Leave N attention heads of each layer, in whole groups that share keys.",
        ),
    ] = None,
    hidden: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Leave N channels of the residual stream."),
    ] = None,
    experts: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Leave N experts of each layer.")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="COUNT",
            help="Leave so many parameters, such as 6B or 500M; what goes is searched for.",
        ),
    ] = None,
    under: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The same in bytes of a file of --type, such as 4GB."),
    ] = None,
    type_: Annotated[
        str | None,
        typer.Option("--type", "-t", metavar="TYPE", help="What --under speaks of: q4_k_m, w4a16."),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Set weights to zero in place of leaving parts out: 0.5, or 2:4 for two of four.",
        ),
    ] = None,
    multiple: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Sizes stay multiples of N where they are, so that K-types need no fallbacks.",
        ),
    ] = 256,
    tokens: Annotated[
        int, typer.Option(min=2, metavar="N", help="Of the calibration, to try cuts on.")
    ] = 4096,
    max_shard_size: options.MaxShardSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    adapter: options.Adapter = None,
    cache_dir: options.CacheDir = None,
    push: options.Push = None,
    public: options.Public = False,
    force: options.Force = False,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make MODEL smaller by leaving out what matters least, as a checkpoint that loads everywhere.

    Options name what shall be left. What that costs is measured and told: the divergence from
    MODEL's predictions, on tokens of the calibration that nothing was chosen by.

    \b
    Examples:
      qconvert prune ./model -c model.calib.safetensors --layers 24 -o smaller/
      qconvert prune ./model -c model.calib.safetensors --ffn 8192 --heads 24 --dry-run
      qconvert prune ./model -c model.calib.safetensors --to 6B -o smaller/
      qconvert prune ./model -c model.calib.safetensors --under 4GB -t q4_k_m -o smaller/
      qconvert prune ./model -c model.calib.safetensors --sparsity 2:4 -o sparse/
    """
    from qconvert import api
    from qconvert.cli.prune_shown import describe, show

    with render.watching(quiet, "steps") as watcher:
        made = api.prune(
            model,
            calibration,
            output,
            layers=layers,
            ffn=ffn,
            heads=heads,
            hidden=hidden,
            experts=experts,
            to=to,
            under=under,
            type=type_,
            sparsity=sparsity,
            multiple=multiple,
            tokens=tokens,
            max_shard_size=max_shard_size,
            device=device,
            adapter=adapter,
            threads=threads,
            push=push,
            public=public,
            dry_run=dry_run,
            force=force,
            watcher=watcher,
        )
    if as_json:
        outcome.print_all([describe(made)])
    elif not quiet or dry_run:
        show(made)
