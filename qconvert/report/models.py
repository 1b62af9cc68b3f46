"""The files of a report: made in one reading of the checkpoint; what is up to date is left."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from qconvert.containers.sizes import human_bytes
from qconvert.machine.watcher import Watcher
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.schemes import find_types, is_scheme
from qconvert.plan.types import Plan
from qconvert.run.outputs import is_current, write_outputs

LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs", "q3_k_m", "q2_k")
"""The types where none are named."""


def outputs_of(types: Sequence[str], folder: Path, calibration: Path | None) -> tuple[Recipe, ...]:
    """The outputs that are asked for, each once.

    Raises:
        UsageError: a type is not known.
    """
    names = find_types(types or LADDER)
    return tuple(Recipe(name, folder=folder, calibration=calibration) for name in names)


PLAIN, IMPORTANCE, BUDGET = "plain", "importance", "budget"
"""Other ways to make a file of a type: without a calibration, without feedback, and with every
tensor's type chosen for the same bytes."""


def other_ways(planned: Sequence[Plan]) -> Iterator[Recipe]:
    """What is put beside files that are made with a calibration."""
    for plan in planned:
        recipe, path = plan.recipe, plan.target.path
        if plan.sample is None:
            continue
        yield replace(recipe, calibration=None, output=_beside(path, PLAIN))
        yield replace(recipe, feedback=False, output=_beside(path, IMPORTANCE))
        if not is_scheme(recipe.type):  # of directories no type is smaller
            under = plan.nbytes // 1000 * 1000
            yield replace(recipe, under=under, output=_beside(path, BUDGET))


def name_of(recipe: Recipe) -> str:
    """What a file is called on the page."""
    name = recipe.type if is_scheme(recipe.type) else recipe.type.upper()
    way = "" if recipe.output is None else _stem(recipe.output).rpartition("-")[2]
    if way == BUDGET and recipe.under is not None:
        return f"{human_bytes(recipe.under)} {way}"
    return f"{name} {way}" if way in (PLAIN, IMPORTANCE) else name


def _beside(path: Path, way: str) -> Path:
    stem = _stem(path)
    return path.with_name(f"{stem}-{way}{path.name.removeprefix(stem)}")


def _stem(path: Path) -> str:
    """Names of directories may have dots of their own."""
    return path.name.removesuffix(".gguf")


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
