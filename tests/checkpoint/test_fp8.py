"""fp8 in the ways that it is published, against transformers' dequantization of it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from quantized_sources import mxfp4_rows, nibbles
from safetensors.torch import save

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.checkpoint.types import TensorInfo
from qconvert.errors import CheckpointError

Make = Callable[..., Path]
E8M0 = torch.float8_e8m0fnu


def theirs(weight: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    operation = Fp8Dequantize(SimpleNamespace())
    return operation._dequantize_one(weight, scale, torch.float32).numpy()


def powers(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(120, 135, shape, generator=draw, dtype=torch.uint8)


def fp8(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)


def opened(make: Make, tensors: dict[str, Any], **settings: Any) -> dict[str, TensorInfo]:
    quantization = {"quant_method": "fp8", **settings}
    config = {"architectures": ["X"], "quantization_config": quantization}
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    path = make({"config.json": config, "model.safetensors": data})
    return dict(open_checkpoint(str(path)).tensors)


def check(tensor: TensorInfo, values: np.ndarray) -> None:
    assert tensor.shape == values.shape
    flat = values.reshape(-1, values.shape[-1])
    assert np.array_equal(read_rows(tensor, 0, tensor.rows), flat)
    assert np.array_equal(read_rows(tensor, 3, 9), flat[3:9])


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("name", ["q.weight_scale_inv", "q.scale"])
def test_blocks_scaled_by_powers_of_two(make_directory: Make, name: str, as_bytes: bool) -> None:
    weight, scale = fp8(256, 384), powers(2, 3)
    stored = scale if as_bytes else scale.view(E8M0)
    tensors = opened(make_directory, {"q.weight": weight, name: stored}, scale_fmt="ue8m0")
    assert set(tensors) == {"q.weight"}
    check(tensors["q.weight"], theirs(weight, scale))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["e.weight_scale_inv", "e.scale"])
def test_experts_of_four_bits(make_directory: Make, name: str, signed: bool) -> None:
    codes, exponents, _ = mxfp4_rows(np.random.default_rng(0).normal(size=(24, 96)))
    weight, scale = nibbles(codes), torch.from_numpy(exponents)
    data = {"e.weight": weight.view(torch.int8) if signed else weight, name: scale.view(E8M0)}
    tensors = opened(make_directory, data, expert_dtype="fp4")
    assert set(tensors) == {"e.weight"}
    assert tensors["e.weight"].dtype == "mxfp4"
    check(tensors["e.weight"], theirs(weight.view(torch.int8), scale))


@pytest.mark.parametrize("block", [(1, 32), (64, 64)])
def test_layers_with_blocks_of_their_own(make_directory: Make, block: tuple[int, int]) -> None:
    weight = fp8(128, 192)
    scale = torch.rand(128 // block[0], 192 // block[1]) + 0.5
    data = {"q.weight": weight, "q.weight_scale_inv": scale}
    check(opened(make_directory, data)["q.weight"], theirs(weight, scale))


def test_a_scale_for_each_column_of_experts(make_directory: Make) -> None:
    weight, scale = fp8(3, 16, 24), torch.rand(3, 1, 24) + 0.5  # as fbgemm stores Llama 4's
    data = {"experts.gate_up_proj": weight, "experts.gate_up_proj_scale": scale}
    check(opened(make_directory, data)["experts.gate_up_proj"], theirs(weight, scale))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 1, 1)])
def test_a_scale_for_each_expert(make_directory: Make, shape: tuple[int, ...]) -> None:
    weight, scale = fp8(3, 16, 24), torch.rand(shape) + 0.5
    data = {
        "experts.down_proj": weight,
        "experts.down_proj_scale_inv": scale,
        "experts.down_proj_activation_scale": torch.ones(3),
    }
    tensors = opened(make_directory, data)
    assert set(tensors) == {"experts.down_proj"}
    check(tensors["experts.down_proj"], theirs(weight, scale.reshape(3, 1, 1)))


def test_one_scale_under_another_name(make_directory: Make) -> None:
    weight, scale = fp8(16, 24), torch.tensor(0.25)
    data = {"q.weight": weight, "q.scale_weight": scale, "q.scale_input": torch.ones(())}
    tensors = opened(make_directory, data)
    assert set(tensors) == {"q.weight"}
    check(tensors["q.weight"], weight.float().numpy() * 0.25)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (127, 1), (5,)])
def test_scales_that_fit_no_block(make_directory: Make, shape: tuple[int, ...]) -> None:
    data = {"q.weight": fp8(256, 384), "q.scale": powers(*shape).view(E8M0)}
    with pytest.raises(CheckpointError, match="does not fit its weight"):
        opened(make_directory, data)


def test_scales_that_fit_no_rows_of_four_bits(make_directory: Make) -> None:
    data = {"e.weight": torch.zeros(24, 48, dtype=torch.int8), "e.scale": powers(24, 2).view(E8M0)}
    with pytest.raises(CheckpointError, match="fits its weight"):
        opened(make_directory, data)
