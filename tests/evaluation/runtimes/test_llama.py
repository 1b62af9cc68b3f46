"""Logits of llama.cpp, against transformers and against llama.cpp asked directly."""

import sys
from pathlib import Path

import numpy as np
import pytest
from common import convert_model, llama_context, random_tokens, save_model, torch_logits
from gguf import GGUFWriter

from qconvert.errors import CheckpointError, UsageError, WeightError
from qconvert.evaluation.runtimes.llama import LlamaRuntime
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.text.perplexity_windows import make_windows
from qconvert.text.types import Windows

COUNT, WINDOW = 3, 40
FIRST = WINDOW // 2


def windows(highest: int = 323) -> Windows:
    tokens = random_tokens(COUNT * WINDOW, highest)
    return make_windows(np.array(tokens, np.int32).reshape(COUNT, WINDOW), "random")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_model("llama", folder / "model")
    convert_model(folder / "model", folder / "f32.gguf", "f32")
    convert_model(folder / "model", folder / "q5_0.gguf", "q5_0")
    return folder


def computed(path: Path, **settings) -> np.ndarray:
    runtime = LlamaRuntime(path, Settings(**settings))
    return np.stack([logits.copy() for logits in runtime.logits(windows())])


def asked_directly(path: Path, tokens: np.ndarray) -> np.ndarray:
    """All logits of one window, float32 [window, vocabulary], by llama.cpp's defaults."""
    import llama_cpp

    defaults = {
        "type_k": llama_cpp.GGML_TYPE_F16,
        "type_v": llama_cpp.GGML_TYPE_F16,
        "flash_attn_type": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    }
    with llama_context(path, len(tokens), **defaults) as (_, context):
        found = []
        for position, token in enumerate(tokens.tolist()):  # one by one, as when it answers
            batch = llama_cpp.llama_batch_get_one((llama_cpp.llama_token * 1)(token), 1)
            assert llama_cpp.llama_decode(context, batch) == 0, position
            pointer = llama_cpp.llama_get_logits_ith(context, -1)
            found.append(np.ctypeslib.as_array(pointer, (323,)).copy())
    return np.stack(found)


def test_they_predict_what_the_original_predicts(files):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(files / "model")
    made = computed(files / "f32.gguf", threads=2)
    assert made.shape == (COUNT, WINDOW - 1 - FIRST, 323)
    assert made.dtype == np.float32
    for logits, tokens in zip(made, windows().tokens.tolist(), strict=True):
        expected = torch_logits(model, tokens)[FIRST:-1]
        # Keys and values are in float16, whose numbers have 11 bits.
        assert np.abs(logits - expected).max() < 2**-8 * np.abs(expected).max()


def test_they_are_those_that_llama_cpp_gives_token_by_token(files):
    made = computed(files / "q5_0.gguf", threads=1)
    expected = asked_directly(files / "q5_0.gguf", windows().tokens[1])[FIRST:-1]
    assert np.abs(made[1] - expected).max() < 2**-8 * np.abs(expected).max()
    assert (made[1].argmax(1) == expected.argmax(1)).all()


def test_windows_do_not_see_each_other(files):
    runtime = LlamaRuntime(files / "f32.gguf", Settings(threads=1))
    alone = make_windows(windows().tokens[2:], "one")
    assert np.array_equal(next(runtime.logits(alone)), computed(files / "f32.gguf", threads=1)[2])


def test_two_files_can_be_asked_in_turns(files, capfd):
    pair = [LlamaRuntime(files / name).logits(windows()) for name in ("f32.gguf", "q5_0.gguf")]
    found = [[logits.copy() for logits in both] for both in zip(*pair, strict=True)]
    assert len(found) == COUNT
    assert all(not np.array_equal(one, other) for one, other in found)
    assert capfd.readouterr() == ("", "")


def test_an_unknown_architecture_is_named(tmp_path):
    writer = GGUFWriter(tmp_path / "new.gguf", "not-yet-known")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"cannot load .*new.gguf: .*not-yet-known"):
        next(LlamaRuntime(tmp_path / "new.gguf").logits(windows()))


def test_a_damaged_file_is_refused_with_a_reason(files, tmp_path):
    data = (files / "f32.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cannot load .*cut.gguf: \S+"):
        next(LlamaRuntime(tmp_path / "cut.gguf").logits(windows()))


def test_tokens_that_the_file_does_not_have_are_refused(files):
    with pytest.raises(CheckpointError, match=r"f32.gguf has 323 tokens, and the text has token"):
        next(LlamaRuntime(files / "f32.gguf").logits(windows(highest=400)))


def test_nan_is_refused_and_the_window_named(files, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_bytes((files / "model/config.json").read_bytes())
    tensors = load_file(files / "model" / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], 3e38)
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    convert_model(tmp_path / "model", tmp_path / "large.gguf", "f32")
    with pytest.raises(WeightError, match=r"large.gguf gives logits that are NaN .* in window 1"):
        computed(tmp_path / "large.gguf")


def test_where_llama_cpp_is_missing_the_hint_installs_it(files, monkeypatch):
    for module in ("llama_cpp", "xllamacpp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as caught:
        LlamaRuntime(files / "f32.gguf")
    assert "not installed" in caught.value.message
    assert "pip install" in caught.value.hint
