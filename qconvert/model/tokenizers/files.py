"""The files beside a checkpoint that describe its tokenizer, read once and checked for their shape.

    tokenizer.json           vocabulary, merges, normalizer, pre-tokenizer, post-processor
    tokenizer_config.json    special tokens, flags, chat template
    special_tokens_map.json  special tokens of older checkpoints
    added_tokens.json        name -> id, older checkpoints
    generation_config.json   the ids that end a generation
    vocab.json, merges.txt   GPT-2's older form of a byte-level vocabulary
    vocab.txt                WordPiece, one token a line
    tokenizer.model          sentencepiece
    tiktoken.model           or NAME.tiktoken: bytes and ranks

All of it is hostile until checked: what has the wrong shape raises `CheckpointError`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import check_depth, read_small
from qconvert.errors import CheckpointError
from qconvert.model.tokenizers.ranks import ranks_file, tokenizer_of_ranks

SPECIAL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
ADDED = "the list of added tokens"


@dataclass(frozen=True)
class AddedToken:
    """A token that the tokenizer looks for before it splits the text.

    Its id follows from the order in which tokens are added (`vocabulary.all_added`).

    Attributes:
        special: it steers the model and is hidden when text is decoded.
        lstrip: it swallows the spaces to its left.
    """

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
            where it is of an older form.
        generation: `generation_config.json`.
        model_config: `config.json`, or the part of it that describes the text model.
        added: added tokens, in transformers' order.
    """

    path: Path
    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    model_config: Mapping[str, Any]
    added: tuple[AddedToken, ...] = ()

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
    if (ranks := ranks_file(path)) is not None:
        tokenizer = tokenizer_of_ranks(ranks, tokenizer_config)
    if "added_tokens_decoder" not in tokenizer_config:
        tokenizer_config.update(read_json(path / "special_tokens_map.json"))
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


def further_special(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without one of the usual names: those of multimodal models, say."""
    listed = config.get("additional_special_tokens")
    extra = config.get("extra_special_tokens")
    named = [value for key, value in config.items() if key.endswith("_token")]
    if isinstance(extra, Mapping):
        named += extra.values()
    elif extra:
        listed = extra
    texts = map(content, [*named, *(listed if isinstance(listed, list) else [])])
    return [text for text in texts if text]


def token_id(value: object, where: str) -> int:
    """An id of the vocabulary, checked."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**24:
        raise CheckpointError(f"{where} holds a token with the id {value!r}")
    return value


def _added_tokens(
    path: Path, tokenizer: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[AddedToken, ...]:
    """As transformers 5 adds them: those of tokenizer.json as they stand there, then by id those of
    the older files. A text is added once, with the flags that are said last."""
    found: dict[str, AddedToken] = {}
    listed = tokenizer.get("added_tokens") or []
    if not isinstance(listed, list):
        raise CheckpointError("tokenizer.json's 'added_tokens' is no list")
    for entry in listed:
        token_id(entry.get("id") if isinstance(entry, Mapping) else None, ADDED)
        _add(found, entry)
    decoder = block(config, "added_tokens_decoder")
    numbers = {token_id(int(key) if key.isdecimal() else key, ADDED): key for key in decoder}
    for _, key in sorted(numbers.items()):
        _add(found, decoder[key])
    if "added_tokens_decoder" not in config:
        older = read_json(path / "added_tokens.json")
        special = set(further_special(config))
        for text in sorted(older, key=lambda text: token_id(older[text], "added_tokens.json")):
            found.setdefault(text, AddedToken(text, text in special))
    return tuple(found.values())


def _add(found: dict[str, AddedToken], entry: object) -> None:
    text = content(entry)
    if not isinstance(entry, Mapping) or not text:
        raise CheckpointError(f"the tokenizer has an added token without text: {entry!r}")
    found[text] = AddedToken(text, bool(entry.get("special")), bool(entry.get("lstrip")))
