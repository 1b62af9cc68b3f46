"""Directories whose inputs are rounded, as transformers runs them."""

from pathlib import Path

import numpy as np
import pytest
from common import random_tokens, save_model
from compressed_models import outputs, quantize_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, UnsupportedError, WeightError
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.evaluation.runtimes.whole import TransformersRuntime
from qconvert.text.perplexity_windows import make_windows
from qconvert.text.types import Windows

COUNT, WINDOW = 2, 40
SMALL = {"wide": True, "num_hidden_layers": 2}


def windows() -> Windows:
    tokens = np.array(random_tokens(COUNT * WINDOW), np.int32).reshape(COUNT, WINDOW)
    return make_windows(tokens, "random")


def computed(path: Path) -> np.ndarray:
    runtime = TransformersRuntime(path, path.name, Settings(device="cpu"))
    return np.stack([logits.copy() for logits in runtime.logits(windows())])


@pytest.mark.parametrize("type_", ["w8a8", "fp8"])
def test_logits_are_those_of_the_loaded_model(type_: str, tmp_path: Path, capfd):
    import transformers

    save_model("qwen3", tmp_path / "model", **SMALL)
    quantize_model(tmp_path / "model", tmp_path / "out", type_)
    capfd.readouterr()
    made = computed(tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="float32")
    expected = [outputs(model, tokens)[WINDOW // 2 : -1] for tokens in windows().tokens.tolist()]
    assert np.array_equal(made, np.stack(expected))
    weights_alone = TorchRuntime(open_checkpoint(str(tmp_path / "out")), Settings(device="cpu"))
    unrounded = np.stack([logits.copy() for logits in weights_alone.logits(windows())])
    assert np.abs(made - unrounded).max() > 0.01
    assert np.corrcoef(made.ravel(), unrounded.ravel())[0, 1] > 0.99


def test_what_transformers_does_not_load_is_one_line(tmp_path: Path):
    save_model("gpt2", tmp_path / "out", n_layer=1)
    (tmp_path / "out" / "model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{\n\n\n\n\n}")
    with pytest.raises(CheckpointError, match="transformers cannot load out: ") as caught:
        computed(tmp_path / "out")
    assert "\n" not in caught.value.message
    assert "--backend torch" in caught.value.hint


def test_what_transformers_computes_wrongly_is_refused(tmp_path: Path):
    save_model("gpt2", tmp_path / "model", n_layer=1)
    quantize_model(tmp_path / "model", tmp_path / "out", "w8a8")
    with pytest.raises(UnsupportedError, match=r"^out: transformers .* cannot run it: ") as caught:
        computed(tmp_path / "out")
    assert "\n" not in caught.value.message
    assert "--backend torch" in caught.value.hint


def test_a_directory_that_lacks_weights_is_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    save_model("llama", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model: it lacks model.layers.1.mlp.up_proj.weight"):
        computed(tmp_path / "model")


def test_nan_is_refused_and_the_window_named(tmp_path: Path):
    import torch
    from safetensors.torch import load_file, save_file

    save_model("llama", tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightError, match=r"model gives logits that are NaN .* in window 1"):
        computed(tmp_path / "model")
