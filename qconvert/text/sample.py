"""A sample of text for a model, in windows of its tokens.

Of each source some text is read from all over it, in proportion to the tokens that it is to give;
the text becomes one stream of tokens, and windows are drawn from all over the stream. Each window
has around it what the tokenizer puts around a text: [BOS] before it, or [CLS] before and [SEP]
after it. Documents in the stream end with the end-of-text token (encoders: the separator; else an
empty line), as models see them in training; conversations end as their template says.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UsageError
from qconvert.machine.watcher import Watcher
from qconvert.model.reverse import describe
from qconvert.text.chat import render
from qconvert.text.documents import Document, Text, content_hash
from qconvert.text.self_written import write_sample
from qconvert.text.sources import Item, parse_items, read_item, spool_input
from qconvert.text.tokenizer import Tokenizer, encode, has_tokenizer, load_tokenizer
from qconvert.text.types import Sample
from qconvert.text.windows import Seen, draw_windows

WRITTEN = "written by the model itself"
"""How the source is called of a sample that no text was read for."""

LEAST_TEXT, PER_TOKEN = 1 << 18, 16
"""Characters that are read at first: so many, and so many for each token that is wanted."""

MOST_TEXT = 1 << 30
"""Where these make too few tokens, more is read, but for this bound on memory."""


def draw_sample(
    data: Sequence[str],
    checkpoint: Checkpoint,
    *,
    tokens: int,
    window: int,
    seed: int,
    watcher: Watcher,
    device: str = "cpu",
    kept: Path | None = None,
) -> Sample:
    """Draws windows of tokens from what the user names.

    The same arguments give the same tokens. (A model that writes for itself rounds a little
    differently on another machine, and may then choose other words.)

    Args:
        data: as `qconvert.text.sources` describes; nothing stands for "self".
        checkpoint: the model; its tokenizer and its chat template are used.
        tokens: how many to draw at least, with what is put around a text; windows are whole.
        window: tokens of each.
        seed: of the draw, not negative.
        watcher: is told when the sample is smaller than asked for, and what was left out.
        device: where a model writes its own sample, "cpu" or "cuda".
        kept: how files begin in which it keeps what it has written; see `write_sample`.

    Raises:
        UsageError: the numbers or the names do not make sense.
        CheckpointError: a source or the tokenizer cannot be read, or there is not enough text
            for one window.
        HubError: a data set cannot be had.
        UnsupportedError: the model cannot do it (write a sample, read conversations).
    """
    items = parse_items(data)
    _check_numbers(checkpoint, tokens, window, seed)
    counts = _shares([item.weight for item in items], -(-tokens // window))
    tokenizer = None
    if has_tokenizer(checkpoint) or any(item.kind != "self" for item in items):
        tokenizer = load_tokenizer(checkpoint)
    seen = Seen()
    rows, names = [], []
    for number, (item, count) in enumerate(zip(items, counts, strict=True)):
        own = np.random.SeedSequence([seed, number])
        if item.kind == "self":
            part = kept and kept.with_name(f"{kept.name}-{number}")
            made = write_sample(
                checkpoint, tokenizer, count, window, own, device, watcher.note, part
            )
            detail = ""
        else:
            assert tokenizer is not None
            made, detail = _draw(item, tokenizer, count, window, own, seen, watcher)
        rows.append(made)
        names.append(_words(item, detail, len(items)))
    sample = np.concatenate(rows)
    check_ids(checkpoint, sample)
    if len(sample) < sum(counts):
        watcher.note(f"the sample is smaller than asked for: {sample.size} tokens, not {tokens}")
    return Sample(sample, ", ".join(names), seed)


def _draw(
    item: Item,
    tokenizer: Tokenizer,
    count: int,
    window: int,
    seed: np.random.SeedSequence,
    seen: Seen,
    watcher: Watcher,
) -> tuple[np.ndarray, str]:
    """Windows of one source, int32 [windows, window], and words on what they are from."""
    with tempfile.TemporaryDirectory(prefix="qconvert-") as folder:
        if item.kind == "text" and item.path == Path():
            item = replace(item, path=Path(folder) / "input")
            spool_input(item.path)
        body = window - len(tokenizer.before) - len(tokenizer.after)
        if body < 1:
            raise UsageError(f"a window of {window} has no room for text", "use a larger --window")
        text, stream = _stream(item, tokenizer, count, body, seed, watcher)
    starts, repeats = draw_windows(stream, count, body, np.random.default_rng(seed), seen)
    if text.repeats:
        watcher.note(f"{item.name}: {_many(text.repeats, 'document')} left out as repeats")
    if repeats:
        watcher.note(f"{item.name}: {_many(repeats, 'window')} left out as repeats")
    if not len(starts):
        what = "all of it is in the sample already" if repeats else f"{len(stream)} tokens"
        raise CheckpointError(
            f"{item.name} does not have enough text for one window of {window} tokens: {what}",
            "name more text, or use a smaller --window",
        )
    if len(starts) < count:
        watcher.note(
            f"{item.name} has text for {_many(len(starts), 'window')} of the {count} wanted"
        )
    before, after = np.array(tokenizer.before, np.int32), np.array(tokenizer.after, np.int32)
    rows = [np.concatenate([before, stream[s : s + body], after]) for s in starts]
    return np.stack(rows), ", ".join(filter(None, [text.detail, content_hash(text.documents)]))


def _stream(
    item: Item,
    tokenizer: Tokenizer,
    count: int,
    body: int,
    seed: np.random.SeedSequence,
    watcher: Watcher,
) -> tuple[Text, np.ndarray]:
    """What was read of a source, and its tokens: enough of them if the source has enough."""
    number = int(seed.generate_state(1, np.uint64)[0])
    budget = max(LEAST_TEXT, PER_TOKEN * count * body)
    while True:
        text = read_item(item, budget, max(count, 64), number)
        stream, refused = join_documents(text.documents, tokenizer)
        if text.complete or len(stream) >= count * body or budget >= MOST_TEXT:
            break
        budget *= 4
    for where, error in refused[:1]:
        which = f"{_many(len(refused), 'conversation')} (the first: {where}: {error})"
        watcher.note(f"{item.name}: the chat template refuses {which}")
    if refused and len(refused) == len(text.documents):
        raise CheckpointError(
            f"{item.name}: the model's chat template refuses every conversation: {refused[0][1]}",
            "name a column with plain text",
        )
    return text, stream


def join_documents(
    documents: Sequence[Document], tokenizer: Tokenizer
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The documents' tokens in a row, int32, and the conversations that the template refuses."""
    chats = [document for document in documents if document.kind == "chat"]
    rendered = render(tokenizer, [document.text for document in chats]) if chats else []
    texts = {id(chat): text for chat, (text, _) in zip(chats, rendered, strict=True)}
    refused = [
        (chat.where, error) for chat, (_, error) in zip(chats, rendered, strict=True) if error
    ]
    ids = encode(tokenizer, [texts.get(id(document), document.text) for document in documents])
    between = np.array(tokenizer.between, np.int32)
    parts = []
    for document, numbers in zip(documents, ids, strict=True):
        if document.kind == "chat":
            numbers = _without(numbers, tokenizer.before)
        parts.append(numbers)
        if document.kind == "document":
            parts.append(between)
    return np.concatenate(parts) if parts else np.empty(0, np.int32), refused


