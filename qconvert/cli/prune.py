"""`qconvert prune`: a smaller checkpoint, by leaving out what matters least."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qconvert.cli import options, render
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from qconvert.run.pruning.types import Wanted

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


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
    from qconvert.checkpoint import open_checkpoint
    from qconvert.cli.outcome import print_all
    from qconvert.cli.prune_shown import describe, show
    from qconvert.containers.sizes import parse_size
    from qconvert.plan.recipe import model_name
    from qconvert.run.executor import default_threads
    from qconvert.run.pruning.prune import prune as run
    from qconvert.run.pruning.types import Wanted
    from qconvert.run.types import Run

    wanted = Wanted(
        layers,
        ffn,
        heads,
        hidden,
        experts,
        parse_count(to),
        parse_size(under, "--under"),
        type_,
        sparsity,
        multiple,
        tokens,
        parse_size(max_shard_size, "--max-shard-size"),
    )
    check_wanted(wanted)
    checkpoint = open_checkpoint(model, progress=False if quiet else None)
    path = output or Path(f"{model_name(checkpoint.source)}-pruned")
    with render.watching(quiet, "steps") as watcher:
        how = Run(threads or default_threads(), watcher, device, dry_run, force)
        made = run(checkpoint, calibration, path, wanted, how)
    if as_json:
        print_all([describe(made)])
    elif not quiet or dry_run:
        show(made)


def parse_count(text: str | None) -> int | None:
    """6000000000 of "6B".

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([KMB]?)", text.strip().upper())
    if match is None or not float(match[1]):
        raise UsageError(f"--to {text!r:.40} is no number of parameters", "write 6B or 500M")
    return round(float(match[1]) * UNITS[match[2]])


def check_wanted(wanted: "Wanted") -> None:
    """Refuse what cannot be asked for together.

    Raises:
        UsageError: naming what is.
    """
    asked = [*wanted.sizes, *(["a budget"] if wanted.has_budget else [])]
    if wanted.parameters is not None and wanted.under is not None:
        raise UsageError("--to and --under are two budgets", "give one of them")
    if (wanted.under is None) != (wanted.type is None):
        raise UsageError("--under and --type go together", "write --under 4GB -t q4_k_m")
    if wanted.has_budget and wanted.sizes:
        raise UsageError(
            f"a budget chooses sizes, and --{next(iter(wanted.sizes))} names one",
            "leave one of them out",
        )
    if wanted.sparsity is not None and asked:
        raise UsageError(
            "--sparsity keeps every part, and others are to be left out",
            "do one after the other: the result of prune is a model for prune",
        )
    if wanted.sparsity is None and not asked:
        raise UsageError(
            "nothing is to be left out", "name what is to be left: --layers 24, --to 6B"
        )
