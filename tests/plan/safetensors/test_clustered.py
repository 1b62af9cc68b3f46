"""Checkpoints of few distinct values, as transformers reads them."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from common import save_model
from compressed_models import plan_model, quantize_model, write_plan
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from qconvert.errors import UsageError
from qconvert.plan.safetensors.schemes import make_scheme
from qconvert.run.clustered import clustered


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clustered") / "llama"
    save_model("llama", path, wide=True, num_hidden_layers=2)
    return path


def test_a_plain_checkpoint_of_few_values(llama: Path, tmp_path: Path) -> None:
    overrides = (("*.down_proj.weight", "lut6"), ("*layers.0.mlp.up_proj.weight", "keep"))
    path = tmp_path / "out"
    plan = quantize_model(llama, path, "lut3", output=path, overrides=overrides)
    config = json.loads((path / "config.json").read_text())
    assert "quantization_config" not in config
    before, after = weights_of(llama), weights_of(path)
    for name, weight in after.items():
        assert (weight.dtype, weight.shape) == (before[name].dtype, before[name].shape)
        kept = "proj" not in name or "layers.0.mlp.up_proj" in name
        assert torch.equal(weight, before[name]) == kept
        if not kept:
            assert len(weight.unique()) == (64 if "down_proj" in name else 8)
    read = AutoModelForCausalLM.from_pretrained(path, dtype="auto").state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in after.items())
    card = (path / "README.md").read_text()
    assert "| Distinct values | at most 64 in each tensor |" in card
    found = clustered(plan, 2)
    assert found is not None
    assert (found.tensors, found.values) == (13, 64)
    assert f"{found.packed:,}" in card
    pieces = [weight.numpy().tobytes() for weight in after.values()]
    assert found.compressed >= sum(len(zlib.compress(piece, 1)) for piece in pieces)
    assert found.compressed < 0.7 * plan.nbytes


@pytest.mark.parametrize("size", [16, "channel"])
def test_rows_that_share_their_values(size: Any, llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "out"
    plan = quantize_model(llama, path, "lut2", output=path, group_size=size)
    rows = 1 if size == "channel" else size
    for name, weight in weights_of(tmp_path / "out").items():
        if "proj" in name:
            groups = weight.split(rows)
            assert {len(group.unique()) for group in groups} == {4}
            assert rows == len(weight) or len(weight.unique()) > 4
    found = clustered(plan, 1)
    assert found is not None
    assert found.values == 4


def test_embeddings_that_are_the_output_projection_too(tmp_path: Path) -> None:
    """And what transformers stores [in, out]."""
    save_model("gpt2", tmp_path / "model", wide=True, n_layer=1)
    quantize_model(tmp_path / "model", tmp_path / "out", "lut4", embeddings=True)
    before, after = weights_of(tmp_path / "model"), weights_of(tmp_path / "out")
    few = {name for name, weight in after.items() if len(weight.unique()) <= 16}
    assert {name.split(".")[-2] for name in few if after[name].dim() == 2} == {
        *("wte", "c_attn", "c_proj", "c_fc")
    }
    for name in few:
        nearest = (before[name][..., None] - after[name].unique()).abs().amin(dim=-1)
        torch.testing.assert_close((before[name] - after[name]).abs(), nearest)


def test_what_cannot_stand_in_one_checkpoint_is_refused(llama: Path, tmp_path: Path) -> None:
    for name, other in (("lut4", "w4a16"), ("w4a16", "lut4")):
        with pytest.raises(UsageError, match="cannot stand in one checkpoint"):
            plan_model(llama, name, overrides=(("*down_proj*", other),))
    with pytest.raises(UsageError, match="no groups of 7 rows"):
        plan_model(llama, "lut4", group_size=7)
    with pytest.raises(UsageError, match="asymmetric has no meaning"):
        make_scheme("lut4", asymmetric=True)


def test_shards_of_any_number_of_threads_are_the_same(llama: Path, tmp_path: Path) -> None:
    made = []
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        plan = plan_model(llama, "lut4", output=folder)
        write_plan(plan, folder, threads=threads, shard=1 << 20)
        made.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert made[0] == made[1]
    assert len([name for name in made[0] if name.endswith(".safetensors")]) > 1
