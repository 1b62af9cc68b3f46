"""How far quantized GGUF files are from the original, as llama.cpp runs them, all in one run.

    python tests/benchmarks/divergence.py ORIGINAL.gguf TEXT FILE.gguf... [--windows 118]

The text is cut into windows as llama-perplexity cuts it, and the second half of each is scored.
For every token there: the Kullback-Leibler divergence of the file's distribution from the
original's, whether both have the same token on top, and the true token's probability. Standard
errors are those of the windows' means.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
from common import llama_context


@dataclass
class Scores:
    """Of one file, a mean for each window.

    Attributes:
        divergence: in nats.
        same: share of tokens with the same top.
        loss: negative log probability of the true token.
    """

    divergence: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)


def tokenize(model: Any, text: str) -> np.ndarray:
    """int32 [tokens]; with BOS where the model wants it."""
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    data = text.encode()
    room = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), True, False)
    return np.array(room[:count], np.int32)


def cut(model: Any, tokens: np.ndarray, windows: int, window: int) -> np.ndarray:
    """int32 [windows, window]; each begins with BOS where the model wants it."""
    count = min(windows, len(tokens) // window)
    parts = tokens[: count * window].reshape(count, window).copy()
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    if llama_cpp.llama_vocab_get_add_bos(vocabulary):
        parts[:, 0] = llama_cpp.llama_vocab_bos(vocabulary)
    return parts


def log_probabilities(model: Any, context: Any, tokens: np.ndarray) -> np.ndarray:
    """float32 [len(tokens) // 2 - 1, vocabulary]: of the tokens behind the middle one."""
    first, last = len(tokens) // 2, len(tokens) - 1
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = first <= index < last
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
    finally:
        llama_cpp.llama_batch_free(batch)
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (last - first, size))
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, dtype=np.float64))[:, None].astype("f4")


def add(scores: Scores, original: np.ndarray, found: np.ndarray, true: np.ndarray) -> None:
    kl = np.einsum("tv,tv->t", np.exp(original), original - found, dtype=np.float64)
    scores.divergence.append(float(kl.mean()))
    scores.same.append(float((original.argmax(axis=1) == found.argmax(axis=1)).mean()))
    scores.loss.append(float(-found[np.arange(len(true)), true].mean()))


def measure(
    original: Path, files: list[Path], text: str, windows: int, window: int, threads: int
) -> tuple[dict[Path, Scores], int]:
    """Scores of the original and of each file, and how many tokens were scored."""
    paths = [original, *files]
    scores = {path: Scores() for path in paths}
    with ExitStack() as stack:
        count = {"n_threads": threads, "n_threads_batch": threads}
        opened = [stack.enter_context(llama_context(path, window, **count)) for path in paths]
        parts = cut(opened[0][0], tokenize(opened[0][0], text), windows, window)
        for number, tokens in enumerate(parts, 1):
            true = tokens[window // 2 + 1 :]
            reference = log_probabilities(*opened[0], tokens)
            for path, pair in zip(paths, opened, strict=True):
                found = reference if path == original else log_probabilities(*pair, tokens)
                add(scores[path], reference, found, true)
            print(f"\r{number} of {len(parts)} windows", end="", file=sys.stderr)
    print(file=sys.stderr)
    return scores, len(parts) * (window // 2 - 1)


def show(scores: dict[Path, Scores], tokens: int) -> None:
    table = Table(title=f"{tokens} scored tokens")
    for column in ("file", "bytes", "mean KLD", "same top", "perplexity"):
        table.add_column(column, justify="left" if column == "file" else "right")
    for path, one in scores.items():
        error = np.std(one.divergence) / np.sqrt(max(len(one.divergence) - 1, 1))
        table.add_row(
            path.name,
            str(path.stat().st_size),
            f"{np.mean(one.divergence):.4f} ± {error:.4f}",
            f"{100 * np.mean(one.same):.1f}%",
            f"{np.exp(np.mean(one.loss)):.3f}",
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("original", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--windows", type=int, default=118)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    text = options.text.read_text(encoding="utf-8")
    scores, tokens = measure(
        options.original, options.files, text, options.windows, options.window, options.threads
    )
    show(scores, tokens)


if __name__ == "__main__":
    main()
