"""A text as windows of tokens, cut as llama-perplexity cuts it.

The whole text becomes tokens, with BOS before it where the tokenizer adds one. They are cut into
windows one behind the other; what is left at the end is not used. The first token of every window
is then replaced by BOS, again where the tokenizer adds one. Of a text file the last line break is
left out, and special tokens that are spelled out in it are text like the rest.
Source: llama.cpp, tools/perplexity, and how its `-f` reads a file.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.files import read_bytes_at
from qconvert.errors import CheckpointError, UsageError
from qconvert.text.documents import Document, Text
from qconvert.text.lines import check_text, decode
from qconvert.text.sample import check_ids, join_documents, settings_of
from qconvert.text.self_written import write_sample
from qconvert.text.sources import Item, parse_items, read_item, spool_input
from qconvert.text.tokenizer import Tokenizer, encode, has_tokenizer, load_tokenizer
from qconvert.text.types import Windows

LEAST_WINDOW = 8
LEAST_TEXT, PER_TOKEN = 1 << 16, 32
"""Bytes of a text that are read for so many tokens; where they make too few, all is read."""

MOST_TEXT = 1 << 30
"""Characters of a file of documents that are held."""

SELF_WRITTEN, DATASET = 16384, 65536
"""Tokens where nothing says how many, and the source has no end of its own."""


SELF_SEED = (0, 0, 1)
"""Of a text that the model writes. A calibration's sources have (seed, number), behind which
numpy reads zeros: these words are others than the calibration's."""


def read_windows(
    reference: Checkpoint,
    data: str,
    tokens: int | None = None,
    window: int = 512,
    *,
    device: str = "cpu",
    note: Callable[[str], None] = lambda message: None,
) -> Windows:
    """The windows of a text.

    Args:
        reference: the model; its tokenizer is used.
        data: a .txt or .md file; a .jsonl, .csv or .parquet file, whose documents are taken in
            order, each with the end of text behind it; a data set of the hub; "-" for standard
            input; "self" for text that the model writes itself.
        tokens: at most so many, from the text's beginning; None takes all.
        window: tokens of each window, an even number.
        device: where a model writes its own text.
        note: is told what takes long, and what was left out.

    Raises:
        UsageError: the numbers or the name do not make sense.
        CheckpointError: the text or the tokenizer cannot be read, or the text is shorter than
            one window.
        HubError: a data set cannot be had.
        UnsupportedError: the model cannot do it (write a text, read conversations).
    """
    _check_numbers(reference, tokens, window)
    items = parse_items([data])
    item = items[0]
    if item.weight != 1:
        raise UsageError(f"{data!r:.200}: one text is evaluated, and has no weight")
    if item.kind == "self":
        return _self_written(reference, tokens or SELF_WRITTEN, window, device, note)
    tokenizer = load_tokenizer(reference)
    stream, text = _read(item, tokenizer, tokens, note)
    rows = cut(stream, tokenizer.before, tokens, window, item.name)
    check_ids(reference, rows)
    name = f"{item.name}/{item.config}" if item.config else item.name
    name = f"{name} ({text.detail})" if text.detail else name
    pieces = tuple(document.text for document in text.documents if document.kind != "chat")
    return make_windows(rows, name, pieces)


def make_windows(tokens: np.ndarray, data: str, texts: tuple[str, ...] = ()) -> Windows:
    """Windows with their digest; `tokens` is int32 [windows, window]."""
    rows = np.ascontiguousarray(tokens, "<i4")
    digest = sha256(f"{rows.shape}".encode())
    digest.update(rows.tobytes())
    return Windows(rows.astype(np.int32), data, digest.hexdigest(), texts)


def cut(
    stream: np.ndarray, before: tuple[int, ...], tokens: int | None, window: int, name: str
) -> np.ndarray:
    """Tokens of a text as windows, int32 [windows, window].

    Args:
        stream: int32 [tokens]; without BOS.
        before: what the tokenizer puts before a text.
        tokens: at most so many; None takes all.
        window: tokens of each.
        name: of the text.

    Raises:
        CheckpointError: there is not enough for one window.
    """
    bos = np.array(before, np.int32)
    stream = np.concatenate([bos, stream])[:tokens]
    count = len(stream) // window
    if count == 0:
        raise CheckpointError(
            f"{name} is too short: its {len(stream)} tokens do not fill a window of {window}",
            "name a longer text, or use a smaller --window",
        )
    rows: np.ndarray = stream[: count * window].reshape(count, window).copy()
    rows[:, : len(bos)] = bos
    return rows


def _read(
    item: Item, tokenizer: Tokenizer, tokens: int | None, note: Callable[[str], None]
) -> tuple[np.ndarray, Text]:
    """The tokens of a source, int32, and what they are of."""
    if item.kind == "text":
        with tempfile.TemporaryDirectory(prefix="qconvert-") as folder:
            if item.path == Path():
                item = replace(item, path=Path(folder) / "input")
                spool_input(item.path)
            return _read_text(item, tokenizer, tokens)
    budget = MOST_TEXT
    if item.kind == "dataset":
        budget = PER_TOKEN * (tokens or DATASET)
    text = read_item(item, budget, 1, 0)
    if text.repeats:
        note(f"{item.name}: {text.repeats} documents are left out as repeats")
    stream, refused = join_documents(text.documents, tokenizer)
    if refused:
        where, error = refused[0]
        note(f"{item.name}: {len(refused)} conversations are left out ({where}: {error})")
    return stream, text


def _read_text(item: Item, tokenizer: Tokenizer, tokens: int | None) -> tuple[np.ndarray, Text]:
    size = check_text(item.path, item.name)
    part = size if tokens is None else min(size, max(LEAST_TEXT, PER_TOKEN * tokens))
    while True:
        raw = read_bytes_at(item.path, 0, part)
        if part < size:
            raw = raw[: raw.rfind(b"\n") + 1] or raw[: raw.rfind(b" ") + 1]
        text = decode(raw, item.name).removesuffix("\n")
        stream = encode(tokenizer, [text], plain=True)[0]
        # What is cut off may have changed the last tokens of a part.
        if part == size or (tokens is not None and len(stream) > tokens + LEAST_WINDOW):
            return stream, Text((Document(text, kind="excerpt"),))
        part = size


def _self_written(
    reference: Checkpoint, tokens: int, window: int, device: str, note: Callable[[str], None]
) -> Windows:
    tokenizer = load_tokenizer(reference) if has_tokenizer(reference) else None
    seed = np.random.SeedSequence(SELF_SEED)
    count = max(tokens // window, 1)
    rows = write_sample(reference, tokenizer, count, window, seed, device, note)
    return make_windows(rows, "written by the model itself")


def _check_numbers(reference: Checkpoint, tokens: int | None, window: int) -> None:
    if window < LEAST_WINDOW or window % 2:
        raise UsageError(
            f"--window {window}: windows have an even number of tokens, {LEAST_WINDOW} at least",
            "use --window 512, as published figures do",
        )
    if tokens is not None and tokens < window:
        raise UsageError(
            f"--tokens {tokens} is less than one window of {window}",
            "use more tokens, or a smaller --window",
        )
    settings = settings_of(reference)
    for key in ("max_position_embeddings", "n_positions"):
        longest = settings.get(key)
        if isinstance(longest, int) and window > longest > 0:
            raise UsageError(
                f"a window of {window} tokens is longer than the model's longest text, {longest}",
                f"use --window {longest // 2 * 2}",
            )
