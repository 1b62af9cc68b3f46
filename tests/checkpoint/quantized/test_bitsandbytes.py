"""bitsandbytes' layers: as the package writes and reads them where it is installed, and always
against the numbers that their codes stand for by the layout."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_sources import Layer, change_tensors, save_quantized
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import CheckpointError, UnsupportedError

SETTINGS = {"quant_method": "bitsandbytes", "load_in_4bit": True}
TABLE = np.linspace(-1, 1, 16, dtype=np.float32)
NESTED = np.linspace(-1, 1, 256, dtype=np.float32)
STATE = ".weight.quant_state.bitsandbytes__nf4"


def four_bit_layer(weight: np.ndarray, *, nested: bool = False, block: int = 64) -> Layer:
    """With a table of its own: what codes stand for is read and not known."""
    count = weight.size
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 16, count + count % 2).astype(np.uint8)
    runs = -(-count // block)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16"}
    state["shape"] = list(weight.shape)
    tensors = {
        ".weight": torch.from_numpy(codes[0::2] << 4 | codes[1::2]).reshape(-1, 1),
        ".weight.quant_map": torch.from_numpy(TABLE),
    }
    if nested:
        scales = draw.integers(0, 256, runs).astype(np.uint8)
        outer = draw.random(-(-runs // 256)).astype(np.float32)
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.75}
        tensors[".weight.nested_absmax"] = torch.from_numpy(outer)
        tensors[".weight.nested_quant_map"] = torch.from_numpy(NESTED)
        steps = NESTED.astype(float)[scales] * np.repeat(outer.astype(float), 256)[:runs] + 0.75
    else:
        scales = draw.random(runs).astype(np.float32)
        steps = scales.astype(float)
    tensors[".weight.absmax"] = torch.from_numpy(scales)
    tensors[STATE] = torch.from_numpy(np.frombuffer(json.dumps(state).encode(), np.uint8).copy())
    made = TABLE.astype(float)[codes[:count]] * np.repeat(steps, block)[:count]
    return tensors, made.reshape(weight.shape)


def eight_bit_layer(weight: np.ndarray) -> Layer:
    top = np.abs(weight).max(1).astype(np.float32)
    codes = np.rint(weight / top[:, None] * 127).astype(np.int8)
    tensors = {
        ".weight": torch.from_numpy(codes),
        ".SCB": torch.from_numpy(top),
        ".weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return tensors, codes * top[:, None].astype(float) / 127


def save(folder: Path, layer: Any, **changes: Any) -> dict[str, np.ndarray]:
    changes = {"num_hidden_layers": 1} | changes
    return save_quantized(folder, SETTINGS, layer, **changes)


EVEN = {"hidden_size": 192, "head_dim": 64, "intermediate_size": 448}
"""Rows of whole runs of 64: of others the package's kernel for CPUs makes something else than its
kernels for GPUs and its reference."""

LAYERS: dict[str, Any] = {
    "nf4": four_bit_layer,
    "nf4, nested": lambda weight: four_bit_layer(weight, nested=True),
    "nf4, runs over rows": lambda weight: four_bit_layer(weight, nested=True, block=4096),
    "int8": eight_bit_layer,
}


@pytest.mark.parametrize("name", LAYERS)
def test_weights_are_what_the_codes_stand_for(name: str, tmp_path: Path) -> None:
    expected = save(tmp_path, LAYERS[name], intermediate_size=413)  # rows that end within a byte
    tensors = open_checkpoint(str(tmp_path)).tensors
    assert {key for key, tensor in tensors.items() if tensor.codes} == set(expected)
    draw = np.random.default_rng(0)
    for key, values in expected.items():
        tensor = tensors[key]
        assert tensor.shape == values.shape
        whole = read_rows(tensor, 0, tensor.rows)
        np.testing.assert_allclose(whole, values, rtol=2**-21, atol=1e-7)
        for start, stop in np.sort(draw.integers(0, tensor.rows + 1, (4, 2))):
            assert np.array_equal(read_rows(tensor, start, stop), whole[start:stop])


def test_bytes_that_are_called_another_dtype(tmp_path: Path) -> None:
    expected = save(tmp_path, four_bit_layer)
    change_tensors(
        tmp_path,
        lambda name, t: t.reshape(-1, 2).view(torch.bfloat16) if t.shape[-1:] == (1,) else t,
    )
    for key, tensor in open_checkpoint(str(tmp_path)).tensors.items():
        if tensor.codes:
            whole = read_rows(tensor, 0, tensor.rows)
            np.testing.assert_allclose(whole, expected[key], rtol=2**-21, atol=1e-8)


def test_the_layers_of_gpt2_are_turned(tmp_path: Path) -> None:
    changes = {"family": "gpt2", "n_layer": 1}
    expected = save_quantized(tmp_path, SETTINGS, four_bit_layer, **changes)
    tensors = open_checkpoint(str(tmp_path)).tensors
    for key, values in expected.items():
        whole = read_rows(tensors[key], 0, tensors[key].rows)
        np.testing.assert_allclose(whole, values, rtol=2**-21, atol=1e-8)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_four_bits_as_the_package_has_them(kind: str, nested: bool, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import bitsandbytes.functional as package

    states = {}

    def layer(weight: np.ndarray) -> Layer:
        packed, state = package.quantize_4bit(
            torch.from_numpy(weight).float(), quant_type=kind, compress_statistics=nested
        )
        made = package.dequantize_4bit(packed, state)
        states[weight.shape] = state
        parts = {f".weight.{name}": t for name, t in state.as_dict(packed=True).items()}
        return {".weight": packed, **parts}, made.double().numpy()

    expected = save(tmp_path, layer, **EVEN)
    tensors = open_checkpoint(str(tmp_path)).tensors
    for key, values in expected.items():
        assert tensors[key].dtype == f"bitsandbytes {kind} b64"
        assert np.array_equal(read_rows(tensors[key], 0, tensors[key].rows), values)


def test_eight_bits_as_the_package_has_them(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    import bitsandbytes.functional as package

    def layer(weight: np.ndarray) -> Layer:
        codes, scales, _ = package.int8_vectorwise_quant(torch.from_numpy(weight).half())
        made = package.int8_vectorwise_dequant(codes, scales)
        return {".weight": codes, ".SCB": scales}, made.double().numpy()

    expected = save(tmp_path, layer)
    tensors = open_checkpoint(str(tmp_path)).tensors
    for key, values in expected.items():
        assert np.array_equal(read_rows(tensors[key], 0, tensors[key].rows), values)


def test_a_model_that_transformers_saved(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from common import save_model
    from transformers import BitsAndBytesConfig, LlamaForCausalLM

    save_model("llama", tmp_path / "plain", num_hidden_layers=1, **EVEN)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
    model = LlamaForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "out")
    theirs = model.dequantize(torch.float32).state_dict()
    tensors = open_checkpoint(str(tmp_path / "out")).tensors
    stored = [key for key, tensor in tensors.items() if tensor.codes]
    assert len(stored) == 7
    for key in stored:
        whole = read_rows(tensors[key], 0, tensors[key].rows)
        assert np.array_equal(whole, theirs[key].float().numpy())


DAMAGE: dict[str, tuple[str, str, Any, str]] = {
    "no table": ("nf4", "up_proj.weight.quant_map", lambda t: None, "is missing"),
    "no scales": ("nf4", "up_proj.weight.absmax", lambda t: None, "is missing"),
    "no state": ("nf4", "up_proj" + STATE, lambda t: None, "is missing"),
    "no codes": ("nf4", "up_proj.weight", lambda t: None, "is missing"),
    "few codes": ("nf4", "up_proj.weight", lambda t: t[1:], "bytes"),
    "few scales": ("nf4", "up_proj.weight.absmax", lambda t: t[1:], "fits its weight"),
    "short table": ("nf4", "up_proj.weight.quant_map", lambda t: t[1:], "bytes"),
    "zeros for a state": ("nf4", "up_proj" + STATE, lambda t: t * 0, "is empty"),
    "no JSON": ("nf4", "up_proj" + STATE, lambda t: t[1:], "not valid JSON"),
    "no nested scales": ("nested", "up_proj.weight.nested_absmax", lambda t: None, "is missing"),
    "few nested": ("nested", "up_proj.weight.nested_absmax", lambda t: t[1:], "fits its weight"),
    "no SCB": ("int8", "up_proj.SCB", lambda t: None, "is missing"),
    "few SCB": ("int8", "up_proj.SCB", lambda t: t[1:], "fits its weight"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, tmp_path: Path) -> None:
    kind, end, how, words = DAMAGE[name]
    save(tmp_path, LAYERS["nf4, nested" if kind == "nested" else kind])
    change_tensors(tmp_path, lambda name, t: how(t) if name.endswith(end) else t)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": [1 << 40, 1 << 40]},
        {"shape": [-1, 4]},
        {"shape": "x"},
        {"blocksize": 0},
        {"blocksize": 1 << 40},
        {"nested_blocksize": -1},
        {"nested_offset": "x"},
    ],
)
def test_states_that_cannot_be(wrong: dict, tmp_path: Path) -> None:
    save(tmp_path, LAYERS["nf4, nested"])
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.mlp.up_proj" + STATE
    state = json.loads(tensors[name].numpy().tobytes()) | wrong
    data = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
    save_file(tensors | {name: torch.from_numpy(data)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="impossible"):
        open_checkpoint(str(tmp_path))


def test_the_orders_of_gpus_are_refused(tmp_path: Path) -> None:
    save(tmp_path, eight_bit_layer)
    change_tensors(tmp_path, lambda name, t: t + 1 if name.endswith("weight_format") else t)
    with pytest.raises(UnsupportedError, match="GPU"):
        open_checkpoint(str(tmp_path))
