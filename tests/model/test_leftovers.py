"""Tensors beside a model that nobody needs, and biases that are said to be there and are not."""

from pathlib import Path

import pytest
import torch
from common import (
    convert_model,
    llama_logits,
    random_tokens,
    save_model,
    torch_logits,
    worst_difference,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe

KNOWN = (
    "v_head.summary.weight",
    "model.layers.0.self_attn.rotary_emb.cos_cached",
    "model.layers.1.self_attn.rotary_emb.inv_freq",
    "model.rotary_emb.sin_cached",
    "mtp.layers.0.mlp.up_proj.weight",
    "model.layers.0.self_attn._extra_state",
)


def change(path: Path, added: tuple[str, ...] = (), dropped: str = "nothing") -> None:
    file = path / "model.safetensors"
    stored = {name: t for name, t in load_file(file).items() if dropped not in name}
    save_file(stored | {name: torch.ones(3, 4) for name in added}, file, {"format": "pt"})


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "granite"])
def test_known_ones_are_left_out_and_named(family: str, tmp_path: Path) -> None:
    save_model(family, tmp_path)
    before = open_model(open_checkpoint(str(tmp_path)))
    change(tmp_path, KNOWN)
    model = open_model(open_checkpoint(str(tmp_path)))
    assert [tensor.name for tensor in model.tensors] == [t.name for t in before.tensors]
    assert set(model.left_out) - set(before.left_out) == set(KNOWN)
    assert model.unknown == ()
    assert any(notice.startswith(f"{len(model.left_out)} tensors") for notice in model.notices)


def test_others_are_refused(tmp_path: Path) -> None:
    save_model("llama", tmp_path)
    change(tmp_path, ("model.layers.0.self_attn.gate.weight",))
    model = open_model(open_checkpoint(str(tmp_path)))
    with pytest.raises(PlanError, match="gate") as caught:
        make_plan(model, Recipe("q8_0"))
    assert "--ignore" in caught.value.hint
    assert make_plan(model, Recipe("q8_0", ignore=("*.gate.weight",))).tensors
    with pytest.raises(PlanError, match="matches no tensor"):
        make_plan(model, Recipe("q8_0", ignore=("*.gate.weight", "*.up_proj.weight")))
    assert make_plan(model, Recipe("w8a16")).tensors  # transformers does not look for it


def test_a_bias_of_the_attentions_output_that_is_absent_is_zero(tmp_path: Path) -> None:
    """So it is in transformers."""
    save_model("llama", tmp_path / "model", attention_bias=True)
    change(tmp_path / "model", dropped="o_proj.bias")
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, attn_implementation="eager"
    )
    tokens = random_tokens()
    computed = llama_logits(tmp_path / "f32.gguf", tokens)
    assert worst_difference(torch_logits(loaded, tokens), computed) <= 1e-3
