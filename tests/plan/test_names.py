"""A pattern means the same tensors by either container's names, from and to both."""

from pathlib import Path
from typing import Any

import pytest
from common import convert_model, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import PlanError
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe

DOWN = {
    "llama": ("blk.*.ffn_down.weight", "model.layers.*.mlp.down_proj.weight"),
    "phi3": ("blk.*.ffn_up.weight", "model.layers.*.mlp.gate_up_proj.weight"),
    "gpt2": ("blk.*.ffn_down.weight", "transformer.h.*.mlp.c_proj.weight"),
    "mixtral": ("blk.*.ffn_*_exps.weight", "/model.layers.*experts.*/"),
    "qwen3_moe": ("blk.*.ffn_*_exps.weight", "model.layers.*.mlp.experts.*"),
}


def kept(source: Path, type_: str, pattern: str, **options: Any) -> set[str]:
    model = open_model(open_checkpoint(str(source)))
    plans = [make_plan(model, Recipe(type_, keep=keep)).tensors for keep in ((), (pattern,))]
    before, after = ({tensor.name: tensor.format for tensor in plan} for plan in plans)
    return {name for name, format_ in after.items() if format_ != before[name]}


@pytest.mark.parametrize("family", DOWN)
def test_both_names_mean_the_same(family: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "model", wide=True, num_hidden_layers=2)
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f16")
    for source in (tmp_path / "model", tmp_path / "model.gguf"):
        for type_ in ("q8_0", "w8a16"):
            by_gguf, by_hugging_face = (kept(source, type_, pattern) for pattern in DOWN[family])
            assert by_gguf == by_hugging_face, (source, type_)
            assert len(by_gguf) > 1


def test_a_tied_model_has_no_head_to_name(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", tied=True, num_hidden_layers=1)
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f16")
    for source in (tmp_path / "model", tmp_path / "model.gguf"):
        for type_, embedding in (
            ("q8_0", "token_embd.weight"),
            ("w8a16", "model.embed_tokens.weight"),
        ):
            for pattern in ("output.weight", "lm_head.weight"):
                with pytest.raises(PlanError, match="no output projection of its own") as caught:
                    kept(source, type_, pattern)
                assert embedding in caught.value.hint
