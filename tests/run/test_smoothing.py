"""Inputs that llama.cpp rounds, divided in the norm in front of them: llama.cpp itself says what
that gains, and transformers that the model's function stays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import run_capture
from common import llama_logits, random_tokens, save_model
from gguf import GGUFReader
from sampled_models import SAMPLE, divergence, quantized

from qconvert.plan.recipe import Recipe
from qconvert.run import by_block

LARGE = (7, 100, 200)
"""Channels behind the norms that are many times larger than the others."""

NORMS = {
    "llama": ("input_layernorm", "post_attention_layernorm"),
    "gpt2": ("ln_1", "ln_2"),
}
READERS = {
    "llama": ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"),
    "gpt2": ("c_attn", "c_fc"),
}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def massive(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose norms make a few channels large, and whose weights make up for that; with what
    `quantized` takes."""
    folder = tmp_path_factory.mktemp("massive")
    model = save_model(request.param, folder / "model", wide=True)
    with torch.no_grad():
        for name, module in model.named_modules():
            kind = name.rpartition(".")[2]
            if kind in NORMS[request.param]:
                for values in module.parameters():
                    values[list(LARGE)] *= 50
            elif kind in READERS[request.param] and ".mlp.c_proj" not in name:
                columns = module.weight if request.param == "gpt2" else module.weight.T
                columns[list(LARGE)] /= 50
    model.save_pretrained(folder / "model")
    run_capture(folder / "model", folder / "calib.safetensors", sample=SAMPLE)
    return lambda family: (model, folder / "model", folder / "calib.safetensors")


@pytest.fixture(scope="module")
def divided(massive: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in Q6_K, made in one go."""
    path = tmp_path_factory.mktemp("divided") / "whole.gguf"
    return quantized(massive, "", Recipe("q6_k", output=path))


def far(model: Any, path: Path) -> float:
    """Of what llama.cpp foretells from what the original does."""
    tokens = random_tokens(60, seed=5)
    with torch.no_grad():
        own = torch.log_softmax(model(torch.tensor([tokens])).logits[0].double(), -1)
    its = torch.log_softmax(torch.from_numpy(llama_logits(path, tokens)).double(), -1)
    return float((own.exp() * (own - its)).sum(-1).mean())


def norms(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: np.array(tensor.data)
        for tensor in GGUFReader(path).tensors
        if "_norm.weight" in tensor.name and "output" not in tensor.name
    }


def test_massive_channels_cost_little(
    massive: Any, divided: Path, tmp_path: Path, monkeypatch: Any
):
    model, path = massive("")[0], divided
    with monkeypatch.context() as patch:
        patch.setattr(by_block, "joint_of", lambda *args: None)
        without = quantized(massive, "", Recipe("q6_k", output=tmp_path / "without.gguf"))
    assert far(model, path) < 0.5 * far(model, without)
    made, whole = norms(path), norms(without)
    assert {*made} == {*whole}
    for name, values in made.items():
        ratio = np.abs(values / whole[name])
        assert (ratio[list(LARGE)] < 0.5 * np.median(ratio)).all(), name
    # What does not round its inputs finds the same model.
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    own, other = (divergence(model, *each) for each in zip((path, without), folders, strict=True))
    assert own < 1.1 * other + 1e-5


def test_an_interrupted_run_divides_alike(massive: Any, divided: Path, tmp_path: Path):
    from listening import Listening

    recipe = Recipe("q6_k", output=tmp_path / "out.gguf")
    with pytest.raises(KeyboardInterrupt):
        quantized(massive, "", recipe, Listening(3))
    assert quantized(massive, "", recipe).read_bytes() == divided.read_bytes()


def test_nothing_is_divided_where_nothing_rounds(massive: Any, tmp_path: Path):
    """Nor where one of the weights stays as it is."""
    path = quantized(
        massive, "", Recipe("q6_k", output=tmp_path / "x.gguf", keep=("blk.0.attn_*.weight",))
    )
    plain = quantized(massive, "", Recipe("q6_k", output=tmp_path / "y.gguf", feedback=False))
    name = "blk.0.attn_norm.weight"
    assert (norms(path)[name] == norms(plain)[name]).all()
    assert (norms(path)["blk.1.attn_norm.weight"] != norms(plain)["blk.1.attn_norm.weight"]).any()
