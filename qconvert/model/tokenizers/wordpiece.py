"""WordPiece: llama.cpp's model "bert".

llama.cpp puts "▁" before every word and takes the longest tokens that match, so a token that
begins a word is stored as "▁token" and a continuation "##token" as "token".
"""

from collections.abc import Mapping
from typing import Any

from qconvert.checkpoint.files import read_small_text
from qconvert.checkpoint.metadata import Metadata, flag
from qconvert.errors import UnsupportedError
from qconvert.model.tokenizers.files import TokenizerFiles, block, content
from qconvert.model.tokenizers.sentencepiece import SPACE, flat_steps
from qconvert.model.tokenizers.vocabulary import (
    NORMAL,
    UNKNOWN,
    Vocabulary,
    all_added,
    lay_out,
    segments,
    token_table,
    vocabulary_size,
)

CONTINUATION = "##"


def read_wordpiece(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of a WordPiece tokenizer.json, or of `vocab.txt`.

    llama.cpp lowers case and strips accents as two flags say; before them it always splits at
    spaces, punctuation and Chinese characters.

    Raises:
        UnsupportedError: the tokenizer does otherwise.
    """
    if files.tokenizer:
        ids = token_table(files.model.get("vocab"), "tokenizer.json")
        if files.model.get("continuing_subword_prefix", CONTINUATION) != CONTINUATION:
            raise UnsupportedError("tokenizer.json marks continuations otherwise than by ##")
        lower, strip = _normalizer(block(files.tokenizer, "normalizer"))
        _check_words(files.tokenizer)
        unknown = content(files.model.get("unk_token"))
    else:
        ids = _read_lines(files)
        lower = bool(files.config.get("do_lower_case", True))
        strip = _or_lower(files.config.get("strip_accents"), lower)
        unknown = content(files.config.get("unk_token")) or "[UNK]"
    added = all_added(files, ids)
    size = vocabulary_size(files, [*ids.values(), *added])
    tokens, types = lay_out(ids, added, size)
    for number, text in enumerate(tokens):
        if types[number] == NORMAL:
            continues = text.startswith(CONTINUATION) and text != CONTINUATION
            tokens[number] = text[len(CONTINUATION) :] if continues else SPACE + text
        if text == unknown:
            types[number] = UNKNOWN
    return Vocabulary(
        "bert", "default", tokens, types, ids, added, extra=_extra(files, lower, strip)
    )


def _extra(files: TokenizerFiles, lower: bool, strip: bool) -> Metadata:
    return {
        "tokenizer.ggml.token_type_count": segments(files),
        "tokenizer.ggml.normalizer.lowercase": flag(lower),
        "tokenizer.ggml.normalizer.strip_accents": flag(strip),
    }


def _normalizer(normalizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether case is lowered and whether accents are stripped."""
    lower = strip = False
    for step in flat_steps(normalizer, "normalizers"):
        kind = step.get("type")
        if kind == "BertNormalizer":
            if step.get("handle_chinese_chars") is False:
                raise UnsupportedError(
                    "tokenizer.json keeps Chinese words whole, which llama.cpp does not"
                )
            lower = bool(step.get("lowercase", True))
            strip = _or_lower(step.get("strip_accents"), lower)
        elif kind == "Lowercase":
            lower = True
        elif kind == "StripAccents":
            strip = True
        elif kind not in ("NFD", "NFKD", None):
            raise UnsupportedError(
                f"tokenizer.json changes text in a way that llama.cpp does not: {kind}"
            )
    return lower, strip


def _or_lower(strip: object, lower: bool) -> bool:
    return lower if strip is None else bool(strip)


def _check_words(tokenizer: Mapping[str, Any]) -> None:
    kinds = {step.get("type") for step in flat_steps(block(tokenizer, "pre_tokenizer"), "")}
    if kinds != {"BertPreTokenizer"}:
        raise UnsupportedError(f"tokenizer.json splits words in an unknown way: {kinds}")


def _read_lines(files: TokenizerFiles) -> dict[str, int]:
    lines = read_small_text(files.path, "vocab.txt").split("\n")
    return {line.rstrip("\r"): number for number, line in enumerate(lines) if line.rstrip("\r")}
