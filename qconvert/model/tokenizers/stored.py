"""The tokenizer that a GGUF file holds, read from its `tokenizer.*` keys and checked.

The keys and what is meant where one is missing: llama.cpp's src/llama-vocab.cpp.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qconvert.checkpoint.metadata import Field
from qconvert.errors import CheckpointError
from qconvert.model.tokenizers.special import KEYS
from qconvert.model.tokenizers.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    check_texts,
)

LONGEST = 1024
"""Characters of a token. Real ones have a few dozen; work grows with the square."""

TYPES = (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE)

DEFAULTS = {
    "llama": {"add_bos": True, "add_eos": False, "add_space_prefix": True},
    "bert": {"add_bos": True, "add_eos": True, "add_space_prefix": False},
    "t5": {"add_bos": False, "add_eos": True, "add_space_prefix": True},
    "gpt2": {"add_bos": False, "add_eos": False, "add_space_prefix": False},
}
"""By kind of tokenizer, what holds where a file does not say it."""

BEGINS = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"}
    | {"jina-v5-nano", "tekken", "chameleon"}
)
"""Pre-tokenizers that put `bos` before a text where the file does not say it."""


@dataclass(frozen=True)
class Stored:
    """A tokenizer as GGUF has it.

    Attributes:
        model: "gpt2", "llama", "t5" or "bert".
        pre: the name of the pre-tokenizer.
        tokens, types: by id.
        scores: by id; empty where there are none.
        merges: "left right" by rank.
        special: ids by "bos", "eos", "eot" and so on.
        add_bos, add_eos: what is put around a text.
        metadata: all keys, for what belongs to one kind alone.
        notices: what was wrong and could be left out.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    special: Mapping[str, int]
    add_bos: bool
    add_eos: bool
    metadata: Mapping[str, Field]
    notices: tuple[str, ...] = ()

    def flag(self, key: str, default: bool) -> bool:
        """A boolean of the `tokenizer.ggml.*` keys."""
        return _flag(self.metadata, key, default)

    def text(self, name: str) -> str | None:
        """The text of a special token."""
        return self.tokens[self.special[name]] if name in self.special else None


def read_stored(metadata: Mapping[str, Field], vocabulary: int) -> Stored | None:
    """The tokenizer of a file, or None where it holds none.

    Args:
        metadata: the file's.
        vocabulary: rows of the embedding.

    Raises:
        CheckpointError: lists that do not belong together, or values of the wrong kind.
    """
    model = _text(metadata, "model")
    tokens = _list(metadata, "tokens", str)
    if not tokens or model in ("", "none", "no_vocab"):
        return None
    if len(tokens) > vocabulary:
        raise CheckpointError(f"{len(tokens)} tokens, but {vocabulary} rows in token_embd.weight")
    if not all(tokens) or max(map(len, tokens)) > LONGEST:
        raise CheckpointError(f"a token is empty or longer than {LONGEST} characters")
    check_texts(tokens)
    types = _list(metadata, "token_type", int) or [NORMAL] * len(tokens)
    scores = _list(metadata, "scores", float)
    if len(types) != len(tokens) or (scores and len(scores) != len(tokens)):
        raise CheckpointError("the lists of tokens, their types and scores differ in length")
    if not set(types) <= {0, *TYPES}:
        raise CheckpointError("a token has a type that is not known")
    special, notices = _special(metadata, len(tokens))
    pre = _text(metadata, "pre")
    usual = DEFAULTS.get(model, DEFAULTS["gpt2"])
    return Stored(
        model,
        pre,
        tokens,
        types,
        scores,
        _list(metadata, "merges", str),
        special,
        _flag(metadata, "add_bos_token", usual["add_bos"] or (model == "gpt2" and pre in BEGINS)),
        _flag(metadata, "add_eos_token", usual["add_eos"]),
        metadata,
        notices,
    )


def _special(metadata: Mapping[str, Field], size: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Ids by name. llama.cpp leaves out those beyond the vocabulary, too."""
    found, notices = {}, []
    for name, key in KEYS.items():
        if key not in metadata:
            continue
        number = metadata[key].value
        if type(number) is int and 0 <= number < size:
            found[name] = number
        else:
            notices.append(f"{key} = {number!r:.40} is no token and is left out")
    return found, tuple(notices)


def _text(metadata: Mapping[str, Field], key: str) -> str:
    field = metadata.get(f"tokenizer.ggml.{key}")
    if field is None:
        return ""
    if not isinstance(field.value, str):
        raise CheckpointError(f"tokenizer.ggml.{key} is no text")
    return field.value


def _flag(metadata: Mapping[str, Field], key: str, default: bool) -> bool:
    field = metadata.get(f"tokenizer.ggml.{key}")
    return default if field is None else bool(field.value)


def _list(metadata: Mapping[str, Field], key: str, kind: type) -> list[Any]:
    field = metadata.get(f"tokenizer.ggml.{key}")
    if field is None:
        return []
    values = field.value
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        raise CheckpointError(f"tokenizer.ggml.{key} is no list of {kind.__name__}")
    return values
