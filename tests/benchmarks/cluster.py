"""A Ray cluster on this machine: workers are killed, bytes compared, and one set against two.

    python tests/benchmarks/cluster.py kill [--rounds 30]
    python tests/benchmarks/cluster.py scale MODEL [--tokens N]

`kill` quantizes and calibrates a tiny model while workers are killed at random moments, at most a
few each time, and compares every file with that of one thread. `scale` runs calibrate and quantize
with feedback with threads, one worker and two, in processes of their own; figures are of whole
commands, with the cluster's start apart.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent.parent))
from captures import make_sample
from checkpoints import TINY, write_llama
from killing import Killing

from qconvert.calibration.capture import capture, visit_here
from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.run.cluster import Cluster
from qconvert.run.executor import Workers
from qconvert.run.outputs import write_outputs
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run
from qconvert.run.visiting import visits_over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    kill = kinds.add_parser("kill")
    kill.add_argument("--rounds", type=int, default=30)
    scale = kinds.add_parser("scale")
    scale.add_argument("model", type=Path)
    scale.add_argument("--tokens", type=int, default=16384)
    options = parser.parse_args()
    if options.kind == "kill":
        killed(options.rounds)
    else:
        scaled(options.model, options.tokens)


def made(model: Path, folder: Path, workers: Workers, watcher: Silent, tokens: int) -> list[bytes]:
    """A calibration, a file with feedback made of it, and one without."""
    source = open_checkpoint(str(model))
    sample = make_sample(tokens // 32, 32) if tokens < 4096 else make_sample(tokens // 512, 512)
    calibration = folder / "c.safetensors"
    visits = visit_here if isinstance(workers, int) else visits_over(workers, 1)
    clock("")
    capture(source, sample, calibration, device="cpu", visits=visits, watcher=watcher)
    clock("calibrate")
    files = [calibration]
    for feedback in (True, False):
        out = folder / f"{feedback}.gguf"
        asked = Recipe(
            "q4_k_m", output=out, calibration=calibration, feedback=feedback, vocabulary=False
        )
        plans = plan_outputs(source, [asked], Run(1, watcher, "cpu"))
        write_outputs(plans, workers, watcher, "cpu")
        clock("quantize with feedback" if feedback else "quantize")
        files.append(out)
    return [path.read_bytes() for path in files]


def clock(what: str, began: list[float] = [0.0]) -> None:  # noqa: B006
    now = time.perf_counter()
    if what:
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        print(f"  {what}: {now - began[0]:.1f} s; {cpu:.1f} s of this process so far", flush=True)
    began[0] = time.perf_counter()


def killed(rounds: int) -> None:
    total = 0
    with TemporaryDirectory() as name, Cluster(3, 1, os.environ.get("RAY_ADDRESS"), Silent()) as c:
        folder = Path(name)
        model = write_llama(folder / "m", TINY)
        (folder / "alone").mkdir()
        alone = made(model, folder / "alone", 1, Silent(), 384)
        for number in range(rounds):
            killing = Killing(c, number, one_in=6)
            own = folder / str(number)
            own.mkdir()
            same = made(model, own, c, killing, 384) == alone
            total += len(killing.killed)
            print(f"round {number + 1}: {len(killing.killed)} killed, same bytes: {same}")
            if not same:
                sys.exit(1)
    print(f"{rounds} rounds, {total} workers killed, the same bytes each time")


def scaled(model: Path, tokens: int) -> None:
    with TemporaryDirectory() as name:
        found = []
        for workers in (0, 1, 2):
            folder = Path(name) / str(workers)
            folder.mkdir()
            print(f"{workers} workers" if workers else "a thread", flush=True)
            if not workers:
                found.append(made(model, folder, 1, Silent(), tokens))
                continue
            with Cluster(workers, 1, None, Silent()) as cluster:
                list(cluster.map(abs, range(8)))  # the start is over
                found.append(made(model, folder, cluster, Silent(), tokens))
        print("the same bytes:", found[0] == found[1] == found[2])


if __name__ == "__main__":
    main()
