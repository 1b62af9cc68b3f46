"""The parts of `tokenizer.json` for each of llama.cpp's kinds of tokenizer.

Every token goes into the model's vocabulary, special ones too, so that ids are what they are
whatever gaps there may be.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.library import check_charsmap
from qconvert.model.tokenizers.pretokenizers import (
    GPT2,
    PRETOKENIZERS,
    PUNCTUATION,
    Pretokenizer,
)
from qconvert.model.tokenizers.sentencepiece import BYTES, SPACE
from qconvert.model.tokenizers.stored import DEFAULTS, Stored
from qconvert.model.tokenizers.vocabulary import LOWEST, NORMAL, UNKNOWN, UNUSED
from qconvert.model.tokenizers.wordpiece import CONTINUATION

Block = dict[str, Any]

_ALIKE = {
    "gpt-2": "phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
    "jina-v1-en jina-v2-code roberta-bpe exaone4 mpt olmo jais trillion granite-docling",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b mellum2",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano glm4 glm5",
    "dbrx": "smaug-bpe chatglm-bpe",
    "qwen2": "deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 "
    "bailingmoe bailingmoe2 llada-moe",
    "gpt-4o": "llama4 kanana2 talkie minimax-m2",
    "deepseek-v3": "hunyuan-dense joyai-llm hy_v4",
    "bloom": "poro-chat gpt3-finnish",
}
ALIASES = {name: original for original, names in _ALIKE.items() for name in names.split()}
"""Names that llama.cpp treats like another one."""

MOST_CHARACTERS = 1 << 22
"""Of all tokens, where every way to cut each of them is looked at; Gemma's have two million."""


@dataclass(frozen=True)
class Parts:
    """Blocks of `tokenizer.json`."""

    model: Block
    normalizer: Block | None
    pre_tokenizer: Block | None
    decoder: Block


