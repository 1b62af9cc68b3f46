"""Names under which training programs store a model, read as the model's own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from common import correlation, random_tokens, save_model, torch_logits, wrap_gemma3
from compressed_models import outputs, quantize_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.types import TensorInfo
from qconvert.checkpoint.wrappers import unwrapped
from qconvert.errors import CheckpointError
from qconvert.model.open import open_model

Rename = Callable[[str], str]

WRAPPED: dict[str, Rename] = {
    "_orig_mod.": lambda name: "_orig_mod." + name,
    "module.": lambda name: "module." + name,
    "module._orig_mod.": lambda name: "module._orig_mod." + name,
    "base_model.model.": lambda name: "base_model.model." + name,
    "one of its own": lambda name: "policy." + name,
    "compiled layers": lambda name: name.replace(".self_attn.", "._orig_mod.self_attn."),
    "the text model of a multimodal one": lambda name: name.replace(
        "model.", "model.language_model.", 1
    ),
    "the same in the older way": lambda name: "language_model." + name,
}


def wrap(path: Path, rename: Rename) -> None:
    file = path / "model.safetensors"
    renamed = {rename(name): tensor for name, tensor in load_file(file).items()}
    save_file(renamed, file, {"format": "pt"})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_the_model_is_what_it_is_without_them(wrapper: str, tied: bool, tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model", tied=tied)
    plain = open_checkpoint(str(tmp_path / "model"))
    wrap(tmp_path / "model", WRAPPED[wrapper])
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    assert set(checkpoint.tensors) == set(plain.tensors)
    assert len(open_model(checkpoint).tensors) == len(open_model(plain).tensors)
    assert "are read without" in open_model(checkpoint).notices[0]
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w8a16")
    assert any("are read without" in notice for notice in plan.notices)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = random_tokens()
    assert correlation(torch_logits(model, tokens), outputs(loaded, tokens)) > 0.999


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "gemma3"])
@pytest.mark.parametrize("part", ["", "base"])
def test_names_of_a_model_stay_as_they_are(family: str, part: str, tmp_path: Path) -> None:
    model = save_model(family, tmp_path / "model", tied=True)
    if part and family != "bert":
        model.base_model.save_pretrained(tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    checkpoint = open_checkpoint(str(tmp_path / "model"))
    assert set(checkpoint.tensors) == set(stored)
    assert checkpoint.notices == ()


OTHERS = {
    "MambaForCausalLM": ["backbone.embeddings.weight", "backbone.layers.0.norm.weight"],
    "GPTNeoXForCausalLM": ["gpt_neox.embed_in.weight", "embed_out.weight"],
    "GPTNeoXModel": ["gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"],
    "DistilBertForMaskedLM": ["distilbert.embeddings.LayerNorm.weight", "vocab_projector.bias"],
    "DistilBertModel": ["distilbert.embeddings.LayerNorm.weight", "distilbert.transformer.x"],
    "RobertaModel": ["roberta.embeddings.LayerNorm.weight", "roberta.encoder.layer.0.x"],
}
"""Some names of classes that call their trunk otherwise."""


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "base_model.model.", "policy."])
def test_trunks_of_other_names(name: str, prefix: str) -> None:
    names = OTHERS[name]
    stored = [TensorInfo(prefix + one, (1,), "F32", Path("m"), 0, 4) for one in names]
    found, told = unwrapped({info.name: info for info in stored}, {})
    assert list(found) == names
    assert bool(told) == bool(prefix)


def test_two_models_in_one_file_are_refused(tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    compiled = {"_orig_mod." + name: tensor.clone() for name, tensor in stored.items()}
    save_file(stored | compiled, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="two tensors have one name"):
        open_checkpoint(str(tmp_path))


def test_a_multimodal_class_keeps_its_names(tmp_path: Path) -> None:
    save_model("gemma3", tmp_path)
    wrap(tmp_path, lambda name: name.replace("model.", "model.language_model.", 1))
    wrap_gemma3(tmp_path)
    names = set(open_checkpoint(str(tmp_path)).tensors)
    assert "model.language_model.embed_tokens.weight" in names
