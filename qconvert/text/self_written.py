"""A sample that a model writes itself, for those who have no text at hand.

The model begins with its first token ([BOS], else the token that ends its texts, after which
another begins) and draws each next token from its own distribution, at temperature 1; only the
first few are drawn among the likeliest, so that a text does not begin in the far tail. What a
model writes looks like what it was trained on, also where that is not known.

Source: LLM-QAT: Data-Free Quantization Aware Training for Large Language Models,
https://arxiv.org/abs/2305.17888.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.types import Checkpoint
from qconvert.containers.whole import replacing
from qconvert.errors import CheckpointError, PlanError, UnsupportedError, first_line
from qconvert.forward.device import free_memory
from qconvert.model.families import find_family
from qconvert.model.quiet import quiet_transformers
from qconvert.text.tokenizer import Tokenizer

HINT = "give the sample as a text: --data FILE"
FIRST, LIKELIEST = 4, 64
"""So many tokens at the beginning are drawn among so many."""

BATCH = 64
CACHE = 2 << 30
"""At most so many windows at a time, and so many bytes of keys and values."""


def write_sample(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer | None,
    windows: int,
    window: int,
    seed: np.random.SeedSequence,
    device: str,
    note: Callable[[str], None],
    kept: Path | None = None,
) -> np.ndarray:
    """Windows that the model writes, int32 [windows, window].

    Args:
        checkpoint: the model; all of it is loaded.
        tokenizer: its tokenizer, where it has one.
        windows: how many.
        window: tokens of each, the first one too.
        seed: decides the words.
        device: "cpu", "cuda" or "mps".
        note: is told how far it is, every ten seconds or so.
        kept: finished batches go to files of names that begin so, and are taken from there by the
            next run of the same arguments; the caller removes them.

    Raises:
        UnsupportedError: the model is an encoder or in a GGUF file, or nothing is known to begin
            with.
        PlanError: it does not fit into memory.
        CheckpointError: it cannot be loaded, or computes NaN.
    """
    begin = first_tokens(checkpoint, tokenizer)
    model = _load(checkpoint, device, note)
    chances = np.random.default_rng(seed).random((windows, window))
    batch = _batch(model, windows, window)
    size = len(tokenizer.inner) if tokenizer else 0
    clock = _Clock(windows * (window - len(begin)), note)
    parts = []
    for start in range(0, windows, batch):
        file = kept and kept.with_name(f"{kept.name}-{start}.npy")
        part = _read_part(file, chances[start : start + batch].shape)
        if part is None:
            part = _write(
                model, begin, chances[start : start + batch], size, clock, checkpoint.source
            )
            if file:
                with replacing(file) as temporary, temporary.open("wb") as opened:
                    np.save(opened, part)
        else:
            clock.skip(part[:, len(begin) :].size)
        parts.append(part)
    return np.concatenate(parts)


def _read_part(file: Path | None, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        found = np.load(file) if file else None
    except (OSError, ValueError, EOFError):
        return None
    return found if found is not None and found.shape == shape else None


def first_tokens(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> tuple[int, ...]:
    """What a text of this model begins with.

    Raises:
        UnsupportedError: it writes no text, or nothing is known.
    """
    if checkpoint.container != "huggingface":
        raise UnsupportedError(f"{checkpoint.source}: a GGUF file is not run here", HINT)
    if find_family(checkpoint.config).encoder:
        raise UnsupportedError(f"{checkpoint.source} is an encoder and writes no text", HINT)
    if tokenizer and tokenizer.before:
        return tokenizer.before
    inner = checkpoint.config.get("text_config")
    config = {**checkpoint.config, **(inner if isinstance(inner, dict) else {})}
    named = [getattr(tokenizer.inner, "bos_token_id", None)] if tokenizer else []
    named += [config.get("bos_token_id")]
    named += [getattr(tokenizer.inner, "eos_token_id", None)] if tokenizer else []
    named += [config.get("eos_token_id")]
    for value in named:
        number = value[0] if isinstance(value, list) and value else value
        if type(number) is int and number >= 0:
            return (number,)
    raise UnsupportedError(f"{checkpoint.source} names no token that a text begins with", HINT)


class _Clock:
    """Says now and then how far it is."""

    def __init__(self, total: int, note: Callable[[str], None]) -> None:
        self.total, self.note = total, note
        self.done = 0
        self.start = self.last = time.monotonic()

    def skip(self, tokens: int) -> None:
        """What an earlier run has written."""
        self.total -= tokens

    def advance(self, tokens: int) -> None:
        self.done += tokens
        now = time.monotonic()
        if now - self.last >= 10 and self.done < self.total:
            left = (now - self.start) / self.done * (self.total - self.done)
            self.note(f"writing a sample: {self.done / self.total:.0%}, {left:.0f} s left")
            self.last = now


def _load(checkpoint: Checkpoint, device: str, note: Callable[[str], None]) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    dtype = _dtype(checkpoint, device)
    note(f"no text is given: {checkpoint.source} writes its own sample")
    directory = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    try:
        with quiet_transformers():
            model = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
            )
        return model.to(device).eval()
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.source} cannot be loaded to write a sample: {first_line(error)}", HINT
        ) from error


def _dtype(checkpoint: Checkpoint, device: str) -> str:
    """float32 where it fits a CPU, which is slow with anything else; else bfloat16."""
    free = free_memory(device)
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        if device == "cpu" or dtype == "bfloat16":
            needed = checkpoint.parameters * size + CACHE
            if needed <= free:
                return dtype
    raise PlanError(
        f"{checkpoint.source} does not fit into memory to write a sample: "
        f"it needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
        HINT,
    )


def _batch(model: Any, windows: int, window: int) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * head * model.dtype.itemsize
    return int(max(1, min(windows, BATCH, CACHE // (token * window))))


def _write(
    model: Any,
    begin: tuple[int, ...],
    chances: np.ndarray,
    size: int,
    clock: _Clock,
    source: str,
) -> np.ndarray:
    """One batch.

    Args:
        model: of transformers.
        begin: the tokens that each window begins with.
        chances: float64 [windows, window], even in [0, 1): what decides each token.
        size: tokens that the tokenizer knows, where a model has spare rows; 0 for all.
        clock: is told of each token.
        source: the model's name.
    """
    import torch

    count, window = chances.shape
    tokens = np.tile(np.array(begin[:window], np.int64), (count, 1))
    new, past = tokens, None
    with torch.inference_mode():
        while tokens.shape[1] < window:
            out = model(
                input_ids=torch.from_numpy(new).to(model.device),
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past = out.past_key_values
            logits = out.logits[:, -1].float().cpu().numpy()
            number = tokens.shape[1]
            kept = LIKELIEST if number < len(begin) + FIRST else 0
            new = _pick(logits[:, : size or None], chances[:, number], kept, source)[:, None]
            tokens = np.concatenate([tokens, new], axis=1)
            clock.advance(count)
    return tokens.astype(np.int32)


def _pick(logits: np.ndarray, chances: np.ndarray, kept: int, source: str) -> np.ndarray:
    """One token of each row, int64: where the chance falls in the cumulative distribution."""
    if not np.isfinite(logits.max()) or np.isnan(logits).any():
        raise CheckpointError(f"{source} computes NaN or infinity", HINT)
    if kept and kept < logits.shape[1]:
        edge = np.partition(logits, -kept, axis=1)[:, -kept, None]
        logits = np.where(logits >= edge, logits, -np.inf)
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    sums = np.cumsum(weights, axis=1)
    targets = chances * sums[:, -1]
    picked: np.ndarray = (sums <= targets[:, None]).sum(axis=1)
    return picked
