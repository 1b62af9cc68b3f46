"""Who runs jobs: threads of this process. `qconvert.run.cluster` has processes of a Ray cluster."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Out = TypeVar("Out")


class Executor(Protocol):
    """Runs one job on many items."""

    def map(
        self, job: Callable[[Item], Out], items: Iterable[Item], ahead: int | None = None
    ) -> Iterator[Out]:
        """Results in the order of the items, as they are asked for.

        The first error, in that order, is raised, and what has not begun is not begun; the same
        where nobody asks for more.

        Args:
            job: called with each item, perhaps elsewhere, several at a time, and twice with the
                same: what it gives may depend on nothing else. It, the items and the results can
                be pickled.
            items: taken as they are needed, in the caller's thread.
            ahead: at most so many are under way or wait to be asked for; None leaves it to the
                executor. So an item may depend on the result that is so many before it.
        """


class Threads:
    """Threads of this process. Enter it before use; leaving waits for what has begun.

    Args:
        count: jobs at a time.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def map(
        self, job: Callable[[Item], Out], items: Iterable[Item], ahead: int | None = None
    ) -> Iterator[Out]:
        """See `Executor`; `ahead` is twice the threads where it is not given."""
        waiting: deque[Future[Out]] = deque()
        source = iter(items)
        try:
            while True:
                room = (ahead or 2 * self._count) - len(waiting)
                waiting.extend(self._pool.submit(job, item) for item in islice(source, room))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


Workers = int | Executor
"""So many threads, or an executor that is open for longer."""


def at_work(workers: Workers) -> AbstractContextManager[Executor]:
    """Workers that jobs can be given to; threads are there until the context is left."""
    return Threads(workers) if isinstance(workers, int) else nullcontext(workers)


def library_threads() -> int:
    """The threads that linear algebra takes by itself: as the environment says, else all cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else default_threads()


def default_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
