"""The files of a report: made in one reading of the checkpoint; what is up to date is left."""

from collections.abc import Sequence
from pathlib import Path

from qconvert.machine.watcher import Watcher
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import find_type
from qconvert.plan.types import Plan
from qconvert.run.outputs import is_current, write_outputs

LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k")
"""The types where none are named."""


def outputs_of(types: Sequence[str], folder: Path, calibration: Path | None) -> tuple[Recipe, ...]:
    """The outputs that are asked for, each once.

    Raises:
        UsageError: a type is not known.
    """
    names = dict.fromkeys(map(find_type, types or LADDER))
    return tuple(Recipe(name, folder=folder, calibration=calibration) for name in names)


def make_models(
    planned: Sequence[Plan], threads: int, watcher: Watcher, device: str = "auto"
) -> list[Path]:
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
        write_outputs(stale, threads, watcher, device)
    return [one.target.path for one, done in zip(planned, current, strict=True) if done]
