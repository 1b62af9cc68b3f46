"""Which scheme each weight gets."""

from pathlib import Path

import numpy as np
import pytest
from common import save_model
from compressed_models import choices_of, plan_model, write_plan

from qconvert.errors import PlanError, QconvertError, UsageError
from qconvert.model.roles import Role
from qconvert.plan.statistics import Range, Statistics
from qconvert.plan.types import Plan

ENDS = (Role.EMBEDDING, Role.OUTPUT)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense")
    save_model("qwen3", path, wide=True, num_hidden_layers=2)
    return path


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("narrow")
    save_model("llama", path)
    return path


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts")
    save_model("mixtral", path)
    return path


def names(plan: Plan) -> dict[str, str]:
    return {
        choice.weight.name: choice.scheme.name if choice.scheme else "kept"
        for choice in choices_of(plan)
    }


def test_linear_layers_are_quantized_and_nothing_else(dense: Path) -> None:
    plan = plan_model(dense, "w8a8")
    for name, scheme in names(plan).items():
        assert (scheme == "w8a8") == name.endswith("_proj.weight"), name
    assert any("output projection" in notice for notice in plan.notices)


def test_experts_are_quantized_and_routers_are_not(experts: Path) -> None:
    found = names(plan_model(experts, "w4a16"))
    for expert in range(5):
        for part in ("w1", "w2", "w3"):
            assert (
                found[f"model.layers.0.block_sparse_moe.experts.{expert}.{part}.weight"] == "w4a16"
            )
    assert found["model.layers.0.block_sparse_moe.gate.weight"] == "kept"


def test_the_last_pattern_counts_and_keep_more_than_any(dense: Path) -> None:
    plan = plan_model(
        dense,
        "w8a8",
        overrides=(("*.down_proj.weight", "fp8"), ("*.1.*down_proj.weight", "w4a16")),
        keep=("*.1.mlp.down_proj.weight", "*norm.weight"),
    )
    found = names(plan)
    assert found["model.layers.0.mlp.down_proj.weight"] == "fp8"
    assert found["model.layers.1.mlp.down_proj.weight"] == "kept"


