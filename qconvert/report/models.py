"""The files of a report: made in one reading of the checkpoint, those that are there already left.

A file is up to date when it is, byte for byte up to its weights, what would be written now: its
header has the source's fingerprint, the recipe, the calibration's digest and the version, and the
small files of a directory the rest. Times of files say nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.containers.target import File, Target
from qconvert.errors import CheckpointError
from qconvert.machine.watcher import Watcher
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import find_type
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs

LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k")
"""The types where none are named."""


def outputs_of(types: Sequence[str], folder: Path, calibration: Path | None) -> tuple[Recipe, ...]:
    """The outputs that are asked for, each once.

    Raises:
        UsageError: a type is not known.
    """
    names = dict.fromkeys(map(find_type, types or LADDER))
    return tuple(Recipe(name, folder=folder, calibration=calibration) for name in names)


def make_models(planned: Sequence[Plan], threads: int, watcher: Watcher) -> list[Path]:
    """Write the outputs that are not up to date; the paths of those that were.

    Raises:
        OutputError: something is in the way that this program did not make, no room, or a file
            cannot be written.
        WeightError: see `write_outputs`.
    """
    current = [is_current(one.target) for one in planned]
    stale = [one for one, done in zip(planned, current, strict=True) if not done]
    for output in stale:
        output.target.clear()
    if stale:
        write_outputs(stale, threads, watcher)
    return [one.target.path for one, done in zip(planned, current, strict=True) if done]


def is_current(target: Target) -> bool:
    """Whether the output is there, as it would be written now."""
    try:
        small = target.small_files.items()
        return all(path.read_bytes() == data for path, data in small) and all(
            map(_is_written, target.weight_files)
        )
    except (OSError, CheckpointError):
        return False


def _is_written(file: File) -> bool:
    header = file.header()
    return file_size(file.path) == file.nbytes and (
        bytes(read_bytes_at(file.path, 0, len(header))) == header
    )
