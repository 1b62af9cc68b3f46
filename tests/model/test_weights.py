"""Weights under Hugging Face's names, whatever the checkpoint is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from common import FAMILIES, convert_model, save_model, tiny_model
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.model.assemble import assemble
from qconvert.model.open import Model, open_model
from qconvert.model.roles import Role


def source_of(path: Path) -> Model:
    return open_model(open_checkpoint(str(path)))


def values(source: Model) -> dict[str, np.ndarray]:
    """Every weight as it would be stored."""
    tensors = source.checkpoint.tensors
    return {
        weight.name: assemble(weight.map, tensors, 0, weight.map.rows).reshape(weight.map.shape)
        for weight in source.weights
    }


@pytest.fixture(scope="module", params=FAMILIES)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in both containers; it is named after the family."""
    path = tmp_path_factory.mktemp("both") / request.param
    path.mkdir()
    save_model(request.param, path / "model")
    convert_model(path / "model", path / "model.gguf", "f32")
    return path


def test_directories_and_gguf_files_hold_the_same(both: Path) -> None:
    stored = {name: tensor.numpy() for name, tensor in load_file(_only(both / "model")).items()}
    directory, file = source_of(both / "model"), source_of(both / "model.gguf")
    assert all(np.array_equal(stored[name], value) for name, value in values(directory).items())
    assert stored.keys() == values(directory).keys()
    for name, value in values(file).items():
        if both.name == "gemma3" and "norm" in name:  # one is added to them, and taken off again
            assert stored[name] == pytest.approx(value, abs=1e-7), name
        else:
            assert np.array_equal(stored[name], value), name
    lost = set(stored) - set(values(file))
    assert all("pooler" in name for name in lost)


def test_rows_are_known_by_their_place_in_gguf(both: Path) -> None:
    """What a calibration says of a GGUF tensor's rows belongs to these rows here."""
    gguf = open_checkpoint(str(both / "model.gguf")).tensors
    for path in ("model", "model.gguf"):
        source = source_of(both / path)
        for weight in source.weights:
            if not weight.quantizable or weight.role is Role.EMBEDDING:
                continue
            map_ = weight.matrix_map
            mine = assemble(map_, source.checkpoint.tensors, 0, map_.rows)
            theirs = read_rows(gguf[weight.gguf], 0, gguf[weight.gguf].rows)
            index = np.arange(map_.rows)
            if weight.order:
                group = len(weight.order)
                index = index // group * group + np.array(weight.order)[index % group]
            assert np.array_equal(mine, theirs[weight.first + index]), weight.name
            if weight.expert:
                assert weight.first == weight.matrix * map_.rows


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_fused_experts_get_the_names_of_single_ones(family: str, tmp_path: Path) -> None:
    """As transformers 5 holds them in memory."""
    save_model(family, tmp_path / "single")
    model = tiny_model(family)
    (tmp_path / "fused").mkdir()
    model.config.architectures = [FAMILIES[family].model]
    model.config.save_pretrained(tmp_path / "fused")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert any(tensor.dim() == 3 for tensor in state.values())
    save_file(state, tmp_path / "fused/model.safetensors")
    single, fused = source_of(tmp_path / "single"), source_of(tmp_path / "fused")
    expected, found = values(single), values(fused)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    by_name = {weight.name: weight for weight in single.weights}
    for weight in fused.weights:
        other = by_name[weight.name]
        assert (weight.gguf, weight.matrix, weight.role) == (other.gguf, other.matrix, other.role)


def test_a_tied_output_is_no_weight(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model", tied=True)
    path = _only(tmp_path / "model")
    stored = load_file(path)
    stored["lm_head.weight"] = model.model.embed_tokens.weight.detach().clone()
    save_file(stored, path)
    source = source_of(tmp_path / "model")
    assert source.tied
    assert "lm_head.weight" not in {weight.name for weight in source.weights}


def test_what_gguf_has_no_place_for_stays(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "model")
    stored = load_file(_only(tmp_path / "model"))
    stored["embeddings.position_ids"] = torch.arange(96)[None]
    save_file(stored, _only(tmp_path / "model"))
    names = {weight.name for weight in source_of(tmp_path / "model").weights}
    assert {"pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"} < names


def _only(path: Path) -> Path:
    return path / "model.safetensors"
