"""The files of a report: made in one reading of the checkpoint, those that are there already left.

A file is up to date when it is, byte for byte up to its weights, what would be written now: its
header has the source's fingerprint, the recipe, the calibration's digest and the version, and the
small files of a directory the rest. Times of files say nothing.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.errors import CheckpointError, OutputError
from qconvert.machine.watcher import Watcher
from qconvert.plan.options import OutputOptions
from qconvert.plan.safetensors.schemes import find_type
from qconvert.run.outputs import Directory, Output, write_outputs
from qconvert.run.quantize import Planned
from qconvert.run.work import File

LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k")
"""The types where none are named."""

MADE_HERE = b'"qconvert.source.fingerprint"'
"""In the header of every file of a directory that this program wrote."""


def outputs_of(
    types: Sequence[str], folder: Path, calibration: Path | None
) -> tuple[OutputOptions, ...]:
    """The outputs that are asked for, each once.

    Raises:
        UsageError: a type is not known.
    """
    names = dict.fromkeys(map(find_type, types or LADDER))
    return tuple(OutputOptions(name, folder=folder, calibration=calibration) for name in names)


def make_models(planned: Sequence[Planned], threads: int, watcher: Watcher) -> list[Path]:
    """Write the outputs that are not up to date; the paths of those that were.

    Raises:
        OutputError: something is in the way that this program did not make, no room, or a file
            cannot be written.
        WeightError: see `write_outputs`.
    """
    current = [is_current(one.output) for one in planned]
    stale = [one.output for one, done in zip(planned, current, strict=True) if not done]
    for output in stale:
        if isinstance(output, Directory):
            _clear(output)
    if stale:
        write_outputs(stale, threads, watcher)
    return [one.output.path for one, done in zip(planned, current, strict=True) if done]


def is_current(output: Output) -> bool:
    """Whether the output is there, as it would be written now."""
    try:
        if isinstance(output, Directory):
            shards: Sequence[File] = output.shards(output.path)
            small = output.small_files(output.shards(output.path))
            if any((output.path / name).read_bytes() != data for name, data in small.items()):
                return False
        else:
            shards = output.files
        return all(map(_is_written, shards))
    except (OSError, CheckpointError):
        return False


def weight_files(output: Output) -> tuple[Path, ...]:
    """The files that hold weights."""
    if isinstance(output, Directory):
        return tuple(shard.path for shard in output.shards(output.path))
    return output.paths


def _is_written(file: File) -> bool:
    header = file.header()
    return file_size(file.path) == file.nbytes and (
        bytes(read_bytes_at(file.path, 0, len(header))) == header
    )


def _clear(output: Directory) -> None:
    """Remove a directory that this program has made of something else; never another."""
    path = output.path
    if not path.exists():
        return
    weights = sorted(path.glob("*.safetensors")) if path.is_dir() and not path.is_symlink() else []
    if not weights or not all(map(_made_here, weights)):
        raise OutputError(
            f"{path} is in the way, and was not made by this program",
            "choose another folder with -o",
        )
    shutil.rmtree(path)


def _made_here(path: Path) -> bool:
    try:
        length = int.from_bytes(read_bytes_at(path, 0, 8), "little")
        head = read_bytes_at(path, 8, min(length, 1 << 20, file_size(path) - 8))
    except (OSError, CheckpointError):
        return False
    return MADE_HERE in bytes(head)
