"""gpt-oss's experts, against what transformers makes of the same tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quantized_sources import change_config, change_tensors, mxfp4_rows, nibbles
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.checkpoint.quantized import read as read_module
from qconvert.errors import CheckpointError

EXPERTS = ("gate_up_proj", "down_proj")


def save(folder: Path) -> None:
    """A tiny gpt-oss as OpenAI publishes it: bfloat16, and experts in MXFP4, [out, in]."""
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    config = GptOssConfig(
        num_hidden_layers=1,
        hidden_size=64,
        intermediate_size=96,
        num_local_experts=3,
        num_experts_per_tok=2,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        pad_token_id=0,
        layer_types=["full_attention"],
    )
    GptOssForCausalLM(config).bfloat16().save_pretrained(folder)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(EXPERTS):
            tensors[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape
        weight = torch.randn(experts, outputs, inputs).double().numpy()
        codes, exponents, _ = mxfp4_rows(weight)
        blocks = nibbles(codes).reshape(*exponents.shape, 16)
        tensors |= {name + "_blocks": blocks, name + "_scales": torch.from_numpy(exponents)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    change_config(folder, quantization_config={"quant_method": "mxfp4"})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save(tmp_path)
    return tmp_path


def test_weights_are_what_transformers_loads_dequantized(model: Path) -> None:
    from transformers import GptOssForCausalLM, Mxfp4Config

    theirs = GptOssForCausalLM.from_pretrained(
        model, quantization_config=Mxfp4Config(dequantize=True), dtype=torch.float32
    ).state_dict()
    tensors = open_checkpoint(str(model)).tensors
    assert tensors.keys() == theirs.keys()
    assert sum(tensor.codes is not None for tensor in tensors.values()) == len(EXPERTS)
    for name, tensor in tensors.items():
        values = theirs[name].numpy()
        assert tensor.shape == values.shape
        whole = read_rows(tensor, 0, tensor.rows)
        assert np.array_equal(whole.reshape(values.shape), values)


def test_any_rows_can_be_read_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = open_checkpoint(str(model)).tensors
    tensor = next(tensor for tensor in tensors.values() if tensor.codes)
    whole = read_rows(tensor, 0, tensor.rows)
    draw = np.random.default_rng(0)
    monkeypatch.setattr(read_module, "AT_ONCE", 500)
    for start, stop in [*np.sort(draw.integers(0, tensor.rows + 1, (6, 2))), (64, 128)]:
        assert np.array_equal(read_rows(tensor, start, stop), whole[start:stop])


@pytest.mark.parametrize(
    ("end", "how", "words"),
    [
        ("down_proj_scales", lambda t: None, "scales' is missing"),
        ("down_proj_blocks", lambda t: None, "blocks' is missing"),
        ("down_proj_scales", lambda t: t[:, 1:], "fits its weight"),
        ("down_proj_scales", lambda t: t.float(), "F32"),
        ("down_proj_blocks", lambda t: t[..., :8], "shape"),
        ("down_proj_blocks", lambda t: t[:0], "is empty"),
    ],
)
def test_damage_is_named(model: Path, end: str, how: Any, words: str) -> None:
    change_tensors(model, lambda name, t: how(t) if name.endswith(end) else t)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(model))
