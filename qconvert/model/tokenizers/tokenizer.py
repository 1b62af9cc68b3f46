"""A checkpoint's tokenizer as GGUF's `tokenizer.*` keys.

    kind of tokenizer                  tokenizer.ggml.model   read by
    byte-level BPE                     gpt2                   tokenizers/bpe.py
    SentencePiece BPE                  llama, gemma4          tokenizers/sentencepiece.py
    SentencePiece unigram              t5                     tokenizers/unigram.py
    WordPiece                          bert                   tokenizers/wordpiece.py

Only the checkpoint's own files are read; transformers is not needed. The keys are those of
llama.cpp (src/llama-vocab.cpp, gguf-py/gguf/constants.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qconvert.checkpoint.metadata import Metadata, f32s, i32s, text, texts
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.bpe import is_byte_level, read_bpe, read_gpt2_files
from qconvert.model.tokenizers.chat_template import chat_templates
from qconvert.model.tokenizers.files import TokenizerFiles, read_files
from qconvert.model.tokenizers.pieces import read_tokenizer_model
from qconvert.model.tokenizers.pretokenizers import GAPS
from qconvert.model.tokenizers.ranks import ranks_file
from qconvert.model.tokenizers.sentencepiece import read_merging_bpe, read_sentencepiece_bpe
from qconvert.model.tokenizers.special import special_tokens
from qconvert.model.tokenizers.unigram import read_unigram
from qconvert.model.tokenizers.vocabulary import Vocabulary, check_texts
from qconvert.model.tokenizers.wordpiece import read_wordpiece


class Tokenizer(NamedTuple):
    """A tokenizer as GGUF has it: all `tokenizer.*` keys, and what they do not say."""

    metadata: Metadata
    notices: tuple[str, ...]


def read_tokenizer(path: Path, config: Mapping[str, Any], architecture: str) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: the model's directory.
        config: `config.json`; its `vocab_size` gives the number of tokens.
        architecture: `general.architecture` in GGUF.

    Raises:
        UnsupportedError: llama.cpp would give other ids for plain text.
        CheckpointError: there is no tokenizer, or its files are broken.
    """
    files = read_files(path, config)
    vocabulary = _read_vocabulary(files, architecture)
    check_texts(vocabulary.tokens)
    metadata: Metadata = {
        "tokenizer.ggml.model": text(vocabulary.model),
        "tokenizer.ggml.pre": text(vocabulary.pre),
        "tokenizer.ggml.tokens": texts(vocabulary.tokens),
        "tokenizer.ggml.token_type": i32s(vocabulary.types),
    }
    if vocabulary.scores:
        metadata["tokenizer.ggml.scores"] = f32s(vocabulary.scores)
    if vocabulary.model in ("gpt2", "gemma4"):
        metadata["tokenizer.ggml.merges"] = texts(vocabulary.merges)
    metadata.update(vocabulary.extra)
    special, notices = special_tokens(files, vocabulary)
    metadata.update(special)
    metadata.update(chat_templates(files))
    if vocabulary.pre in GAPS:
        notices.append(
            f"llama.cpp splits {GAPS[vocabulary.pre]} otherwise than the model's own tokenizer: "
            "such texts get other tokens"
        )
    return Tokenizer(metadata, tuple(notices))


def has_tokenizer(path: Path) -> bool:
    """Whether a directory holds any form of tokenizer."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    return any((path / name).is_file() for name in names) or ranks_file(path) is not None


def _read_vocabulary(files: TokenizerFiles, architecture: str) -> Vocabulary:
    if files.tokenizer:
        return _read_tokenizer_json(files, architecture)
    if (files.path / "tokenizer.model").is_file():
        return read_tokenizer_model(files)
    if (files.path / "vocab.txt").is_file():
        return read_wordpiece(files)
    if (files.path / "vocab.json").is_file() and (files.path / "merges.txt").is_file():
        return read_gpt2_files(files)
    raise CheckpointError(
        f"{files.path.name} has no tokenizer",
        "put tokenizer.json or tokenizer.model beside config.json",
    )


def _read_tokenizer_json(files: TokenizerFiles, architecture: str) -> Vocabulary:
    kind = files.model.get("type")
    if kind is None:
        kind = "BPE" if "merges" in files.model else "WordPiece"
    if kind == "BPE" and is_byte_level(files.tokenizer):
        return read_bpe(files, architecture)
    if kind == "BPE" and architecture == "gemma4":
        return read_merging_bpe(files)
    if kind == "BPE":
        return read_sentencepiece_bpe(files)
    if kind == "Unigram":
        return read_unigram(files)
    if kind == "WordPiece":
        return read_wordpiece(files)
    raise UnsupportedError(f"tokenizer.json has a model of an unknown kind: {kind}")
