"""A report of figures that nobody measured, for tests of how reports are chosen from and drawn."""

from dataclasses import replace
from pathlib import Path

from qconvert.evaluation.divergence.types import Divergence
from qconvert.evaluation.sensitivity.measure import Cost, Sensitivity
from qconvert.evaluation.speed.measure import Figure, Speed
from qconvert.report.choosing import choose
from qconvert.report.types import (
    Answer,
    Conversation,
    Original,
    Report,
    Row,
    Wish,
)

MB = 1_000_000


def make_divergence(mean: float) -> Divergence:
    return Divergence(
        mean, mean * 0.06, mean * 0.4, mean * 2.2, mean * 9, mean * 30, mean * 60 + 1e-6
    )


def make_speed(name: str, generated: float, peak: float) -> Speed:
    def figure(value: float) -> Figure:
        return Figure(value, 0.97 * value, 1.02 * value)

    return Speed(
        path=Path(name),
        runtime="transformers" if name[0] in "wo" else "llama.cpp",
        threads=2,
        prompt_tokens=512,
        generated_tokens=64,
        repetitions=3,
        load_seconds=figure(0.21),
        prompt_per_second=figure(7 * generated),
        generated_per_second=figure(generated),
        milliseconds_per_token=figure(1000 / generated),
        peak_bytes=int(peak * MB),
        runtime_bytes=60 * MB,
    )


def make_row(
    name: str, megabytes: float, divergence: float, ratio: float, speed: float | None = None
) -> Row:
    measured = make_speed(name, speed, 1.6 * megabytes) if speed is not None else None
    return Row(
        name=name,
        path=f"models/SmolLM2-{name}" + (".gguf" if name[0] != "w" else ""),
        nbytes=int(megabytes * MB),
        bits_per_weight=megabytes * 8 / 134.5,
        backend="llama.cpp" if name[0] != "w" else "transformers",
        perplexity=14.2 * ratio,
        perplexity_error=0.31,
        perplexity_ratio=ratio,
        correlation=0.998,
        divergence=make_divergence(divergence),
        same_top=1 - divergence**0.5 * 0.6,
        rms_delta_p=divergence**0.5 * 0.2,
        command=f"qconvert quantize SmolLM2 -t {name.lower()} -c SmolLM2.calib.safetensors",
        speed=measured,
    )


ROWS = (
    make_row("w8a8", 166.8, 0.0081, 1.012, 21.0),
    make_row("Q8_0", 144.8, 0.00042, 1.0006, 61.0),
    make_row("Q6_K", 138.4, 0.0011, 1.0012, 64.0),
    make_row("w4a16", 116.3, 0.092, 1.09, 12.0),
    make_row("Q5_K_M", 112.1, 0.0048, 1.0049, 78.0),
    make_row("Q4_K_M", 105.5, 0.0105, 1.0094, 88.0),
    make_row("Q3_K_M", 93.5, 0.049, 1.052, 92.0),
    make_row("IQ4_NL", 91.7, 0.031, 1.031, 80.0),
    make_row("Q2_K", 88.2, 0.142, 1.162, 104.0),
)

PARTS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def make_sensitivity(blocks: int = 30) -> Sensitivity:
    rows = [Cost("token_embd.weight", -1, False, "Q8_0", 28 * MB, 0.00021, 0.00003)]
    for block in range(blocks):
        value = 0.0004 * (1 + (block * 7) % 11) * (9 if block in (1, blocks - 1) else 1)
        rows.append(Cost(f"blk.{block}", block, True, "Q4_K, Q6_K", 3 * MB, value, value / 9))
        for number, part in enumerate(PARTS if block in (1, blocks - 1, 4) else ()):
            share = value * (0.7 if part == "ffn_down" else 0.02 * number)
            name = f"blk.{block}.{part}.weight"
            rows.append(Cost(name, block, False, "Q4_K", MB, share, share / 9))
    return Sensitivity(tuple(rows), 0.0104, 0.0006, 4, 256, 508)


def make_conversations() -> tuple[Conversation, ...]:
    said = "The capital of France is Paris, a city steeped in history and culture."
    other = "The capital of France is Paris. It is known for the Eiffel Tower."
    poor = "France is a country in Europe, and it it it"
    answers = (
        Answer("original", said),
        Answer("Q8_0", said),
        Answer("Q4_K_M", other, 30),
        Answer("Q2_K", poor, 0),
        Answer("w8a8", "", None, "transformers is not installed"),
    )
    return (
        Conversation("What is the capital of France?", "common sense", answers),
        Conversation("Write a function that adds two numbers.", "coding", answers[:3]),
    )


def make_report(wish: Wish | None = None, **changes: object) -> Report:
    report = Report(
        original=Original(
            "SmolLM2-135M-Instruct",
            269 * MB,
            16.0,
            "BF16",
            14.2,
            "5f" * 32,
            make_speed("original", 18.0, 800.0),
        ),
        rows=ROWS,
        choice=choose(ROWS, wish or Wish()),
        data="development.txt",
        window=512,
        scored=30_600,
        bound=4e-5,
        surer={("Q8_0", "Q6_K"): 0.8, ("Q4_K_M", "Q3_K_M"): 1.0},
        made=(("Text", "development.txt"), ("Protocol", "windows of 512 tokens")),
        notices=(),
        sensitivity=make_sensitivity(),
        sensitivity_of="Q4_K_M",
        conversations=make_conversations(),
        about_answers="Greedy, 64 tokens at most.",
    )
    return replace(report, **changes)  # type: ignore[arg-type]
