"""The process that measures one file's speed; see `qconvert.evaluation.speed.measure`."""

import gc
import random
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from qconvert.evaluation.answers.generators import Generator, load_generator, runtime_of
from qconvert.evaluation.runtimes.child import serve
from qconvert.evaluation.runtimes.library import import_llama

WARM = 16
"""Tokens of the warm-up's generation."""

Tell = Callable[[dict[str, Any]], None]


def measure(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Load, warm up, and time.

    Args:
        request: "path", "threads", "prompt", "generated", "repetitions".
        tell: of the steps.
    """
    path, threads, count = Path(request["path"]), request["threads"], request["repetitions"]
    _import(path)
    before = peak_bytes()
    model, load_seconds = _load(path, threads, count, tell)
    prompt = min(request["prompt"], model.context)
    generated = min(request["generated"], model.context)
    tokens = random.Random(0).choices(range(model.vocabulary), k=max(prompt, generated))
    tell({"step": "warm-up"})
    _prompt(model, tokens[:prompt])
    _generate(model, tokens[: min(generated, WARM)])
    seconds: dict[str, list[float]] = {"prompt": [], "generated": []}
    for number in range(1, count + 1):
        tell({"step": f"prompt {number}/{count}"})
        seconds["prompt"].append(_prompt(model, tokens[:prompt]))
        tell({"step": f"generate {number}/{count}"})
        seconds["generated"].append(_generate(model, tokens[:generated]))
    return {
        "prompt": prompt,
        "generated": generated,
        "load_seconds": load_seconds,
        "prompt_seconds": seconds["prompt"],
        "generated_seconds": seconds["generated"],
        "peak_bytes": peak_bytes(),
        "runtime_bytes": before,
    }


def _import(path: Path) -> None:
    """A runtime's own code is no part of loading a model."""
    if runtime_of(path) == "llama.cpp":
        import qconvert.evaluation.answers.llama

        import_llama()
    else:
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM  # noqa: F401

        import qconvert.evaluation.answers.whole  # noqa: F401


def _load(path: Path, threads: int, count: int, tell: Tell) -> tuple[Generator, list[float]]:
    seconds = []
    for number in range(1, count + 1):
        tell({"step": f"load {number}/{count}"})
        start = perf_counter()
        model = load_generator(path, threads)
        model.begin(16)
        seconds.append(perf_counter() - start)
        if number < count:
            model.close()
            del model
            gc.collect()
    return model, seconds


def _prompt(model: Generator, tokens: list[int]) -> float:
    model.begin(len(tokens))
    start = perf_counter()
    model.feed(tokens)
    return perf_counter() - start


def _generate(model: Generator, tokens: list[int]) -> float:
    model.begin(len(tokens))
    start = perf_counter()
    for token in tokens:
        model.feed([token])
    return perf_counter() - start


def peak_bytes() -> int:
    """The most memory that this process has had.

    Linux keeps in `ru_maxrss` what the parent had when it started this process, so its own page
    is read where there is one.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    serve(measure)