def _sequence(kind: str, steps: list[Block]) -> Block | None:
    """Several steps as one; `kind` is the key under which a sequence lists them."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", kind: steps}


def byte_level(stored: Stored) -> Parts:
    """GPT-2's kind.

    Raises:
        UnsupportedError: text is split in a way that has no description here.
    """
    entry = _pretokenizer(stored.pre)
    ids = _vocabulary(stored)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": entry.ignore_merges,
        "vocab": ids,
        "merges": [_split_merge(merge, ids) for merge in stored.merges],
    }
    steps = [_step(step) for step in entry.steps]
    if GPT2 not in entry.steps:
        steps.append(_byte_level(use_regex=False))
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    return Parts(model, None, _sequence("pretokenizers", steps), {**decoder, "use_regex": True})


def _pretokenizer(name: str) -> Pretokenizer:
    known = {entry.name: entry for entry in PRETOKENIZERS}
    original = ALIASES.get(name, name)
    if original not in known:
        raise UnsupportedError(
            f"the file's pre-tokenizer {name or 'default'!r:.60} has no description here",
            f"known: {', '.join([*known, *ALIASES])}",
        )
    return known[original]


def _step(step: str) -> Block:
    if step == GPT2:
        return _byte_level(use_regex=True)
    if step == PUNCTUATION:
        return {"type": "Punctuation", "behavior": "Contiguous"}
    return {
        "type": "Split",
        "pattern": {"Regex": step},
        "behavior": "Isolated",
        "invert": False,
    }


def _byte_level(use_regex: bool) -> Block:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _vocabulary(stored: Stored) -> dict[str, int]:
    """Texts to ids, without the padding at the end that stands for no token."""
    count = len(stored.tokens)
    while count and stored.types[count - 1] == UNUSED:
        if stored.tokens[count - 1] != f"[PAD{count - 1}]":
            break
        count -= 1
    return {text: number for number, text in enumerate(stored.tokens[:count])}


def _split_merge(merge: str, ids: Mapping[str, int]) -> list[str]:
    left, space, right = merge.partition(" ")
    if not space or left not in ids or right not in ids or left + right not in ids:
        raise CheckpointError(f"the merge {merge!r:.80} is not of tokens into a token")
    return [left, right]


def sentencepiece(stored: Stored) -> Parts:
    """SentencePiece BPE, whose merges are ranked by the score of what they make."""
    ids = _vocabulary(stored)
    unknown = [
        text for text, kind in zip(stored.tokens, stored.types, strict=True) if kind == UNKNOWN
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown[0] if unknown else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": all(text in ids for text in BYTES),
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges_by_score(stored, ids),
    }
    prefix = stored.flag("add_space_prefix", DEFAULTS["llama"]["add_space_prefix"])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    normalizer: list[Block] = [replace]
    if prefix:
        normalizer.insert(0, {"type": "Prepend", "prepend": SPACE})
    decoder: list[Block] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoder.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return Parts(
        model,
        _sequence("normalizers", normalizer),
        None,
        {"type": "Sequence", "decoders": decoder},
    )


def merges_by_score(stored: Stored, ids: Mapping[str, int]) -> list[list[str]]:
    """Every way to make a token of two others, the best-scored token first.

    Raises:
        CheckpointError: there are no scores, or tokens beyond all measure.
    """
    if not stored.scores:
        raise CheckpointError("the file's tokenizer has no scores", "it cannot be used for text")
    if sum(map(len, stored.tokens)) > MOST_CHARACTERS:
        raise CheckpointError(f"the file's tokens have more than {MOST_CHARACTERS} characters")
    made = [
        number
        for number, kind in enumerate(stored.types)
        if kind == NORMAL and stored.scores[number] > LOWEST and len(stored.tokens[number]) > 1
    ]
    made.sort(key=lambda number: -stored.scores[number])
    normal = {text for text, number in ids.items() if stored.types[number] == NORMAL}
    merges: list[list[str]] = []
    for number in made:
        text = stored.tokens[number]
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        fitting = [pair for pair in pairs if pair[0] in normal and pair[1] in normal]
        fitting.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        merges.extend(list(pair) for pair in fitting)
    return merges


def unigram(stored: Stored) -> Parts:
    """SentencePiece unigram.

    Raises:
        CheckpointError: no scores or no unknown token.
    """
    unknown = stored.special.get("unk")
    if unknown is None and UNKNOWN in stored.types:
        unknown = stored.types.index(UNKNOWN)
    if not stored.scores or unknown is None:
        raise CheckpointError("the file's tokenizer has no scores or no unknown token")
    model = {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": [list(pair) for pair in zip(stored.tokens, stored.scores, strict=True)],
        "byte_fallback": False,
    }
    normalizer: list[Block] = []
    charsmap = stored.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap is not None:
        normalizer.append({"type": "Precompiled", "precompiled_charsmap": _base64(charsmap.value)})
    prefix = stored.flag("add_space_prefix", DEFAULTS["t5"]["add_space_prefix"])
    merged = stored.flag("remove_extra_whitespaces", False)
    if merged:
        normalizer.append({"type": "Strip", "strip_left": False, "strip_right": True})
        normalizer.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE})
    elif prefix:
        # Metaspace would not put a space before one that is there.
        normalizer.append({"type": "Prepend", "prepend": SPACE})
    metaspace = {
        "type": "Metaspace",
        "replacement": SPACE,
        "prepend_scheme": "always" if prefix and merged else "never",
        "split": True,
    }
    decoder = {**metaspace, "prepend_scheme": "always" if prefix else "never"}
    return Parts(model, _sequence("normalizers", normalizer), metaspace, decoder)


def _base64(values: Any) -> str:
    try:
        data = b"".join((bytes(values[:0]), bytes(values)))  # not of a number: as many zeros
    except (TypeError, ValueError):
        raise CheckpointError("tokenizer.ggml.precompiled_charsmap holds no bytes") from None
    return b64encode(check_charsmap(data)).decode()


def wordpiece(stored: Stored) -> Parts:
    """BERT's kind: "▁" before what begins a word becomes nothing, and nothing becomes "##"."""
    texts = [
        _spell(text) if kind == NORMAL else text
        for text, kind in zip(stored.tokens, stored.types, strict=True)
    ]
    if len(set(texts)) != len(texts):
        raise CheckpointError("the file's tokenizer holds a token twice")
    model = {
        "type": "WordPiece",
        "unk_token": stored.text("unk") or "[UNK]",
        "continuing_subword_prefix": CONTINUATION,
        "max_input_chars_per_word": 100,
        "vocab": {text: number for number, text in enumerate(texts)},
    }
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": stored.flag("normalizer.strip_accents", True),
        "lowercase": stored.flag("normalizer.lowercase", True),
    }
    return Parts(
        model,
        normalizer,
        {"type": "BertPreTokenizer"},
        {"type": "WordPiece", "prefix": CONTINUATION, "cleanup": True},
    )


def _spell(text: str) -> str:
    if text.startswith(SPACE) and len(text) > 1:
        return text[1:]
    in_brackets = text.startswith("[") and text.endswith("]") and len(text) > 2
    return text if in_brackets else CONTINUATION + text


KINDS: dict[str, Callable[[Stored], Parts]] = {
    "gpt2": byte_level,
    "llama": sentencepiece,
    "t5": unigram,
    "bert": wordpiece,
}
"""`tokenizer.ggml.model` -> how its parts are written."""
