"""What transformers 5.23 does not load, or loads wrongly. The program says so; when one of these
tests fails, the fault is mended, and `qconvert/plan/safetensors/notices.py` can say less."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import random_tokens, save_model
from compressed_models import (
    choices_of,
    load_model,
    outputs,
    plan_model,
    quantize_model,
    reference_model,
)

from qconvert.plan.safetensors.notices import is_loadable

SMALL = {"wide": True, "num_hidden_layers": 1}


def dequantized() -> dict[str, Any]:
    from transformers import CompressedTensorsConfig

    return {"quantization_config": CompressedTensorsConfig(dequantize=True)}


def difference(plan: Any, path: Path, dtype: str = "float32", **options: Any) -> float:
    tokens = random_tokens()
    expected = outputs(reference_model(plan, path, dtype), tokens)
    return float(np.abs(outputs(load_model(path, dtype, **options), tokens) - expected).max())


def test_packed_zero_points_load_dequantized_alone(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", **SMALL)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w4a16", asymmetric=True)
    assert not is_loadable(choices_of(plan))
    assert any("dequantize=True" in notice for notice in plan.notices)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load_model(tmp_path / "out")
    assert difference(plan, tmp_path / "out", **dequantized()) <= 1e-5


@pytest.mark.parametrize(
    ("type_", "options"),
    [("w8a8", {}), ("fp8", {"strategy": "block"}), ("w4a16", {"asymmetric": True})],
    ids=str,
)
def test_experts_that_are_not_fused(type_: str, options: dict, tmp_path: Path) -> None:
    save_model("mixtral", tmp_path / "model", num_local_experts=2, **SMALL)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", type_, **options)
    assert not is_loadable(choices_of(plan))
    assert any("transformers 5.23 cannot run it" in notice for notice in plan.notices)
    for route in ({}, dequantized()):
        with pytest.raises(RuntimeError, match="automatic conversion"):
            load_model(tmp_path / "out", **route)


def test_experts_whose_global_scales_are_dropped(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path / "model", num_local_experts=2, **SMALL)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "nvfp4a16")
    assert not is_loadable(choices_of(plan))
    assert any("answers are wrong" in notice for notice in plan.notices)
    assert difference(plan, tmp_path / "out", "bfloat16") > 1


def test_experts_that_are_kept(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path / "model", num_local_experts=2, **SMALL)
    keep = ("*experts*",)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w8a16", keep=keep)
    assert not is_loadable(choices_of(plan))
    assert any("cannot leave experts" in notice for notice in plan.notices)
    with pytest.raises(RuntimeError, match="automatic conversion"):
        load_model(tmp_path / "out")
    plan = quantize_model(tmp_path / "model", tmp_path / "fp8", "fp8", keep=keep)
    assert is_loadable(choices_of(plan))
    assert difference(plan, tmp_path / "fp8") <= 1e-5


def test_experts_of_several_schemes(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path / "model", num_local_experts=2, wide=True, num_hidden_layers=2)
    overrides = (("*.0.*experts*", "w8a16"),)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w4a16", overrides=overrides)
    assert not is_loadable(choices_of(plan))
    assert any("these have several" in notice for notice in plan.notices)
    with pytest.raises(RuntimeError, match="automatic conversion"):
        load_model(tmp_path / "out")


def test_conv1d_layers_are_not_replaced(tmp_path: Path) -> None:
    save_model("gpt2", tmp_path / "model", n_layer=1)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w8a8")
    assert not is_loadable(choices_of(plan))
    assert any("[in, out]" in notice for notice in plan.notices)
    with pytest.raises((AssertionError, RuntimeError)):
        outputs(load_model(tmp_path / "out"), random_tokens())


def test_float4_runs_in_bfloat16_alone(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", **SMALL)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "mxfp4a16")
    assert any("bfloat16 alone" in notice for notice in plan.notices)
    assert np.isfinite(outputs(load_model(tmp_path / "out", "auto"), random_tokens())).all()
    with pytest.raises(RuntimeError, match="dtype"):
        outputs(load_model(tmp_path / "out", "float32"), random_tokens())


def test_quantized_embeddings_must_not_be_the_output_too(tmp_path: Path) -> None:
    from qconvert.errors import PlanError

    save_model("qwen3", tmp_path / "model", tied=True, **SMALL)
    with pytest.raises(PlanError, match="embed_tokens"):
        plan_model(tmp_path / "model", "w8a8", embeddings=True)


def test_quantized_embeddings_apart_from_the_output(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", **SMALL)
    plan = quantize_model(tmp_path / "model", tmp_path / "out", "w8a8", embeddings=True)
    assert any("token embeddings are int8" in notice for notice in plan.notices)
    assert difference(plan, tmp_path / "out") <= 1e-5
