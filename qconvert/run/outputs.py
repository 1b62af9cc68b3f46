"""Outputs of one checkpoint, whatever their containers, written side by side."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.containers.target import File, Target, paths_of
from qconvert.errors import CheckpointError, OutputError, shorten
from qconvert.machine.watcher import Watcher
from qconvert.plan.types import Plan
from qconvert.run.clustered import clustered
from qconvert.run.executor import Workers
from qconvert.run.sampled import with_sampled
from qconvert.run.stream import Result, write_files


def write_outputs(
    plans: Sequence[Plan], workers: Workers, watcher: Watcher, device: str = "auto"
) -> list[Result]:
    """Write what is planned of one checkpoint; a result for each plan.

    Args:
        workers: slabs are made by, several at once.
        device: where the model runs, if that is needed: "auto", "cpu", "cuda" or "mps".

    Raises:
        OutputError: something is there already, no room, or it cannot be written. What is done
            is used by the next run that wants the same.
        WeightError: a weight is NaN, infinite or beyond its format, and that is not allowed.
    """
    with ExitStack() as stack:
        made = stack.enter_context(with_sampled(plans, workers, watcher, device))
        works = [(plan, stack.enter_context(plan.target.making())) for plan in made]
        results = write_files(works, workers, watcher)
    for plan in plans:
        for folder in plan.works:
            shutil.rmtree(folder, ignore_errors=True)
    return [
        replace(
            result,
            paths=paths_of(plan.target),
            nbytes=result.nbytes + sum(map(len, plan.target.small_files.values())),
            helped=plan.helped,
            clustered=clustered(plan, workers),
        )
        for plan, result in zip(made, results, strict=True)
    ]


def write_stale(
    plans: Sequence[Plan],
    workers: Workers,
    watcher: Watcher,
    device: str = "auto",
    *,
    force: bool = False,
) -> list[Result]:
    """The same, but what is up to date is left, and said.

    Args:
        force: replace what is where an output goes; of directories, what this program made.

    Raises:
        OutputError: something else is where an output goes; the others are written before.
    """
    stale, taken = [], []
    for plan in plans:
        if is_current(plan.target):
            watcher.note(f"up to date: {plan.target.path}")
        elif plan.target.occupied and not force:
            taken.append(plan.target.path)
        else:
            stale.append(plan)
    if taken and stale:
        watcher.note(f"left as it is, and not what this command makes: {taken[0]}")
    for plan in stale:
        plan.target.clear()
    made = iter(write_outputs(stale, workers, watcher, device) if stale else ())
    if taken:
        raise in_the_way(taken)
    return [next(made) if any(plan is one for one in stale) else found(plan) for plan in plans]


def in_the_way(paths: Sequence[Path]) -> OutputError:
    """What is said where something else is in the place of outputs."""
    return OutputError(
        f"{shorten([str(path) for path in paths])} exists and is not what this command makes",
        "--force replaces it; or choose another place with -o",
    )


def found(plan: Plan) -> Result:
    """Of an output that was there already."""
    paths = paths_of(plan.target)
    return Result(plan, paths, sum(map(file_size, paths)), 0.0, len(plan.tensors))


def is_current(target: Target) -> bool:
    """Whether the output is there, as it would be written now, byte for byte up to its weights: its
    header has the source's fingerprint, the recipe, the calibration's digest and the version, and
    the small files of a directory the rest. Times of files say nothing."""
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
