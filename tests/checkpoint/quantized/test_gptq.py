"""GPTQ's layers, against the numbers that their codes stand for by the layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_sources import change_config, change_tensors, gptq_layer, save_quantized
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import fingerprint, open_checkpoint, read_rows
from qconvert.checkpoint.quantized import parts as parts_module
from qconvert.errors import CheckpointError, QconvertError, UnsupportedError

WAYS: dict[str, dict[str, Any]] = {
    "4 bits": {},
    "4 bits, act-order": {"act_order": True},
    "4 bits, asymmetric, version 2": {"symmetric": False, "shift": 0},
    "4 bits, asymmetric, version 1": {"symmetric": False},
    "4 bits, no g_idx": {"indexed": False},
    "4 bits, a last group of 16": {},
    "4 bits, whole rows": {"size": 1 << 20},
    "4 bits, bfloat16": {"dtype": torch.bfloat16},
    "2 bits": {"bits": 2},
    "3 bits": {"bits": 3},
    "3 bits, act-order, asymmetric": {"bits": 3, "act_order": True, "symmetric": False},
    "8 bits": {"bits": 8},
    "8 bits, act-order, asymmetric": {"bits": 8, "act_order": True, "symmetric": False},
}

RAGGED = "4 bits, a last group of 16"


def save(folder: Path, name: str) -> dict[str, np.ndarray]:
    way, heads = WAYS[name], {} if name == RAGGED else {"head_dim": 48}
    settings = {"quant_method": "gptq", "bits": way.get("bits", 4), "sym": True, "desc_act": False}
    size = way.get("size", 32)
    settings["group_size"] = size if size < 1 << 20 else -1
    settings["checkpoint_format"] = "gptq" if way.get("shift", 1) else "gptq_v2"
    layers = {"num_hidden_layers": 1, **heads}
    return save_quantized(folder, settings, lambda weight: gptq_layer(weight, **way), **layers)


def test_an_empty_g_idx_is_none(tmp_path: Path) -> None:
    expected = save(tmp_path, "4 bits")
    change_tensors(tmp_path, lambda name, x: x[:0] if name.endswith(".g_idx") else x)
    for key, values in expected.items():
        tensor = open_checkpoint(str(tmp_path)).tensors[key]
        assert np.array_equal(read_rows(tensor, 0, tensor.rows), values)


@pytest.mark.parametrize("name", WAYS)
def test_weights_are_what_the_codes_stand_for(name: str, tmp_path: Path) -> None:
    expected = save(tmp_path, name)
    tensors = open_checkpoint(str(tmp_path)).tensors
    assert {key for key, tensor in tensors.items() if tensor.codes} == set(expected)
    assert len(expected) == 7
    draw = np.random.default_rng(0)
    for key, values in expected.items():
        tensor = tensors[key]
        assert tensor.shape == values.shape
        whole = read_rows(tensor, 0, tensor.rows)
        assert np.array_equal(whole, values)  # codes times a scale of 16 bits are exact
        for start, stop in np.sort(draw.integers(0, tensor.rows + 1, (4, 2))):
            assert np.array_equal(read_rows(tensor, start, stop), whole[start:stop])


def test_few_columns_are_read_one_row_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = save(tmp_path, "3 bits")
    monkeypatch.setattr(parts_module, "SPARSE", 0)
    for key, values in expected.items():
        tensor = open_checkpoint(str(tmp_path)).tensors[key]
        assert np.array_equal(read_rows(tensor, 31, 41), values[31:41])


def test_the_layers_of_gpt2_are_turned(tmp_path: Path) -> None:
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 16}
    expected = save_quantized(
        tmp_path, settings, lambda w: gptq_layer(w, size=16), family="gpt2", n_layer=1
    )
    tensors = open_checkpoint(str(tmp_path)).tensors
    for key, values in expected.items():
        tensor = tensors[key]
        assert tensor.shape == values.shape
        assert np.array_equal(read_rows(tensor, 0, tensor.rows), values)
        assert np.array_equal(read_rows(tensor, 3, 17), values[3:17])


def test_the_fingerprint_covers_codes_and_scales(tmp_path: Path) -> None:
    save(tmp_path, "4 bits")
    before = fingerprint(open_checkpoint(str(tmp_path)))
    change_tensors(tmp_path, lambda name, t: t * 2 if name.endswith("up_proj.scales") else t)
    assert fingerprint(open_checkpoint(str(tmp_path))) != before


def open_and_read(folder: Path) -> None:
    for tensor in open_checkpoint(str(folder)).tensors.values():
        read_rows(tensor, 0, tensor.rows)


DAMAGE: dict[str, tuple[str, Any, type[QconvertError], str]] = {
    "no zeros": ("up_proj.qzeros", lambda t: None, CheckpointError, "qzeros' is missing"),
    "no codes": ("up_proj.qweight", lambda t: None, CheckpointError, "qweight' is missing"),
    "no scales": ("up_proj.scales", lambda t: None, CheckpointError, "scales' is missing"),
    "few scales": ("up_proj.scales", lambda t: t[:, 1:], CheckpointError, "fit"),
    "few groups": ("up_proj.scales", lambda t: t[1:], CheckpointError, "fit"),
    "flat codes": ("up_proj.qweight", lambda t: t.reshape(-1), CheckpointError, "not two"),
    "short codes": ("up_proj.qweight", lambda t: t[1:], CheckpointError, "fits its weight"),
    "codes of 16 bits": ("up_proj.qweight", lambda t: t.short(), CheckpointError, "I16"),
    "integer scales": ("up_proj.scales", lambda t: t.int(), CheckpointError, "I32"),
    "empty": ("up_proj.scales", lambda t: t[:0], CheckpointError, "is empty"),
    "short index": ("up_proj.g_idx", lambda t: t[1:], CheckpointError, "fits its weight"),
    "a group too high": ("up_proj.g_idx", lambda t: t + 1, CheckpointError, "not there"),
    "a group below": ("up_proj.g_idx", lambda t: t - 1, CheckpointError, "not there"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    save(tmp_path, "4 bits")
    end, how, error, words = DAMAGE[name]
    change_tensors(tmp_path, lambda name, t: how(t) if name.endswith(end) else t)
    with pytest.raises(error, match=words) as raised:
        open_and_read(tmp_path)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"group_size": 0}, CheckpointError, "group_size"),
        ({"group_size": "x"}, CheckpointError, "group_size"),
        ({"group_size": -7}, CheckpointError, "group_size"),
        ({"checkpoint_format": "marlin"}, UnsupportedError, "marlin"),
        ({"pack_dtype": "int64"}, UnsupportedError, "32 bits"),
    ],
)
def test_settings_that_cannot_be(
    settings: dict, error: type[QconvertError], words: str, tmp_path: Path
) -> None:
    save(tmp_path, "4 bits")
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32} | settings
    change_config(tmp_path, quantization_config=quantization)
    with pytest.raises(error, match=words):
        open_checkpoint(str(tmp_path))


def test_a_layer_that_is_there_twice(tmp_path: Path) -> None:
    save(tmp_path, "4 bits")
    name = "model.layers.0.mlp.up_proj"
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[f"{name}.weight"] = torch.zeros(416, 288)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="twice"):
        open_checkpoint(str(tmp_path))
