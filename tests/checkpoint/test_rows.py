import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from qconvert.checkpoint import open_checkpoint, read_bytes, read_rows
from qconvert.checkpoint import rows as rows_module
from qconvert.errors import CheckpointError

Make = Callable[..., Path]


def test_many_threads_read_what_one_reads(make_directory: Make) -> None:
    want = torch.randn(512, 64).bfloat16()
    path = make_directory({"model.safetensors": save({"w": want})})
    tensor = open_checkpoint(str(path)).tensors["w"]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda i: read_rows(tensor, i, i + 4), range(0, 512, 4)))
    assert np.concatenate(parts).tobytes() == want.float().numpy().tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_file_stays_open(make_directory: Make) -> None:
    path = make_directory({"model.safetensors": save({"w": torch.randn(8, 8)})})
    before = len(list(Path("/proc/self/fd").iterdir()))
    tensor = open_checkpoint(str(path)).tensors["w"]
    for _ in range(50):
        read_rows(tensor, 0, 8)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_that_shrinks_after_opening_is_an_error(make_directory: Make) -> None:
    path = make_directory({"model.safetensors": save({"w": torch.randn(64, 64)})})
    tensor = open_checkpoint(str(path)).tensors["w"]
    whole = tensor.path.read_bytes()
    tensor.path.write_bytes(whole[:-8])
    read_rows(tensor, 0, 63)
    with pytest.raises(CheckpointError, match="ends inside tensor 'w'"):
        read_rows(tensor, 63, 64)
    tensor.path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        read_bytes(tensor, 0, 1)


def test_long_reads_are_put_together_from_pieces(
    make_directory: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = torch.randn(33, 7)
    path = make_directory({"model.safetensors": save({"w": want})})
    monkeypatch.setattr(rows_module, "MAX_READ", 10)
    tensor = open_checkpoint(str(path)).tensors["w"]
    assert read_rows(tensor, 0, 33).tobytes() == want.numpy().tobytes()


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 5), (3, 2)])
def test_rows_outside_the_tensor_are_the_callers_mistake(
    make_directory: Make, start: int, stop: int
) -> None:
    path = make_directory({"model.safetensors": save({"w": torch.randn(4, 4)})})
    with pytest.raises(ValueError, match="of w"):
        read_rows(open_checkpoint(str(path)).tensors["w"], start, stop)


@pytest.mark.parametrize("span", [1 << 24, 256, 1])
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((7, 5), (1, 7), 0),
        ((7, 5), (1, 9), 3),
        ((6, 4), (11, 2), 1),
        ((3, 4, 5), (40, 5, 1), 2),
        ((4, 3, 5), (5, 20, 1), 0),
        ((5, 3, 4), (1, 20, 5), 0),
        ((9,), (3,), 2),
        ((1, 8), (1, 3), 0),
    ],
)
def test_strided_rows_are_what_torch_sees(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
    span: int,
) -> None:
    monkeypatch.setattr(rows_module, "MAX_SPAN", span)
    storage = torch.arange(200, dtype=torch.int16)
    want = storage.as_strided(shape, strides, offset).contiguous()
    torch.save({"w": storage.as_strided(shape, strides, offset)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["X"]}))
    tensor = open_checkpoint(str(tmp_path)).tensors["w"]
    assert tensor.nbytes == want.nbytes
    flat = want.view(-1, shape[-1]).numpy()
    for start in range(tensor.rows + 1):
        for stop in range(start, tensor.rows + 1):
            assert read_bytes(tensor, start, stop).tobytes() == flat[start:stop].tobytes()


def block_scaled(rows: int, columns: int, block: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    weight = torch.randn(rows, columns).to(torch.float8_e4m3fn)
    scale = torch.rand(-(-rows // block[0]), -(-columns // block[1])) + 0.5
    wide = scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]
    return weight, scale, weight.float() * wide


@pytest.mark.parametrize("block", [None, (128, 128), (64, 32), (1, 128)])
@pytest.mark.parametrize("size", [(256, 256), (300, 200), (5, 3)])
def test_fp8_weights_are_multiplied_by_the_scale_of_their_block(
    make_directory: Make, size: tuple[int, int], block: tuple[int, int] | None
) -> None:
    weight, scale, want = block_scaled(*size, block or (128, 128))
    quantization: dict = {"quant_method": "fp8"}
    if block is not None:
        quantization["weight_block_size"] = list(block)
    config = {"architectures": ["X"], "quantization_config": quantization}
    data = save({"q.weight": weight, "q.weight_scale_inv": scale, "norm.weight": torch.ones(4)})
    path = make_directory({"config.json": config, "model.safetensors": data})
    opened = open_checkpoint(str(path))
    assert set(opened.tensors) == {"q.weight", "norm.weight"}
    tensor = opened.tensors["q.weight"]
    for start, stop in [(0, size[0]), (1, 4), (size[0] - 1, size[0]), (2, 2)]:
        assert read_rows(tensor, start, stop).tobytes() == want[start:stop].numpy().tobytes()


def test_fp8_experts_have_scales_of_their_own(make_directory: Make) -> None:
    parts = [block_scaled(70, 40, (32, 32)) for _ in range(3)]
    weight, scale, want = (torch.stack(part) for part in zip(*parts, strict=True))
    quantization = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    config = {"architectures": ["X"], "quantization_config": quantization}
    data = save({"experts.up": weight.contiguous(), "experts.up_scale_inv": scale.bfloat16()})
    path = make_directory({"config.json": config, "model.safetensors": data})
    tensor = open_checkpoint(str(path)).tensors["experts.up"]
    wide = scale.bfloat16().float().repeat_interleave(32, 1)[:, :70]
    want = (weight.float() * wide.repeat_interleave(32, 2)[:, :, :40]).view(-1, 40).numpy()
    for start, stop in [(0, 210), (60, 150), (69, 71), (139, 141), (209, 210)]:
        assert read_rows(tensor, start, stop).tobytes() == want[start:stop].tobytes()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6, 1), (6,)])
def test_fp8_scales_of_a_tensor_or_of_rows_are_applied(
    make_directory: Make, shape: tuple[int, ...]
) -> None:
    weight, scale = torch.randn(6, 16).to(torch.float8_e5m2), torch.rand(shape) + 0.5
    config = {"architectures": ["X"], "quantization_config": {"quant_method": "fbgemm_fp8"}}
    data = {"q.weight": weight, "q.weight_scale": scale, "q.input_scale": torch.ones(1)}
    path = make_directory({"config.json": config, "model.safetensors": save(data)})
    opened = open_checkpoint(str(path))
    assert set(opened.tensors) == {"q.weight"}
    want = (weight.float() * scale.view(-1, 1)).numpy()
    assert read_rows(opened.tensors["q.weight"], 0, 6).tobytes() == want.tobytes()
    assert read_rows(opened.tensors["q.weight"], 2, 5).tobytes() == want[2:5].tobytes()
