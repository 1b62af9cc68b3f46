"""Tokenizers made to hang, to panic or to eat memory: one clear line, at once."""

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from speaking_models import save_speaking_model
from tokenizer_oracles import tokenizer_metadata

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.tokenizers.export_kinds import MOST_CHARACTERS, merges_by_score
from qconvert.model.tokenizers.stored import Stored
from qconvert.text import tokenizer
from qconvert.text.tokenizer import encode, load_tokenizer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_speaking_model(tmp_path / "m")


def edit(model: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = model / "tokenizer.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def refused_at_once(model: Path) -> str:
    start = time.monotonic()
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        encode(load_tokenizer(open_checkpoint(str(model))), ["a " * 40 + "!"])
    assert time.monotonic() - start < 20
    assert caught.value.message.isprintable()
    return caught.value.message


def test_merges_that_double_a_token_take_no_time(model: Path) -> None:
    def double(value: dict[str, Any]) -> None:
        vocabulary, merges, piece = value["model"]["vocab"], value["model"]["merges"], "a"
        for _ in range(15):
            merges.append([piece, piece])
            piece += piece
            vocabulary[piece] = len(vocabulary) + 9
        value["model"]["ignore_merges"] = True  # the merges are then held against llama.cpp's

    edit(model, double)
    start = time.monotonic()
    tokenizer_metadata(model, {}, "llama")
    assert time.monotonic() - start < 5


def test_ids_far_apart_are_not_filled_up(model: Path) -> None:
    edit(model, lambda value: value["model"]["vocab"].update(far=(1 << 24) - 1))
    with pytest.raises(CheckpointError, match="an id 16777215"):
        tokenizer_metadata(model, {}, "llama")


def test_every_cut_of_every_token_is_looked_at_only_where_there_are_few() -> None:
    count = MOST_CHARACTERS // 1024 + 1
    tokens = [f"{number:01024}" for number in range(count)]
    stored = Stored("llama", "", tokens, [1] * count, [0.0] * count, [], {}, True, False, {})
    with pytest.raises(CheckpointError, match="characters"):
        merges_by_score(stored, {})


def unigram(normalizer: Any, score: Any = -1.0) -> Callable[[dict[str, Any]], None]:
    def change(value: dict[str, Any]) -> None:
        pieces = [["<unk>", 0.0], ["a", score], ["\u2581", -2.0]]
        value["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces}
        value["normalizer"], value["pre_tokenizer"] = normalizer, None
        value["added_tokens"], value["post_processor"] = [], None

    return change


def precompiled(data: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": b64encode(data).decode()}


def test_a_short_normalization_that_says_it_has_gigabytes_is_refused(model: Path) -> None:
    edit(model, unigram(precompiled(b"\xfc\xff\xff\xff" + bytes(8))))
    assert "cut short" in refused_at_once(model)


def test_a_panic_of_the_library_is_one_line(model: Path) -> None:
    wild = b"\xff\xff\xff\x3f" * 256  # a trie whose every step leads out of it
    edit(model, unigram(precompiled(len(wild).to_bytes(4, "little") + wild)))
    assert "cannot be loaded" in refused_at_once(model)


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def test_an_expression_that_never_ends_is_given_up(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edit(model, lambda value: value.update(pre_tokenizer=split(r"(\w|\w\w)+$")))
    assert "cannot be loaded" in refused_at_once(model)
    assert "panicked" not in capfd.readouterr().err


SLOW = {"type": "Replace", "pattern": {"Regex": "(a+)b"}, "content": ""}
"""Takes the square of a run's length: of a line nothing is seen yet."""


def test_a_long_text_is_given_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(model, lambda value: value.update(pre_tokenizer=split("(a+)b")))
    loaded = load_tokenizer(open_checkpoint(str(model)))
    monkeypatch.setattr(tokenizer, "FIRST", 0.2)
    monkeypatch.setattr(tokenizer, "EACH", 0)
    start = time.process_time()
    with pytest.raises(CheckpointError, match="seconds of computing for 40,000 characters") as one:
        encode(loaded, ["a" * 40_000])
    assert time.process_time() - start < 2
    assert one.value.hint


def test_loading_is_given_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(value: dict[str, Any]) -> None:
        value["normalizer"] = SLOW
        token = dict(value["added_tokens"][0], id=len(value["model"]["vocab"]) + 9)
        value["added_tokens"].append({**token, "content": "a" * 1_000_000, "normalized": True})

    edit(model, change)
    monkeypatch.setattr(tokenizer, "LOADING", 0.5)
    assert "to load" in refused_at_once(model)


def test_a_text_is_not_made_a_million_times_longer(model: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}
    edit(model, lambda v: v.update(normalizer={"type": "Sequence", "normalizers": [step] * 9}))
    assert "too long" in refused_at_once(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "tokenizer.model", "README.md"])
def test_no_pipe_is_waited_for(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert "not a regular file" in refused_at_once(model)
