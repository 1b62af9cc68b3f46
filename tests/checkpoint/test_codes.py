"""Weights of compressed-tensors directories, against what the package makes of the same tensors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import save_model
from compressed_models import SCHEMES as PLAIN
from compressed_models import load_model, quantize_model, quantized, stored_arrays
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import fingerprint, open_checkpoint, read_rows
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError, UnsupportedError

SCHEMES = PLAIN | {f"{name} asymmetric": {"asymmetric": True} for name in ("w4a16", "w3a16")}
FP4 = ("nvfp4a16", "mxfp4a16", "mxfp4a4")


def quantize(family: str, folder: Path, name: str, **options: Any) -> tuple[Any, Path]:
    layers = {"n_layer": 1} if family == "gpt2" else {"num_hidden_layers": 1}
    experts = {"num_local_experts": 2} if family == "mixtral" else {}
    save_model(family, folder / "model", wide=True, **layers, **experts)
    settings = {**SCHEMES[name], **options}
    return quantize_model(folder / "model", folder / "out", name.split()[0], **settings), (
        folder / "out"
    )


def expected_weights(plan: Any, path: Path) -> dict[str, np.ndarray]:
    """By name, what compressed-tensors reads, as Hugging Face has it: GPT-2's [in, out]."""
    from formats.safetensors.compressed_oracle import decompress

    arrays = stored_arrays(path)
    found = {}
    for tensor in quantized(plan):
        stem = tensor.weight.name.removesuffix("weight")
        parts = {part.suffix: arrays[stem + part.suffix] for part in tensor.parts}
        parts = {name: array for name, array in parts.items() if not name.startswith("input_")}
        dtypes = {part.suffix: part.dtype for part in tensor.parts}
        if tensor.weight.conv1d and "weight" in parts:
            parts["weight"] = np.ascontiguousarray(parts["weight"].T)
        values = decompress(tensor.scheme.weights, parts, dtypes).float().numpy()
        found[tensor.weight.name] = values.T if tensor.weight.conv1d else values
    return found


def whole(tensor: TensorInfo) -> np.ndarray:
    return read_rows(tensor, 0, tensor.rows)


QUICK = {
    "qwen3": ("w8a8", "w8a16 groups", "w3a16 asymmetric", "fp8", "fp8 block", *FP4),
    "gpt2": ("w8a8", "w4a16 asymmetric", "fp8 block"),
    "mixtral": ("w4a16",),
}
"""One of each kind; the others take longer together."""

EACH = [
    pytest.param(
        family, name, marks=() if name in quick else pytest.mark.slow, id=f"{family}-{name}"
    )
    for family, quick in QUICK.items()
    for name in SCHEMES
]


@pytest.mark.parametrize(("family", "name"), EACH)
def test_weights_are_what_compressed_tensors_makes_of_them(family: str, name: str, tmp_path: Path):
    plan, path = quantize(family, tmp_path, name)
    expected = expected_weights(plan, path)
    tensors = open_checkpoint(str(path)).tensors
    stored = {key for key, tensor in tensors.items() if tensor.codes}
    assert stored == set(expected)
    assert len(stored) == {"qwen3": 7, "gpt2": 4, "mixtral": 10}[family]
    for key, values in expected.items():
        assert tensors[key].shape == values.shape
        # float4 is unpacked to bfloat16, whose products are rounded.
        exact = "fp4" not in name
        np.testing.assert_allclose(whole(tensors[key]), values, rtol=0 if exact else 2**-8, atol=0)
    original = open_checkpoint(str(tmp_path / "model"))
    assert {k: t.shape for k, t in tensors.items() if not t.codes} == {
        k: t.shape for k, t in original.tensors.items() if k in tensors and not tensors[k].codes
    }


@pytest.mark.parametrize(
    ("family", "name"),
    [("qwen3", "w3a16 asymmetric"), ("qwen3", "fp8 block"), ("gpt2", "w8a8")],
)
def test_any_rows_can_be_read_alone(family: str, name: str, tmp_path: Path):
    _, path = quantize(family, tmp_path, name)
    draw = np.random.default_rng(0)
    for tensor in open_checkpoint(str(path)).tensors.values():
        if tensor.codes:
            values = whole(tensor)
            for start, stop in np.sort(draw.integers(0, tensor.rows + 1, (8, 2))):
                assert np.array_equal(read_rows(tensor, start, stop), values[start:stop])


