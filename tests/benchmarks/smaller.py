"""What each way to a smaller model costs and gains: minutes, bytes and divergence, in one table.

    python tests/benchmarks/smaller.py MODEL --data TEXT --test OTHER [--type q2_k] [--layers N]
        [--tune N] [--weights N] [--distill N] [--prune N] [--calibrate N] [--evaluate N]
        [--rows plain,tuned] [--work FOLDER]

Every row is what a user's commands make, each in a process of its own; they are printed below the
table. Budgets are in tokens, so that the same outputs come of it anywhere; the largest are in the
table. Training takes most of the time: `--rows` names what is wanted. An interrupted run goes on,
and what a row needs is made once, at whatever row comes first.

Minutes are of the wall, of all steps behind calibrating; those of the processor stand beside them.
Bytes of clustered weights are those of codes and tables, with all else as it is.
Divergence is measured on a text that nothing was made by.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROGRAM = str(Path(sys.executable).with_name("qconvert"))
CALIBRATION, PRUNED, TAUGHT = "c.safetensors", "pruned", "taught"


@dataclass(frozen=True)
class Step:
    """A command, and what it makes in the work folder."""

    words: tuple[str, ...]
    made: str

    @property
    def shown(self) -> str:
        return shlex.join(["qconvert", *self.words])


@dataclass(frozen=True)
class Row:
    """A way.

    Attributes:
        budget: what it was given, for people.
        steps: in their order; the last one makes what is measured.
    """

    name: str
    budget: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Spent:
    """Seconds of a command, of the wall and of the processor."""

    wall: float
    processor: float


def rows_of(o: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """By the names that `--rows` takes."""
    model, with_c = str(o.model.resolve()), ("-c", CALIBRATION)
    data = ("--data", str(o.data.resolve()))

    def one(verb: str, made: str, *words: str) -> Step:
        return Step((verb, model, *words, "-o", made), made)

    kind = ("-t", o.type)
    feedback = one("quantize", "feedback.gguf", *with_c, *kind)
    plain = one("quantize", "plain.gguf", *kind)
    yield "plain", Row(f"`{o.type}`, rounded", "", (plain,))
    importance = one("quantize", "importance.gguf", *with_c, *kind, "--no-feedback")
    yield "importance", Row(f"`{o.type}`, with importance", "", (importance,))
    yield "feedback", Row(f"`{o.type}`, with feedback", "", (feedback,))
    tune = one("tune", "tuned.gguf", *with_c, *kind, *data, "--tokens", str(o.tune))
    yield "tuned", Row("the same, tuned", f"{o.tune} tokens", (tune,))
    trained = one(
        "tune", "trained.gguf", *with_c, *kind, *data, "--weights", "--tokens", str(o.weights)
    )
    yield "weights", Row("the same, tuned with `--weights`", f"{o.weights} tokens", (trained,))
    layers = ("--layers", str(o.layers), "--tokens", str(o.prune))
    prune = one("prune", PRUNED, *with_c, *layers)
    yield "pruned", Row(f"pruned to {o.layers} layers", f"tried on {o.prune} tokens", (prune,))
    words = ("distill", PRUNED, "--teacher", model, *data, "--tokens", str(o.distill))
    distill = Step((*words, "-o", TAUGHT), TAUGHT)
    yield "distilled", Row("the same, distilled", f"{o.distill} tokens", (prune, distill))
    for bits in (4, 3):
        lut, whole = f"lut{bits}", f"w{bits}a16"
        yield lut, Row(f"`{lut}`", "", (one("quantize", lut, *with_c, "-t", lut),))
        yield whole, Row(f"`{whole}`", "", (one("quantize", whole, *with_c, "-t", whole),))


def run(step: Step, work: Path, threads: int) -> Spent:
    """Run a command, or find what it cost when it ran."""
    kept = work / f".{step.made}.json"
    if kept.exists() and (work / step.made).exists():
        known = json.loads(kept.read_text())
        if known["command"] == step.shown:
            return Spent(**known["spent"])
    print(step.shown, file=sys.stderr, flush=True)
    before, begun = _processor(), time.monotonic()
    command = [PROGRAM, *step.words, "--threads", str(threads), "--json", "--quiet"]
    command += [] if step.words[0] == "calibrate" else ["--force"]  # which replaces unasked
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{step.shown}: {done.stderr}")
    spent = Spent(time.monotonic() - begun, _processor() - before)
    told = {"command": step.shown, "spent": asdict(spent), "bytes": size_of(work / step.made)}
    (first, *_) = json.loads(done.stdout).get("outputs") or [{}]
    if "clustered" in first:
        told["bytes"] = first["clustered"]["packed"]
    kept.write_text(json.dumps(told))
    return spent


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def size_of(path: Path) -> int:
    """Of a file, or of a directory's weights."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def calibrate(o: argparse.Namespace, work: Path) -> None:
    words = ("calibrate", str(o.model.resolve()), "--data", str(o.data.resolve()))
    run(Step((*words, "--tokens", str(o.calibrate), "-o", CALIBRATION), CALIBRATION), work, 1)


def measured(o: argparse.Namespace, work: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """What `evaluate` says of each output, by its name."""
    command = [PROGRAM, "evaluate", *names, "--reference", str(o.model.resolve()), "--json"]
    command += ["--data", str(o.test.resolve()), "--tokens", str(o.evaluate), "--quiet"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(zip(names, json.loads(done.stdout)["files"], strict=True))


def table(rows: list[Row], spent: dict[str, Spent], found: dict[str, Any], work: Path) -> list[str]:
    """Markdown."""
    lines = [
        "| | budget | minutes (of one core) | bytes | divergence | perplexity |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        made = row.steps[-1].made
        one = found[made]
        wall = sum(spent[step.shown].wall for step in row.steps) / 60
        processor = sum(spent[step.shown].processor for step in row.steps) / 60
        nbytes = json.loads((work / f".{made}.json").read_text())["bytes"]
        far = one["kl_divergence"]
        lines.append(
            f"| {row.name} | {row.budget} | {wall:.1f} ({processor:.1f}) | {nbytes / 1e6:.1f} MB "
            f"| {far['mean']:.4f} ± {far['standard_error']:.4f} | {one['perplexity']:.2f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--type", default="q2_k")
    parser.add_argument("--layers", type=int, default=24)
    budgets = {"calibrate": 65536, "tune": 262144, "weights": 262144, "prune": 4096}
    for name, tokens in {**budgets, "distill": 262144, "evaluate": 15360}.items():
        parser.add_argument(f"--{name}", type=int, default=tokens, metavar="TOKENS")
    parser.add_argument("--rows", default="", help="of these alone, by name, comma-separated")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=Path("build/smaller"))
    o = parser.parse_args()
    o.work.mkdir(parents=True, exist_ok=True)
    known = dict(rows_of(o))
    wanted = o.rows.split(",") if o.rows else list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no rows {sorted(unknown)}; there are {', '.join(known)}")
    rows = [known[name] for name in wanted]
    calibrate(o, o.work)
    steps = {step.shown: step for row in rows for step in row.steps}
    spent = {shown: run(step, o.work, o.threads) for shown, step in steps.items()}
    found = measured(o, o.work, [row.steps[-1].made for row in rows])
    print("\n".join(table(rows, spent, found, o.work)))
    print(f"\nOn {o.evaluate} tokens of {o.test.name}, {o.threads} threads. The commands:\n")
    print("\n".join(f"    {shown}" for shown in steps))


if __name__ == "__main__":
    main()
