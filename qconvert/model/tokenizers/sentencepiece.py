"""SentencePiece BPE: llama.cpp's model "llama", which merges by the score of the merged token.

Two sources: `tokenizer.json` with a byte fallback and "▁" for spaces, whose merges were derived
from scores and are turned back into them; or `tokenizer.model` itself.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import flag
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.bpe import merge_pairs
from qconvert.model.tokenizers.files import AddedToken, TokenizerFiles, block, content
from qconvert.model.tokenizers.vocabulary import (
    BYTE,
    CONTROL,
    LOWEST,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    all_added,
    lay_out,
    token_table,
    vocabulary_size,
)

SPACE = "\u2581"
SHOWN = (
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
)
"""Gemma 4's marks that programs read in what the model says: written out, unlike other marks."""

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def read_sentencepiece_bpe(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of a tokenizer.json that was made from a SentencePiece BPE model.

    Raises:
        UnsupportedError: llama.cpp would treat plain text otherwise.
    """
    model = files.model
    ids = token_table(model.get("vocab"), "tokenizer.json")
    if not model.get("byte_fallback") or any(byte not in ids for byte in BYTES):
        raise UnsupportedError(
            "tokenizer.json has no tokens for single bytes, and llama.cpp needs them for text "
            "that is not in the vocabulary"
        )
    prefix = prefixes_space(files.tokenizer)
    added = {
        number: token
        for number, token in all_added(files, ids).items()
        if not is_space_run(token, ids)
    }
    size = vocabulary_size(files, [*ids.values(), *added])
    tokens, types = lay_out(ids, added, size)
    mark_bytes_and_unknown(tokens, types, _unknown(files))
    # llama.cpp merges the pair whose result has the best score: minus the rank of its first merge.
    scores = [LOWEST] * size
    for rank, (left, right) in reversed(list(enumerate(merge_pairs(model.get("merges"))))):
        number = ids.get(left + right)
        if number is not None and number < size:
            scores[number] = -float(rank)
    return Vocabulary(
        "llama",
        "default",
        tokens,
        types,
        ids,
        added,
        scores=scores,
        extra={"tokenizer.ggml.add_space_prefix": flag(prefix)},
    )


def read_merging_bpe(files: TokenizerFiles) -> Vocabulary:
    """The same for Gemma 4, whose merges llama.cpp applies by their ranks, line by line.

    Raises:
        UnsupportedError: llama.cpp would treat plain text otherwise.
    """
    made = read_sentencepiece_bpe(files)
    for number in (made.ids[text] for text in SHOWN if text in made.ids):
        if number < len(made.types):
            made.types[number] = USER_DEFINED
    pairs = merge_pairs(files.model.get("merges"))
    merges = [f"{left} {right}" for left, right in pairs if " " not in left and " " not in right]
    return replace(made, model="gemma4", pre="gemma4", merges=merges)


def vocabulary_of_pieces(
    files: TokenizerFiles, pieces: list[tuple[str, float, int]], prefix: bool
) -> Vocabulary:
    """The vocabulary of a `tokenizer.model`.

    Args:
        pieces: text, score and llama.cpp's token type by id.
        prefix: whether a space is put before the text.
    """
    ids = {text: number for number, (text, _, _) in enumerate(pieces)}
    if any(byte not in ids for byte in BYTES):
        raise UnsupportedError("tokenizer.model has no byte fallback, which llama.cpp needs")
    added = all_added(files, ids)
    size = vocabulary_size(files, [*ids.values(), *added])
    tokens, types = lay_out(ids, added, size)
    scores = [LOWEST] * size
    for number, (text, score, kind) in enumerate(pieces[:size]):
        if ids[text] != number:
            continue  # the same text comes again
        scores[number] = score
        if number not in added:
            types[number] = kind
            tokens[number] = text.replace(SPACE, " ") if kind == USER_DEFINED else text
    for number in [number for number in added if number < size]:
        scores[number] = LOWEST
        if types[number] == USER_DEFINED:
            tokens[number] = tokens[number].replace(SPACE, " ")
    return Vocabulary(
        "llama",
        "default",
        tokens,
        types,
        ids,
        added,
        scores=scores,
        extra={"tokenizer.ggml.add_space_prefix": flag(prefix)},
    )


def _unknown(files: TokenizerFiles) -> str | None:
    return content(files.model.get("unk_token")) or content(files.config.get("unk_token"))


def mark_bytes_and_unknown(tokens: list[str], types: list[int], unknown: str | None) -> None:
    """Sets the types of byte tokens and of the unknown token, in place."""
    known = frozenset(BYTES)
    for number, text in enumerate(tokens):
        if text == unknown and types[number] in (NORMAL, CONTROL, USER_DEFINED):
            types[number] = UNKNOWN
        elif types[number] == NORMAL and text in known:
            types[number] = BYTE


def is_space_run(token: AddedToken, ids: Mapping[str, int]) -> bool:
    """Gemma lists runs of "▁" as added tokens; only their merges ever find them in real text."""
    return not token.special and token.content in ids and set(token.content) == {SPACE}


def prefixes_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether the tokenizer puts a space before the text.

    Raises:
        UnsupportedError: it changes the text in a way that llama.cpp does not.
    """
    normal = [step for step in flat_steps(block(tokenizer, "normalizer"), "normalizers") if step]
    splits = [
        step for step in flat_steps(block(tokenizer, "pre_tokenizer"), "pretokenizers") if step
    ]
    prefix = replaced = False
    for step in [*normal, *splits]:
        kind = step.get("type")
        pattern = block(step, "pattern").get("String")
        if kind == "Prepend" and step.get("prepend") == SPACE:
            prefix = True
        elif kind == "Replace" and (pattern, step.get("content")) == (" ", SPACE):
            replaced = True
        elif kind == "Metaspace" and step.get("replacement") == SPACE:
            replaced = True
            prefix = prefix or metaspace_prefix(step)
        elif not (kind == "Split" and pattern == " " and replaced):
            raise UnsupportedError(
                f"tokenizer.json changes text in a way that llama.cpp does not: {kind}"
            )
    if not replaced:
        raise UnsupportedError("tokenizer.json does not write spaces as \u2581")
    return prefix


def metaspace_prefix(step: Mapping[str, Any]) -> bool:
    """Whether a Metaspace step, in its newer or older spelling, puts a space before the text."""
    scheme = step.get("prepend_scheme")
    if scheme is None:
        return bool(step.get("add_prefix_space", True))
    return bool(scheme != "never")


def flat_steps(owner: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The steps of a block, those of sequences one by one.

    Raises:
        CheckpointError: a step is no object, or its type no text.
    """
    if not isinstance(owner.get("type"), str | None):
        raise CheckpointError(f"tokenizer.json has a step of the type {owner['type']!r:.60}")
    if owner.get("type") != "Sequence":
        return [owner]
    parts = owner.get(key)
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise CheckpointError(f"tokenizer.json has a sequence without {key!r}")
    return [step for part in parts for step in flat_steps(part, key)]
