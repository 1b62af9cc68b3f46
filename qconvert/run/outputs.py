"""Outputs of one checkpoint, whatever their containers, written side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from qconvert.containers.target import paths_of
from qconvert.machine.watcher import Watcher
from qconvert.run.stream import write_files
from qconvert.run.work import Output, Result, Work


def write_outputs(outputs: Sequence[Output], threads: int, watcher: Watcher) -> list[Result]:
    """Write outputs of the same checkpoint; a result for each.

    Args:
        threads: how many slabs are worked on at once.

    Raises:
        OutputError: something is there already, no room, or it cannot be written. What is done
            is used by the next run that wants the same.
        WeightError: a weight is NaN or infinite and that is not allowed, or too large for F16.
    """
    with ExitStack() as stack:
        works = [
            Work(
                one.checkpoint, one.tensors, stack.enter_context(one.target.making()), one.allow_nan
            )
            for one in outputs
        ]
        results = write_files(works, threads, watcher)
    return [
        replace(
            result,
            paths=paths_of(output.target),
            nbytes=result.nbytes + sum(map(len, output.target.small_files.values())),
        )
        for output, result in zip(outputs, results, strict=True)
    ]
