"""Directories for MLX: with what a calibration shows they lie nearer to the original. Without MLX:
their weights are put into transformers' model."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captures import run_capture
from common import convert_model
from compressed_models import stored_arrays
from listening import Listening
from mlx_models import put_into, restored, save_wide
from sampled_models import OTHER, SAMPLE

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A family's model, its folder and a calibration, made once."""
    folder = tmp_path_factory.mktemp("models")
    found: dict[str, tuple[Any, Path, Path]] = {}

    def make(family: str) -> tuple[Any, Path, Path]:
        if family not in found:
            layers = {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
            layers = layers if family != "gemma3" else {"num_hidden_layers": 6}
            model = save_wide(family, folder / family, **layers)
            run_capture(folder / family, folder / f"{family}.safetensors", sample=SAMPLE)
            found[family] = (model, folder / family, folder / f"{family}.safetensors")
        return found[family]

    return make


def written(source: Path, recipe: Recipe, watcher: Any = None, threads: int = 2) -> Plan:
    watcher = watcher or Silent()
    (plan,) = plan_outputs(open_checkpoint(str(source)), [recipe], Run(threads, watcher))
    write_outputs([plan], threads, watcher)
    return plan


def divergence(model: Any, plan: Plan) -> float:
    """Of the directory's predictions from the model's, on tokens that nobody saw."""
    other = copy.deepcopy(model)
    put_into(other, restored(plan, plan.target.path))
    with torch.no_grad():
        own, its = (torch.log_softmax(one(OTHER).logits.double(), -1) for one in (model, other))
    return float((own.exp() * (own - its)).sum(-1).mean())


@pytest.mark.parametrize(
    ("family", "type_"),
    [("llama", "mlx4"), ("llama", "mlx2"), ("llama", "mlx-mxfp4"), ("llama", "mlx-nvfp4"),
     ("qwen3_moe", "mlx3"), ("gpt2", "mlx4"), ("gemma3", "mlx3"), ("phi3", "mlx-nvfp4")],
)  # fmt: skip
def test_each_step_lies_nearer_to_the_original(models: Any, family: str, type_: str, tmp_path):
    model, source, calibration = models(family)
    plain = Recipe(type_, output=tmp_path / "plain")
    weighted = replace(plain, calibration=calibration, feedback=False, output=tmp_path / "weighted")
    fed = replace(weighted, feedback=True, output=tmp_path / "fed")
    errors = [divergence(model, written(source, recipe)) for recipe in (plain, weighted, fed)]
    assert errors[1] < 0.97 * errors[0]
    assert errors[2] < 0.97 * errors[1]
    assert not [one for one in tmp_path.iterdir() if "partial" in one.name]


def test_weights_wider_than_the_model_are_narrowed_first(tmp_path: Path):
    """As mlx-lm's converter does with what config.json names a narrower dtype for."""
    model = save_wide("llama", tmp_path / "wide", num_hidden_layers=1)
    model.bfloat16().save_pretrained(tmp_path / "narrow")
    (tmp_path / "wide" / "config.json").write_bytes(
        (tmp_path / "narrow" / "config.json").read_bytes()
    )
    made = []
    for name in ("wide", "narrow"):
        written(tmp_path / name, Recipe("mlx4", output=tmp_path / f"{name}-mlx4"))
        made.append(stored_arrays(tmp_path / f"{name}-mlx4"))
    assert made[0].keys() == made[1].keys()
    for name, array in made[0].items():
        np.testing.assert_array_equal(array, made[1][name])


def test_routers_and_positions_are_no_matter_of_feedback(models: Any, tmp_path: Path):
    for family, part in (("qwen3_moe", ".mlp.gate."), ("gpt2", "wpe")):
        _, source, calibration = models(family)
        recipe = Recipe("mlx4", output=tmp_path / family, calibration=calibration)
        (plan,) = plan_outputs(open_checkpoint(str(source)), [recipe], Run(1, Silent()))
        found = [tensor for tensor in plan.tensors if part in tensor.name]
        assert found
        assert not any(tensor.algorithm for tensor in found)
        assert sum(bool(tensor.algorithm) for tensor in plan.tensors) > 10


def test_a_gguf_files_heads_are_fed_back_in_their_own_order(models: Any, tmp_path: Path):
    """The same weights, whose rows the file has in another order: the same output."""
    model, source, _ = models("llama")
    convert_model(source, tmp_path / "m.gguf", "f32")
    made = {}
    for name, path in (("directory", source), ("file", tmp_path / "m.gguf")):
        run_capture(path, tmp_path / f"{name}.safetensors", sample=SAMPLE)
        calibration = tmp_path / f"{name}.safetensors"
        recipe = Recipe("mlx4", output=tmp_path / name, calibration=calibration)
        made[name] = divergence(model, written(path, recipe))
    assert made["file"] == pytest.approx(made["directory"], rel=0.01)


def test_neither_threads_nor_an_interruption_change_the_bytes(models: Any, tmp_path: Path):
    _, source, calibration = models("qwen3_moe")
    recipe = Recipe("mlx4", output=tmp_path / "whole", calibration=calibration)
    written(source, recipe, threads=1)
    with pytest.raises(KeyboardInterrupt):
        written(source, replace(recipe, output=tmp_path / "out"), Listening(3))
    again = Listening()
    written(source, replace(recipe, output=tmp_path / "out"), again, threads=3)
    assert again.begun[0][1] > 0
    whole, out = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out"))
    assert whole == out


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_budget_gives_bits_where_they_count(models: Any, family: str, tmp_path: Path):
    model, source, calibration = models(family)
    named = Recipe("mlx3", output=tmp_path / "named", calibration=calibration, group_size=128)
    first = written(source, named)
    recipe = replace(named, output=tmp_path / "own", group_size=64, under=first.nbytes)
    plan = written(source, recipe)
    assert 0.95 * first.nbytes < plan.nbytes <= first.nbytes
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    others = [value for value in config["quantization"].values() if isinstance(value, dict)]
    assert len({config["quantization"]["bits"], *(one["bits"] for one in others)}) > 2
    assert divergence(model, plan) < divergence(model, first)


def test_a_budget_may_choose_among_the_small_floats_too(models: Any, tmp_path: Path):
    _, source, calibration = models("llama")
    types = ("mlx-mxfp4", "mlx-nvfp4", "mlx8")
    recipe = Recipe("mlx4", output=tmp_path / "own", calibration=calibration, bits=5, types=types)
    (plan,) = plan_outputs(open_checkpoint(str(source)), [recipe], Run(2, Silent()))
    assert plan.bits_per_weight <= 5
    kinds = {tensor.format.split()[0] for tensor in plan.tensors} - {"F32"}
    assert kinds <= set(types)
    assert len(kinds) > 1
