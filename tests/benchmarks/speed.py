"""Speed and memory, both sides in one run on one machine with the same threads.

    python tests/benchmarks/speed.py [--types q4_k_m q8_0] [--repeat 3] [--large] [--cache DIR]

The peer is llama.cpp: its converter to a bf16 GGUF, then its quantizer. Whole processes are timed,
files in the page cache. The model is a Llama of 465M parameters with random bf16 weights; --large
adds a sparse checkpoint of the shape of an 8B Llama for the peak of memory.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import peer
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
from checkpoints import LLAMA_8B, LLAMA_465M, Llama, write_llama
from packages import smollm2_gguf

TYPES = ("q4_k_m", "q5_k_m", "q6_k", "iq4_xs", "iq4_nl", "q8_0", "bf16")
GOALS = {"q4_k_m": 5, "q5_k_m": 5, "q6_k": 5, "iq4_xs": 8, "iq4_nl": 8, "q8_0": 2.5, "bf16": 2.5}
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Run:
    """One process: wall seconds and peak resident bytes."""

    seconds: float
    peak: int


def run(command: list[str]) -> Run:
    """Run a process to its end.

    Raises:
        RuntimeError: it failed.
    """
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{errors.decode(errors='replace')[-2000:]}")
    return Run(seconds, usage.ru_maxrss * 1024)


def best(runs: list[Run]) -> Run:
    """The median time and the largest peak."""
    return Run(statistics.median(r.seconds for r in runs), max(r.peak for r in runs))


def write_model(folder: Path, shape: Llama, tokenizer: Path, sparse: bool) -> None:
    """A checkpoint with a tokenizer, if it is not there yet."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        if file.name.startswith(("tokenizer", "special_tokens", "chat_template")):
            (folder / file.name).write_bytes(file.read_bytes())
    write_llama(folder, shape, sparse=sparse)


def tokenizer_of_smollm2(cache: Path) -> Path:
    """A directory with SmolLM2's tokenizer, exported from the packaged GGUF."""
    folder = cache / "smollm2"
    if not folder.exists():
        qconvert(["export", str(smollm2_gguf()), "-o", str(folder)])
    return folder


def qconvert_command(arguments: list[str]) -> list[str]:
    return [str(Path(sys.executable).with_name("qconvert")), *arguments]


def qconvert(arguments: list[str]) -> Run:
    return run(qconvert_command(arguments))


def fresh(path: Path, source: Path, command: list[str]) -> Run:
    """Run a command that turns `source` into `path`: the one in the page cache, the other gone."""
    path.unlink(missing_ok=True)
    for file in [source] if source.is_file() else source.glob("*.safetensors"):
        with file.open("rb") as stream:
            while stream.read(MEGABYTE):
                pass
    return run(command)


def compare(
    model: Path, cache: Path, kinds: list[str], threads: int, repeat: int, console: Console
) -> None:
    """Both sides in turn for each type."""
    table = Table(title=f"465M weights, {threads} threads, median of {repeat}")
    for column in ("type", "llama.cpp", "qconvert", "ratio", "goal", "peak MB", "peer's peak MB"):
        table.add_column(column, justify="right")
    bf16 = cache / "peer-bf16.gguf"
    out, peers = cache / "out.gguf", cache / "peer-out.gguf"
    qconvert(["inspect", str(model)])
    for kind in kinds:
        ours, firsts, seconds = [], [], []
        fresh(out, model, ours_command(model, out, kind, threads))  # the kernels are compiled
        for _ in range(repeat):
            firsts.append(fresh(bf16, model, peer.convert_command(cache, model, bf16)))
            step = peer.quantize_command(bf16, peers, kind, threads)
            seconds.append(fresh(peers, bf16, step))
            ours.append(fresh(out, model, ours_command(model, out, kind, threads)))
        first, second, mine = best(firsts), best(seconds), best(ours)
        total = first.seconds + second.seconds
        table.add_row(
            kind,
            f"{first.seconds:.1f} + {second.seconds:.1f} s",
            f"{mine.seconds:.1f} s",
            f"{total / mine.seconds:.1f}",
            f"{GOALS.get(kind, '')}",
            f"{mine.peak / MEGABYTE:.0f}",
            f"{max(first.peak, second.peak) / MEGABYTE:.0f}",
        )
        console.print(f"{kind}: {total:.1f} s against {mine.seconds:.1f} s", style="dim")
    for path in (bf16, out, peers):
        path.unlink(missing_ok=True)
    console.print(table)


def ours_command(model: Path, out: Path, kind: str, threads: int) -> list[str]:
    return qconvert_command(
        ["quantize", str(model), "-t", kind, "-o", str(out), "--threads", str(threads), "--quiet"]
    )


def peak_of_large(cache: Path, tokenizer: Path, threads: int, console: Console) -> None:
    """Peak memory on a checkpoint of 16 GB."""
    model, out = cache / "llama-8b", cache / "out-8b.gguf"
    write_model(model, LLAMA_8B, tokenizer, sparse=True)
    out.unlink(missing_ok=True)
    mine = run(ours_command(model, out, "q4_k_m", threads))
    out.unlink(missing_ok=True)
    console.print(f"8B, q4_k_m: {mine.seconds:.0f} s, peak {mine.peak / MEGABYTE:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0))
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser.add_argument("--types", nargs="+", default=list(TYPES))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--cache", type=Path, default=home / "qconvert" / "benchmarks")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options.cache.mkdir(parents=True, exist_ok=True)
    console = Console()
    tokenizer = tokenizer_of_smollm2(options.cache)
    model = options.cache / "llama-465m"
    write_model(model, LLAMA_465M, tokenizer, sparse=False)
    compare(model, options.cache, options.types, options.threads, options.repeat, console)
    if options.large:
        peak_of_large(options.cache, tokenizer, options.threads, console)


if __name__ == "__main__":
    main()
