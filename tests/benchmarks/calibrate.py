"""Calibration next to llama-imatrix: the same model, tokens and threads, in turn in one run.

    python tests/benchmarks/calibrate.py MODEL TEXT [--tokens 65536] [--llama-imatrix PATH]

MODEL is a Hugging Face directory. llama-imatrix, one of llama.cpp's tools, reads a bf16 GGUF file
of it that is made first. Windows have 512 tokens, its own default; it is asked for no perplexity.
Whole processes are timed.
"""

import argparse
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table
from speed import MEGABYTE, best, qconvert, qconvert_command, run

WINDOW = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--llama-imatrix", default="llama-imatrix")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        source, peers = Path(folder) / "model.gguf", Path(folder) / "imatrix.gguf"
        ours = Path(folder) / "model.calib.safetensors"
        qconvert(["quantize", str(options.model), "-t", "bf16", "-o", str(source), "-q"])
        shared = ["--threads", str(options.threads)]
        theirs = [options.llama_imatrix, "-m", str(source), "-f", str(options.text), "-o"]
        theirs += [str(peers), "-c", str(WINDOW), "--no-ppl", *shared]
        theirs += ["--chunks", str(options.tokens // WINDOW)]
        command = ["calibrate", str(options.model), "--data", str(options.text), "-o", str(ours)]
        command += ["--tokens", str(options.tokens), "--window", str(WINDOW), "-q", *shared]
        runs: dict[str, list] = {"llama-imatrix": [], "qconvert calibrate": []}
        for _ in range(options.repeat):
            ours.unlink(missing_ok=True)
            runs["qconvert calibrate"].append(run(qconvert_command(command)))
            runs["llama-imatrix"].append(run(theirs))
    table = Table(title=f"{options.tokens} tokens, {options.threads} threads")
    for column in ("", "seconds", "peak MB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in runs.items():
        one = best(found)
        table.add_row(name, f"{one.seconds:.1f}", f"{one.peak / MEGABYTE:.0f}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
