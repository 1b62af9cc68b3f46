"""A stored output projection counts, whatever config.json says of ties: transformers decides."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from common import FAMILIES, convert_model, random_tokens, save_model
from compressed_models import load_model, outputs, quantize_model, stored_arrays
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.model.open import open_model
from qconvert.text.types import Windows

CAUSAL = [family for family in FAMILIES if family != "bert"]
EMBEDDINGS = ("embed_tokens.weight", "wte.weight")


def write_head(path: Path, family: str, *, own: bool) -> torch.Tensor:
    """A model that calls itself tied and stores an output projection: its own, or the embedding."""
    save_model(family, path, tied=True)
    tensors = load_file(path / "model.safetensors")
    embedding = next(value for name, value in tensors.items() if name.endswith(EMBEDDINGS))
    head = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3)) * 0.1
    tensors["lm_head.weight"] = head if own else embedding.clone()
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert json.loads((path / "config.json").read_text())["tie_word_embeddings"]
    return tensors["lm_head.weight"]


@pytest.mark.parametrize("family", CAUSAL)
def test_an_output_of_its_own_is_what_every_side_computes_with(family: str, tmp_path: Path) -> None:
    head = write_head(tmp_path / "m", family, own=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype="float32", attn_implementation="eager"
    ).eval()
    assert torch.equal(model.lm_head.weight, head)  # or the rest would prove nothing
    tokens = random_tokens(24)
    expected = outputs(model, tokens)

    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    stored = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert np.array_equal(stored["output.weight"], head.numpy())

    quantize_model(tmp_path / "m", tmp_path / "q", "w8a16")
    assert np.array_equal(stored_arrays(tmp_path / "q")["lm_head.weight"], head.numpy())
    config = json.loads((tmp_path / "q/config.json").read_text())
    assert config["tie_word_embeddings"] is False

    windows = Windows(np.array([tokens], np.int32), "tokens", "0")
    first = windows.first
    for path in (tmp_path / "m", tmp_path / "m.gguf"):
        runtime = TorchRuntime(open_checkpoint(str(path)), Settings(device="cpu"))
        (found,) = runtime.logits(windows)
        assert found == pytest.approx(expected[first:-1], abs=2e-3), path


@pytest.mark.parametrize("family", CAUSAL)
def test_an_output_that_is_the_embedding_is_stored_once(family: str, tmp_path: Path) -> None:
    write_head(tmp_path / "m", family, own=False)
    model = open_model(open_checkpoint(str(tmp_path / "m")))
    assert ("output.weight" in model.shapes) == (family == "olmo2")  # which llama.cpp wants there
    assert "lm_head.weight" not in {weight.name for weight in model.weights}
    if family not in ("gpt2", "mixtral"):  # which transformers cannot load, tied or not
        quantize_model(tmp_path / "m", tmp_path / "q", "w8a16")
        assert load_model(tmp_path / "q").config.tie_word_embeddings


def write_only_head(path: Path, family: str) -> torch.Tensor:
    """A tied model whose embedding is stored under the name of the output projection."""
    save_model(family, path, tied=True)
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.endswith(EMBEDDINGS))
    tensors["lm_head.weight"] = tensors.pop(name)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return tensors["lm_head.weight"]


@pytest.mark.parametrize("family", CAUSAL)
def test_an_output_that_is_stored_alone_is_the_embedding(family: str, tmp_path: Path) -> None:
    head = write_only_head(tmp_path / "m", family)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", dtype="float32", attn_implementation="eager"
    ).eval()
    assert torch.equal(model.get_input_embeddings().weight, head)
    tokens = random_tokens(24)
    windows = Windows(np.array([tokens], np.int32), "tokens", "0")
    runtime = TorchRuntime(open_checkpoint(str(tmp_path / "m")), Settings(device="cpu"))
    (found,) = runtime.logits(windows)
    assert found == pytest.approx(outputs(model, tokens)[windows.first : -1], abs=2e-3)

    convert_model(tmp_path / "m", tmp_path / "m.gguf", "f32")
    stored = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert np.array_equal(stored["token_embd.weight"], head.numpy())
    assert ("output.weight" in stored) == (family == "olmo2")

    quantize_model(tmp_path / "m", tmp_path / "q", "w8a16")
    arrays = stored_arrays(tmp_path / "q")
    (name,) = (name for name in arrays if name.endswith(EMBEDDINGS))
    assert name in model.state_dict()
    assert np.array_equal(arrays[name], head.numpy())
    assert "lm_head.weight" not in arrays


@pytest.mark.parametrize("family", ["llama", "phi3", "granite"])
def test_a_lost_output_is_not_the_embedding_where_nothing_says_so(
    family: str, tmp_path: Path
) -> None:
    save_model(family, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(PlanError, match=r"no tensor lm_head\.weight"):
        open_model(open_checkpoint(str(tmp_path)))


def test_an_output_that_is_stored_alone_of_an_untied_model_is_refused(tmp_path: Path) -> None:
    write_only_head(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(PlanError, match=r"no tensor model\.embed_tokens\.weight"):
        open_model(open_checkpoint(str(tmp_path)))


@pytest.mark.parametrize("only_head", [False, True])
def test_an_index_may_promise_both_of_tied_tensors(only_head: bool, tmp_path: Path) -> None:
    if only_head:
        write_only_head(tmp_path, "llama")
    else:
        save_model("llama", tmp_path, tied=True)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    names = [*tensors, "lm_head.weight", "model.embed_tokens.weight"]
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "one.safetensors")}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = open_model(open_checkpoint(str(tmp_path)))
    assert model.tied
    assert "token_embd.weight" in model.shapes


@pytest.mark.parametrize("missing", ["lm_head.weight", "model.embed_tokens.weight"])
def test_an_index_that_promises_both_of_an_untied_model_has_to_keep_it(
    missing: str, tmp_path: Path
) -> None:
    save_model("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "one.safetensors")}
    del tensors[missing]
    save_file(tensors, tmp_path / "one.safetensors", {"format": "pt"})
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PlanError, match=f"no tensor {missing}"):
        open_model(open_checkpoint(str(tmp_path)))
