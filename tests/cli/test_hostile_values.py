"""Values of the wrong kind, and places where nothing can be: a clear line, never a fault."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import finish_gguf
from gguf import GGUFValueType, GGUFWriter
from speaking_models import save_speaking_model

WORDS: dict[str, Any] = {
    "nested": ("x.nested", [[1, 2], [3]]),
    "a text for a number": ("llama.context_length", "many"),
    "a list for a number": ("llama.context_length", [1, 2]),
    "a number for a list": ("tokenizer.ggml.tokens", 7),
    "a number for a text": ("tokenizer.ggml.model", 7),
    "a count below zero": ("llama.block_count", -1),
    "a name that is a number": ("general.name", 3),
}


def write_gguf(path: Path, key: str, value: Any) -> Path:
    writer = GGUFWriter(path, "llama")
    pairs = {"llama.block_count": 1, "llama.context_length": 64, "tokenizer.ggml.model": "gpt2"}
    for name, one in (pairs | {key: value}).items():
        if isinstance(one, int):
            writer.add_key_value(name, one, GGUFValueType.INT32)
        else:
            kind = GGUFValueType.STRING if isinstance(one, str) else GGUFValueType.ARRAY
            writer.add_key_value(name, one, kind)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    return finish_gguf(writer, path)


def is_clear(done: Any) -> bool:
    """Done, or refused in a line."""
    assert "fault of qconvert" not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode == 0 or "error: " in done.stderr


@pytest.mark.parametrize("what", WORDS)
def test_a_gguf_files_values_may_be_of_any_kind(qconvert, tmp_path, what: str) -> None:
    file = write_gguf(tmp_path / "m.gguf", *WORDS[what])
    for command in (("inspect",), ("inspect", "--json"), ("export", "-o", tmp_path / "hf")):
        assert is_clear(qconvert(*command, file))
    assert is_clear(qconvert("quantize", file, "-t", "q8_0", "-o", tmp_path / "out.gguf"))


def test_nested_arrays_are_shown(qconvert, tmp_path) -> None:
    file = write_gguf(tmp_path / "m.gguf", *WORDS["nested"])
    assert json.loads(qconvert("inspect", file, "--json").stdout)
    assert "x.nested = [[1, 2], [3]]" in qconvert("inspect", file).stdout


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_speaking_model(tmp_path_factory.mktemp("s") / "m", "phi3")


VALUES: dict[str, dict[str, Any]] = {
    "negative id": {"eos_token_id": -5, "bos_token_id": 2**40},
    "ids": {"eos_token_id": [2**70, "x"]},
    "rotary": {"partial_rotary_factor": 2.0**70},
    "rope": {"rope_parameters": {"partial_rotary_factor": -3, "rope_type": {}}},
    "theta": {"rope_theta": 10**400},
    "segments": {"type_vocab_size": "two"},
    "vocabulary": {"vocab_size": 10**30},
    "nested": {"x": json.loads("[" * 200 + "]" * 200)},
}


@pytest.mark.parametrize("what", VALUES)
def test_a_configurations_values_may_be_of_any_kind(qconvert, speaking, tmp_path, what) -> None:
    model = shutil.copytree(speaking, tmp_path / "m")
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps(config | VALUES[what]))
    for kind in ("q8_0", "w8a16"):
        assert is_clear(qconvert("quantize", model, "-t", kind, "--dry-run", "-q"))


def unigram(score: Any) -> dict[str, Any]:
    return {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", score]]}}


TOKENIZERS: dict[str, dict[str, Any]] = {
    "score": unigram(10**400),
    "score that is a text": unigram("1"),
    "type": {"normalizer": {"type": {}}, **unigram(-1)},
    "types": {"normalizer": {"type": "Sequence", "normalizers": [{"type": []}]}},
    "splits": {"pre_tokenizer": {"type": ["Split"]}},
    "words": {"model": {"type": "WordPiece", "vocab": {"a": 0}}, "pre_tokenizer": {"type": {}}},
    "model": {"model": {"type": {}}},
    "processor": {"post_processor": {"type": {}}},
    "added": {"added_tokens": [{"id": 2**40, "content": "x"}]},
    "processors": {"post_processor": {"type": "Sequence", "processors": 3}},
}


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_tokenizers_values_may_be_of_any_kind(qconvert, speaking, tmp_path, what) -> None:
    model = shutil.copytree(speaking, tmp_path / "m")
    tokenizer = json.loads((model / "tokenizer.json").read_bytes())
    (model / "tokenizer.json").write_text(json.dumps(tokenizer | TOKENIZERS[what]))
    assert is_clear(qconvert("inspect", model))
    assert is_clear(qconvert("quantize", model, "-t", "q8_0", "--dry-run", "-q"))


def test_a_recipe_of_a_user_who_is_not_there(qconvert, model, tmp_path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("type: q8_0\noutput: ~nosuchuser/x.gguf\n")
    done = qconvert("quantize", model, "--recipe", recipe)
    assert is_clear(done)
    assert "begins with no user's name" in done.stderr


@pytest.mark.parametrize(
    "place", ["n" * 248 + ".gguf", "/proc/x.gguf", "/proc/self/y", "/dev/null/z"]
)
def test_where_nothing_can_be_written(qconvert, model, tmp_path, place: str) -> None:
    for kind in ("q8_0", "w8a16"):
        done = qconvert("quantize", model, "-t", kind, "-o", tmp_path / place)
        assert done.returncode in (1, 2)
        assert is_clear(done)
    done = qconvert("calibrate", model, "--data", __file__, "-o", tmp_path / place)
    assert is_clear(done)


def test_the_data_of_a_scalar_is_not_taken_for_an_array() -> None:
    from qconvert.checkpoint.metadata import u32
    from qconvert.errors import CheckpointError

    for value in (-1, 2**32, "3", None, float("nan"), 1.5):
        with pytest.raises(CheckpointError):
            u32(value)
    assert struct.pack("<I", u32(2**32 - 1).value)
