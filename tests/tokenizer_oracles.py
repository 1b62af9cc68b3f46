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
from qconvert.model.tokenizers.tokenizer import read_tokenizer

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


TOKENS = ("<s>", "</s>", "<|eot_id|>", "<|eom_id|>", "<|stop|>", "<|pause|>", "<fim_prefix>")
IDS = {text: 256 + number for number, text in enumerate(TOKENS)}


def tokenizer_json(*texts: str, **changes: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json with those special tokens from id 256 on, and one merge."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": 256 + number, "content": text, **flags, "special": True}
        for number, text in enumerate(texts)
    ]
    vocabulary = {text: byte for byte, text in byte_spelling().items()}
    for text in [*texts, "hi"]:
        vocabulary[text] = len(vocabulary)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": True},
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["h", "i"]]},
    } | changes


def template(before: list[str], after: list[str], ids: dict[str, int]) -> dict[str, Any]:
    def token(text: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": text, "type_id": 0}}

    def sequence(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    single = [*map(token, before), sequence("A"), *map(token, after)]
    tokens = {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in ids}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, sequence("B")],
        "special_tokens": tokens,
    }


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


def tokenizer_metadata(
    path: Path, config: Mapping[str, Any], architecture: str = "llama"
) -> Metadata:
    """The `tokenizer.*` keys of a directory."""
    return read_tokenizer(path, config, architecture).metadata


def ids_of(directory: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = tokenizer_metadata(directory, config or {}, "llama")
    return {
        key.removeprefix("tokenizer.ggml.").removesuffix("_token_id"): field.value
        for key, field in metadata.items()
        if key.endswith(("_token_id", "add_bos_token", "add_eos_token"))
    }


def auto_tokenizer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path)


@contextmanager
def llama_vocabulary(metadata: Metadata, path: Path, architecture: str = "llama") -> Iterator[Any]:
    """llama.cpp's vocabulary of those keys."""
    import llama_cpp

    write_vocabulary(metadata, path, architecture)
    silence_llama()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, "llama.cpp refuses the vocabulary"
    try:
        yield llama_cpp.llama_model_get_vocab(model)
    finally:
        llama_cpp.llama_model_free(model)


@contextmanager
def llama_tokenizer(metadata: Metadata, path: Path, architecture: str = "llama") -> Iterator[Any]:
    """A function from text to llama.cpp's ids, with special tokens added and recognised."""
    import llama_cpp

    def ids(text: str, add_special: bool = True) -> list[int]:
        data = text.encode()
        space = (ctypes.c_int32 * (len(data) + 16))()
        count = llama_cpp.llama_tokenize(
            vocabulary, data, len(data), space, len(space), add_special, True
        )
        assert count >= 0
        return list(space[:count])

    with llama_vocabulary(metadata, path, architecture) as vocabulary:
        yield ids


def llama_ends(metadata: Metadata, path: Path) -> set[int]:
    """The ids at which llama.cpp ends a generation."""
    import llama_cpp

    with llama_vocabulary(metadata, path) as vocabulary:
        count = llama_cpp.llama_vocab_n_tokens(vocabulary)
        return {n for n in range(count) if llama_cpp.llama_vocab_is_eog(vocabulary, n)}


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
