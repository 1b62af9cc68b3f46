"""Options that several subcommands share."""

import math
from pathlib import Path
from typing import Annotated

import typer

from qconvert.errors import UsageError

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A directory, a hub id (org/name or org/name@revision) or a GGUF file.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace what is where the output goes and is something else."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Cores to use; all by default. The bytes do not change."),
]
Cores = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Cores to use; all by default.")
]
Window = Annotated[int, typer.Option(min=2, metavar="N", help="Tokens of each window, with BOS.")]
Calibration = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        "-c",
        metavar="FILE",
        help="What `qconvert calibrate` wrote, or an importance matrix of llama.cpp.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="torch, transformers or llama.cpp; auto takes what runs the file in use.",
    ),
]
AllowNan = Annotated[
    bool,
    typer.Option(
        "--allow-nan",
        help="Go on where weights are NaN or infinite; clip what is too large for its type.",
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="GGUF: leave out tensors that the model's family does not know; repeatable.",
    ),
]
NoVocabulary = Annotated[
    bool,
    typer.Option("--no-vocabulary", help="GGUF: go on where the model has no tokenizer."),
]
SplitMaxSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="GGUF: shards of at most this size, such as 5G or 500M."),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Safetensors: the same; 5G by default."),
]


def _usable(device: str) -> str:
    """A device's name, whether the command will run anything on it or not.

    Raises:
        UsageError: no such device, or torch cannot use it here.
    """
    if device not in ("auto", "cpu"):
        from qconvert.forward.device import choose_device

        choose_device(device)
    return device


Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="auto, cpu, cuda or mps, where the model is run.",
        callback=_usable,
    ),
]


def parse_share(option: str, text: str | None) -> float | None:
    """0.02 of "2%" or "0.02".

    Raises:
        UsageError: anything else; "2" too, which may mean either.
    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if math.isfinite(share) and share >= 0 and (share < 1 or text.endswith("%")):
        return share
    raise UsageError(f"{option} {text!r:.40} is no share", "write 2% or 0.02")


def check_output(path: Path) -> None:
    """Refuse what cannot be an output file.

    Raises:
        UsageError: standard output or a directory.
        OutputError: what stands above it is no directory.
    """
    from qconvert.containers.place import check_place

    if str(path) == "-":
        raise UsageError(
            "standard output cannot hold the result: it appears by an atomic rename, and can be "
            "taken up again when interrupted",
            "name a file with -o",
        )
    if path.is_dir():
        raise UsageError(f"{path} is a directory", "name a file in it with -o")
    check_place(path)
