"""Jobs on the processes of a Ray cluster: `--executor ray`.

    here                                        workers, actors of Ray
    items, some at a time  ------------------>  the job, called with each
    results, in the order of the items  <-----  what it gave, or its error

A job is put into the object store once for each `map`, and kept by a worker while it is needed.
Results come in the order of the items, so whatever adds them up does so in one order, and bytes
depend neither on the number of workers nor on which is quick.

Jobs are pure. So what a worker had that ended is done again by another, whatever ended it, and what
a slow one has is given to an idle one too; the first answer counts. No more than a few items are
under way, which bounds the memory here and there.

Ray: https://docs.ray.io (actors, objects, fault tolerance).
"""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import length_hint
from typing import Any, TypeVar

from qconvert import __version__
from qconvert.errors import OutputError, UsageError, first_line
from qconvert.machine.watcher import Watcher
from qconvert.run.cluster_worker import Failed, Worker

Item = TypeVar("Item")
Out = TypeVar("Out")

DEPTH = 2
"""Tasks that a worker has: one that it works on, and the next."""

AHEAD = 4
"""Tasks for each worker that are under way, or wait for one in front of them."""

TASK_SECONDS = 0.25
"""What a task is to take at least, so that handing it out costs little beside it."""

MOST_ITEMS = 64
"""Of a task."""

ATTEMPTS = 6
"""A task that so many workers have ended over is to blame itself."""

SLOW, PATIENCE = 4.0, 10.0
"""A task is slow that takes so many times what the slowest one took that is done, and so many
seconds."""

STARTS = 3
"""So often a cluster is started here: on a busy machine it may take longer than Ray waits."""

STARTING = 300.0
"""Seconds until a worker has to have begun, if there is none other."""


@dataclass(eq=False)
class Hand:
    """A worker, as it is seen from here.

    Attributes:
        tasks: that it has.
        ready: its answer to being started, until that has come.
        node: where it is, in words; empty until it has begun.
        process: its number there.
    """

    actor: Any
    ready: Any
    tasks: int = 0
    node: str = ""
    process: int = 0


@dataclass(eq=False)
class Task:
    """Some items on their way.

    Attributes:
        number, job: of the `map` that they belong to.
        outcomes: what came of them, in their order, up to the first error.
        attempts: workers that ended over it.
        since: when it was given to a worker first, seconds.
        helpers: how many have it.
    """

    number: int
    job: Any
    items: list[Any]
    outcomes: list[Any] | None = None
    attempts: int = 0
    since: float = 0.0
    helpers: int = 0


@dataclass
class Pace:
    """How long the tasks of a `map` take, in seconds.

    Attributes:
        item: of the last task that was done, for each item.
        longest: of a whole task.
    """

    item: float = TASK_SECONDS
    longest: float = 0.0


