"""What a calibration adds reaches the right weights, rows and columns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import convert_model, random_tokens, save_model
from compressed_models import (
    choices_of,
    load_model,
    outputs,
    plan_model,
    quantize_model,
    quantized,
    stored_arrays,
)
from safetensors.torch import load_file, save_file

from qconvert.calibration.importance import Importance
from qconvert.errors import PlanError
from qconvert.plan.statistics import Range, Smoothing, Statistics

DRAW = np.random.default_rng(5)


def importance_named(values: dict[str, np.ndarray]) -> Importance:
    return Importance(Path("c"), values)


def factors(count: int) -> np.ndarray:
    return np.exp(DRAW.normal(0, 1, count)).astype(np.float32)


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe", "bert"])
@pytest.mark.parametrize("container", ["directory", "gguf"])
def test_smoothing_leaves_the_function_as_it_is(
    family: str, container: str, tmp_path: Path
) -> None:
    """Up divided and down multiplied by rows, norms divided and the layers behind them multiplied:
    all folded into float32, but for one layer that has no part in it."""
    model = save_model(family, tmp_path / "model")
    source = tmp_path / "model"
    if container == "gguf":
        convert_model(source, tmp_path / "model.gguf", "f32")
        source = tmp_path / "model.gguf"
    config = model.config
    smoothing: dict[str, Smoothing] = {}
    width, inner = config.hidden_size, config.intermediate_size
    experts = getattr(config, "num_experts", 0)
    for block in range(config.num_hidden_layers):
        name = f"blk.{block}."
        if family == "bert":
            continue
        scale = factors(width)
        smoothing[name + "attn_norm.weight"] = Smoothing(columns=1 / scale)
        for part in "qkv":
            smoothing[f"{name}attn_{part}.weight"] = Smoothing(columns=scale)
        if experts:
            inner = config.moe_intermediate_size
            scale = factors(experts * inner)
            smoothing[name + "ffn_up_exps.weight"] = Smoothing(rows=1 / scale)
            smoothing[name + "ffn_down_exps.weight"] = Smoothing(
                columns=scale.reshape(experts, inner)
            )
        else:
            scale = factors(inner)
            smoothing[name + "ffn_up.weight"] = Smoothing(rows=1 / scale)
            smoothing[name + "ffn_up.bias"] = Smoothing(rows=1 / scale)
            smoothing[name + "ffn_down.weight"] = Smoothing(columns=scale)
    if family == "bert":  # values, not queries and keys: rows of one are columns of the next
        scale = factors(width)
        smoothing["blk.0.attn_v.weight"] = Smoothing(rows=1 / scale)
        smoothing["blk.0.attn_v.bias"] = Smoothing(rows=1 / scale)
        smoothing["blk.0.attn_output.weight"] = Smoothing(columns=scale)
    last = config.num_hidden_layers - 1
    keep = (f"/(?!.*{last}.(self_attn.o_proj|intermediate.dense)).*/",)
    statistics = Statistics(smoothing=smoothing)
    quantize_model(source, tmp_path / "out", "w8a16", statistics, keep=keep)
    smooth = load_without_quantization(tmp_path / "out", tmp_path / "model")
    tokens = random_tokens()
    expected, computed = outputs(model, tokens), outputs(smooth, tokens)
    assert not np.array_equal(computed, expected)
    assert np.abs(computed - expected).max() < 1e-4


def load_without_quantization(path: Path, original: Path) -> Any:
    """What is kept in a directory, with the original's weights in place of what is quantized."""
    weights = load_file(path / "model.safetensors")
    stem = next(name for name in weights if name.endswith("_packed")).removesuffix("_packed")
    weights = {name: weight for name, weight in weights.items() if not name.startswith(stem)}
    weights[stem] = load_file(original / "model.safetensors")[stem]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    del config["quantization_config"]
    (path / "config.json").write_text(json.dumps(config))
    return load_model(path)


def test_rows_are_multiplied_before_they_are_quantized(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path)
    columns, rows = factors(5 * 160).reshape(5, 160), factors(5 * 224)
    smoothing = {"blk.1.ffn_up_exps.weight": Smoothing(columns, rows)}
    plan = plan_model(tmp_path, "w8a8", Statistics(smoothing=smoothing))
    tensor = next(t for t in plan.tensors if ".1.block_sparse_moe.experts.3.w3." in t.slots[0].name)
    ones = np.ones((10, 160), np.float32)
    expected = columns[3] * rows[3 * 224 + 50 : 3 * 224 + 60, None]
    assert np.array_equal(tensor.coding.prepare(ones, 50), expected)


def test_rows_of_queries_are_found_in_ggufs_order(tmp_path: Path) -> None:
    """GGUF has the rows of rotary pairs in another order than Hugging Face."""
    save_model("llama", tmp_path / "model")
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f32")
    smoothing = {"blk.0.attn_q.weight": Smoothing(rows=factors(240))}
    made = []
    for name in ("model", "model.gguf"):
        statistics = Statistics(smoothing=smoothing)
        quantize_model(tmp_path / name, tmp_path / f"{name}-out", "w8a16", statistics)
        made.append(stored_arrays(tmp_path / f"{name}-out"))
    scale = "model.layers.0.self_attn.q_proj.weight_scale"
    assert np.array_equal(made[0][scale], made[1][scale])


