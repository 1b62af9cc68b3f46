"""Tensors without elements: left out where nobody needs them, named where somebody does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from common import Family, convert_model, finish_gguf, save_model, sizes
from compressed_models import load_model, quantize_model, stored_arrays
from gguf import GGUFReader, GGUFWriter
from plain_models import PLAIN
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, PlanError, UnsupportedError
from qconvert.inspection import look_at
from qconvert.machine.watcher import Silent
from qconvert.model.by_modules import open_by_modules
from qconvert.model.open import open_model
from qconvert.run.transform import transform

EMPTY = {"model.extra": (0,), "model.layers.0.more": (0, 64), "model.layers.1.inv_freq": (0,)}
PICKLED = {**EMPTY, "model.layers.1.wide": (4, 0)}
"""safetensors' own library writes no such rows."""


def change(path: Path, shapes: dict[str, tuple[int, ...]], pickled: bool = False) -> None:
    file = next(path.glob("*.safetensors"))
    tensors = load_file(file)
    for name, shape in shapes.items():
        dtype = tensors[name].dtype if name in tensors else torch.float32
        tensors[name] = torch.empty(shape, dtype=dtype)
    if pickled:
        file.unlink()
        torch.save(tensors, path / "pytorch_model.bin")
    else:
        save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("pickled", [False, True])
def test_those_that_nobody_needs_are_left_out_and_named(pickled: bool, tmp_path: Path) -> None:
    save_model("llama", tmp_path / "m")
    convert_model(tmp_path / "m", tmp_path / "before.gguf", "f32")
    change(tmp_path / "m", PICKLED if pickled else EMPTY, pickled)
    plan = convert_model(tmp_path / "m", tmp_path / "after.gguf", "f32")
    before, after = (
        {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / name).tensors}
        for name in ("before.gguf", "after.gguf")
    )
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    (told,) = (line for line in plan.notices if "empty tensors are left out" in line)
    assert "model.extra" in told

    plan = quantize_model(tmp_path / "m", tmp_path / "q", "w8a16")
    assert not EMPTY.keys() & stored_arrays(tmp_path / "q").keys()
    assert load_model(tmp_path / "q")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.embed_tokens.weight",
        "lm_head.weight",
    ],
)
@pytest.mark.parametrize("shape", [(0,), (0, 64)])
def test_one_that_is_needed_is_refused_and_named(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    save_model("llama", tmp_path)
    change(tmp_path, {name: shape})
    checkpoint = open_checkpoint(str(tmp_path))
    with pytest.raises(PlanError, match="is empty") as raised:
        open_model(checkpoint)
    assert raised.value.message.startswith(name)
    assert "zero_to_fp32" in raised.value.hint
    assert any(name in line for line in look_at(checkpoint).problems)


def test_a_number_that_is_needed_is_refused_and_named(tmp_path: Path) -> None:
    save_model(PLAIN["apertus"], tmp_path)
    change(tmp_path, {"model.layers.0.mlp.act_fn.alpha_p": (0,)})
    with pytest.raises(PlanError, match=r"act_fn\.alpha_p is empty"):
        open_model(open_checkpoint(str(tmp_path)))


def test_a_layer_of_a_class_without_a_family(tmp_path: Path) -> None:
    save_model(Family("HeliumForCausalLM", "HeliumConfig", sizes(192, 6, 2, 32, 416, 2)), tmp_path)
    name = "model.layers.0.mlp.up_proj.weight"
    change(tmp_path, {name: (0,)})
    with pytest.raises(PlanError, match=f"{name} is empty"):
        open_by_modules(open_checkpoint(str(tmp_path)))


def test_of_tied_tensors_one_may_be_empty(tmp_path: Path) -> None:
    """As DeepSpeed saves tied models."""
    save_model("llama", tmp_path, tied=True)
    change(tmp_path, {"lm_head.weight": (0,)})
    model = open_model(open_checkpoint(str(tmp_path)))
    assert model.tied
    assert "lm_head.weight" not in {weight.name for weight in model.weights}
    tensors = load_file(tmp_path / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors |= {"lm_head.weight": embedding, "model.embed_tokens.weight": torch.empty(0)}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    model = open_model(open_checkpoint(str(tmp_path)))
    assert model.tied
    named = {weight.name: weight.map.shape for weight in model.weights}
    assert named["model.embed_tokens.weight"] == tuple(embedding.shape)
    assert "lm_head.weight" not in named


@pytest.mark.parametrize(
    ("scheme", "part"),
    [("w8a8", "weight"), ("fp8", "weight_scale"), ("w4a16", "weight_packed")],
)
def test_codes_without_elements_are_refused_and_named(
    scheme: str, part: str, tmp_path: Path
) -> None:
    save_model("llama", tmp_path / "m")
    quantize_model(tmp_path / "m", tmp_path / "q", scheme)
    no_order = "model.layers.0.mlp.up_proj.weight_g_idx"  # of columns: they are as they were
    change(tmp_path / "q", {**EMPTY, no_order: (0,)})
    assert open_model(open_checkpoint(str(tmp_path / "q"))).weights
    name = f"model.layers.0.self_attn.q_proj.{part}"
    change(tmp_path / "q", {name: (0,)})
    with pytest.raises(CheckpointError, match=f"{name} is empty"):
        open_checkpoint(str(tmp_path / "q"))


def test_a_gguf_file_that_holds_one_is_refused(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("token_embd.weight", np.ones((8, 32), np.float32))
    writer.add_tensor("foo.weight", np.ones((0, 32), np.float32))
    checkpoint = open_checkpoint(str(finish_gguf(writer, tmp_path / "m.gguf")))
    with pytest.raises(UnsupportedError, match=r"empty tensors: foo\.weight"):
        open_model(checkpoint)
    assert look_at(checkpoint).problems


def test_from_checkpoint_to_checkpoint_they_are_kept(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "m")
    change(tmp_path / "m", EMPTY)
    transform(open_checkpoint(str(tmp_path / "m")), tmp_path / "out", threads=2, watcher=Silent())
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("m", "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
