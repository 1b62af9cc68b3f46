"""A GGUF file's tokenizer as the files that transformers reads.

tokenizer.json                      model, normalizer, pre-tokenizer, decoder, post-processor
tokenizer_config.json               special tokens, the class that reads tokenizer.json as is
special_tokens_map.json             special tokens, for older readers
chat_template.jinja                 the template as it is stored; it is never run here
additional_chat_templates/NAME.jinja
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from qconvert.checkpoint.metadata import Field
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.export_kinds import KINDS
from qconvert.model.tokenizers.library import guarded
from qconvert.model.tokenizers.stored import Stored
from qconvert.model.tokenizers.vocabulary import CONTROL, UNKNOWN, USER_DEFINED

TEMPLATE_KEY = "tokenizer.chat_template"
TEMPLATE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
NAMED = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
MERGED_BY_BERT = {"bos": "cls", "eos": "sep"}
"""WordPiece models call what is put around a text by other names."""


def tokenizer_files(stored: Stored, context: int) -> dict[str, bytes]:
    """The files by name.

    Args:
        stored: of `read_stored`.
        context: tokens that the model was trained for.

    Raises:
        UnsupportedError: a kind of tokenizer, or a way to split text, without a like.
        CheckpointError: the parts contradict each other.
    """
    tokenizer = tokenizer_json(stored)
    _try(tokenizer)
    named = special_texts(stored)
    config = {
        **named,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if stored.model == "bert":
        config["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
    else:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    files = {
        "tokenizer.json": json_bytes(tokenizer),
        "tokenizer_config.json": json_bytes(config),
        "special_tokens_map.json": json_bytes(named),
    }
    for name, template in chat_templates(stored.metadata).items():
        files[name] = template.encode()
    return files


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def tokenizer_json(stored: Stored) -> dict[str, Any]:
    """`tokenizer.json`.

    Raises:
        UnsupportedError, CheckpointError: as for `tokenizer_files`.
    """
    if stored.model not in KINDS:
        raise UnsupportedError(
            f"a tokenizer of the kind {stored.model!r:.40} cannot be written",
            f"known: {', '.join(KINDS)}",
        )
    kind = KINDS[stored.model](stored)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(stored),
        "normalizer": kind.normalizer,
        "pre_tokenizer": kind.pre_tokenizer,
        "post_processor": _post_processor(stored),
        "decoder": kind.decoder,
        "model": kind.model,
    }


def added_tokens(stored: Stored) -> list[dict[str, Any]]:
    """Tokens that are looked for before the text is split."""
    looked_for = (CONTROL, UNKNOWN, USER_DEFINED)
    return [
        {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for number, (text, kind) in enumerate(zip(stored.tokens, stored.types, strict=True))
        if kind in looked_for
    ]


def special_texts(stored: Stored) -> dict[str, str]:
    """`bos_token` and so on, as the tokenizer's configuration names them."""
    found: dict[str, str] = {}
    for name in NAMED:
        text = stored.text(name)
        if text is not None:
            renamed = MERGED_BY_BERT.get(name, name) if stored.model == "bert" else name
            found.setdefault(f"{renamed}_token", text)
    return found


def _post_processor(stored: Stored) -> dict[str, Any]:
    """What is put around one text and around two."""
    before = _affix(stored, ("bos", "cls"), stored.add_bos)
    after = _affix(stored, ("sep", "eos"), stored.add_eos)
    if stored.model != "bert":
        after = _affix(stored, ("eos",), stored.add_eos)
    if stored.model == "gpt2" and not (before or after):
        return {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": True,
        }
    first = [*_special(before, 0), {"Sequence": {"id": "A", "type_id": 0}}, *_special(after, 0)]
    # A text pair repeats what is put around a text, but BERT has nothing before the second.
    again = [] if stored.model == "bert" else _special(before, 1)
    second = [*again, {"Sequence": {"id": "B", "type_id": 1}}, *_special(after, 1)]
    used = dict(filter(None, (before, after)))
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": {
            text: {"id": text, "ids": [number], "tokens": [text]} for text, number in used.items()
        },
    }


def _affix(stored: Stored, names: tuple[str, ...], wanted: bool) -> tuple[str, int] | None:
    for name in names:
        if wanted and name in stored.special:
            number = stored.special[name]
            return stored.tokens[number], number
    return None


def _special(affix: tuple[str, int] | None, kind: int) -> list[dict[str, Any]]:
    return [{"SpecialToken": {"id": affix[0], "type_id": kind}}] if affix else []


def chat_templates(metadata: Mapping[str, Field]) -> dict[str, str]:
    """Templates by the name of their file; named ones only where the name is harmless.

    Raises:
        CheckpointError: a template is no text.
    """
    found = {}
    for key, field in metadata.items():
        if key != TEMPLATE_KEY and not key.startswith(TEMPLATE_KEY + "."):
            continue
        name = key.removeprefix(TEMPLATE_KEY).removeprefix(".")
        if name and not TEMPLATE_NAME.fullmatch(name):
            raise CheckpointError(f"{key!r:.80} names no chat template")
        if not isinstance(field.value, str):
            raise CheckpointError(f"{key} is no text")
        place = f"additional_chat_templates/{name}.jinja" if name else "chat_template.jinja"
        found[place] = field.value
    return found


def _try(tokenizer: Mapping[str, Any]) -> None:
    """Load it as transformers will, so that nothing is written that cannot be read."""
    from tokenizers import Tokenizer

    with guarded("the file"):
        Tokenizer.from_str(json.dumps(tokenizer))
