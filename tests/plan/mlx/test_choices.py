"""How each weight is stored for MLX."""

from pathlib import Path
from typing import Any

import pytest
from compressed_models import plan_model
from mlx_models import save_wide

from qconvert.errors import PlanError, UsageError
from qconvert.plan.types import Plan


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, made = tmp_path_factory.mktemp("models"), set[str]()

    def make(family: str, **changes: Any) -> Path:
        if family not in made:
            save_wide(family, folder / family, num_hidden_layers=2, **changes)
            made.add(family)
        return folder / family

    return make


def formats(plan: Plan) -> dict[str, str]:
    return {tensor.name: tensor.format for tensor in plan.tensors}


def test_all_matrices_are_quantized_routers_and_tables_too(models):
    found = formats(plan_model(models("mixtral"), "mlx4"))
    for name, words in found.items():
        assert words == ("F32" if "norm" in name else "mlx4"), name
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= found.keys()
    assert "model.layers.0.block_sparse_moe.gate.weight" in found


def test_what_mlx_lm_spares_has_eight_bits(models):
    found = formats(plan_model(models("qwen3_moe"), "mlx3", group_size=128))
    assert found["model.layers.1.mlp.gate.weight"] == "mlx8"
    assert found["lm_head.weight"] == "mlx3 in groups of 128"
    found = formats(plan_model(models("granite"), "mlx-mxfp4"))
    for name in ("layers.0.self_attn.o_proj", "layers.1.mlp.down_proj"):
        assert found[f"model.{name}.weight"] == "mlx8"
    assert found["model.layers.0.mlp.up_proj.weight"] == "mlx-mxfp4"


def test_the_last_pattern_counts_in_either_containers_names_and_keep_more_than_any(models):
    plan = plan_model(
        models("qwen3_moe"),
        "mlx4",
        overrides=(
            ("blk.*.ffn_down_exps.weight", "mlx6"),
            ("*.1.mlp.switch_mlp.down_proj.weight", "MLX-nvfp4"),
            ("*.mlp.gate.weight", "keep"),
        ),
        keep=("*.v_proj.weight", "token_embd.weight"),
    )
    found = formats(plan)
    assert found["model.layers.0.mlp.switch_mlp.down_proj.weight"] == "mlx6"
    assert found["model.layers.1.mlp.switch_mlp.down_proj.weight"] == "mlx-nvfp4"
    assert found["model.layers.1.mlp.gate.weight"] == "F32"
    assert found["model.layers.0.self_attn.v_proj.weight"] == "F32"
    assert found["model.embed_tokens.weight"] == "F32"


def test_rows_that_groups_do_not_divide(tmp_path):
    save_wide("llama", tmp_path / "m", num_hidden_layers=1, hidden_size=288, intermediate_size=400)
    plan = plan_model(tmp_path / "m", "mlx4")
    found = formats(plan)
    assert found["model.layers.0.mlp.up_proj.weight"] == "mlx4 in groups of 32"
    assert found["model.layers.0.mlp.down_proj.weight"] == "F32"
    assert any("rows of 288 are no multiple of 64: mlx4 in" in line for line in plan.notices)
    assert any("rows of 400 are no multiple of 64: not" in line for line in plan.notices)
    assert [one.name for one in plan.fallbacks if one.format == "F32"] == [
        "model.layers.0.mlp.down_proj.weight"
    ]
    found = formats(plan_model(tmp_path / "m", "mlx-mxfp8"))
    assert found["model.layers.0.mlp.down_proj.weight"] == "F32"


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"group_size": "channel"}, UsageError, "no groups of 'channel'"),
        ({"group_size": 16}, UsageError, "no groups of 16"),
        ({"overrides": (("*", "w4a16"),)}, UsageError, "'w4a16' is no type of MLX"),
        ({"overrides": (("nothing", "mlx4"),)}, PlanError, "matches no tensor"),
        ({"keep": ("*",)}, PlanError, "nothing would be quantized"),
        ({"weight_range": "entropy"}, UsageError, "entropy has no meaning"),
    ],
)
def test_what_cannot_be_is_said(models, options, error, what):
    with pytest.raises(error, match=what):
        plan_model(models("qwen3"), "mlx4", **options)


def test_other_directories_do_not_take_mlxs_types(models):
    with pytest.raises(UsageError, match="mlx4"):
        plan_model(models("qwen3"), "w4a16", overrides=(("*.down_proj.weight", "mlx4"),))


def test_scales_are_searched_where_inputs_are_known_or_it_is_asked_for(models):
    plan = plan_model(models("qwen3"), "mlx4")
    assert not any(getattr(tensor.coding, "searched", False) for tensor in plan.tensors)
    plan = plan_model(models("qwen3"), "mlx4", weight_range="mse")
    assert any(getattr(tensor.coding, "searched", False) for tensor in plan.tensors)
