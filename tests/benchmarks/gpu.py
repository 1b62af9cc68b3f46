"""calibrate, feedback and evaluate on a GPU, next to what its arithmetic and its bus allow.

    python tests/benchmarks/gpu.py [--device cuda] [--blocks 32] [--tokens 65536] [--type q4_k_m]

The model has the shape of an 8B Llama, or fewer of its blocks; its random weights are made on the
device. Whole processes are timed. The floor is the time that a command's products and the weights
on their way to the device take at the rates that are measured here first.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console
from rich.table import Table
from speed import MEGABYTE, qconvert_command, run

sys.path.insert(0, str(Path(__file__).parent.parent))
from checkpoints import LLAMA_8B, Llama, write_llama

WINDOW = 2048
SCORED = 8192
"""Tokens of an evaluation."""


@dataclass(frozen=True)
class Rates:
    """Of a device: FLOP/s in two types, bytes/s from the host's memory."""

    bf16: float
    f64: float
    bus: float


@dataclass(frozen=True)
class Work:
    """What a command has to do at least: FLOP in two types, bytes to be moved."""

    bf16: float
    f64: float
    bytes: float

    def seconds(self, rates: Rates) -> float:
        return self.bf16 / rates.bf16 + self.f64 / rates.f64 + self.bytes / rates.bus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--blocks", type=int, default=LLAMA_8B.layers)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--cache", type=Path, help="where the large files go for the time being")
    options = parser.parse_args()
    shape = replace(LLAMA_8B, layers=options.blocks)
    rates = measured(options.device)
    print(json.dumps({"cores": len(os.sched_getaffinity(0)), **vars(rates)}), flush=True)
    table = Table(title=f"{options.blocks} blocks of 8B, {options.tokens} tokens")
    for column in ("", "seconds", "floor", "peak MB"):
        table.add_column(column, justify="left" if not column else "right")
    with TemporaryDirectory(dir=options.cache) as folder:
        for name, command, work in steps(Path(folder), shape, options):
            one = run(qconvert_command([*command, "--device", options.device, "-q"]))
            floor = work.seconds(rates)
            print(name, f"{one.seconds:.1f} s, floor {floor:.1f} s", flush=True)
            peak = f"{one.peak / MEGABYTE:.0f}"
            table.add_row(name, f"{one.seconds:.1f}", f"{floor:.1f}", peak)
    Console().print(table)


def steps(folder: Path, shape: Llama, options: argparse.Namespace):
    """Name, arguments and least work of each command, when what it needs is there."""
    model, text = folder / "model", folder / "text.txt"
    write_llama(model, shape, tokenizer=True, sparse=True)
    fill(model, options.device)
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(5000)]
    lines = (" ".join(draw.choices(words, k=12)) for _ in range(4 * options.tokens // 12))
    text.write_text("\n".join(lines))
    passage, weights = through(shape, options.tokens)
    sample = ["--tokens", str(options.tokens), "--window", str(WINDOW)]
    calibration, out = str(folder / "c.safetensors"), str(folder / "out.gguf")
    yield (
        "calibrate",
        ["calibrate", str(model), "--data", str(text), *sample, "-o", calibration],
        Work(passage, 0, weights),
    )
    yield (
        f"quantize -t {options.type} with feedback",
        ["quantize", str(model), "-c", calibration, "-t", options.type, "-o", out],
        feedback(shape, options.tokens),
    )
    scored = ["--tokens", str(SCORED), "--window", str(WINDOW), "--backend", "torch"]
    flops, moved = through(shape, SCORED)
    yield (
        f"evaluate {SCORED} tokens",
        ["evaluate", out, "--reference", str(model), "--data", str(text), *scored],
        Work(2 * flops, 0, 2 * moved),
    )


def through(shape: Llama, tokens: int) -> tuple[float, float]:
    """FLOP of the blocks' products, and bytes of their weights."""
    weights = sum(prod(size) for name, size in shape.shapes.items() if "layers." in name)
    return 2.0 * tokens * weights, 2.0 * weights


def feedback(shape: Llama, tokens: int) -> Work:
    """Both models; the inputs' moments H (half of it), C and of two layers R; two factors."""
    flops, moved = through(shape, tokens)
    inputs = [shape.width] * 3 + [shape.ffn]
    moments = sum(1.5 * n * n for n in inputs) + shape.width * (shape.width + shape.ffn)
    factors = sum(2 * 2 / 3 * n**3 for n in inputs)
    return Work(
        2 * flops + 2.0 * tokens * moments * shape.layers, factors * shape.layers, 2 * moved
    )


def fill(model: Path, device: str) -> None:
    """Write random weights into sparse files."""
    generator = torch.Generator(device).manual_seed(0)
    for path in sorted(model.glob("*.safetensors")):
        with path.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for about in header.values():
                count = prod(about["shape"])
                values = torch.empty(count, dtype=torch.bfloat16, device=device)
                if len(about["shape"]) > 1:
                    values.normal_(0, 0.02, generator=generator)
                else:
                    values.normal_(1, 0.1, generator=generator)
                file.seek(8 + length + about["data_offsets"][0])
                file.write(values.cpu().view(torch.uint8).numpy())


def measured(device: str) -> Rates:
    """Rates of products of 8192 x 8192 (float64: 4096), and of a copy of 1 GB."""

    def product(dtype: torch.dtype, size: int) -> float:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return 2 * size**3 / seconds(lambda: a @ b, device)

    host = torch.zeros(1 << 30, dtype=torch.uint8)
    size = 8192 if device == "cuda" else 1024
    return Rates(
        product(torch.bfloat16, size),
        product(torch.float64, size // 2),
        host.numel() / seconds(lambda: host.to(device, copy=True), device),
    )


def seconds(work: Callable[[], object], device: str, repeat: int = 5) -> float:
    """Of the best of some calls, behind one that warms up."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    once()
    return min(once() for _ in range(repeat))


if __name__ == "__main__":
    sys.exit(main())
