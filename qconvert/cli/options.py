"""Options that several subcommands share."""

import math
import os
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
Adapter = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="A PEFT adapter (LoRA, rslora, DoRA) that is merged into MODEL as it is read.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="A file that ends in .gguf, or else a folder that gets NAME-TYPE; one directory "
        "of safetensors fills it. By default this folder.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace what is where the output goes and is something else."),
]
Push = Annotated[
    str | None,
    typer.Option(
        metavar="ORG/NAME",
        help="Put what is made on the hub too, in one commit; -o hf://ORG/NAME is the same.",
    ),
]
Public = Annotated[
    bool,
    typer.Option("--public", help="A repository that --push makes is public; private by default."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and write nothing.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Cores to use; all by default. The bytes do not change."),
]
Cores = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Cores to use; all by default.")
]
Executor = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="threads of this process, or ray: the workers of a Ray cluster. The bytes do not "
        "change.",
    ),
]
RayWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="ray: processes, each with the cores of --threads (1 by default); by default as many "
        "as there are cores for.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="ray: a cluster that runs, auto for one on this machine; by default one is started "
        "on the spot.",
    ),
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


def _keep_downloads(folder: Path | None) -> Path | None:
    """Have models of the hub downloaded to a folder, and found there, in this process: what
    HF_HUB_CACHE says to `huggingface_hub`, which reads it when it is first imported.

    Raises:
        UsageError: it is no folder.
    """
    if folder is not None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--cache-dir {folder} is no folder", "name another")
        os.environ["HF_HUB_CACHE"] = str(folder.absolute())
    return folder


CacheDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where models of the hub are kept; by default the cache that HF_HOME names.",
        callback=_keep_downloads,
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
