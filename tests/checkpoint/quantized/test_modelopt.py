"""ModelOpt's layers of NVFP4, FP8 and others side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_sources import (
    Layer,
    change_config,
    change_tensors,
    fp8_layer,
    mxfp4_rows,
    nibbles,
    nvfp4_layer,
    save_quantized,
)
from safetensors.torch import load_file

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import CheckpointError, UnsupportedError

SETTINGS = {
    "producer": {"name": "modelopt", "version": "0.47.0"},
    "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "group_size": 16},
}


def save(
    folder: Path, layer: Any = nvfp4_layer, excluded: str = "o_proj", beside: bool = True
) -> dict[str, np.ndarray]:
    expected = save_quantized(
        folder,
        None if beside else {"quant_method": "modelopt", **SETTINGS["quantization"]},
        layer,
        which=lambda name: excluded not in name,
        num_hidden_layers=1,
        head_dim=48,
    )
    if beside:
        (folder / "hf_quant_config.json").write_text(json.dumps(SETTINGS))
    return expected


def check(folder: Path, expected: dict[str, np.ndarray], rtol: float) -> None:
    tensors = open_checkpoint(str(folder)).tensors
    assert not [name for name in tensors if name.endswith(("_scale", "_scale_2"))]
    for key, values in expected.items():
        tensor = tensors[key]
        assert tensor.shape == values.shape
        whole = read_rows(tensor, 0, tensor.rows)
        np.testing.assert_allclose(whole, values, rtol=rtol, atol=0)
        assert np.array_equal(read_rows(tensor, 3, 12), whole[3:12])


@pytest.mark.parametrize("beside", [True, False])
def test_nvfp4_and_excluded_layers(beside: bool, tmp_path: Path) -> None:
    expected = save(tmp_path, beside=beside)
    assert len(expected) == 6
    check(tmp_path, expected, 2**-22)
    tensors = open_checkpoint(str(tmp_path)).tensors
    assert tensors["model.layers.0.self_attn.o_proj.weight"].dtype == "F32"


def test_it_is_what_compressed_tensors_converts(tmp_path: Path) -> None:
    from compressed_tensors.entrypoints.convert.converters import ModelOptNvfp4Converter
    from formats.safetensors.compressed_oracle import decompress

    from qconvert.formats.safetensors.types import WeightFormat

    expected = save(tmp_path)
    stored = ModelOptNvfp4Converter(targets=["re:.*layers.*"]).process(
        load_file(tmp_path / "model.safetensors")
    )
    form = WeightFormat("nvfp4-pack-quantized", "float", 4, "group", 16)
    tensors = open_checkpoint(str(tmp_path)).tensors
    for key in expected:
        names = ("weight_packed", "weight_scale", "weight_global_scale")
        made = {name: stored[key.removesuffix("weight") + name] for name in names}
        arrays = {name: t.reshape(-1 if "global" in name else t.shape) for name, t in made.items()}
        arrays = {name: _bits(tensor) for name, tensor in arrays.items()}
        dtypes = dict(zip(names, ("U8", "F8_E4M3", "F32"), strict=True))
        theirs = decompress(form, arrays, dtypes).float().numpy()
        # It divides by the inverse, and unpacks to bfloat16.
        mine = read_rows(tensors[key], 0, tensors[key].rows)
        np.testing.assert_allclose(mine, theirs, rtol=2**-8, atol=0)


def _bits(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.float8_e4m3fn:
        return tensor.view(torch.uint8).numpy()
    return tensor.numpy()


def mixed(weight: np.ndarray) -> Layer:
    """Layers by their shape in one of three ways."""
    rows, columns = weight.shape
    if rows > columns:
        return nvfp4_layer(weight)
    return fp8_layer(weight, by_row=rows < columns)


def test_mixed_layers(tmp_path: Path) -> None:
    expected = save(tmp_path, mixed)
    check(tmp_path, expected, 2**-22)
    dtypes = {tensor.dtype for tensor in open_checkpoint(str(tmp_path)).tensors.values()}
    assert dtypes == {"modelopt nvfp4", "F8_E4M3", "F32"}


def mxfp4_layer(weight: np.ndarray) -> Layer:
    codes, exponents, made = mxfp4_rows(weight)
    return {".weight": nibbles(codes), ".weight_scale": torch.from_numpy(exponents)}, made


def mxfp8_layer(weight: np.ndarray) -> Layer:
    codes = torch.from_numpy(weight).float().to(torch.float8_e4m3fn)
    exponents = np.random.default_rng(0).integers(120, 130, (len(weight), weight.shape[1] // 32))
    made = codes.double().numpy() * np.repeat(2.0 ** (exponents - 127), 32, axis=1)
    return {".weight": codes, ".weight_scale": torch.from_numpy(exponents.astype(np.uint8))}, made


@pytest.mark.parametrize("layer", [mxfp4_layer, mxfp8_layer])
def test_powers_of_two_as_scales(layer: Any, tmp_path: Path) -> None:
    check(tmp_path, save(tmp_path, layer), 0)


def test_what_inputs_are_multiplied_with_belongs_to_the_weight(tmp_path: Path) -> None:
    def layer(weight: np.ndarray) -> Layer:
        tensors, made = nvfp4_layer(weight)
        inputs = torch.linspace(0.5, 2, weight.shape[1]).bfloat16()
        return {**tensors, ".pre_quant_scale": inputs}, made * inputs.double().numpy()

    check(tmp_path, save(tmp_path, layer), 2**-22)


@pytest.mark.parametrize(
    ("end", "how", "words"),
    [
        ("up_proj.weight_scale", lambda t: None, "is missing"),
        ("up_proj.weight_scale_2", lambda t: None, "is missing"),
        ("up_proj.weight_scale", lambda t: t[:, 1:], "fits its weight"),
        ("up_proj.weight_scale_2", lambda t: t.repeat(2), "shape"),
        ("up_proj.weight", lambda t: t[:, 1:], "groups of 16|fits its weight"),
    ],
)
def test_damage_is_named(end: str, how: Any, words: str, tmp_path: Path) -> None:
    save(tmp_path)
    change_tensors(tmp_path, lambda name, t: how(t) if name.endswith(end) else t)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(tmp_path))


def int4_layer(weight: np.ndarray) -> Layer:
    """W4A16_AWQ: two rows to a byte."""
    codes = torch.zeros(len(weight) // 2, weight.shape[1], dtype=torch.uint8)
    return {".weight": codes, ".weight_scale": torch.ones(len(weight), 1)}, weight


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    save(tmp_path, int4_layer)
    with pytest.raises(UnsupportedError, match=r"NVFP4.* is not read"):
        open_checkpoint(str(tmp_path))


def test_a_file_of_settings_that_is_none(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="hf_quant_config"):
        open_checkpoint(str(tmp_path))
    change_config(tmp_path, quantization_config={"quant_method": "modelopt"})
    assert open_checkpoint(str(tmp_path)).tensors  # config.json goes before it
