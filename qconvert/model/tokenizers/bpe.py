"""Byte-level BPE: GPT-2's kind, with every byte respelled as a printable character.

llama.cpp model "gpt2": texts in the respelled alphabet, merges as "left right" by rank, and the
name of the pre-tokenizer. Added tokens keep their plain text.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import read_small_text
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.files import TokenizerFiles, block, content, read_json
from qconvert.model.tokenizers.library import guarded
from qconvert.model.tokenizers.pretokenizers import (
    PRETOKENIZERS,
    Pretokenizer,
    find_pretokenizer,
)
from qconvert.model.tokenizers.vocabulary import (
    Vocabulary,
    all_added,
    lay_out,
    token_table,
    vocabulary_size,
)

# Older directories have no tokenizer.json: the class alone says how text is split.
_CLASSES = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2", "RobertaTokenizer": "gpt-2"}

# llama.cpp's own converter writes these names for structures that it treats alike.
_FAMILY_NAMES = {
    ("smollm", "granite"): "refact",
    ("smollm", "command-r"): "command-r",
    ("gpt-2", "modern-bert"): "modern-bert",
}


def read_bpe(files: TokenizerFiles, architecture: str) -> Vocabulary:
    """The vocabulary of a byte-level tokenizer.json.

    Raises:
        UnsupportedError: llama.cpp would split text otherwise.
        CheckpointError: the file has the wrong shape.
    """
    model = files.model
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UnsupportedError(f"tokenizer.json has a {key}, which llama.cpp has not")
    ids = token_table(model.get("vocab"), "tokenizer.json")
    pairs = merge_pairs(model.get("merges"))
    entry = find_pretokenizer(files.tokenizer)
    ignore_merges = bool(model.get("ignore_merges"))
    if entry.ignore_merges != ignore_merges:
        _check_reachable(ids, pairs, entry, ignore_merges)
    name = _FAMILY_NAMES.get((entry.name, architecture), entry.name)
    return _vocabulary(files, name, ids, pairs)


def read_gpt2_files(files: TokenizerFiles) -> Vocabulary:
    """The vocabulary of `vocab.json` and `merges.txt`.

    Raises:
        UnsupportedError: a tokenizer class whose way to split text is not known.
    """
    kind = str(files.config.get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast")
    if kind not in _CLASSES:
        raise UnsupportedError(
            f"vocab.json and merges.txt of a {kind} do not say how text is split",
            "save the tokenizer again with transformers, which writes tokenizer.json",
        )
    if files.config.get("add_prefix_space"):
        raise UnsupportedError("the tokenizer puts a space before the text; llama.cpp does not")
    ids = token_table(read_json(files.path / "vocab.json"), "vocab.json")
    return _vocabulary(files, _CLASSES[kind], ids, _read_merges(files.path / "merges.txt"))


def merge_pairs(merges: Any) -> list[list[str]]:
    """The merges of tokenizer.json, in either of its two spellings, as pairs by rank."""
    if not isinstance(merges, list):
        raise CheckpointError("tokenizer.json holds no merges")
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    for pair in pairs:
        if not (type(pair) is list and len(pair) == 2):
            raise CheckpointError(f"tokenizer.json holds a merge that is no pair: {pair!r}")
        if not (type(pair[0]) is str and type(pair[1]) is str):
            raise CheckpointError(f"tokenizer.json holds a merge that is no text: {pair!r}")
    return pairs


def _vocabulary(
    files: TokenizerFiles, name: str, ids: Mapping[str, int], pairs: list[list[str]]
) -> Vocabulary:
    added = all_added(files, ids)
    size = vocabulary_size(files, [*ids.values(), *added])
    tokens, types = lay_out(ids, added, size)
    # A plain space never occurs in respelled text, so a merge with one never applies.
    merges = [f"{left} {right}" for left, right in pairs if " " not in left and " " not in right]
    if _strips_mask(files):
        name = {"gpt-2": "jina-v2-de"}.get(name, name)
    return Vocabulary("gpt2", name, tokens, types, ids, added, merges=merges)


def _strips_mask(files: TokenizerFiles) -> bool:
    """RoBERTa's `<mask>` takes the space before it; llama.cpp does so under Jina's names."""
    mask = content(files.config.get("mask_token"))
    return mask == "<mask>" and any(token.lstrip and token.content == mask for token in files.added)


def _check_reachable(
    ids: Mapping[str, int],
    pairs: list[list[str]],
    entry: Pretokenizer,
    ignore_merges: bool,
) -> None:
    """Whether merges are tried makes no difference where they lead to every token anyway."""
    from tokenizers.models import BPE

    with guarded("tokenizer.json"):
        model = BPE(vocab=dict(ids), merges=[(left, right) for left, right in pairs])
        made = dict.fromkeys(left + right for left, right in pairs)
        lost = next((text for text in made if len(model.tokenize(text)) > 1), None)
    if lost is None:
        return
    known = [e.name for e in PRETOKENIZERS if e.steps == entry.steps]
    raise UnsupportedError(
        f"tokenizer.json has ignore_merges = {str(ignore_merges).lower()}, and llama.cpp's "
        f"{', '.join(known)} the opposite; token {lost!r:.80} would never be found",
    )


def _read_merges(path: Path) -> list[list[str]]:
    lines = read_small_text(path.parent, path.name).split("\n")
    start = 1 if lines[0].startswith("#version") else 0
    return merge_pairs([line.rstrip("\r") for line in lines[start:] if line.strip()])


def is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a BPE tokenizer.json respells bytes."""
    steps = [block(tokenizer, "pre_tokenizer"), block(tokenizer, "decoder")]
    return any("ByteLevel" in _kinds(step) for step in steps)


def _kinds(step: Mapping[str, Any]) -> list[str]:
    parts = step.get("pretokenizers") or step.get("decoders")
    nested = parts if isinstance(parts, list) else []
    inner = [kind for part in nested if isinstance(part, Mapping) for kind in _kinds(part)]
    return [str(step.get("type")), *inner]
