"""Who works, as the command line says it: threads of this process, or workers of a Ray cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from qconvert.errors import UsageError
from qconvert.machine.watcher import Watcher
from qconvert.run.executor import Workers, default_threads

EXECUTORS = ("threads", "ray")


@dataclass(frozen=True)
class Crew:
    """See `crew_of`.

    Attributes:
        executor: "threads" or "ray".
        threads: at a time in one process; of a cluster, of each worker.
        workers: processes of a cluster; None takes as many as it has cores for.
        address: of a cluster that runs; None starts one on this machine.
    """

    executor: str = "threads"
    threads: int | None = None
    workers: int | None = None
    address: str | None = None

    @property
    def cores(self) -> int:
        """Of each process."""
        return self.threads or (default_threads() if self.executor == "threads" else 1)

    def device(self, asked: str) -> str:
        """Where models compute.

        Raises:
            UsageError: a cluster's workers do not.
        """
        if self.executor == "threads":
            return asked
        if asked not in ("auto", "cpu"):
            raise UsageError(
                f"the workers of a cluster compute on CPUs, not on {asked:.40}",
                "leave --device out, or use --executor threads",
            )
        return "cpu"

    @contextmanager
    def at_work(self, watcher: Watcher) -> Iterator[Workers]:
        """The workers, until the context is left.

        Raises:
            UsageError: there is no cluster.
        """
        if self.executor == "threads":
            yield self.cores
            return
        from qconvert.run.cluster import Cluster

        with Cluster(self.workers, self.cores, self.address, watcher) as cluster:
            yield cluster


def crew_of(
    executor: str,
    threads: int | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Crew:
    """A crew that can be had.

    Raises:
        UsageError: no such executor, options of a cluster without one, or Ray is not installed.
    """
    if executor not in EXECUTORS:
        raise UsageError(
            f"--executor {executor!r:.40} is not known", f"choose {', '.join(EXECUTORS)}"
        )
    if executor == "threads" and (workers is not None or address is not None):
        option = "--workers" if workers is not None else "--address"
        raise UsageError(f"{option} is for a cluster", "add --executor ray, or use --threads")
    if executor == "ray" and find_spec("ray") is None:
        raise UsageError("--executor ray needs Ray", "pip install 'qconvert[ray]'")
    return Crew(executor, threads, workers, address)
