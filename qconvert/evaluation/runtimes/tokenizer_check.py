"""Files are compared over the same tokens: what refuses one whose tokenizer is another."""

from collections.abc import Callable
from functools import cache

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.evaluation.divergence.scores import ONE_MODEL
from qconvert.text.sample import settings_of
from qconvert.text.tokenizer import Tokenizer, encode, has_tokenizer, load_tokenizer
from qconvert.text.types import Windows


def tokenizer_check(
    windows: Windows, reference: Checkpoint
) -> Callable[[Checkpoint], tuple[str, ...]]:
    """What refuses a file whose tokens are others than the reference's; the reference's are made
    once.

    Returns:
        A function of a file's checkpoint. It returns what the user should know, and raises
        CheckpointError where the file makes other tokens of the text, or has more or fewer of
        them; the message names the first difference.
    """

    @cache
    def expected() -> tuple[Tokenizer, list[np.ndarray]]:
        theirs = load_tokenizer(reference)
        return theirs, [encode(theirs, [text], plain=True)[0] for text in windows.texts]

    def check(file: Checkpoint) -> tuple[str, ...]:
        _check_sizes(reference, file)
        if not has_tokenizer(file):
            return ("it has no tokenizer of its own; the reference's tokens are used",)
        if not has_tokenizer(reference) or not windows.texts:
            return ()
        try:
            own = load_tokenizer(file)
        except UnsupportedError as error:
            return (f"its tokenizer is not compared with the reference's: {error.message}",)
        theirs, tokens = expected()
        if theirs.before != own.before:
            begins = f"it begins a text with {_tokens(own, own.before)}"
            raise _different(file, f"{begins}, not {_tokens(theirs, theirs.before)}")
        for text, wanted in zip(windows.texts, tokens, strict=True):
            found = encode(own, [text], plain=True)[0]
            if not np.array_equal(wanted, found):
                raise _different(file, _first_difference(theirs, own, wanted, found))
        return ()

    return check


def _check_sizes(reference: Checkpoint, file: Checkpoint) -> None:
    expected, size = _vocabulary(reference), _vocabulary(file)
    if expected and size and expected != size:
        raise CheckpointError(
            f"{file.source} has {size} tokens, and the reference has {expected}",
            ONE_MODEL,
        )


def _vocabulary(checkpoint: Checkpoint) -> int:
    """How many tokens a model has rows for; 0 where that cannot be told."""
    if checkpoint.container == "gguf":
        table = checkpoint.tensors.get("token_embd.weight")
        return table.rows if table else 0
    size = settings_of(checkpoint).get("vocab_size")
    return size if isinstance(size, int) else 0


def _first_difference(
    theirs: Tokenizer, own: Tokenizer, expected: np.ndarray, found: np.ndarray
) -> str:
    count = min(len(expected), len(found))
    unequal = np.flatnonzero(expected[:count] != found[:count])
    place = int(unequal[0]) if len(unequal) else count
    made = [ids[place : place + 1].tolist() for ids in (found, expected)]
    return f"token {place} of the text is {_tokens(own, made[0])}, not {_tokens(theirs, made[1])}"


def _different(file: Checkpoint, what: str) -> CheckpointError:
    return CheckpointError(
        f"{file.source}: its tokenizer is not the reference's: {what}",
        ONE_MODEL,
    )


def _tokens(tokenizer: Tokenizer, ids: tuple[int, ...] | list[int]) -> str:
    """For people: 'Ġthe' (279)."""
    names = tokenizer.inner.convert_ids_to_tokens(list(ids))
    return ", ".join(f"{name!r:.40} ({i})" for name, i in zip(names, ids, strict=True)) or "nothing"
