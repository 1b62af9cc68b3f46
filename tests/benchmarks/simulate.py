"""How work on large models would spread over machines: a small discrete-event model.

    python tests/benchmarks/simulate.py [--plot FILE.svg]

Nothing is measured here but one number that was before: what a core quantizes. What is assumed:

    a machine      32 cores, each 46 million weights a second (README: Q4_K_M) and 60 GFLOP/s
                   of products; a network of 25 Gbit/s each way; one worker with all of its cores
    shared disk    10 GB/s for all machines together, read and written alike
    handing out    1 ms of the first machine for each task, and 5 GB/s of copies to and from Ray's
                   store there
    stragglers     a task takes a time of its own, a tenth off either way (standard deviation), and
                   one in a hundred takes three times as long

Each of these serves one at a time, in the order of arrival; a worker has the next task while it is
at one, so its reading is hidden where it is shorter than the work. What is computed, handed out and
merged follows `qconvert.run`: results are taken in their order, and a batch goes into a block when
it has come out of the one before.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

GB = 1e9
NODES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Machine:
    cores: int = 32
    weights: float = 46e6
    flops: float = 60e9
    network: float = 25e9 / 8
    disk: float = 10 * GB
    copies: float = 5 * GB
    handing: float = 1e-3


@dataclass(frozen=True)
class Model:
    """A shape.

    Attributes:
        weights: of a block; stored in two bytes each.
        active: of these, what a token is multiplied with.
        moments: squares of inputs that a block's second moments have, of those a token reaches.
    """

    name: str
    blocks: int
    width: int
    weights: float
    active: float
    moments: float


MODELS = (
    Model("8B", 32, 4096, 0.218e9, 0.218e9, 3 * 4096**2 + 14336**2),
    Model("70B", 80, 8192, 0.856e9, 0.856e9, 3 * 8192**2 + 28672**2),
    Model("671B", 61, 7168, 11.0e9, 0.60e9, 4 * 7168**2 + 16384**2 + 9 * (7168**2 + 2048**2)),
    Model("1T", 61, 7168, 17.0e9, 0.53e9, 4 * 7168**2 + 8192**2 + 9 * (7168**2 + 2048**2)),
)

TOKENS, BATCH = 131072, 2048
BITS = 4.5


@dataclass
class Line:
    """Serves one at a time: seconds until it is free."""

    free: float = 0.0

    def until(self, now: float, seconds: float) -> float:
        self.free = max(self.free, now) + seconds
        return self.free


@dataclass
class Flag:
    """Something that others wait for."""

    is_up: bool = False
    waiting: list = field(default_factory=list)


Step = tuple[Line, float] | Flag
Course = Iterator[Step]
"""What somebody does: is served by a line for so many seconds, or waits for a flag."""


@dataclass
class Cluster:
    """The first machine hands out and takes; all share a disk."""

    machine: Machine
    nodes: int
    draw: random.Random
    now: float = 0.0

    def __post_init__(self) -> None:
        self.disk, self.handing, self.out, self.into = Line(), Line(), Line(), Line()
        self.links = [Line() for _ in range(self.nodes)]
        self.workers = [Line() for _ in range(self.nodes)]
        self._events: list[tuple[float, int, Course]] = []
        self._numbers = count()

    def begin(self, course: Course) -> None:
        heappush(self._events, (self.now, next(self._numbers), course))

    def run(self) -> float:
        """Until nobody has anything to do; seconds."""
        while self._events:
            self.now, _, course = heappop(self._events)
            step = next(course, None)
            if isinstance(step, Flag):
                if step.is_up:
                    self.begin(course)
                else:
                    step.waiting.append(course)
            elif step is not None:
                line, seconds = step
                done = line.until(self.now, seconds)
                heappush(self._events, (done, next(self._numbers), course))
        return self.now

    def put_up(self, flag: Flag) -> None:
        flag.is_up = True
        for course in flag.waiting:
            self.begin(course)

    def read(self, node: int, nbytes: float) -> Course:
        yield self.disk, nbytes / self.machine.disk
        yield self.links[node], nbytes / self.machine.network

    def give(self, nbytes: float, tasks: int = 1) -> Course:
        yield self.handing, tasks * self.machine.handing
        yield self.out, nbytes / self.machine.network

    def take(self, nbytes: float) -> Course:
        yield self.into, nbytes * (1 / self.machine.network + 1 / self.machine.copies)

    def work(self, node: int, seconds: float) -> Course:
        slow = 3.0 if self.draw.random() < 0.01 else max(0.5, self.draw.gauss(1.0, 0.1))
        yield self.workers[node], seconds * slow


def streamed(model: Model, cluster: Cluster) -> float:
    """Seconds to quantize what there is, slab by slab: one writer at known offsets."""
    machine = cluster.machine
    # Eight at a time, which saves time here and changes nothing else.
    task, tasks = 8 * 64 * 2.0**18, 8
    left = iter(range(max(1, round(model.blocks * model.weights / task))))

    def slot(node: int) -> Course:
        for _ in left:
            yield from cluster.give(4096, tasks)
            yield from cluster.read(node, 2 * task)
            yield from cluster.work(node, task / (machine.weights * machine.cores))
            cluster.begin(written())

    def written() -> Course:
        yield from cluster.take(task * BITS / 8)
        yield cluster.disk, task * BITS / 8 / machine.disk

    return raced(cluster, slot)


def raced(cluster: Cluster, slot: Callable[[int], Course]) -> float:
    """Seconds with two courses for each worker: one that it works at, and the next."""
    for _ in range(2):
        for node in range(cluster.nodes):
            cluster.begin(slot(node))
    return cluster.run()


def calibrated(model: Model, cluster: Cluster, *, at_home: bool) -> float:
    """Seconds to see what goes into weights: each batch of a block to any worker, or to the one
    that the block is at home with."""
    machine, nodes = cluster.machine, cluster.nodes
    seconds = 2 * BATCH * model.active / (machine.flops * machine.cores)
    moved, batches = 2.0 * BATCH * model.width, TOKENS // BATCH
    came = {(block, batch): Flag() for block in range(model.blocks) for batch in range(batches)}
    came |= {(-1, batch): Flag(True) for batch in range(batches)}
    there: dict[tuple[int, int], Flag] = {}
    ordered = order(model.blocks, batches, nodes if at_home else 1)
    queues = [
        iter([one for one in ordered if not at_home or one[0] % nodes == node])
        for node in range(nodes if at_home else 1)
    ]

    def load(node: int, block: int) -> None:
        if block < model.blocks and (node, block) not in there:
            there[node, block] = Flag()
            cluster.begin(loading(node, block))

    def loading(node: int, block: int) -> Course:
        yield from cluster.read(node, 2 * model.weights)
        cluster.put_up(there[node, block])

    def slot(node: int) -> Course:
        for block, batch in queues[node if at_home else 0]:
            load(node, block)
            yield came[block - 1, batch]
            yield from cluster.give(moved)
            yield there[node, block]
            load(node, block + (nodes if at_home else 1))  # read ahead
            yield from cluster.work(node, seconds)
            cluster.begin(taken(block, batch))

    def taken(block: int, batch: int) -> Course:
        yield from cluster.take(moved)
        cluster.put_up(came[block, batch])

    return raced(cluster, slot)


def order(blocks: int, batches: int, deep: int) -> list[tuple[int, int]]:
    """Blocks and batches, each behind what it waits for: so many blocks side by side."""
    every = [(block, batch) for block in range(blocks) for batch in range(batches)]
    return sorted(every, key=lambda one: (one[0] // deep * batches + one[0] % deep + one[1], one))


def fed_back(model: Model, cluster: Cluster) -> float:
    """Seconds of quantizing by block: the first machine computes both models and their moments, the
    workers quantize rows."""
    machine, nodes = cluster.machine, cluster.nodes
    here = machine.flops * machine.cores
    read = 3 * 2 * model.weights / machine.network
    seen = TOKENS * (4 * model.active + 2 * 1.5 * model.moments) / here
    # Each weight's error times the factor's columns behind it, and a search for scales.
    rows = model.weights * (model.width / here + 4 / (machine.weights * machine.cores))
    sent = 2 * 4 * model.weights / machine.network if nodes > 1 else 0.0
    return model.blocks * (max(read, seen) + max(rows / nodes, sent))


KINDS = {
    "quantize": streamed,
    "calibrate": lambda model, cluster: calibrated(model, cluster, at_home=False),
    "calibrate, blocks at home": lambda model, cluster: calibrated(model, cluster, at_home=True),
    "feedback": fed_back,
}


def simulated() -> dict[tuple[str, str], list[float]]:
    """Seconds by kind and model, for each number of nodes."""
    return {
        (kind, model.name): [
            run(model, Cluster(Machine(), nodes, random.Random(nodes))) for nodes in NODES
        ]
        for kind, run in KINDS.items()
        for model in MODELS
    }


def table(found: dict[tuple[str, str], list[float]]) -> str:
    lines = [
        "| work | model | 1 machine | " + " | ".join(f"{nodes}" for nodes in NODES[1:]) + " |",
        "|---|---|---:|" + "---:|" * len(NODES[1:]),
    ]
    for (kind, name), seconds in found.items():
        times = [f"{seconds[0] / seconds[place]:.1f}x" for place in range(1, len(NODES))]
        lines.append(f"| {kind} | {name} | {human(seconds[0])} | " + " | ".join(times) + " |")
    return "\n".join(lines) + "\n"


def human(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plot(found: dict[tuple[str, str], list[float]], path: Path) -> None:
    """Efficiency over machines, a panel for each kind."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "qconvert"
    figure, panels = plt.subplots(1, len(KINDS), figsize=(13, 3.2), sharey=True)
    for panel, kind in zip(panels, KINDS, strict=True):
        for model in MODELS:
            seconds = found[kind, model.name]
            share = [seconds[0] / one / nodes for one, nodes in zip(seconds, NODES, strict=True)]
            panel.plot(NODES, share, marker="o", markersize=3, label=model.name)
        panel.set(title=kind, xscale="log", xlabel="machines", ylim=(0, 1.1))
        panel.set_xticks(NODES, [str(nodes) for nodes in NODES])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("efficiency")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    found = simulated()
    print(table(found), end="")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