def test_the_output_projection_on_demand(dense: Path) -> None:
    assert names(plan_model(dense, "w8a8", lm_head=True))["lm_head.weight"] == "w8a8"
    override = (("lm_head.weight", "w4a16"),)
    assert names(plan_model(dense, "w8a8", overrides=override))["lm_head.weight"] == "w4a16"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((("*.q_proj.weight", "w4a16"),), "one layer"),
        ((("*.up_proj.weight", "keep"),), "one layer"),
        ((("*.nothing.weight", "w4a16"),), "matches no tensor"),
        ((("*norm.weight", "w4a16"),), "matches no tensor"),
        ((("model.embed_tokens.weight", "w4a16"),), "int8 alone"),
    ],
    ids=str,
)
def test_exceptions_that_cannot_be_made(
    dense: Path, overrides: tuple[tuple[str, str], ...], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        plan_model(dense, "w8a8", overrides=overrides)


def test_one_expert_cannot_be_an_exception(experts: Path) -> None:
    with pytest.raises(PlanError, match="one layer"):
        plan_model(experts, "w8a8", overrides=(("*.0.*.experts.1.*", "w4a16"),))
    plan = plan_model(experts, "w8a8", overrides=(("*.0.*.experts.*", "w8a16"),))
    assert any("several" in notice for notice in plan.notices)


def test_a_broken_override_is_refused(dense: Path) -> None:
    with pytest.raises(UsageError, match="unknown scheme"):
        plan_model(dense, "w8a8", overrides=(("*", "q4_k"),))
    with pytest.raises(UsageError, match="regular expression"):
        plan_model(dense, "w8a8", overrides=(("/(/", "w8a16"),))


def test_nothing_left_to_quantize_is_an_error(dense: Path) -> None:
    with pytest.raises(PlanError, match="nothing"):
        plan_model(dense, "w8a8", keep=("*_proj.weight",))


def test_rows_take_the_largest_smaller_group_that_divides_them(narrow: Path) -> None:
    plan = plan_model(narrow, "w4a16")
    sizes = {
        choice.weight.name.split(".")[-2]: choice.scheme.weights.group_size
        for choice in choices_of(plan)
        if choice.scheme
    }
    assert sizes == {
        "q_proj": 32,
        "k_proj": 32,
        "v_proj": 32,
        "o_proj": 16,
        "gate_proj": 32,
        "up_proj": 32,
        "down_proj": 32,
    }
    assert len(plan.fallbacks) == 21
    assert any("rows of 240 are no multiple of 128" in notice for notice in plan.notices)
    assert any("not of 16" in notice for notice in plan.notices)


def test_experts_share_the_group_that_divides_all_of_their_rows(experts: Path) -> None:
    plan = plan_model(experts, "w4a16", group_size=32)
    sizes = {
        choice.scheme.weights.group_size
        for choice in choices_of(plan)
        if choice.weight.expert and choice.scheme
    }
    assert sizes == {32}  # rows of 160 and 224
    assert not any(choice.reasons for choice in choices_of(plan) if choice.weight.expert)


def test_rows_without_any_group_have_one_scale(tmp_path: Path) -> None:
    save_model("bert", tmp_path, intermediate_size=420)
    plan = plan_model(tmp_path, "w4a16")
    form = next(
        choice.scheme.weights
        for choice in choices_of(plan)
        if choice.scheme and choice.weight.name == "encoder.layer.0.output.dense.weight"
    )
    assert (form.strategy, form.group_size) == ("channel", None)


def test_float4_leaves_rows_that_do_not_fit(narrow: Path) -> None:
    found = names(plan_model(narrow, "mxfp4a16"))
    assert found["model.layers.0.self_attn.o_proj.weight"] == "kept"
    assert found["model.layers.0.mlp.down_proj.weight"] == "mxfp4a16"


def test_float8_blocks_give_way_to_rows_where_they_do_not_fit(narrow: Path, dense: Path) -> None:
    strategies = {
        choice.weight.name.split(".")[-2]: choice.scheme.weights.strategy
        for choice in choices_of(plan_model(dense, "fp8", strategy="block"))
        if choice.scheme
    }
    # 64 rows of keys cannot be cut at blocks of 128.
    assert {name for name, kind in strategies.items() if kind == "channel"} == {
        "q_proj",
        "k_proj",
        "v_proj",
    }
    assert all(
        choice.scheme.weights.strategy == "channel"
        for choice in choices_of(plan_model(narrow, "fp8", strategy="block"))
        if choice.scheme
    )


def test_static_inputs_need_a_range_for_every_layer(dense: Path) -> None:
    with pytest.raises(PlanError, match=r"layers\.0\..*calibration|calibration knows no input"):
        plan_model(dense, "w8a8", Statistics(ranges={}), activations="static")
    assert any(
        choice.scheme.is_static
        for choice in choices_of(plan_model(dense, "w8a8", activations="static"))
        if choice.scheme
    )


def test_ranges_that_are_not_known_are_never_written(dense: Path, tmp_path: Path) -> None:
    plan = plan_model(dense, "w8a8", activations="static")
    with pytest.raises(PlanError, match="no range for its input"):
        write_plan(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exceptions_of_another_kind_have_their_own_options(dense: Path) -> None:
    """Ranges of int8 inputs would not do for float8, nor zero points."""
    plan = plan_model(
        dense,
        "w8a8",
        activations="static",
        asymmetric=True,
        overrides=(("*.0.mlp.down_proj.weight", "fp8"), ("*.1.mlp.down_proj.weight", "w4a16")),
    )
    found = {choice.weight.name: choice.scheme for choice in choices_of(plan)}
    first, second = (found[f"model.layers.{block}.mlp.down_proj.weight"] for block in range(2))
    assert first is not None
    assert second is not None
    assert not first.is_static
    assert second.weights.symmetric
    plan = plan_model(dense, "w4a16", group_size=32, overrides=(("*.down_proj.weight", "w3a16"),))
    assert {c.scheme.weights.group_size for c in choices_of(plan) if c.scheme} == {32}


def test_joined_layers_are_dynamic_together(dense: Path) -> None:
    ranges: dict[str, Range | None] = {}
    for kind in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        for block in range(2):
            ranges[f"blk.{block}.{kind}.weight"] = Range(np.ones(1, np.float32))
    ranges["blk.1.attn_k.weight"] = None
    plan = plan_model(dense, "w8a8", Statistics(ranges=ranges), activations="static")
    dynamic = {tensor.name for tensor in plan.fallbacks}
    assert dynamic == {f"model.layers.1.self_attn.{part}_proj.weight" for part in "qkv"}
    assert any("one range for all tokens" in notice for notice in plan.notices)


def test_int8_experts_are_dynamic(experts: Path) -> None:
    plan = plan_model(experts, "w8a8", activations="static")
    for choice in choices_of(plan):
        if choice.scheme:
            assert choice.scheme.is_static == (
                choice.weight.role not in ENDS and not choice.weight.expert
            )


@pytest.mark.parametrize("type_", ["w1a16", ""])
def test_what_is_no_scheme(dense: Path, type_: str) -> None:
    with pytest.raises(QconvertError):
        plan_model(dense, type_)