def test_shards_and_what_is_kept(tmp_path: Path):
    from compressed_models import plan_model, write_plan

    save_model("qwen3", tmp_path / "model", wide=True, num_hidden_layers=2)
    plan = plan_model(tmp_path / "model", "w4a16", keep=("*down_proj*",))
    write_plan(plan, tmp_path / "out", shard=300_000)
    checkpoint = open_checkpoint(str(tmp_path / "out"))
    assert len(checkpoint.files) > 1
    for key, values in expected_weights(plan, tmp_path / "out").items():
        assert np.array_equal(whole(checkpoint.tensors[key]), values)
    assert checkpoint.tensors["model.layers.0.mlp.down_proj.weight"].codes is None


@pytest.mark.parametrize("name", ["w8a8", "fp8"])
def test_it_is_what_transformers_loads_dequantized(name: str, tmp_path: Path):
    from transformers import CompressedTensorsConfig

    _, path = quantize("qwen3", tmp_path, name)
    tensors = open_checkpoint(str(path)).tensors
    model = load_model(path, quantization_config=CompressedTensorsConfig(dequantize=True))
    weights = model.state_dict()
    stored = [key for key, tensor in tensors.items() if tensor.codes]
    assert len(stored) == 7
    for key in stored:
        assert np.array_equal(whole(tensors[key]), weights[key].float().numpy())


def test_the_fingerprint_covers_codes_and_scales(tmp_path: Path):
    _, path = quantize("qwen3", tmp_path, "w4a16")
    before = fingerprint(open_checkpoint(str(path)))
    assert before == fingerprint(open_checkpoint(str(path)))
    for suffix in ("weight_packed", "weight_scale"):
        end = f"up_proj.{suffix}"
        changed = change(path, lambda name, end=end: name.endswith(end), lambda t: t * 2)
        assert fingerprint(open_checkpoint(str(changed))) != before


def change(path: Path, which: Any, how: Any) -> Path:
    """A copy with some tensors changed."""
    folder = path.with_name(f"{path.name}-{len(list(path.parent.iterdir()))}")
    folder.mkdir()
    (folder / "config.json").write_bytes((path / "config.json").read_bytes())
    tensors = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        made = how(tensor) if which(name) else tensor
        if made is not None:
            tensors[name] = made.contiguous()
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("suffix", "how", "error", "words"),
    [
        ("up_proj.weight_scale", lambda t: t[:-1], UnsupportedError, "up_proj"),
        ("up_proj.weight_scale", lambda t: t.reshape(-1), UnsupportedError, "up_proj"),
        ("up_proj.weight_scale", lambda t: t.int(), CheckpointError, "I32"),
        ("up_proj.weight_scale", lambda t: None, UnsupportedError, "up_proj.weight is stored"),
        ("up_proj.weight_shape", lambda t: t * 3, CheckpointError, "as its codes are"),
        ("up_proj.weight_shape", lambda t: t[:1], CheckpointError, "as its codes are"),
        ("up_proj.weight_shape", lambda t: None, CheckpointError, "is missing"),
    ],
)
def test_parts_that_do_not_fit_are_refused(suffix, how, error, words, tmp_path: Path):
    _, path = quantize("qwen3", tmp_path, "w4a16")
    changed = change(path, lambda name: name.endswith(suffix), how)
    with pytest.raises(error, match=re.escape(words)):
        open_checkpoint(str(changed))


def test_columns_in_another_order_are_refused(tmp_path: Path):
    import torch

    _, path = quantize("qwen3", tmp_path, "w4a16")
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight_g_idx"] = torch.arange(256, dtype=torch.int32)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(UnsupportedError, match="g_idx"):
        open_checkpoint(str(path))


def test_sparse_weights_are_refused(tmp_path: Path):
    _, path = quantize("qwen3", tmp_path, "w8a8")
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"]["sparsity_config"] = {"format": "sparse-24-bitmask"}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="already quantized"):
        open_checkpoint(str(path))
