"""Between a checkpoint's tokenizer and the libraries that load it: tokenizers, transformers.

What they read they trust. Links are followed, a length of four bytes is allocated, and what is
broken inside a tokenizer makes tokenizers' Rust panic, which is no `Exception` in Python.
"""

import os
import sys
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qconvert.errors import CheckpointError, QconvertError, first_line
from qconvert.model.tokenizers.files import read_json

HINT = "a checkpoint needs the files of its tokenizer beside config.json"

MOST_GROWTH = 1024
"""How many characters may come of one before it is split."""


def check_tokenizer(directory: Path) -> bool:
    """Refuse a tokenizer.json that would take memory without bound, when loaded or at work.

    Returns:
        Whether its normalizer holds regular expressions, through which every added token goes
        when it is loaded: how long that takes is not known.

    Raises:
        CheckpointError: it would, or it cannot be read.
    """
    tokenizer = read_json(directory / "tokenizer.json")
    searches = False
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        growth = 1
        for step in _steps(tokenizer.get(key)):
            if "precompiled_charsmap" in step:
                compiled_charsmap(step["precompiled_charsmap"])
            searches |= key == "normalizer" and "Regex" in step
            growth *= max(1, len(str(step.get("content") or "")))
        if growth > MOST_GROWTH:
            raise CheckpointError(f"tokenizer.json's {key} makes a text far too long", HINT)
    return searches


def compiled_charsmap(encoded: object) -> bytes:
    """The compiled normalization that tokenizer.json holds in base64; b"" for none.

    Raises:
        CheckpointError: it is no such thing.
    """
    if encoded is None:
        return b""
    try:
        data = b64decode(encoded, validate=True)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"tokenizer.json's precompiled_charsmap is broken: {error}") from None
    return check_charsmap(data)


def check_charsmap(data: bytes) -> bytes:
    """A compiled normalization (u32 size, a trie of that size, texts), once its parts fit it.

    Raises:
        CheckpointError: the trie would be longer than the whole.
    """
    if data and int.from_bytes(data[:4], "little") > len(data) - 4:
        raise CheckpointError("the tokenizer's precompiled_charsmap is cut short")
    return data


def _steps(value: Any) -> Iterator[Mapping[str, Any]]:
    """All objects in a block of tokenizer.json, however they are nested."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Mapping):
            yield one
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)


@contextmanager
def guarded(source: str) -> Iterator[None]:
    """Whatever the libraries raise is a fault of the tokenizer's files.

    Args:
        source: named in the message.

    Raises:
        CheckpointError: a library raised or panicked.
    """
    try:
        yield
    except QconvertError:
        raise
    except BaseException as error:
        # `pyo3_runtime.PanicException` cannot be imported to be named here.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{source}: its tokenizer cannot be loaded: {first_line(error)}", HINT
        ) from error


@contextmanager
def silent() -> Iterator[None]:
    """Rust reports a panic on standard error by itself, before anybody can catch it."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
