"""How fast a file is in its own runtime, and how much memory it takes.

The protocol is llama-bench's: a prompt is computed in batches of 512 tokens, and tokens are
generated one by one from an empty context. Which tokens does not matter, so they are drawn. All
happens on the CPU, in a process of its own for each file, after a warm-up.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qconvert.evaluation.answers.generators import Name, runtime_of
from qconvert.evaluation.runtimes.child import PATIENCE, ask

PROMPT = 512
GENERATED = 64
REPETITIONS = 3
STEPS = 3 * REPETITIONS + 1
"""That `heard` is told of: loads, prompts and generations, and a warm-up."""


@dataclass(frozen=True)
class Figure:
    """What several repetitions gave."""

    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Speed:
    """Of one file.

    Attributes:
        path: as the user named it.
        runtime: what ran it.
        threads: that it was given.
        prompt_tokens, generated_tokens: of each repetition; fewer than asked for where the model's
            context is shorter.
        repetitions: of each figure.
        load_seconds: until the model can be used; llama.cpp maps the file and reads it later, in
            the warm-up.
        prompt_per_second, generated_per_second: tokens.
        milliseconds_per_token: of generating.
        peak_bytes: the most that the process had in memory at once, the runtime itself and the
            mapped file included.
        runtime_bytes: what it had before the model was loaded.
    """

    path: Path
    runtime: Name
    threads: int
    prompt_tokens: int
    generated_tokens: int
    repetitions: int
    load_seconds: Figure
    prompt_per_second: Figure
    generated_per_second: Figure
    milliseconds_per_token: Figure
    peak_bytes: int
    runtime_bytes: int


def measure_speed(
    path: Path,
    *,
    threads: int,
    prompt_tokens: int = PROMPT,
    generated: int = GENERATED,
    repetitions: int = REPETITIONS,
    heard: Callable[[str], None] = lambda step: None,
    patience: float = PATIENCE,
) -> Speed:
    """Measure one file: a GGUF file in llama.cpp, a directory in transformers.

    Args:
        threads: that compute.
        prompt_tokens, generated: tokens of each repetition.
        heard: told what is done next: "load 1/3", "prompt 2/3".
        patience: seconds that one step may take.

    Raises:
        QconvertError: the runtime is missing, cannot load the file, or crashes.
    """
    runtime = runtime_of(path)
    request = {
        "path": str(path),
        "threads": threads,
        "prompt": prompt_tokens,
        "generated": generated,
        "repetitions": repetitions,
    }
    found = ask(
        "qconvert.evaluation.speed.worker",
        request,
        f"{runtime} cannot run {path}",
        lambda event: heard(str(event["step"])),
        patience=patience,
    )
    return summarize(path, runtime, threads, found)


def summarize(path: Path, runtime: Name, threads: int, found: dict[str, Any]) -> Speed:
    """Seconds of each repetition, as the process tells them, in figures.

    Args:
        found: "prompt" and "generated", tokens; "load_seconds", "prompt_seconds" and
            "generated_seconds", lists; "peak_bytes" and "runtime_bytes".
    """
    prompt, generated = found["prompt"], found["generated"]
    return Speed(
        path=path,
        runtime=runtime,
        threads=threads,
        prompt_tokens=prompt,
        generated_tokens=generated,
        repetitions=len(found["prompt_seconds"]),
        load_seconds=_figure(found["load_seconds"]),
        prompt_per_second=_figure([prompt / one for one in found["prompt_seconds"]]),
        generated_per_second=_figure([generated / one for one in found["generated_seconds"]]),
        milliseconds_per_token=_figure(
            [1000 * one / generated for one in found["generated_seconds"]]
        ),
        peak_bytes=found["peak_bytes"],
        runtime_bytes=found["runtime_bytes"],
    )


def _figure(values: Sequence[float]) -> Figure:
    return Figure(median(values), min(values), max(values))


def describe_speed(speed: Speed) -> dict[str, Any]:
    """The JSON form, without the path."""
    found = asdict(speed)
    del found["path"]
    return found
