"""What runs in each process of a cluster; see `qconvert.run.cluster`."""

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qconvert import __version__
from qconvert.errors import QconvertError, first_line
from qconvert.run.executor import Threads

JOBS = 2
"""That a worker keeps: one may be asked for in the middle of another."""


class About(NamedTuple):
    """A worker, as it introduces itself."""

    version: str
    node: str
    process: int


class Failed(NamedTuple):
    """What comes of an item whose job raised an error."""

    error: BaseException


class Worker:
    """One process.

    Args:
        cores: items at a time.
    """

    def __init__(self, cores: int) -> None:
        # Before numpy or torch are asked for anything: a worker has these cores and no others.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(cores)
        self._threads = Threads(cores)
        self._jobs: OrderedDict[int, Callable[[Any], Any]] = OrderedDict()

    def begin(self) -> About:
        return About(__version__, socket.gethostname(), os.getpid())

    def run(self, number: int, kept: Sequence[Any], items: Sequence[Any]) -> tuple[float, list]:
        """Seconds, and what comes of each item, up to the first error.

        Args:
            number: of the job.
            kept: the job, where the cluster keeps it.
        """
        started = time.monotonic()
        outcomes: list[Any] = []
        try:
            job = self._job(number, kept)
            for outcome in self._threads.map(job, items):
                outcomes.append(outcome)
        except Exception as error:
            outcomes.append(Failed(_portable(error)))
        return time.monotonic() - started, outcomes

    def _job(self, number: int, kept: Sequence[Any]) -> Callable[[Any], Any]:
        import ray

        if number not in self._jobs:
            while len(self._jobs) >= JOBS:
                self._jobs.popitem(last=False)
            self._jobs[number] = ray.get(kept[0])
        self._jobs.move_to_end(number)
        return self._jobs[number]


def _portable(error: Exception) -> Exception:
    """An error that can be sent: this program's own as they are, others in words."""
    if isinstance(error, QconvertError | OSError | MemoryError):
        return error
    return RuntimeError(f"{type(error).__name__}: {first_line(error)}")
