"""The list of tokens that GGUF stores: one text, type and score for each row of the embedding.

Types are llama.cpp's (`enum llama_token_type`): NORMAL is found by merging, CONTROL and
USER_DEFINED are looked for in the text first, BYTE stands for one byte, UNUSED for nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import TokenType

from qconvert.checkpoint.metadata import Field, Metadata, u32
from qconvert.errors import CheckpointError
from qconvert.model.tokenizers.files import (
    AddedToken,
    TokenizerFiles,
    further_special,
    named_tokens,
)
from qconvert.model.tokenizers.files import token_id as checked_id

NORMAL = int(TokenType.NORMAL)
UNKNOWN = int(TokenType.UNKNOWN)
CONTROL = int(TokenType.CONTROL)
USER_DEFINED = int(TokenType.USER_DEFINED)
UNUSED = int(TokenType.UNUSED)
BYTE = int(TokenType.BYTE)

# The score of tokens that no merge makes: below every score that a real token has.
LOWEST = -1e6

# Ids that no token has, where only the tokens say how many there are.
MOST_PADDING = 1 << 16

# Families that forget to mark these as special; llama.cpp hides them all the same.
_SPECIAL_TEXTS = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_SPECIAL_FORMS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))  # noqa: RUF001


@dataclass
class Vocabulary:
    """A vocabulary on its way into GGUF.

    Attributes:
        model: `tokenizer.ggml.model`: "gpt2", "llama", "gemma4", "t5" or "bert".
        pre: `tokenizer.ggml.pre`.
        tokens: texts by id.
        types: llama.cpp's token types by id.
        scores: by id; empty where the model has none.
        merges: "left right" by rank; empty where the model has none.
        ids: texts as the checkpoint spells them -> ids.
        added: added tokens by id; those beyond `tokens` have no weights.
        extra: further keys that belong to this kind of tokenizer.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    ids: Mapping[str, int]
    added: Mapping[int, AddedToken]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    extra: Metadata = field(default_factory=dict)


def vocabulary_size(files: TokenizerFiles, ids: Iterable[int]) -> int:
    """Rows of the embedding: the configuration's `vocab_size`, else as many as there are ids."""
    size = files.model_config.get("vocab_size")
    if size is None:
        numbers = list(ids)
        size = max(numbers, default=-1) + 1
        if size > len(numbers) + MOST_PADDING:
            raise CheckpointError(f"the tokenizer has {len(numbers)} tokens and an id {size - 1}")
        return size
    return checked_id(size, "config.json's vocab_size")


def segments(files: TokenizerFiles) -> Field:
    """How many kinds of tokens the embedding tells apart: `type_vocab_size`."""
    size = files.model_config.get("type_vocab_size")
    return u32(checked_id(1 if size is None else size, "config.json's type_vocab_size"))


def all_added(
    files: TokenizerFiles, ids: Mapping[str, int], count: int | None = None
) -> dict[int, AddedToken]:
    """Added tokens by id, and the special tokens that only the configuration names.

    As in the tokenizers library, whatever ids the files state: a text that the model has keeps the
    model's id, and others follow the last one.

    Args:
        ids: the model's own tokens.
        count: how many these are, where one text may come several times.
    """
    tokens = {token.content: token for token in files.added}
    for text in named_tokens(files).values():
        tokens[text] = AddedToken(text, True, text in tokens and tokens[text].lstrip)
    for text in further_special(files.config):
        tokens.setdefault(text, AddedToken(text, True))
    following = len(ids) if count is None else count
    added: dict[int, AddedToken] = {}
    for text, token in tokens.items():
        number = ids.get(text, following)
        added[number] = token
        following = max(following, number + 1)
    return added


def added_type(token: AddedToken) -> int:
    """CONTROL for what is special or looks so, else USER_DEFINED."""
    text = token.content
    looks_special = text in _SPECIAL_TEXTS or any(
        text.startswith(start) and text.endswith(end) for start, end in _SPECIAL_FORMS
    )
    return CONTROL if token.special or looks_special else USER_DEFINED


def lay_out(
    ids: Mapping[str, int], added: Mapping[int, AddedToken], size: int
) -> tuple[list[str], list[int]]:
    """Texts and types by id, `size` of each; ids that nobody has become unused padding.

    Args:
        ids: the model's own tokens.
        added: tokens that replace or follow them.
        size: rows of the embedding. Added tokens beyond it have no weights and are left out.

    Raises:
        CheckpointError: a token of the model itself lies beyond `size`.
    """
    tokens: list[str | None] = [None] * size
    types = [UNUSED] * size
    for text, number in ids.items():
        if number < size:
            tokens[number] = text
            types[number] = NORMAL
        elif number not in added:
            raise CheckpointError(
                f"token {number} lies beyond the vocabulary of {size} tokens",
                "config.json's vocab_size and the tokenizer do not belong together",
            )
    for number, token in added.items():
        if number < size:
            tokens[number] = token.content
            types[number] = added_type(token)
    filled = [text or f"[PAD{number}]" for number, text in enumerate(tokens)]
    return filled, types


def check_texts(tokens: list[str]) -> None:
    """llama.cpp stops the process on a token that occurs twice.

    Raises:
        CheckpointError: two tokens have one text, or a text is no Unicode.
    """
    if len(set(tokens)) != len(tokens):
        seen: set[str] = set()
        twice = next(text for text in tokens if text in seen or seen.add(text))  # type: ignore
        raise CheckpointError(f"the tokenizer holds the token {twice!r} twice")
    try:
        "".join(tokens).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"a token of the tokenizer is no valid Unicode: {error}") from None


def token_table(value: Any, where: str) -> dict[str, int]:
    """A text -> id object of a file, checked."""
    if not isinstance(value, dict) or not value:
        raise CheckpointError(f"{where} holds no vocabulary")
    numbers = value.values()
    if not all(type(number) is int for number in numbers):
        raise CheckpointError(f"{where} holds a token whose id is no number")
    checked_id(min(numbers), where)
    checked_id(max(numbers), where)
    return value