@dataclass
class Cluster:
    """Workers of a cluster. Enter it before use; it is an `Executor`.

    Attributes:
        workers: how many; None takes as many as the cluster has cores for.
        cores: of each.
        address: of a cluster that runs; None starts one on this machine.
        watcher: is told of work that is done again.
    """

    workers: int | None
    cores: int
    address: str | None
    watcher: Watcher
    hands: list[Hand] = field(default_factory=list)
    _running: dict[Any, tuple[Task, Hand]] = field(default_factory=dict)
    _again: deque[Task] = field(default_factory=deque)
    _paces: dict[int, Pace] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _is_own: bool = False
    _waited: float = 0.0
    _failed: int = 0

    def __enter__(self) -> "Cluster":
        import ray

        if not ray.is_initialized():
            self._connect()
            self._is_own = True
        self._start(self.workers or self._room())
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for hand in self.hands:
            ray.kill(hand.actor)
        self.hands.clear()
        self._running.clear()
        if self._is_own:
            ray.shutdown()

    def map(
        self, job: Callable[[Item], Out], items: Iterable[Item], ahead: int | None = None
    ) -> Iterator[Out]:
        """See `Executor`. Tasks have one item each where `ahead` is given; else as many as take a
        moment, of those whose number is known an even share.

        Raises:
            OutputError: a job ends every worker that has it, or there are none left.
        """
        import ray

        number, kept = next(self._numbers), ray.put(job)
        self._paces[number] = Pace()
        known = length_hint(items)
        source = iter(items)
        waiting: deque[Task] = deque()
        is_over = False
        try:
            while True:
                while not is_over and self._has_room(waiting, ahead):
                    some = list(itertools.islice(source, self._some(number, known, ahead)))
                    is_over = not some
                    if some:
                        waiting.append(Task(number, [kept], some))
                        self._again.append(waiting[-1])
                        self._hand_out()
                if not waiting:
                    return
                while waiting[0].outcomes is None:
                    self._advance(waiting[0])
                for outcome in waiting.popleft().outcomes or ():
                    if isinstance(outcome, Failed):
                        raise outcome.error
                    yield outcome
        finally:
            self._forget(number)

    def _connect(self) -> None:
        """Start a cluster here, or enter one.

        Raises:
            UsageError: there is none at the address.
        """
        import ray

        # Ray asks for these before anything else; nothing is sent anywhere.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_ZERO_COPY_TORCH_TENSORS", "1")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        count = (self.workers or os.cpu_count() or 1) * self.cores
        here = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        for left in reversed(range(STARTS)):
            try:
                if self.address is not None:
                    ray.init(address=self.address, **quiet)
                else:
                    ray.init(address="local", num_cpus=count, **here, **quiet)
                return
            except Exception as error:  # Ray has none of its own for this
                ray.shutdown()
                if left and self.address is None:
                    continue
                raise UsageError(
                    f"no Ray cluster at {self.address or 'this machine':.100}: {first_line(error)}",
                    "start one with `ray start --head`, or leave --address out for one on the spot",
                ) from error

    def _room(self) -> int:
        """For how many workers the cluster has cores."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)) // self.cores)

    def _start(self, count: int) -> None:
        import ray

        kind = ray.remote(Worker).options(
            num_cpus=self.cores, max_restarts=0, scheduling_strategy="SPREAD"
        )
        for _ in range(count):
            actor = kind.remote(self.cores)
            self.hands.append(Hand(actor, actor.begin.remote()))

    def _has_room(self, waiting: deque[Task], ahead: int | None) -> bool:
        most = AHEAD * len(self.hands)
        return len(waiting) < (most if ahead is None else min(most, ahead))

    def _some(self, number: int, known: int, ahead: int | None) -> int:
        """How many items the next task gets."""
        if ahead is not None:
            return 1
        if known:
            return -(-known // (DEPTH * len(self.hands)))
        return min(max(1, round(TASK_SECONDS / self._paces[number].item)), MOST_ITEMS)

    def _hand_out(self) -> None:
        """Give tasks to who has few."""
        while self._again:
            hand = self._idlest()
            if hand is None:
                return
            self._give(self._again.popleft(), hand)

    def _idlest(self) -> Hand | None:
        able = [hand for hand in self.hands if hand.node and hand.tasks < DEPTH]
        return min(able, key=lambda hand: hand.tasks, default=None)

    def _give(self, task: Task, hand: Hand) -> None:
        ref = hand.actor.run.remote(task.number, task.job, task.items)
        self._running[ref] = task, hand
        task.since = task.since or time.monotonic()
        task.helpers += 1
        hand.tasks += 1

    def _advance(self, head: Task) -> None:
        """Wait until something has come, and go on with it."""
        import ray

        starting = {hand.ready: hand for hand in self.hands if hand.ready is not None}
        refs = [*self._running, *starting]
        if not refs:
            raise OutputError("no worker of the cluster is left", "look at `ray status`")
        begun = time.monotonic()
        done, _ = ray.wait(refs, num_returns=1, timeout=1.0)
        for ref in done:
            if ref in starting:
                self._begun(starting[ref])
            elif ref in self._running:  # else with a worker that has just ended
                self._take(ref)
        if not done and not any(hand.node for hand in self.hands):
            self._waited += time.monotonic() - begun
            if self._waited > STARTING:
                raise OutputError(
                    "the cluster has no room for a worker", "look at `ray status`, or use --workers"
                )
        self._hand_out()
        self._help(head)

    def _begun(self, hand: Hand) -> None:
        import ray

        try:
            about = ray.get(hand.ready)
        except ray.exceptions.RayError as error:
            self._failed += 1
            if self._failed >= ATTEMPTS:
                raise OutputError(
                    f"no worker begins: {first_line(error)}", "look at Ray's logs, /tmp/ray"
                ) from error
            self._lost(hand, error)
            return
        hand.ready = None
        if about.version != __version__:
            raise UsageError(
                f"the worker on {about.node} has qconvert {about.version}, and this is"
                f" {__version__}",
                "install the same version on all machines",
            )
        hand.node, hand.process = about.node, about.process
        self._failed, self._waited = 0, 0.0

    def _take(self, ref: Any) -> None:
        """What has come of a task."""
        import ray

        task, hand = self._running[ref]
        try:
            seconds, outcomes = ray.get(ref)
        except ray.exceptions.RayTaskError:
            raise  # of this program's own: jobs' errors are outcomes
        except ray.exceptions.RayError as error:
            self._lost(hand, error)
            return
        del self._running[ref]
        hand.tasks -= 1
        task.helpers -= 1
        if task.outcomes is None:
            task.outcomes = outcomes
            pace = self._paces.get(task.number)
            if pace is not None:
                pace.item = max(seconds / len(task.items), 1e-6)
                pace.longest = max(pace.longest, seconds)

    def _lost(self, hand: Hand, error: Exception) -> None:
        """A worker has ended: another takes its place, and its tasks are done again."""
        import ray

        if hand not in self.hands:
            return
        self.hands.remove(hand)
        ray.kill(hand.actor)  # which may only be out of reach
        own = [ref for ref, (_, other) in self._running.items() if other is hand]
        tasks = [self._running.pop(ref)[0] for ref in own]
        again = []
        for place, task in enumerate(tasks):
            task.helpers -= 1
            task.attempts += place == 0  # the others had not begun
            if task.attempts >= ATTEMPTS:
                raise OutputError(
                    f"{task.attempts} workers ended over the same job: {first_line(error)}",
                    "is there enough memory? use fewer --workers, or --executor threads",
                ) from error
            if task.outcomes is None and not task.helpers:
                again.append(task)
        self._again.extendleft(reversed(again))
        many = "1 job is" if len(again) == 1 else f"{len(again)} jobs are"
        self.watcher.note(f"a worker ended on {hand.node or 'its way'}: {many} done again")
        self._start(1)

    def _help(self, head: Task) -> None:
        """Give what everybody waits for to an idle worker too, where it takes very long."""
        pace = self._paces.get(head.number)
        if head.outcomes is not None or not head.since or head.helpers != 1 or pace is None:
            return
        late = time.monotonic() - head.since > max(SLOW * pace.longest, PATIENCE)
        hand = self._idlest() if late and pace.longest else None
        if hand is not None and not hand.tasks:
            self.watcher.note(f"a worker is slow: its job is done on {hand.node} too")
            self._give(head, hand)

    def _forget(self, number: int) -> None:
        """Nobody asks for the rest of a `map`."""
        import ray

        self._paces.pop(number, None)
        self._again = deque(task for task in self._again if task.number != number)
        for ref, (task, hand) in list(self._running.items()):
            if task.number == number:
                ray.cancel(ref)
                del self._running[ref]
                hand.tasks -= 1
