"""Feedback and quantized directories of families with mixed layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import correlation, llama_logits, random_tokens, torch_logits
from hybrid_models import HYBRID
from large_models import Converted, save_large

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.statistics import Statistics
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs

Large = Callable[[str], Converted]
TOKENS = np.array(random_tokens(24 * 32, seed=3), np.int32).reshape(24, 32)

FED = {
    "gpt_oss": {"attn_q", "ffn_gate_exps", "ffn_down_exps"},
    "qwen3_5_moe": {"attn_qkv", "attn_gate", "ssm_alpha", "ssm_out", "ffn_down_shexp"},
    "qwen3_next": {"attn_qkv", "attn_gate", "ssm_ba"},
    "gemma4": {"attn_q", "attn_k", "ffn_down", "inp_gate"},
    "deepseek_v3": {"attn_q_b", "attn_kv_a_mqa", "ffn_up_exps", "ffn_up_shexp"},
}
"""Weights that feedback is to reach, among others."""


def plan_of(source: Path, type_: str, path: Path, sample: np.ndarray | None) -> Plan:
    model = open_model(open_checkpoint(str(source)))
    return make_plan(model, Recipe(type_, output=path), Statistics(sample=sample))


@pytest.mark.parametrize("family", FED)
def test_feedback_brings_a_file_nearer_to_the_original(
    family: str, large: Large, tmp_path: Path
) -> None:
    """So rows and columns are put into the walk's model where they belong."""
    made, off = large(family), []
    for sample in (None, TOKENS):
        path = tmp_path / f"{sample is None}.gguf"
        plan = plan_of(made.path, "q4_0", path, sample)
        (result,) = write_outputs([plan], 2, Silent(), "cpu")
        off.append(np.abs(llama_logits(path, random_tokens()) - made.logits).mean())
    fed = {t.name.split(".")[-2] for t in plan.tensors if t.algorithm}
    assert fed >= FED[family]
    assert sum(share > 0 for share in result.helped.values()) > len(result.helped) / 2
    assert off[1] < off[0]


def test_absorbed_matrices_take_none_and_it_is_said(tmp_path: Path) -> None:
    save_large("deepseek_v3", tmp_path / "model", wide=True, num_hidden_layers=2)
    plan = plan_of(tmp_path / "model", "q8_0", tmp_path / "out.gguf", TOKENS)
    without = [notice for notice in plan.notices if notice.startswith("without feedback")]
    assert len(without) == 1
    assert "blk.0.attn_k_b.weight, blk.0.attn_v_b.weight" in without[0]


@pytest.mark.parametrize(
    "family",
    [
        "gpt_oss",
        "qwen3_5",
        "qwen3_5_moe",
        "deepseek_v3",
        "nemotron_h_moe",
        "granite_hybrid",
        "jamba",
    ],
)
def test_transformers_loads_what_is_quantized(family: str, large: Large, tmp_path: Path) -> None:
    """With feedback where GGUF has the rows in the same order, else with a word."""
    import transformers

    plan = plan_of(large(family).path, "w8a16", tmp_path / "out", TOKENS)
    write_outputs([plan], 2, Silent(), "cpu")
    scattered = {t.name for t in plan.tensors if "w8a16" in t.format and not t.algorithm}
    if family == "gpt_oss":
        assert not scattered
        assert any("experts, which transformers has in one tensor" in n for n in plan.notices)
        assert not any("experts" in t.name for t in plan.tensors if "w8a16" in t.format)
    elif family in HYBRID:
        assert all(name.endswith("shared_mlp.input_linear.weight") for name in scattered)
    else:
        assert any("without feedback" in notice for notice in plan.notices)
        ends = ("kv_b_proj.weight", "qkv.weight", "_z.weight", "_a.weight", "_b.weight")
        assert all(name.endswith((*ends, "out_proj.weight")) for name in scattered)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    logits = torch_logits(model, random_tokens())
    assert correlation(large(family).logits, logits) > 0.999
