"""Files made of quantized checkpoints are those that are made of the same numbers in plain."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import convert_model
from gguf import GGUFReader
from quantized_sources import (
    E2M1,
    Layer,
    awq_layer,
    gptq_layer,
    nibbles,
    nvfp4_layer,
    save_quantized,
)
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.dtypes import decode
from qconvert.model.assemble import assemble, assemble_bytes
from qconvert.model.open import open_model
from qconvert.model.types import Rows, TensorMap

SOURCES: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], Layer]]] = {
    "gptq": ({"bits": 4, "group_size": 32}, lambda weight: gptq_layer(weight, act_order=True)),
    "awq": ({"bits": 4, "group_size": 32}, awq_layer),
    "modelopt": ({"quant_algo": "NVFP4"}, partial(nvfp4_layer, exact=True)),
}


def save_both(folder: Path, method: str) -> tuple[Path, Path]:
    """A quantized checkpoint, and one of the same numbers in float32."""
    settings, layer = SOURCES[method]
    changes = {"wide": True, "num_hidden_layers": 2}
    quantization = {"quant_method": method, **settings}
    expected = save_quantized(folder / "quantized", quantization, layer, **changes)
    stored = load_file(folder / "quantized" / "model.safetensors")
    endings = (".qweight", ".qzeros", ".scales", ".g_idx", "_scale", "_scale_2")
    tensors = {name: t for name, t in stored.items() if not name.endswith(endings)}
    tensors |= {name: torch.from_numpy(values).float() for name, values in expected.items()}
    save_quantized(
        folder / "plain", None, lambda w: ({".weight": torch.from_numpy(w)}, w), **changes
    )
    save_file(tensors, folder / "plain" / "model.safetensors", {"format": "pt"})
    return folder / "quantized", folder / "plain"


@pytest.mark.parametrize("method", SOURCES)
def test_a_gguf_file_has_the_same_bytes(method: str, tmp_path: Path) -> None:
    paths = save_both(tmp_path, method)
    files = [path.with_suffix(".gguf") for path in paths]
    for path, file in zip(paths, files, strict=True):
        convert_model(path, file, "q4_k_m")
    quantized, plain = (GGUFReader(file).tensors for file in files)
    assert [t.name for t in quantized] == [t.name for t in plain]
    for one, other in zip(quantized, plain, strict=True):
        assert one.tensor_type == other.tensor_type
        assert one.data.tobytes() == other.data.tobytes()


@pytest.mark.parametrize("method", SOURCES)
def test_that_a_source_was_quantized_is_said(method: str, tmp_path: Path) -> None:
    model = open_model(open_checkpoint(str(save_both(tmp_path, method)[0])))
    assert [notice for notice in model.notices if f"quantized already ({method} " in notice]


def mxfp4_layer(weight: np.ndarray) -> Layer:
    """Codes and exponents that no quantizer chooses: negative zeros, small codes, any exponent."""
    draw = np.random.default_rng(weight.size)
    codes = draw.integers(0, 16, weight.shape).astype(np.uint8)
    codes[:, 32:64] &= 9
    exponents = draw.integers(100, 130, (len(weight), weight.shape[1] // 32)).astype(np.uint8)
    steps = np.repeat(2.0 ** (exponents - 127.0), 32, axis=1)
    return {".weight": nibbles(codes), ".weight_scale": torch.from_numpy(exponents)}, (
        E2M1[codes] * steps
    )


def test_mxfp4_moves_as_it_is(tmp_path: Path) -> None:
    experts = {"num_hidden_layers": 1, "num_local_experts": 2}
    expected = save_quantized(
        tmp_path / "model",
        {"quant_method": "modelopt", "quant_algo": "W4A8_MXFP4_FP8"},
        mxfp4_layer,
        family="mixtral",
        which=lambda name: "experts" in name,
        **experts,
    )
    assert len(expected) == 6
    convert_model(tmp_path / "model", tmp_path / "out.gguf", "mxfp4_moe")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    made = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    for theirs, ours in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
        tensor = made[f"blk.0.ffn_{ours}_exps.weight"]
        assert tensor.tensor_type.name == "MXFP4"
        for expert, packed in enumerate(tensor.data):
            stem = f"model.layers.0.block_sparse_moe.experts.{expert}.{theirs}.weight"
            blocks = packed.reshape(len(packed), -1, 17)
            assert np.array_equal(blocks[..., 0], stored[f"{stem}_scale"].numpy())
            codes = np.concatenate([blocks[..., 1:] & 15, blocks[..., 1:] >> 4], axis=-1)
            own = stored[stem].numpy()
            assert np.array_equal(codes.reshape(len(own), -1)[:, 0::2], own & 15)
            assert np.array_equal(codes.reshape(len(own), -1)[:, 1::2], own >> 4)


def test_turned_experts_move_as_they_are(tmp_path: Path) -> None:
    """gpt-oss's, of which transformers has [experts, in, out]."""
    draw = np.random.default_rng(0)
    packed, exponents = draw.integers(0, 256, (6, 16)), draw.integers(90, 120, (6, 1))
    tensors = {
        "up_blocks": torch.from_numpy(packed.astype(np.uint8)).reshape(2, 3, 1, 16),
        "up_scales": torch.from_numpy(exponents.astype(np.uint8)).reshape(2, 3, 1),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"architectures": ["X"], "quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    info = open_checkpoint(str(tmp_path)).tensors["up"]
    assert info.shape == (2, 32, 3)
    map_ = TensorMap("up", (2, 3, 32), (Rows("up", 0, 64),), transpose=True)
    moved = decode("MXFP4", assemble_bytes(map_, {"up": info}, 1, 5), 32)
    assert np.array_equal(moved, assemble(map_, {"up": info}, 1, 5))
