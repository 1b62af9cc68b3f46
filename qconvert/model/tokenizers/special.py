"""Special tokens: their ids, and which of them are put around a text.

llama.cpp puts at most one token before a text (`bos`) and one after it (`eos`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qconvert.checkpoint.metadata import Metadata, flag, i32s, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.ends import as_ids, ends_of_generation, shown, stopping_ids
from qconvert.model.tokenizers.files import (
    SPECIAL_NAMES,
    AddedToken,
    TokenizerFiles,
    block,
    named_tokens,
)
from qconvert.model.tokenizers.vocabulary import Vocabulary

KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "cls": "tokenizer.ggml.cls_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "fim_pre": "tokenizer.ggml.fim_pre_token_id",
    "fim_suf": "tokenizer.ggml.fim_suf_token_id",
    "fim_mid": "tokenizer.ggml.fim_mid_token_id",
    "fim_pad": "tokenizer.ggml.fim_pad_token_id",
    "fim_rep": "tokenizer.ggml.fim_rep_token_id",
    "fim_sep": "tokenizer.ggml.fim_sep_token_id",
}

_FILL_IN_THE_MIDDLE = {
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<PRE>", "\u2581<PRE>"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<SUF>", "\u2581<SUF>"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<MID>", "\u2581<MID>"),
    "fim_pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}

Affixes = tuple[int | None, int | None, bool]


def special_tokens(files: TokenizerFiles, vocabulary: Vocabulary) -> tuple[Metadata, list[str]]:
    """The ids of special tokens and the flags that say which are put around a text; and what of
    the checkpoint's tokens GGUF does not say, a line for each.

    Raises:
        UnsupportedError: more is put around a text than llama.cpp can.
    """
    size = len(vocabulary.tokens)
    ids = dict(vocabulary.ids)
    ids.update({token.content: number for number, token in vocabulary.added.items()})
    named = _named_ids(files, ids)
    before, after, separated = affixes(files, vocabulary, named)
    found = dict(named)
    if before is not None:
        found["bos"] = before
    if after is not None:
        found["eos"] = after
    elif vocabulary.model == "bert" and "sep" in found:
        found.setdefault("eos", found["sep"])
    notices = _beyond(vocabulary.added, found, size)
    ids = {text: number for text, number in ids.items() if number < size}
    found = {name: number for name, number in found.items() if number < size}
    stops = [*([named["eos"]] if "eos" in named else []), *stopping_ids(files)]
    ends, more = ends_of_generation(vocabulary, found, stops, ids)
    found.update(ends)
    for name, texts in _FILL_IN_THE_MIDDLE.items():
        numbers = [ids[text] for text in texts if text in ids]
        if numbers:
            found[name] = numbers[0]
    metadata = {KEYS[name]: u32(number) for name, number in found.items()}
    metadata["tokenizer.ggml.add_bos_token"] = flag(before is not None and before < size)
    metadata["tokenizer.ggml.add_eos_token"] = flag(after is not None and after < size)
    if separated:
        metadata["tokenizer.ggml.add_sep_token"] = flag(True)
    if vocabulary.model == "gemma4" and (never := _suppressed(files, size)):
        metadata["tokenizer.ggml.suppress_tokens"] = i32s(never)
    return metadata, [*notices, *more]


def _suppressed(files: TokenizerFiles, size: int) -> list[int]:
    """The tokens that are never to be drawn, as Gemma 4 has those of images and sounds."""
    return [number for number in as_ids(files.generation.get("suppress_tokens")) if number < size]


def _beyond(added: Mapping[int, AddedToken], named: Mapping[str, int], size: int) -> list[str]:
    """What has no row in the embedding, so that no runtime can compute with it."""
    lost = [token.content for number, token in sorted(added.items()) if number >= size]
    notices = []
    if lost:
        notices.append(
            f"added tokens without a row in the embedding of {size} are left out: {shown(lost)}"
        )
    names = [f"{name} {number}" for name, number in named.items() if number >= size]
    if names:
        notices.append(
            f"special tokens beyond the embedding of {size} rows are left out: {', '.join(names)}"
        )
    return notices


def affixes(files: TokenizerFiles, vocabulary: Vocabulary, named: Mapping[str, int]) -> Affixes:
    """The tokens put before and after a text, and whether two texts are kept apart by one.

    As transformers 5: the post-processor of tokenizer.json decides, and only without that file do
    the flags of tokenizer_config.json.
    """
    if files.tokenizer:
        told = _processor_affixes(block(files.tokenizer, "post_processor"))
        if vocabulary.model == "bert" and None in told:
            raise UnsupportedError(
                "tokenizer.json puts no [CLS] and [SEP] around a text, and llama.cpp always does"
            )
        return told
    before, after, separated = _affixes_by_model(vocabulary.model, named)
    if "add_bos_token" in files.config:
        before = named.get("bos") if files.config["add_bos_token"] else None
    if "add_eos_token" in files.config:
        after = named.get("eos") if files.config["add_eos_token"] else None
    return before, after, separated


def _affixes_by_model(model: str, named: Mapping[str, int]) -> Affixes:
    """What the older file forms leave unsaid."""
    if model == "bert":
        return named.get("cls"), named.get("sep"), True
    if model == "llama":
        return named.get("bos"), None, False
    return None, (named.get("eos") if model == "t5" else None), False


def _processor_affixes(processor: Mapping[str, Any]) -> Affixes:
    kind = processor.get("type")
    if kind == "Sequence":
        parts = processor.get("processors") or []
        if not isinstance(parts, list):
            raise CheckpointError("tokenizer.json has a sequence without 'processors'")
        results = [_processor_affixes(part) for part in parts if isinstance(part, Mapping)]
        told = [result for result in results if result != (None, None, False)]
        if len(told) > 1:
            raise UnsupportedError("tokenizer.json puts tokens around a text in two steps")
        return told[0] if told else (None, None, False)
    if kind in ("BertProcessing", "RobertaProcessing"):
        return _pair_id(processor.get("cls")), _pair_id(processor.get("sep")), True
    if kind == "TemplateProcessing":
        return _template_affixes(processor)
    if kind in (None, "ByteLevel"):
        return None, None, False
    raise UnsupportedError(f"tokenizer.json has a post-processor of an unknown kind: {kind}")


def _pair_id(pair: object) -> int:
    if isinstance(pair, Sequence) and len(pair) == 2 and type(pair[1]) is int:
        return pair[1]
    raise CheckpointError(f"tokenizer.json's post-processor names no token: {pair!r}")


def _template_affixes(processor: Mapping[str, Any]) -> Affixes:
    single = _template(processor, "single")
    texts = [number for number, part in enumerate(single) if part is None]
    if len(texts) != 1:
        raise UnsupportedError("tokenizer.json's template does not hold the text once")
    before, after = single[: texts[0]], single[texts[0] + 1 :]
    if len(before) > 1 or len(after) > 1:
        raise UnsupportedError(
            f"tokenizer.json puts {len(before)} tokens before a text and {len(after)} after it; "
            "llama.cpp can put one each"
        )
    pair = _template(processor, "pair")
    texts = [number for number, part in enumerate(pair) if part is None]
    separated = bool(after) and len(texts) == 2 and texts[1] - texts[0] > 1
    return (before or [None])[0], (after or [None])[0], separated


def _template(processor: Mapping[str, Any], key: str) -> list[int | None]:
    """A template as ids, with None for a text."""
    parts = processor.get(key)
    tokens = block(processor, "special_tokens")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise CheckpointError(f"tokenizer.json's template has no {key!r}")
    found: list[int | None] = []
    for part in parts:
        name = block(part, "SpecialToken").get("id")
        if name is None:
            found.append(None)
            continue
        numbers = block(tokens, str(name)).get("ids")
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise CheckpointError(f"tokenizer.json's template names an unknown token: {name!r}")
        found.extend(numbers)
    return found


def _named_ids(files: TokenizerFiles, ids: Mapping[str, int]) -> dict[str, int]:
    """Ids by "bos", "eos" and so on: the tokenizer's word first, then the configurations'."""
    named = named_tokens(files)
    found: dict[str, int] = {}
    for name in SPECIAL_NAMES:
        if name in named:
            if named[name] in ids:
                found[name] = ids[named[name]]
            continue
        for source in (files.generation, files.model_config):
            numbers = as_ids(source.get(f"{name}_token_id"))
            if numbers:
                found[name] = numbers[0]
                break
    return found
