"""The table read backwards undoes the table."""

import numpy as np
import pytest
from common import FAMILIES, convert_model, save_model

from qconvert.checkpoint import TensorInfo, open_checkpoint
from qconvert.errors import PlanError
from qconvert.model.assemble import assemble
from qconvert.model.families import FAMILIES as TABLE
from qconvert.model.mapping import map_tensors
from qconvert.model.reverse import _fused, _Piece, describe
from qconvert.model.types import Rule


def info(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name, shape, "F32", None, 0, 4 * int(np.prod(shape)))  # type: ignore[arg-type]


ONE_WAY = {
    *("deepseek2", "gemma4", "gpt-oss", "lfm2", "lfm2moe", "qwen35", "qwen35moe", "qwen3next"),
    *("qwen2vl", "qwen3vl", "qwen3vlmoe", "gptneox", "apertus", "t5encoder"),
    *("nemotron_h", "nemotron_h_moe", "granitehybrid", "falcon-h1", "jamba", "mamba", "mamba2"),
    *("llama4", "ernie4_5-moe", "deepseek32", "glm-dsa", "hy_v3", "laguna", "mimo2"),
    *("falcon", "bloom", "mpt", "gemma3n", "jina-bert-v3"),
}
"""What is stored in turns, in llama.cpp's order of heads or absorbed, or has become a key; parts of
larger models."""


def test_every_other_family_can_be_written_back() -> None:
    known = {family.name for family in TABLE if family.config}
    assert {family.name for family in TABLE} - known == ONE_WAY


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_comes_back_to_its_place(family, tmp_path) -> None:
    model = save_model(family, tmp_path / "model")
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    source, file = (
        open_checkpoint(str(tmp_path / "model")),
        open_checkpoint(str(tmp_path / "f32.gguf")),
    )
    description = describe(file)
    assert description.notices == ()
    made = {tensor.name: tensor for tensor in description.tensors}
    left_out = {name for name in source.tensors if "pooler" in name}
    assert set(made) == set(source.tensors) - left_out
    for name, tensor in made.items():
        original = source.tensors[name]
        assert tensor.shape == original.shape
        values = assemble(tensor, file.tensors, 0, tensor.rows).reshape(tensor.shape)
        expected = model.state_dict().get(name)
        if expected is not None and family != "gemma3":
            assert np.array_equal(values, expected.numpy()), name
    # Forward again: the same file.
    again = {name: TensorInfo(name, t.shape, "F32", file.path, 0, 0) for name, t in made.items()}
    mapped, unused = map_tensors(description.family, description.config, again)
    assert not unused
    assert {t.name: t.shape for t in mapped} == {
        name: stored.shape for name, stored in file.tensors.items()
    }


def test_parts_of_a_fused_tensor_are_put_in_order() -> None:
    up = _Piece(Rule("up", "gate_up", rows=(3, 7)), info("up", 2, 4, 5))
    gate = _Piece(Rule("gate", "gate_up", rows=(0, 3)), info("gate", 2, 3, 5))
    fused = _fused("gate_up", [up, gate])
    assert fused.shape == (2, 7, 5)
    runs = [(part.source, part.start, part.stop) for part in fused.parts]
    assert runs == [("gate", 0, 3), ("up", 0, 4), ("gate", 3, 6), ("up", 4, 8)]


def test_a_gap_between_the_parts_is_refused() -> None:
    gate = _Piece(Rule("gate", "gate_up", rows=(0, 3)), info("gate", 3, 5))
    up = _Piece(Rule("up", "gate_up", rows=(4, 7)), info("up", 3, 5))
    with pytest.raises(PlanError):
        _fused("gate_up", [gate, up])