def test_importance_goes_to_the_weight_and_the_expert(tmp_path: Path) -> None:
    save_model("mixtral", tmp_path)
    importance = {
        "blk.0.ffn_up_exps.weight": DRAW.random((5, 160)).astype(np.float32),
        "blk.1.attn_q.weight": DRAW.random((1, 160)).astype(np.float32),
    }
    plan = plan_model(tmp_path, "w4a16", Statistics(importance_named(importance)))
    for tensor in quantized(plan):
        values = importance.get(tensor.weight.gguf)
        if values is None:
            assert tensor.importance is None
        else:
            assert np.array_equal(tensor.importance, values[tensor.weight.matrix])


def test_importance_lowers_the_weighted_error(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", wide=True, num_hidden_layers=1)
    weights = np.exp(DRAW.normal(0, 2, 256)).astype(np.float32)
    importance = {"blk.0.attn_q.weight": weights[None]}
    name = "model.layers.0.self_attn.q_proj.weight"
    original = stored_arrays(tmp_path / "model")[name]
    errors = []
    for statistics in (Statistics(), Statistics(importance_named(importance))):
        out = tmp_path / str(len(errors))
        plan = quantize_model(tmp_path / "model", out, "w3a16", statistics)
        tensor = next(one for one in quantized(plan) if one.weight.name == name)
        arrays = stored_arrays(out)
        values = tensor.format.dequantize(tuple(arrays[slot.name] for slot in tensor.slots))
        errors.append(float(np.sum(weights * (values - original) ** 2)))
    assert errors[1] < errors[0]


def test_smoothed_inputs_have_another_importance(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path)
    scale, weights = factors(288), factors(288)
    plan = plan_model(
        tmp_path,
        "w8a8",
        Statistics(
            importance_named({"blk.0.ffn_up.weight": weights[None]}),
            smoothing={"blk.0.ffn_up.weight": Smoothing(columns=scale)},
        ),
    )
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = next(one for one in quantized(plan) if one.weight.name == name)
    assert tensor.importance == pytest.approx(weights / scale**2, rel=1e-5)


def test_ranges_are_stored_as_they_are(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model")
    plan = plan_model(tmp_path / "model", "w8a8", activations="static", asymmetric=True)
    ranges = {
        choice.weight.gguf: Range(
            np.array([0.01 * (number + 1)], np.float32), np.array([number - 9], np.int8)
        )
        for number, choice in enumerate(choices_of(plan))
        if choice.scheme
    }
    quantize_model(
        tmp_path / "model",
        tmp_path / "out",
        "w8a8",
        Statistics(ranges=ranges),
        activations="static",
        asymmetric=True,
    )
    arrays = stored_arrays(tmp_path / "out")
    for choice in choices_of(plan):
        if choice.scheme:
            stem = choice.weight.name.removesuffix("weight")
            range_ = ranges[choice.weight.gguf]
            assert np.array_equal(arrays[stem + "input_scale"], range_.scale)
            assert np.array_equal(arrays[stem + "input_zero_point"], range_.zero_point)


def test_bytes_are_known_before_the_ranges_are(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path)
    planned = plan_model(tmp_path, "w8a8", activations="static")
    ranges = {
        choice.weight.gguf: Range(np.ones(1, np.float32))
        for choice in choices_of(planned)
        if choice.scheme
    }
    plan = plan_model(tmp_path, "w8a8", Statistics(ranges=ranges), activations="static")
    assert plan.nbytes == planned.nbytes
    assert sum(slot.name.endswith("input_scale") for slot in plan.target.slots) == 21


@pytest.mark.parametrize(
    "statistics",
    [
        Statistics(importance_named({"blk.0.attn_q.weight": np.ones((1, 7), np.float32)})),
        Statistics(smoothing={"blk.0.attn_q.weight": Smoothing(columns=np.ones(7, np.float32))}),
        Statistics(smoothing={"blk.0.attn_q.weight": Smoothing(rows=np.ones(7, np.float32))}),
    ],
    ids=["importance", "columns", "rows"],
)
def test_statistics_of_another_model_are_refused(statistics: Statistics, tmp_path: Path) -> None:
    save_model("qwen3", tmp_path)
    with pytest.raises(PlanError, match=r"(q_proj|attn_q)\.weight"):
        plan_model(tmp_path, "w8a8", statistics)


def test_other_statistics_make_another_file(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path)
    ones = np.ones((1, 288), np.float32)
    one, other = (
        Statistics(importance_named({"blk.0.attn_q.weight": values})) for values in (ones, 2 * ones)
    )
    digests = {
        json.dumps(dict(plan_model(tmp_path, "w8a8", statistics).target.metadata))
        for statistics in (one, other, Statistics())
    }
    assert len(digests) == 3
