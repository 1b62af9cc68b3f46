"""How long a training may take, and what it needs: measured on some of it, and told before."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from qconvert.containers.sizes import human_bytes
from qconvert.containers.store import Store
from qconvert.errors import PlanError, first_line
from qconvert.machine.watcher import Watcher
from qconvert.run.training.loop import Trainee
from qconvert.run.training.schedule import LOOKS, Schedule

BUDGET = "budget"
"""The store's entry: a run that is taken up has as many steps as it began with."""

LEARNT_BY_LOOKED = 3
"""How many times as long it takes to learn from a window as to look at it."""


def within(
    trainee: Trainee,
    schedule: Schedule,
    unseen: int,
    hours: float | None,
    memory: int,
    store: Store,
    watcher: Watcher,
) -> Schedule:
    """The schedule, with as many steps as there is time for.

    Args:
        schedule: its steps count where there is no bound.
        unseen: windows of each look.
        hours: the bound; None for none.
        memory: about how many bytes it takes, to be told.
    """
    if BUDGET in store:
        steps = int(store.get(BUDGET)["steps"][0])
        return replace(schedule, steps=steps)
    seconds = _seconds(trainee)
    looks = LOOKS * unseen * seconds / LEARNT_BY_LOOKED
    step = schedule.batch * seconds
    if hours is not None:
        steps = max(int((3600 * hours - looks) / step), 1)
        schedule = replace(schedule, steps=steps)
    tokens = schedule.steps * schedule.batch * trainee.tokens
    minutes = (schedule.steps * step + looks) / 60
    watcher.note(
        f"learning from {tokens} tokens in {schedule.steps} steps takes about {minutes:.0f} "
        f"minutes here, and {human_bytes(memory)} of memory"
    )
    store.put(BUDGET, {"steps": np.array([schedule.steps], np.int64)})
    return schedule


@contextmanager
def enough_memory(device: str) -> Iterator[None]:
    """A GPU whose memory does not do is an error that says what helps.

    Raises:
        PlanError: that.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PlanError(
            f"the {device} has too little memory: {first_line(error)}",
            "use windows of fewer tokens (--window), or --device cpu",
        ) from error


def _seconds(trainee: Trainee) -> float:
    """To learn from a window; the first time takes longer."""
    for _ in range(2):
        begun = time.monotonic()
        trainee.learn(np.zeros(1, np.int64))
    for parameter in trainee.parameters.values():
        parameter.grad = None
    return time.monotonic() - begun
