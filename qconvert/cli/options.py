"""Options that several subcommands share."""

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
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Cores to use; all by default. The bytes do not change."),
]
AllowNan = Annotated[
    bool, typer.Option("--allow-nan", help="Go on where weights are NaN or infinite.")
]
SplitMaxSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="GGUF: shards of at most this size, such as 5G or 500M."),
]
MaxShardSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Safetensors: the same; 5G by default."),
]
Device = Annotated[
    str,
    typer.Option(metavar="DEVICE", help="auto, cpu, cuda or mps, where the model is run."),
]


def check_output(path: Path) -> None:
    """Refuse what cannot be an output file.

    Raises:
        UsageError: standard output or a directory.
    """
    if str(path) == "-":
        raise UsageError(
            "standard output cannot hold the result: it appears by an atomic rename, and can be "
            "taken up again when interrupted",
            "name a file with -o",
        )
    if path.is_dir():
        raise UsageError(f"{path} is a directory", "name a file in it with -o")
