"""A plain decoder that nobody knew is one file, here one value, and one line in the table."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import convert_model, save_model
from compressed_models import quantize_model, stored_arrays
from gguf import GGUFReader
from safetensors.numpy import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model import families
from qconvert.model.families.llama.llama import LLAMA
from qconvert.model.open import open_model
from qconvert.model.types import Config, Rule

NAMES = {
    "model.embed_tokens.weight": "tower.words.weight",
    "model.norm.weight": "tower.last.weight",
    "lm_head.weight": "lm_head.weight",
    "model.layers.": "tower.stack.",
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.o_proj": "out",
    "input_layernorm": "first",
    "post_attention_layernorm": "second",
}


def renamed(name: str) -> str:
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def rules(config: Config) -> tuple[Rule, ...]:
    return tuple(replace(rule, hf=renamed(rule.hf)) for rule in LLAMA.rules(config))


TOY = replace(LLAMA, classes=("ToyForCausalLM",), rules=rules, config=None)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama whose tensors and class have names of their own, beside the Llama itself."""
    save_model("llama", tmp_path / "llama", wide=True)
    path = tmp_path / "toy"
    path.mkdir()
    tensors = load_file(tmp_path / "llama/model.safetensors")
    save_file({renamed(name): array for name, array in tensors.items()}, path / "model.safetensors")
    config = json.loads((tmp_path / "llama/config.json").read_text())
    config["architectures"] = ["ToyForCausalLM"]
    (path / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(families.BY_CLASS, "ToyForCausalLM", TOY)
    return path


def test_it_becomes_the_file_that_a_llama_becomes(toy: Path) -> None:
    tensors = []
    for path in (toy, toy.with_name("llama")):
        convert_model(path, path.with_suffix(".gguf"), "q4_k_m")
        tensors.append(GGUFReader(path.with_suffix(".gguf")).tensors)
    ours, theirs = tensors
    assert [tensor.name for tensor in ours] == [tensor.name for tensor in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one.tensor_type == other.tensor_type
        assert np.array_equal(one.data, other.data), one.name


def test_its_linear_layers_are_quantized_in_directories(toy: Path) -> None:
    quantize_model(toy, toy.with_name("toy-w8a16"), "w8a16")
    quantize_model(toy.with_name("llama"), toy.with_name("llama-w8a16"), "w8a16")
    ours, theirs = (stored_arrays(toy.with_name(f"{name}-w8a16")) for name in ("toy", "llama"))
    assert set(ours) == {renamed(name) for name in theirs}
    assert all(np.array_equal(ours[renamed(name)], theirs[name]) for name in theirs)
    roles = {
        weight.name: weight.quantizable for weight in open_model(open_checkpoint(str(toy))).weights
    }
    assert roles["tower.stack.0.query.weight"]
    assert not roles["tower.stack.0.first.weight"]


def test_without_its_line_it_is_not_known(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(families.BY_CLASS, "ToyForCausalLM")
    with pytest.raises(UnsupportedError, match="ToyForCausalLM"):
        open_model(open_checkpoint(str(toy)))
