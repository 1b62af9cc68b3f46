"""SentencePiece unigram: llama.cpp's model "t5", which looks for the split of the best score.

The normalization that the SentencePiece model was compiled with goes along as the byte array
`precompiled_charsmap` (a double-array trie and the replacements that it points to).
"""

from collections.abc import Mapping
from typing import Any

from gguf import GGUFValueType

from qconvert.checkpoint.metadata import LARGEST_F32, Field, Metadata, flag
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.files import TokenizerFiles, block
from qconvert.model.tokenizers.library import compiled_charsmap
from qconvert.model.tokenizers.sentencepiece import (
    SPACE,
    flat_steps,
    mark_bytes_and_unknown,
    metaspace_prefix,
)
from qconvert.model.tokenizers.vocabulary import (
    LOWEST,
    Vocabulary,
    all_added,
    lay_out,
    segments,
    vocabulary_size,
)


def read_unigram(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of a unigram tokenizer.json.

    Raises:
        UnsupportedError: the text is prepared in a way that llama.cpp does not know.
        CheckpointError: the file has the wrong shape.
    """
    if files.model.get("byte_fallback"):
        raise UnsupportedError("a unigram tokenizer with byte fallback has no like in llama.cpp")
    pieces = _pieces(files.model.get("vocab"))
    charsmap, merged, prepended = _normalizer(block(files.tokenizer, "normalizer"))
    prefix, words = _splitter(block(files.tokenizer, "pre_tokenizer"))
    unknown = files.model.get("unk_id")
    if not isinstance(unknown, int) or not 0 <= unknown < len(pieces):
        raise CheckpointError("tokenizer.json names no unknown token")
    preparation = (prefix or prepended, merged or words, charsmap)
    return unigram_vocabulary(files, pieces, unknown, preparation)


def unigram_vocabulary(
    files: TokenizerFiles,
    pieces: list[tuple[str, float]],
    unknown: int,
    preparation: tuple[bool, bool, bytes],
) -> Vocabulary:
    """A unigram vocabulary for GGUF.

    Args:
        pieces: text and score by id.
        unknown: the id of the unknown token.
        preparation: whether a space is put before the text, whether runs of spaces become one,
            and the compiled normalization.
    """
    prefix, merged, charsmap = preparation
    ids = {text: number for number, (text, _) in enumerate(pieces)}
    added = all_added(files, ids, len(pieces))
    size = vocabulary_size(files, [*range(len(pieces)), *added])
    tokens, types = lay_out(ids, added, size)
    mark_bytes_and_unknown(tokens, types, pieces[unknown][0])
    scores = [LOWEST] * size
    for number in ids.values():
        if number < size:
            scores[number] = pieces[number][1]
    extra: Metadata = {
        "tokenizer.ggml.add_space_prefix": flag(prefix),
        "tokenizer.ggml.remove_extra_whitespaces": flag(merged),
        "tokenizer.ggml.token_type_count": segments(files),
    }
    if charsmap:
        extra["tokenizer.ggml.precompiled_charsmap"] = Field(
            GGUFValueType.ARRAY, charsmap, GGUFValueType.UINT8
        )
    return Vocabulary("t5", "default", tokens, types, ids, added, scores=scores, extra=extra)


def _pieces(vocab: Any) -> list[tuple[str, float]]:
    if not isinstance(vocab, list) or not vocab:
        raise CheckpointError("tokenizer.json holds no vocabulary")
    pieces: list[tuple[str, float]] = []
    for entry in vocab:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise CheckpointError(f"tokenizer.json holds a piece without a score: {entry!r}")
        score = entry[1]
        usable = isinstance(score, int | float) and not isinstance(score, bool)
        if not usable or not abs(score) < LARGEST_F32:
            raise CheckpointError(f"tokenizer.json holds a score that is no number: {entry!r:.80}")
        pieces.append((entry[0], float(score)))
    return pieces


def _normalizer(normalizer: Mapping[str, Any]) -> tuple[bytes, bool, bool]:
    """The compiled normalization, whether runs of spaces become one, and whether a space is put
    before the text."""
    charsmap = b""
    merged = prepended = False
    for step in flat_steps(normalizer, "normalizers"):
        kind = step.get("type")
        pattern = block(step, "pattern")
        if kind == "Precompiled":
            charsmap = compiled_charsmap(step.get("precompiled_charsmap"))
        elif kind == "Replace" and pattern.get("Regex") == " {2,}":
            merged = True
        elif kind == "Replace" and (pattern.get("String"), step.get("content")) == (" ", SPACE):
            continue
        elif kind == "Prepend" and step.get("prepend") == SPACE:
            prepended = True
        elif kind not in (None, "Strip"):
            raise UnsupportedError(
                f"tokenizer.json changes text in a way that llama.cpp does not: {kind}"
            )
    return charsmap, merged, prepended


def _splitter(pre_tokenizer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a space is put before the text, and whether words are split at runs of spaces."""
    prefix = words = False
    for step in flat_steps(pre_tokenizer, "pretokenizers"):
        kind = step.get("type")
        if kind == "Metaspace":
            prefix = metaspace_prefix(step)
        elif kind == "WhitespaceSplit":
            words = True
        elif kind is not None:
            raise UnsupportedError(f"tokenizer.json splits words in an unknown way: {kind}")
    return prefix, words
