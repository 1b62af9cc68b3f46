"""Added tokens have the ids that transformers gives them, whatever ids the files state."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from gguf import TokenType
from tokenizer_oracles import (
    auto_tokenizer,
    byte_spelling,
    llama_tokenizer,
    save,
    tokenizer_json,
    tokenizer_metadata,
    train_sentencepiece,
)

TEXTS = [f"<|{letter}|>" for letter in "abcdefghij"] + ["<s>", "</s>", "hi", "!"]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


def entry(draw: random.Random, text: str) -> dict[str, Any]:
    return {"content": text, **FLAGS, "special": draw.random() < 0.5}


def random_directory(path: Path, draw: random.Random) -> Path:
    """Added tokens that contradict each other, in all the files that can hold some."""

    def often(chance: float) -> bool:
        return draw.random() < chance

    def some(most: int) -> list[str]:
        return draw.sample(TEXTS, draw.randint(0, most))

    def number() -> int:
        return draw.randint(0, 275)

    tokenizer = tokenizer_json(*draw.sample(["<s>", "</s>", "<|a|>", "<|b|>"], draw.randint(0, 4)))
    if often(0.5):
        tokenizer["added_tokens"] = []
    tokenizer["added_tokens"] += [{"id": number(), **entry(draw, text)} for text in some(4)]
    config: dict[str, Any] = {}
    if often(0.5):
        decoder = {str(number()): entry(draw, text) for text in some(4)}
        config["added_tokens_decoder"] = decoder
    config |= {f"{name}_token": draw.choice(TEXTS) for name in NAMES if often(0.3)}
    if often(0.2):
        config["image_token"] = draw.choice(TEXTS)
    if often(0.3):
        config["additional_special_tokens"] = some(3)
    if often(0.3):
        config["extra_special_tokens"] = draw.choice([some(3), {"video_token": "<|j|>"}])
    save(path, tokenizer, config)
    if often(0.4):
        older = {text: number() for text in some(3)}
        (path / "added_tokens.json").write_text(json.dumps(older))
    if often(0.3):
        names = {"eos_token": draw.choice(TEXTS), "pad_token": {"content": draw.choice(TEXTS)}}
        (path / "special_tokens_map.json").write_text(json.dumps(names))
    return path


@pytest.mark.parametrize("seed", range(60))
def test_every_text_has_the_id_that_transformers_gives_it(seed: int, tmp_path: Path) -> None:
    directory = random_directory(tmp_path / "model", random.Random(seed))
    theirs = auto_tokenizer(directory)
    expected = {number: text for text, number in theirs.get_vocab().items()}
    metadata = tokenizer_metadata(directory, {"vocab_size": max(expected) + 4})
    tokens = metadata["tokenizer.ggml.tokens"].value
    types = metadata["tokenizer.ggml.token_type"].value
    used = {number: text for number, text in enumerate(tokens) if types[number] != TokenType.UNUSED}
    assert used == expected
    for name in ("bos", "eos"):
        theirs_id = getattr(theirs, f"{name}_token_id")
        if theirs_id is not None:
            assert metadata[f"tokenizer.ggml.{name}_token_id"].value == theirs_id
    # llama.cpp looks for "</s>" even where it is a token like others.
    text = " ".join(text for text in TEXTS if text != "</s>")
    with llama_tokenizer(metadata, tmp_path / "v.gguf") as ids:
        assert ids(text, False) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("files", ["json", "decoder", "older"])
def test_the_same_text_under_two_ids_keeps_the_one_in_use(files: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_json("<s>", "</s>", "<|x|>")
    config: dict[str, Any] = {"eos_token": "</s>"}
    token = {"content": "<|x|>", **FLAGS, "special": True}
    if files == "json":
        tokenizer["added_tokens"].append({"id": 300, **token})
    elif files == "decoder":
        config["added_tokens_decoder"] = {"300": token}
    directory = save(tmp_path / "model", tokenizer, config)
    if files == "older":
        (directory / "added_tokens.json").write_text(json.dumps({"<|x|>": 300}))
    expected = auto_tokenizer(directory)("hi<|x|>")["input_ids"]
    metadata = tokenizer_metadata(directory, {"vocab_size": 301})
    assert metadata["tokenizer.ggml.tokens"].value[300] == "[PAD300]"
    with llama_tokenizer(metadata, tmp_path / "v.gguf") as ids:
        assert ids("hi<|x|>") == expected == [259, 258]


def test_a_vocab_json_s_added_tokens_follow_it(tmp_path: Path) -> None:
    vocabulary = {text: byte for byte, text in byte_spelling().items()} | {"hi": 256}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh i\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|b|>": 300, "<|a|>": 290, "hi": 5}))
    names = {f"{name}_token": "<|end|>" for name in ("bos", "eos", "unk")}
    config = {"tokenizer_class": "GPT2Tokenizer", **names}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    text = "hi<|a|><|b|><|end|>"
    metadata = tokenizer_metadata(tmp_path, {})
    with llama_tokenizer(metadata, tmp_path / "v.gguf") as ids:
        assert ids(text) == auto_tokenizer(tmp_path)(text)["input_ids"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_piece_that_comes_twice_keeps_the_id_in_use(kind: str, tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    settings = {"bpe": {"byte_fallback": True, "normalization_rule_name": "identity"}}
    train_sentencepiece(tmp_path, kind, vocab_size=600, **settings.get(kind, {}))
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((tmp_path / "tokenizer.model").read_bytes())
    piece = next(piece for piece in model.pieces[400:] if len(piece.piece) > 1)
    model.pieces.add().CopyFrom(piece)
    (tmp_path / "tokenizer.model").write_bytes(model.SerializeToString())
    name = "LlamaTokenizer" if kind == "bpe" else "T5Tokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    number = auto_tokenizer(tmp_path).convert_tokens_to_ids(piece.piece)
    metadata = tokenizer_metadata(tmp_path, {"vocab_size": 700})
    assert metadata["tokenizer.ggml.tokens"].value.index(piece.piece) == number
