"""A checkpoint's tokenizer, through transformers, and what it puts around a text.

Only files of the checkpoint's directory are read, and no code from it is run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError
from qconvert.model.reverse import describe
from qconvert.model.tokenizers.export import tokenizer_files
from qconvert.model.tokenizers.library import HINT, check_tokenizer, guarded, silent
from qconvert.model.tokenizers.stored import read_stored
from qconvert.text.documents import sound

WINDING = "x" * 60 + " a" * 60 + "1" * 60 + " " * 60 + "_" * 60 + "!"
SLOWEST = 2.0
"""Seconds that it may take."""


@dataclass(frozen=True)
class Tokenizer:
    """A loaded tokenizer.

    Attributes:
        inner: transformers' object.
        before, after: ids that it puts before and after each text ([BOS]; [CLS] and [SEP]).
        between: ids that end a document where another follows: the end-of-text token, else the
            separator, else an empty line.
    """

    inner: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    between: tuple[int, ...]


FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether there is anything of a tokenizer."""
    if checkpoint.container == "gguf":
        return "tokenizer.ggml.tokens" in checkpoint.metadata
    return any((_home(checkpoint) / name).is_file() for name in FILES)


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer in a checkpoint's directory, or in a GGUF file.

    Raises:
        CheckpointError: there is none, or transformers cannot read it.
        UnsupportedError: a GGUF file's tokenizer is of a kind that is not known.
    """
    if not has_tokenizer(checkpoint):
        # transformers would make one with an empty vocabulary for some families.
        raise CheckpointError(f"{checkpoint.source} has no tokenizer", HINT)
    with _directory(checkpoint) as directory:
        check_tokenizer(directory)
        with guarded(checkpoint.source), silent():
            inner = _load(directory)
            _check_pace(inner)
            plain = _ids(inner, ["a"], False)[0]
            framed = _ids(inner, ["a"], True)[0]
    if not plain:
        raise CheckpointError(f"{checkpoint.source}: its tokenizer makes nothing of a text", HINT)
    start = _find(plain, framed)
    return Tokenizer(
        inner,
        tuple(framed[:start]),
        tuple(framed[start + len(plain) :]),
        _between(inner),
    )


def encode(tokenizer: Tokenizer, texts: Sequence[str], plain: bool = False) -> list[np.ndarray]:
    """The ids of each text, int32, with nothing put around them.

    Args:
        plain: special tokens that are spelled out in a text are letters like others.
    """
    if not texts:
        return []
    with guarded("the checkpoint"):
        found = _ids(tokenizer.inner, [sound(text) for text in texts], False, plain)
    return [np.array(ids, np.int32) for ids in found]


def first_difference(own: Tokenizer, other: Tokenizer) -> str:
    """The first token that two tokenizers have as something else, in words, whatever one of them
    has more of; empty where they are alike."""
    sizes = [len(one.inner) for one in (own, other)]
    names = [one.inner.convert_ids_to_tokens(list(range(min(sizes)))) for one in (own, other)]
    for number, (mine, its) in enumerate(zip(*names, strict=True)):
        if mine != its:
            return f"token {number} is {mine!r:.40}, and {its!r:.40}"
    if own.before != other.before:
        return f"texts begin with the tokens {list(own.before)}, and {list(other.before)}"
    return ""


@contextmanager
def _directory(checkpoint: Checkpoint) -> Iterator[Path]:
    """A directory with the tokenizer's files: those of a GGUF file are made for the while."""
    if checkpoint.container == "huggingface":
        yield _home(checkpoint)
        return
    config = describe(checkpoint).config
    stored = read_stored(checkpoint.metadata, config["vocab_size"])
    if stored is None:
        raise CheckpointError(f"{checkpoint.source} has no tokenizer", HINT)
    with TemporaryDirectory(prefix="qconvert-") as folder:
        files = tokenizer_files(stored, config["max_position_embeddings"])
        for name, data in files.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        yield Path(folder)


def _home(checkpoint: Checkpoint) -> Path:
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


def _load(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _check_pace(inner: Any) -> None:
    """An expression that goes back and forth without end does so on a line already."""
    start = perf_counter()
    _ids(inner, [WINDING], False)
    if perf_counter() - start > SLOWEST:
        raise CheckpointError("its tokenizer takes seconds for a line of text", HINT)


def _ids(inner: Any, texts: list[str], special: bool, plain: bool = False) -> list[list[int]]:
    found: list[list[int]] = inner(
        texts,
        add_special_tokens=special,
        split_special_tokens=plain,
        truncation=False,
        padding=False,
        verbose=False,
    )["input_ids"]
    return found


def _find(plain: list[int], framed: list[int]) -> int:
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return start
    return 0


def _between(inner: Any) -> tuple[int, ...]:
    for number in (inner.eos_token_id, inner.sep_token_id):
        if number is not None:
            return (number,)
    return tuple(_ids(inner, ["\n\n"], False)[0])
