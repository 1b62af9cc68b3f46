"""Files whose tokens are others than the original's."""

import json
import re
import shutil

import pytest
from speaking_models import PROSE, convert_speaking_model, save_speaking_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError
from qconvert.evaluation.runtimes.tokenizer_check import tokenizer_check
from qconvert.text.perplexity_windows import read_windows


def test_the_same_tokenizer_passes_in_either_container(model, write):
    reference = open_checkpoint(str(model))
    file = open_checkpoint(str(convert_speaking_model(model)))
    made = read_windows(reference, write("a.txt", PROSE), None, 32)
    assert tokenizer_check(made, reference)(reference) == ()
    assert tokenizer_check(made, reference)(file) == ()
    assert tokenizer_check(made, file)(reference) == ()


def test_a_file_that_begins_texts_otherwise_is_refused(model, without_bos, write):
    reference = open_checkpoint(str(model))
    made = read_windows(reference, write("a.txt", PROSE), None, 32)
    with pytest.raises(CheckpointError, match=r"begins a text with nothing, not '<\|begin\|>' \("):
        tokenizer_check(made, reference)(open_checkpoint(str(without_bos)))


def test_the_first_token_that_differs_is_named(tmp_path, model, write):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = (token for token in vocabulary if token in ("h", "x"))
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(content))
    reference = open_checkpoint(str(model))
    made = read_windows(reference, write("a.txt", f"q\u00e9h{PROSE}"), None, 32)
    swapped = re.escape(f"token 2 of the text is 'h' ({vocabulary['h']}), not 'h' (")
    with pytest.raises(CheckpointError, match=swapped):
        tokenizer_check(made, reference)(open_checkpoint(str(other)))


def test_another_number_of_tokens_is_refused(tmp_path, model, write):
    other = save_speaking_model(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 1600}))
    reference = open_checkpoint(str(model))
    made = read_windows(reference, write("a.txt", PROSE), None, 32)
    with pytest.raises(CheckpointError, match="has 1600 tokens, and the reference has 1504"):
        tokenizer_check(made, reference)(open_checkpoint(str(other)))


def test_a_file_without_a_tokenizer_gets_a_notice(tmp_path, model, write):
    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(model / name, tmp_path / "bare" / name)
    reference = open_checkpoint(str(model))
    made = read_windows(reference, write("a.txt", PROSE), None, 32)
    (notice,) = tokenizer_check(made, reference)(open_checkpoint(str(tmp_path / "bare")))
    assert "no tokenizer of its own" in notice