def _without(numbers: np.ndarray, before: tuple[int, ...]) -> np.ndarray:
    """A conversation without the [BOS] that its template begins with: windows have their own."""
    if before and tuple(numbers[: len(before)].tolist()) == before:
        return numbers[len(before) :]
    return numbers


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """Whole windows in proportion to the weights, at least one each (largest remainders)."""
    exact = np.array(weights) / sum(weights) * total
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: total - int(shares.sum())]] += 1
    found: list[int] = np.maximum(shares, 1).tolist()
    return found


def _check_numbers(checkpoint: Checkpoint, tokens: int, window: int, seed: int) -> None:
    if tokens < 1 or window < 2 or seed < 0:
        raise UsageError("--tokens, --window and --seed must be above zero")
    config = settings_of(checkpoint)
    for key in ("max_position_embeddings", "n_positions"):
        longest = config.get(key)
        if isinstance(longest, int) and window > longest > 0:
            raise UsageError(
                f"a window of {window} tokens is longer than the model's longest text, {longest}",
                f"use --window {longest}",
            )


def check_ids(checkpoint: Checkpoint, sample: np.ndarray) -> None:
    """Refuse ids that the model has no row for.

    Raises:
        CheckpointError: naming the largest.
    """
    size = settings_of(checkpoint).get("vocab_size")
    if isinstance(size, int) and int(sample.max()) >= size:
        raise CheckpointError(
            f"{checkpoint.source}: its tokenizer gives token {int(sample.max())}, "
            f"and the model has {size}",
            "the tokenizer may be another model's",
        )


def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """`config.json`, with the part that describes the text model on top."""
    config = checkpoint.config
    if checkpoint.container == "gguf":
        config = describe(checkpoint).config
    inner = config.get("text_config")
    return {**config, **(inner if isinstance(inner, dict) else {})}


def _words(item: Item, detail: str, items: int) -> str:
    """How a source is called in the calibration file: no directories, what it was that day."""
    name = f"{item.name}/{item.config}" if item.config else item.name
    if item.kind == "self":
        name = WRITTEN
    weight = f"weight {item.weight:g}" if items > 1 else ""
    rest = ", ".join(filter(None, [weight, detail]))
    return f"{name} ({rest})" if rest else name


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
