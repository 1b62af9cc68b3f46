"""Windows, against llama.cpp's tokenizer and the way llama-perplexity cuts."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from common import llama_context
from speaking_models import PROSE, convert_speaking_model, save_speaking_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, UsageError
from qconvert.text import perplexity_windows as module
from qconvert.text.perplexity_windows import read_windows
from qconvert.text.tokenizer import load_tokenizer

BOS = "<|begin|>"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_speaking_model(tmp_path_factory.mktemp("windows") / "model")


@pytest.fixture(scope="module")
def without_bos(tmp_path_factory) -> Path:
    return save_speaking_model(tmp_path_factory.mktemp("windows") / "plain", before=None)


@pytest.fixture
def write(tmp_path):
    def make(name: str, text: str) -> str:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return str(path)

    return make


def as_llama_perplexity(gguf: Path, text: str, window: int) -> np.ndarray:
    """tools/perplexity: tokenize with BOS, cut, and begin each window with BOS."""
    import llama_cpp

    if text.endswith("\n"):
        text = text[:-1]
    with llama_context(gguf, 8) as (opened, _):
        vocabulary = llama_cpp.llama_model_get_vocab(opened)
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), True, False)
        rows = np.array(room[: count // window * window], np.int32).reshape(-1, window)
        if llama_cpp.llama_vocab_get_add_bos(vocabulary):
            rows[:, 0] = llama_cpp.llama_vocab_bos(vocabulary)
    return rows


@pytest.mark.parametrize("text", [PROSE * 4, PROSE * 2 + f"{BOS} <|end|> spelled out\n\n" + PROSE])
@pytest.mark.parametrize("bos", [True, False])
def test_windows_are_those_of_llama_perplexity(bos, text, model, without_bos, write):
    path = model if bos else without_bos
    made = read_windows(open_checkpoint(str(path)), write("notes.txt", text), None, 32)
    expected = as_llama_perplexity(convert_speaking_model(path), text, 32)
    assert len(expected) > 3
    assert made.tokens.dtype == np.int32
    assert np.array_equal(made.tokens, expected)
    begin = load_tokenizer(open_checkpoint(str(path))).before
    assert (made.tokens[:, 0] == begin).all() if bos else not begin
    assert made.data == "notes.txt"


def test_scored_tokens_are_those_behind_the_middle(model, write):
    made = read_windows(open_checkpoint(str(model)), write("a.txt", PROSE * 3), None, 32)
    assert made.first == 16
    assert np.array_equal(made.targets, made.tokens[:, 17:])
    assert made.scored == 15 * len(made.tokens)


def test_the_first_tokens_are_taken_whether_or_not_all_is_read(model, write, monkeypatch):
    checkpoint = open_checkpoint(str(model))
    path = write("long.md", PROSE * 200)
    whole = read_windows(checkpoint, path, None, 32)
    some = read_windows(checkpoint, path, 100, 32)
    monkeypatch.setattr(module, "LEAST_TEXT", 1)
    few = read_windows(checkpoint, path, 100, 32)
    assert some.tokens.shape == few.tokens.shape == (3, 32)
    assert np.array_equal(some.tokens, whole.tokens[:3])
    assert np.array_equal(few.tokens, whole.tokens[:3])
    assert some.digest == few.digest != whole.digest


def test_documents_follow_each_other_with_the_end_of_text_between(model, write):
    checkpoint = open_checkpoint(str(model))
    texts = [f"{number}: {PROSE}" for number in range(5)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    made = read_windows(checkpoint, write("rows.jsonl", lines), None, 32)
    tokenizer = load_tokenizer(checkpoint)
    stream = list(tokenizer.before)
    for text in texts:
        stream += tokenizer.inner(text, add_special_tokens=False)["input_ids"]
        stream += tokenizer.between
    expected = np.array(stream[: len(stream) // 32 * 32]).reshape(-1, 32)
    expected[:, 0] = tokenizer.before[0]
    assert np.array_equal(made.tokens, expected)
    assert made.data == "rows.jsonl"
    assert made.texts == tuple(texts)


def test_standard_input_is_a_text(model, write, monkeypatch):
    checkpoint = open_checkpoint(str(model))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((PROSE * 2).encode())))
    made = read_windows(checkpoint, "-", None, 32)
    assert made.digest == read_windows(checkpoint, write("a.txt", PROSE * 2), None, 32).digest
    assert made.data == "standard input"


def test_the_model_can_write_the_text_itself(model):
    checkpoint = open_checkpoint(str(model))
    made = [read_windows(checkpoint, "self", 64, 16) for _ in range(2)]
    assert made[0].tokens.shape == (4, 16)
    assert made[0].digest == made[1].digest
    assert made[0].texts == ()


@pytest.mark.parametrize(
    ("data", "tokens", "window", "error", "words", "hint"),
    [
        ("short", None, 256, CheckpointError, "tokens do not fill a window of 256", "--window"),
        ("text", 31, 32, UsageError, "--tokens 31", "more tokens"),
        ("text", None, 33, UsageError, "even number", "--window"),
        ("text", None, 6, UsageError, "8 at least", "--window"),
        ("text", None, 1024, UsageError, "longest text, 512", "--window 512"),
        ("text:3", None, 32, UsageError, "no weight", ""),
        ("absent.txt", None, 32, CheckpointError, "no such file", "known"),
    ],
)
def test_what_cannot_be_done_is_said(data, tokens, window, error, words, hint, model, write):
    names = {"short": write("short.txt", "A few words."), "text": write("a.txt", PROSE)}
    names["text:3"] = names["text"] + ":3"
    with pytest.raises(error) as caught:
        read_windows(open_checkpoint(str(model)), names.get(data, data), tokens, window)
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_how_many_tokens_a_short_text_has_is_said(model, write):
    path = write("short.txt", "A few words.")
    count = len(load_tokenizer(open_checkpoint(str(model))).inner("A few words.")["input_ids"])
    with pytest.raises(CheckpointError, match=f"short.txt is too short: its {count} tokens"):
        read_windows(open_checkpoint(str(model)), path)


def test_a_model_without_a_tokenizer_reads_no_text(tmp_path, model, write):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        shutil.copy(model / name, tmp_path / "bare" / name)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        read_windows(open_checkpoint(str(tmp_path / "bare")), write("a.txt", PROSE), None, 32)
