"""Models whose weights lie on a type's grid keep them in that type, and it is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import convert_model, random_tokens, save_model
from gguf import GGUFReader
from packages import smollm2_gguf
from quantized_sources import gptq_layer, save_quantized

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.inspection import look_at
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.plan.statistics import Statistics
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs

TOKENS = np.array(random_tokens(16 * 24), np.int32).reshape(16, 24)


def export(source: Path, path: Path, dtype: str) -> Path:
    plan = make_export_plan(open_checkpoint(str(source)), Recipe(dtype, output=path))
    write_outputs([plan], 2, Silent())
    return path


def plan_of(source: Path, type_: str, path: Path, **statistics: Any) -> Plan:
    recipe = Recipe(type_, output=path, vocabulary=False)
    return make_plan(open_model(open_checkpoint(str(source))), recipe, Statistics(**statistics))


def assert_same_tensors(one: Path, other: Path) -> None:
    first, second = ({t.name: t for t in GGUFReader(path).tensors} for path in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.tensor_type == second[name].tensor_type
        assert tensor.data.tobytes() == second[name].data.tobytes(), name


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("type_", ["q4_1", "q4_0", "q8_0"])
def test_a_file_that_was_exported_comes_back(type_: str, dtype: str, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=2)
    convert_model(tmp_path / "model", tmp_path / "first.gguf", type_)
    export(tmp_path / "first.gguf", tmp_path / "plain", dtype)
    plan = plan_of(tmp_path / "plain", type_, tmp_path / "again.gguf")
    (result,) = write_outputs([plan], 2, Silent())
    blocks = [t.name for t in plan.tensors if t.name.startswith("blk.") and len(t.shape) > 1]
    assert set(blocks) <= set(result.exact)
    if dtype != "bf16":  # which leaves 8 bits of d, and so several that give the same
        kept = {t.name for t in plan.tensors if t.name in blocks}
        first, again = (
            {t.name: t.data.tobytes() for t in GGUFReader(tmp_path / name).tensors}
            for name in ("first.gguf", "again.gguf")
        )
        assert all(first[name] == again[name] for name in kept)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_smollm2_comes_back_bit_for_bit(dtype: str, tmp_path: Path) -> None:
    export(smollm2_gguf(), tmp_path / "plain", dtype)
    plan = plan_of(tmp_path / "plain", "q4_1", tmp_path / "again.gguf")
    (result,) = write_outputs([plan], 2, Silent())
    assert len(result.exact) == 211
    assert_same_tensors(smollm2_gguf(), tmp_path / "again.gguf")


def test_importance_and_feedback_leave_them_alone(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=2)
    convert_model(tmp_path / "model", tmp_path / "first.gguf", "q4_1")
    export(tmp_path / "first.gguf", tmp_path / "plain", "bf16")
    plan = plan_of(tmp_path / "plain", "q4_1", tmp_path / "again.gguf", sample=TOKENS)
    assert any(tensor.algorithm for tensor in plan.tensors)
    (result,) = write_outputs([plan], 2, Silent(), "cpu")
    assert {*result.helped} == {"output.weight"}  # Q6_K, in which its numbers do not lie
    assert sum(name.startswith("blk.") for name in result.exact) == 14


@pytest.mark.parametrize(("bits", "type_"), [(4, "q4_0"), (4, "q4_1"), (8, "q8_0")])
def test_symmetric_groups_go_over_exactly(bits: int, type_: str, tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": bits, "group_size": 64}
    changes = {"wide": True, "num_hidden_layers": 1}
    expected = save_quantized(
        tmp_path / "model", settings, lambda w: gptq_layer(w, bits, 64), **changes
    )
    plan = plan_of(tmp_path / "model", type_, tmp_path / "out.gguf")
    (result,) = write_outputs([plan], 2, Silent())
    assert sum(name.startswith("blk.") for name in result.exact) == len(expected) == 7
    made = open_checkpoint(str(tmp_path / "out.gguf")).tensors["blk.0.ffn_up.weight"]
    up = expected["model.layers.0.mlp.up_proj.weight"]
    assert np.array_equal(read_rows(made, 0, made.rows), up)


def test_inspect_says_which_type_keeps_them(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=1)
    assert look_at(open_checkpoint(str(tmp_path / "model")), ["q8_0"]).grids == ()
    for type_ in ("q4_1", "q4_0", "tq2_0"):
        convert_model(tmp_path / "model", tmp_path / f"{type_}.gguf", type_)
        export(tmp_path / f"{type_}.gguf", tmp_path / type_, "bf16")
        (grid,) = look_at(open_checkpoint(str(tmp_path / type_)), ["q8_0"]).grids
        assert grid.type == type_.upper()
        assert grid.tensors >= 7
