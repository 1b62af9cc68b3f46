"""What tokenizer tests share: nasty texts, tokenizers trained on the spot, and the two oracles.

The oracles are transformers' AutoTokenizer on a directory and llama.cpp on the `tokenizer.*` keys
that were made from it.
"""

import ctypes
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from common import silence_llama
from gguf import GGUFWriter

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.tokenizers.tokenizer import tokenizer_metadata

_DATA = json.loads(Path(__file__).with_name("tokenizer_texts.json").read_bytes())

# Each text has a name, so that what llama.cpp cannot do is left out by name and by nothing else.
TEXTS: dict[str, str] = _DATA["texts"]


def corpus() -> Iterator[str]:
    """Text to train on: the sentences, and words made of syllables between them."""
    draw = random.Random(3)
    sentences, syllables = _DATA["sentences"], _DATA["syllables"]
    for shift in range(40):
        picked = [sentences[(shift * 7 + k * (1 + shift % 5)) % len(sentences)] for k in range(6)]
        words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(60)]
        yield "".join(picked) + " ".join(words) + "\n"


def byte_level_directory(
    path: Path,
    pre_tokenizer: Mapping[str, Any],
    *,
    normalizer: Mapping[str, Any] | None = None,
    ignore_merges: bool = False,
    size: int = 1500,
    special: Sequence[str] = ("<|begin|>", "<|end|>"),
    plain: Sequence[str] = ("<think>", "</think>"),
    before: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Trains a byte-level BPE tokenizer whose pre-tokenizer is that block, and saves it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    skeleton = json.loads(tokenizer.to_str())
    skeleton["pre_tokenizer"] = dict(pre_tokenizer)
    skeleton["normalizer"] = dict(normalizer) if normalizer else None
    tokenizer = Tokenizer.from_str(json.dumps(skeleton))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in plain])
    if before:
        _put_before(tokenizer, before)
    saved = json.loads(tokenizer.to_str())
    saved["model"]["ignore_merges"] = ignore_merges
    return save(path, saved, {"bos_token": special[0], "eos_token": special[-1], **(config or {})})


def revealing_directory(
    path: Path,
    pre_tokenizer: Mapping[str, Any],
    *,
    ignore_merges: bool = False,
    seed: int = 0,
) -> Path:
    """A byte-level tokenizer that shows where text was split.

    Every two neighbouring bytes of the texts are a token, in random order of rank, so that a
    missing or an additional split changes the ids. Trained merges would hide it: they hardly ever
    reach across the splits that they were trained with.
    """
    spelling = byte_spelling()
    pairs = sorted(
        {
            (spelling[left], spelling[right])
            for text in TEXTS.values()
            for left, right in pairwise(text.encode())
        }
    )
    random.Random(seed).shuffle(pairs)
    alphabet = sorted(spelling.values())
    vocabulary = {token: number for number, token in enumerate(alphabet)}
    for left, right in pairs:
        vocabulary.setdefault(left + right, len(vocabulary))
    model = {
        "type": "BPE",
        "vocab": vocabulary,
        "merges": [list(pair) for pair in pairs],
        "ignore_merges": ignore_merges,
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": model,
    }
    return save(path, tokenizer, {})


def byte_spelling() -> dict[int, str]:
    """How byte-level tokenizers write each byte: itself if it can be seen, else a letter from
    U+0100 on, in order."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    spelling = {byte: chr(byte) for byte in seen}
    return spelling | {byte: chr(0x100 + number) for number, byte in enumerate(unseen)}


def _put_before(tokenizer: Any, text: str) -> None:
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A",
        pair=f"{text} $A {text} $B:1",
        special_tokens=[(text, tokenizer.token_to_id(text))],
    )


def save(path: Path, tokenizer: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """Writes tokenizer.json and tokenizer_config.json."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    settings = {"tokenizer_class": "TokenizersBackend", **config}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def train_sentencepiece(path: Path, kind: str, **settings: Any) -> Path:
    """Trains a `tokenizer.model` of that kind ("bpe" or "unigram")."""
    import io

    import sentencepiece

    path.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in corpus() for line in text.split("\n") if line]),
        model_writer=stream,
        model_type=kind,
        minloglevel=2,
        **settings,
    )
    (path / "tokenizer.model").write_bytes(stream.getvalue())
    return path


def auto_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


@contextmanager
def llama_tokenizer(metadata: Metadata, path: Path, architecture: str = "llama") -> Iterator[Any]:
    """A function from text to llama.cpp's ids, with special tokens added and recognised."""
    import llama_cpp

    write_vocabulary(metadata, path, architecture)
    silence_llama()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, "llama.cpp refuses the vocabulary"
    vocabulary = llama_cpp.llama_model_get_vocab(model)

    def ids(text: str, add_special: bool = True) -> list[int]:
        data = text.encode()
        space = (ctypes.c_int32 * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(
            vocabulary, data, len(data), space, len(space), add_special, True
        )
        assert count >= 0
        return list(space[:count])

    try:
        yield ids
    finally:
        llama_cpp.llama_model_free(model)


def write_vocabulary(metadata: Metadata, path: Path, architecture: str = "llama") -> None:
    """A GGUF file with nothing but a vocabulary."""
    writer = GGUFWriter(path, architecture)
    for key, field in metadata.items():
        writer.add_key_value(key, field.value, field.type, sub_type=field.item)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def differences(
    directory: Path,
    work: Path,
    *,
    config: Mapping[str, Any] | None = None,
    architecture: str = "llama",
    more: Mapping[str, str] | None = None,
    tokenizer: Any = None,
) -> dict[str, tuple[list[str], list[str]]]:
    """The texts whose ids differ, by name: transformers' tokens and llama.cpp's."""
    tokenizer = tokenizer or auto_tokenizer(directory)
    metadata = tokenizer_metadata(directory, config or {}, architecture)
    texts = {**TEXTS, **(more or {})}
    tokens = metadata["tokenizer.ggml.tokens"].value
    found = {}
    with llama_tokenizer(metadata, work / "vocabulary.gguf", "llama") as llama_ids:
        for name, text in texts.items():
            expected = tokenizer(text)["input_ids"]
            actual = llama_ids(text)
            if expected != actual:
                found[name] = ([tokens[i] for i in expected], [tokens[i] for i in actual])
    return found
