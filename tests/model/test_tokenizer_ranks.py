"""tiktoken's vocabularies: llama.cpp and transformers give the ids that tiktoken gives."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tokenizer_oracles import (
    TEXTS,
    byte_level_directory,
    byte_spelling,
    differences,
    tokenizer_metadata,
)

from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers import regexes
from qconvert.model.tokenizers.ranks import ranks_file, read_ranks
from qconvert.model.tokenizers.tokenizer import has_tokenizer
from qconvert.text.tokenizer import encode, load_tokenizer
from qconvert.text.tokenizer import has_tokenizer as has_any

CLASSES = {"TikTokenTokenizer": regexes.KIMI_K2, "HYTokenizer": regexes.QWEN2}
CANNOT = {
    "TikTokenTokenizer": {"upper_lower", "decomposed", "arabic_marks", "devanagari", "thai_khmer"}
}
"""What llama.cpp splits otherwise; see `test_tokenizer_bpe`."""

NAMED = {0: "[BOS]", 1: "[EOS]", 4: "<|im_end|>", 9: "<think>"}
"""By their place behind the ranks."""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes, int]:
    """Trained on the spot."""
    split = {"type": "Split", "pattern": {"Regex": regexes.QWEN2}, "behavior": "Isolated"}
    bare = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    steps = [{**split, "invert": False}, {**bare, "trim_offsets": True}]
    folder = byte_level_directory(
        tmp_path_factory.mktemp("trained"), {"type": "Sequence", "pretokenizers": steps}
    )
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    back = {letter: bytes([byte]) for byte, letter in byte_spelling().items()}
    made = [bytes([byte]) for byte in range(256)]
    made += [b"".join(map(back.__getitem__, "".join(pair))) for pair in model["merges"]]
    return {token: rank for rank, token in enumerate(dict.fromkeys(made))}


def write(folder: Path, ranks: dict[bytes, int], kind: str, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    name = "tiktoken.model" if kind == "TikTokenTokenizer" else "hy.tiktoken"
    lines = [f"{b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    (folder / name).write_text("\n".join(lines))
    added = {
        str(len(ranks) + place): {"content": text, "special": text != "<think>"}
        for place, text in NAMED.items()
    }
    config = {"tokenizer_class": kind, "added_tokens_decoder": added, "auto_map": {"x": "y.z"}}
    named = {"bos_token": "[BOS]", "eos_token": "[EOS]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | named | settings))
    return folder


@pytest.mark.parametrize("kind", CLASSES)
def test_ids_are_those_of_tiktoken(kind: str, ranks: dict[bytes, int], tmp_path: Path) -> None:
    folder = write(tmp_path / "model", ranks, kind)
    assert has_tokenizer(folder)
    special = {text: len(ranks) + place for place, text in NAMED.items()}
    oracle = tiktoken.Encoding(
        "trained", pat_str=CLASSES[kind], mergeable_ranks=ranks, special_tokens=special
    )

    def ids(text: str) -> dict[str, list[int]]:
        return {"input_ids": oracle.encode(text, allowed_special="all")}

    more = {"special": "a[BOS]b <|im_end|> c<think>\nx"}
    found = differences(folder, tmp_path, more=more, tokenizer=ids)
    assert set(found) <= CANNOT.get(kind, set())
    config = {"architectures": ["X"]}
    checkpoint = Checkpoint("huggingface", "model", folder, config=config)
    assert has_any(checkpoint)
    texts = [*TEXTS.values(), *more.values()]
    for text, mine in zip(texts, encode(load_tokenizer(checkpoint), texts), strict=True):
        assert mine.tolist() == ids(text)["input_ids"]


def test_special_tokens_have_the_ids_that_are_stated(
    ranks: dict[bytes, int], tmp_path: Path
) -> None:
    """Kimi has 256 of them, named or not."""
    folder, first = write(tmp_path, ranks, "TikTokenTokenizer"), len(ranks)
    metadata = tokenizer_metadata(folder, {"vocab_size": first + 260}, "deepseek2")
    tokens = metadata["tokenizer.ggml.tokens"].value
    assert metadata["tokenizer.ggml.pre"].value == "kimi-k2"
    assert metadata["tokenizer.ggml.eos_token_id"].value == first + 1
    assert [tokens[first + place] for place in NAMED] == list(NAMED.values())
    assert tokens[first + 2] == f"<|reserved_token_{first + 2}|>"
    assert tokens[first + 255] == f"<|reserved_token_{first + 255}|>"
    assert tokens[first + 256] == f"[PAD{first + 256}]"


def test_a_class_that_is_not_known_is_refused(ranks: dict[bytes, int], tmp_path: Path) -> None:
    folder = write(tmp_path, ranks, "OtherTokenizer")
    with pytest.raises(UnsupportedError, match="OtherTokenizer"):
        tokenizer_metadata(folder, {}, "llama")
    write(tmp_path, ranks, "HYTokenizer", added_tokens_decoder={})
    with pytest.raises(UnsupportedError, match="in its own code"):
        tokenizer_metadata(folder, {}, "llama")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"IQ== 0\nIg== 2\n", "line 2"),
        (b"IQ== 0\nIQ== 1\n", "line 2"),
        (b"I 0\n", "line 1"),
        (b"IQ== zero\n", "line 1"),
        (b"IQ== 0\n", "single bytes"),
        (
            b"".join(b"%s %d\n" % (b64encode(bytes([b])), b) for b in range(256))
            + b64encode(b"a" * 30_000)
            + b" 256",
            "far too long",
        ),
    ],
)
def test_a_broken_file_is_refused(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "tiktoken.model").write_bytes(data)
    file = ranks_file(tmp_path)
    assert file is not None
    with pytest.raises(CheckpointError, match=words):
        read_ranks(file)
