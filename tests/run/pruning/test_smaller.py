"""A smaller model computes what its original does without what was left out: held against
transformers' model, cut by hand, and run by llama.cpp."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from common import (
    FAMILIES,
    convert_model,
    llama_logits,
    random_tokens,
    torch_logits,
    worst_difference,
)
from pruned_models import drawn_cut, opened, without_blocks, written, zero_columns
from safetensors.torch import load_file

from qconvert.plan.pruning.cut import query_mask

DECODERS = [family for family in FAMILIES if family != "bert"]
DOWN = ("mlp.down_proj", "mlp.c_proj")
OUTPUT = ("self_attn.o_proj", "attn.c_proj")
WITH_HEADS = ["llama", "mistral", "mixtral", "qwen3", "qwen3_moe", "gemma3", "granite", "smollm3"]
TOKENS = random_tokens(48)


def check(whole: Any, made: Path) -> None:
    """The same logits by transformers and by llama.cpp."""
    wanted = torch_logits(whole, TOKENS)
    own = type(whole).from_pretrained(made, dtype=torch.float32, attn_implementation="eager")
    assert worst_difference(wanted, torch_logits(own.eval(), TOKENS)) < 1e-5
    convert_model(made, made.with_suffix(".gguf"), "f32")
    assert worst_difference(wanted, llama_logits(made.with_suffix(".gguf"), TOKENS)) < 1e-3


@pytest.mark.parametrize("family", [one for one in DECODERS if one != "smollm3"])
def test_without_layers(family: str, tmp_path: Path):
    whole, model, shape = opened(family, tmp_path / "m", tied=family == "qwen2")
    kinds = getattr(whole.config, "layer_types", None)
    cut = drawn_cut("layers", shape)
    written(model, cut, tmp_path / "out", {"layer_types": kinds} if kinds else {})
    check(without_blocks(whole, cut.blocks), tmp_path / "out")


@pytest.mark.parametrize("family", [f for f in DECODERS if f not in ("mixtral", "qwen3_moe")])
def test_without_neurons(family: str, tmp_path: Path):
    whole, model, shape = opened(family, tmp_path / "m")
    cut = drawn_cut("ffn", shape)
    written(model, cut, tmp_path / "out")
    check(zero_columns(whole, DOWN, cut.ffn), tmp_path / "out")


@pytest.mark.parametrize("family", WITH_HEADS)
def test_without_heads(family: str, tmp_path: Path):
    whole, model, shape = opened(family, tmp_path / "m")
    cut = drawn_cut("groups", shape)
    written(model, cut, tmp_path / "out")
    masks = {block: query_mask(mask, shape) for block, mask in cut.groups.items()}
    check(zero_columns(whole, OUTPUT, masks), tmp_path / "out")


@pytest.mark.parametrize("tied", [True, False])
def test_without_channels(tied: bool, tmp_path: Path):
    """Every matrix, embedding and norm sliced by hand; norms are multiplied, as was asked for."""
    whole, model, shape = opened("mistral", tmp_path / "m", tied=tied)
    norms = {"blk.1.ffn_norm.weight": 1.5, "output_norm.weight": 0.5}
    cut = replace(drawn_cut("hidden", shape), norms=norms)
    written(model, cut, tmp_path / "out")
    keep = torch.from_numpy(np.flatnonzero(cut.hidden))
    state = {}
    for name, weight in whole.state_dict().items():
        reads = name.endswith(("o_proj.weight", "down_proj.weight"))
        state[name] = weight[keep] if weight.dim() == 1 or reads else weight[:, keep]
    state["model.layers.1.post_attention_layernorm.weight"] *= 1.5
    state["model.norm.weight"] *= 0.5
    config = whole.config.__class__(**{**whole.config.to_dict(), "hidden_size": len(keep)})
    config._attn_implementation = "eager"
    other = type(whole)(config).eval()
    other.load_state_dict(state)
    check(other, tmp_path / "out")


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_without_experts(family: str, tmp_path: Path):
    """The router never chooses those whose logits are lowest."""
    whole, model, shape = opened(family, tmp_path / "m")
    cut = drawn_cut("experts", shape)
    written(model, cut, tmp_path / "out")
    for block, layer in enumerate(whole.model.layers):
        router = layer.mlp.gate
        gone = torch.from_numpy(~cut.experts[block])

        def forward(hidden: torch.Tensor, router: Any = router, gone: Any = gone) -> Any:
            logits = torch.nn.functional.linear(hidden.reshape(-1, shape.hidden), router.weight)
            chance = torch.softmax(logits.masked_fill(gone, -torch.inf), -1, dtype=torch.float)
            weights, chosen = chance.topk(router.top_k, dim=-1)
            return logits, weights / weights.sum(-1, keepdim=True), chosen

        router.forward = forward
    check(whole, tmp_path / "out")


def test_of_a_fused_feed_forward_both_halves_are_cut(tmp_path: Path):
    _, model, shape = opened("phi3", tmp_path / "m")
    cut = drawn_cut("ffn", shape)
    written(model, cut, tmp_path / "out")
    name = "model.layers.1.mlp.gate_up_proj.weight"
    own, made = (load_file(tmp_path / one / "model.safetensors")[name] for one in ("m", "out"))
    keep = torch.from_numpy(np.concatenate([cut.ffn[1], cut.ffn[1]]))
    assert torch.equal(made, own[keep])


def test_a_llama_whose_heads_do_not_divide_its_width_is_called_a_mistral(tmp_path: Path):
    _, model, shape = opened("llama", tmp_path / "m", attention_bias=False, mlp_bias=False)
    mask = np.arange(shape.hidden) < 256
    written(model, replace(drawn_cut("hidden", shape), hidden=mask), tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"]) == (256, 6)
    made = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").float()
    convert_model(tmp_path / "out", tmp_path / "out.gguf", "f32")
    wanted = torch_logits(made, TOKENS)
    assert worst_difference(wanted, llama_logits(tmp_path / "out.gguf", TOKENS)) < 1e-3
