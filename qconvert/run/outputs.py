"""Outputs of one checkpoint, whatever their containers, written side by side."""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from qconvert.containers.target import paths_of
from qconvert.machine.watcher import Watcher
from qconvert.plan.types import Plan
from qconvert.run.stream import Result, write_files


def write_outputs(plans: Sequence[Plan], threads: int, watcher: Watcher) -> list[Result]:
    """Write what is planned of one checkpoint; a result for each plan.

    Args:
        threads: how many slabs are worked on at once.

    Raises:
        OutputError: something is there already, no room, or it cannot be written. What is done
            is used by the next run that wants the same.
        WeightError: a weight is NaN, infinite or beyond its format, and that is not allowed.
    """
    with ExitStack() as stack:
        works = [(plan, stack.enter_context(plan.target.making())) for plan in plans]
        results = write_files(works, threads, watcher)
    for plan in plans:
        if plan.work is not None:
            shutil.rmtree(plan.work, ignore_errors=True)
    return [
        replace(
            result,
            paths=paths_of(plan.target),
            nbytes=result.nbytes + sum(map(len, plan.target.small_files.values())),
        )
        for plan, result in zip(plans, results, strict=True)
    ]
