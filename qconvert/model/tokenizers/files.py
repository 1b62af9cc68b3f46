"""The files beside a checkpoint that describe its tokenizer, read once and checked for their shape.

    tokenizer.json           vocabulary, merges, normalizer, pre-tokenizer, post-processor
    tokenizer_config.json    special tokens, flags, chat template
    special_tokens_map.json  special tokens of older checkpoints
    added_tokens.json        name -> id, older checkpoints
    generation_config.json   the ids that end a generation
    vocab.json, merges.txt   GPT-2's older form of a byte-level vocabulary
    vocab.txt                WordPiece, one token a line
    tokenizer.model          sentencepiece

All of it is hostile until checked: what has the wrong shape raises `CheckpointError`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import check_depth, read_small
from qconvert.errors import CheckpointError

SPECIAL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class AddedToken:
    """A token that the tokenizer looks for before it splits the text.

    Attributes:
        special: it steers the model and is hidden when text is decoded.
        lstrip: it swallows the spaces to its left.
    """

    id: int
    content: str
    special: bool
    lstrip: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say, before it is given a meaning.

    Attributes:
        path: the model's directory.
        tokenizer: `tokenizer.json`; empty where there is none.
        config: `tokenizer_config.json`, with the special tokens of `special_tokens_map.json`
            where it has none itself.
        generation: `generation_config.json`.
        model_config: `config.json`, or the part of it that describes the text model.
        added: added tokens by id.
    """

    path: Path
    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    model_config: Mapping[str, Any]
    added: Mapping[int, AddedToken] = field(default_factory=dict)

    @property
    def model(self) -> Mapping[str, Any]:
        """The `model` block of `tokenizer.json`."""
        return block(self.tokenizer, "model")


def read_files(path: Path, config: Mapping[str, Any]) -> TokenizerFiles:
    """Reads every file that is there. Missing ones count as empty.

    Raises:
        CheckpointError: a file is no JSON object or holds values of the wrong kind.
    """
    tokenizer = read_json(path / "tokenizer.json")
    tokenizer_config = read_json(path / "tokenizer_config.json")
    for name, value in read_json(path / "special_tokens_map.json").items():
        if tokenizer_config.get(name) is None:
            tokenizer_config[name] = value
    text_config = config.get("text_config")
    return TokenizerFiles(
        path=path,
        tokenizer=tokenizer,
        config=tokenizer_config,
        generation=_if_object(path / "generation_config.json"),
        model_config={**config, **text_config} if isinstance(text_config, Mapping) else config,
        added=_added_tokens(path, tokenizer, tokenizer_config),
    )


def _if_object(path: Path) -> dict[str, Any]:
    """What transformers does without where it is anything else than an object."""
    try:
        return read_json(path)
    except CheckpointError:
        read_small(path.parent, path.name)  # what must not be read stays an error
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_small(path.parent, path.name))
        check_depth(value)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} holds no JSON object")
    return value


def block(owner: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A JSON object inside another; empty where it is absent or null."""
    value = owner.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise CheckpointError(f"the tokenizer's {key!r} holds no JSON object")
    return value


def content(value: object) -> str | None:
    """The text of a token that is written as a string or as an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def named_tokens(files: TokenizerFiles) -> dict[str, str]:
    """The text of each special token that the configuration names, by "bos", "eos" and so on."""
    named = {name: content(files.config.get(f"{name}_token")) for name in SPECIAL_NAMES}
    return {name: value for name, value in named.items() if value is not None}


def token_id(value: object, where: str) -> int:
    """An id of the vocabulary, checked."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**24:
        raise CheckpointError(f"{where} holds a token with the id {value!r}")
    return value


def _added_tokens(
    path: Path, tokenizer: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[int, AddedToken]:
    found: dict[int, AddedToken] = {}
    listed = tokenizer.get("added_tokens") or []
    if not isinstance(listed, list):
        raise CheckpointError("tokenizer.json's 'added_tokens' is no list")
    for entry in listed:
        _add(found, entry.get("id") if isinstance(entry, Mapping) else None, entry)
    for key, entry in block(config, "added_tokens_decoder").items():
        _add(found, int(key) if key.isdecimal() else key, entry)
    known = {token.content for token in found.values()}
    special = {content(config.get(f"{name}_token")) for name in SPECIAL_NAMES}
    for text, number in read_json(path / "added_tokens.json").items():
        if text not in known:
            identity = token_id(number, "added_tokens.json")
            found[identity] = AddedToken(identity, text, text in special)
    return found


def _add(found: dict[int, AddedToken], number: object, entry: object) -> None:
    text = content(entry)
    if not isinstance(entry, Mapping) or not text:
        raise CheckpointError(f"the tokenizer has an added token without text: {entry!r}")
    identity = token_id(number, "the list of added tokens")
    found[identity] = AddedToken(
        identity, text, bool(entry.get("special")), bool(entry.get("lstrip"))
    )
