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
    typer.Option(metavar="SIZE", help="Write shards of at most this size, such as 5G or 500M."),
]

UNITS = {"K": 1000, "M": 1000**2, "G": 1000**3}


def parse_size(value: str | None) -> int | None:
    """Bytes of '5G' or '500M', in decimal units as llama.cpp's tool has them.

    Raises:
        UsageError: it is not a number with K, M or G behind it.
    """
    if value is None:
        return None
    number, unit = value[:-1], value[-1:].upper()
    if unit not in UNITS or not number.isdigit() or int(number) == 0:
        raise UsageError(f"{value!r} is not a size", "write a number and K, M or G: 5G")
    return int(number) * UNITS[unit]


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
