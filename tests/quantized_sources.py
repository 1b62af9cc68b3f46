"""Checkpoints as other libraries quantize them, written from the published layouts, with the
numbers that they stand for.

Streams of bits are made of whole Python integers, which nothing in the program does.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save_model
from safetensors.torch import load_file, save_file

Layer = tuple[dict[str, torch.Tensor], np.ndarray]
"""The tensors of a layer by how their names end, and its weight in float64, [out, in]."""

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def save_quantized(
    folder: Path,
    quantization: Mapping[str, Any] | None,
    layer: Callable[[np.ndarray], Layer],
    *,
    family: str = "llama",
    which: Callable[[str], bool] = lambda name: True,
    **changes: Any,
) -> dict[str, np.ndarray]:
    """Write a tiny model whose linear layers are quantized; returns their weights by name.

    Args:
        quantization: `quantization_config` of config.json; None leaves it out.
        layer: a weight [out, in] -> its tensors and what they stand for.
        which: of the layers by name.
    """
    save_model(family, folder, **changes)
    tensors, expected = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        linear = tensor.dim() == 2 and ("layers." in name or ".h." in name)
        if not (linear and which(name)):
            tensors[name] = tensor
            continue
        conv1d = family == "gpt2"
        values = tensor.numpy().astype(np.float64)
        made, stands_for = layer(values.T if conv1d else values)
        stem = name.removesuffix(".weight")
        tensors |= {stem + ending: part.clone().contiguous() for ending, part in made.items()}
        expected[name] = stands_for.T if conv1d else stands_for
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if quantization is not None:
        change_config(folder, quantization_config=dict(quantization))
    return expected


def change_config(folder: Path, **changes: Any) -> None:
    place = folder / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))


def change_tensors(folder: Path, how: Callable[[str, torch.Tensor], torch.Tensor | None]) -> None:
    """Replace tensors, or leave them out where `how` says None."""
    file = folder / "model.safetensors"
    changed = {name: how(name, tensor) for name, tensor in load_file(file).items()}
    kept = {name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None}
    save_file(kept, file, {"format": "pt"})


def stream(codes: np.ndarray, bits: int) -> torch.Tensor:
    """[rows, count] -> i32 [rows, words]: a row is one number, the first code in its low bits."""
    count = -(-codes.shape[1] * bits // 32)
    rows = []
    for row in codes:
        number = sum(int(code) << (bits * place) for place, code in enumerate(row))
        rows.append(np.frombuffer(number.to_bytes(4 * count, "little"), np.int32))
    return torch.from_numpy(np.stack(rows))


def grouped_integers(
    weight: np.ndarray, group: np.ndarray, bits: int, *, symmetric: bool, dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray, torch.Tensor, np.ndarray]:
    """Codes [out, in], zeros [out, groups], scales [out, groups], and the weight they make."""
    top, groups = (1 << bits) - 1, int(group.max()) + 1
    zeros = np.zeros((len(weight), groups), np.int64)
    steps = np.zeros((len(weight), groups))
    for g in range(groups):
        part = weight[:, group == g]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            high = np.maximum(-low, high)
            low = -high
        steps[:, g] = (high - low) / top
        zeros[:, g] = (top + 1) // 2 if symmetric else np.rint(-low / steps[:, g])
    scales = torch.from_numpy(steps).to(dtype)
    steps = scales.double().numpy()
    codes = np.rint(weight / steps[:, group] + zeros[:, group]).clip(0, top).astype(np.int64)
    return codes, zeros, scales, (codes - zeros[:, group]) * steps[:, group]


def gptq_layer(
    weight: np.ndarray,
    bits: int = 4,
    size: int = 32,
    *,
    shift: int = 1,
    act_order: bool = False,
    symmetric: bool = True,
    indexed: bool = True,
    dtype: torch.dtype = torch.float16,
) -> Layer:
    columns = weight.shape[1]
    group = np.arange(columns) // size
    if act_order:
        group = np.random.default_rng(1).permutation(group)
    codes, zeros, scales, made = grouped_integers(
        weight, group, bits, symmetric=symmetric, dtype=dtype
    )
    tensors = {
        ".qweight": stream(codes, bits).T,
        ".qzeros": stream((zeros.T - shift) & ((1 << bits) - 1), bits),
        ".scales": scales.T,
    }
    if indexed:
        tensors[".g_idx"] = torch.from_numpy(group.astype(np.int32))
    return tensors, made


def awq_layer(weight: np.ndarray, size: int = 32) -> Layer:
    group = np.arange(weight.shape[1]) // size
    codes, zeros, scales, made = grouped_integers(
        weight, group, 4, symmetric=False, dtype=torch.float16
    )
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(values: np.ndarray) -> torch.Tensor:  # [out, n] -> [n, out / 8]
        ordered = values.T.reshape(values.shape[1], -1, 8)[:, :, order]
        return stream(ordered.reshape(values.shape[1], -1), 4)

    return {".qweight": pack(codes), ".qzeros": pack(zeros), ".scales": scales.T}, made


def awq_by_compressed_tensors(folder: Path, size: int) -> dict[str, np.ndarray]:
    """What compressed-tensors' converter makes of a directory of AWQ's, by weight."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter

    converter = AutoAWQConverter(4, size, targets=["re:.*layers.*"])
    stored = converter.process(load_file(folder / "model.safetensors"))
    found = {}
    for name in [name for name in stored if name.endswith(".weight_packed")]:
        stem = name.removesuffix("_packed")
        shape = tuple(stored[stem + "_shape"].tolist())
        scale = stored[stem + "_scale"].double()
        codes = unpack_from_int32(stored[name], 4, shape).double()
        zeros = unpack_from_int32(stored[stem + "_zero_point"], 4, scale.shape, packed_dim=0)
        step, zero = (v.double().repeat_interleave(size, 1) for v in (scale, zeros))
        found[stem] = ((codes - zero) * step).numpy()
    return found


def e2m1_codes(values: np.ndarray) -> np.ndarray:
    """The nearest of 16, [rows, columns]."""
    nearest = np.abs(np.abs(values)[..., None] - E2M1[:8]).argmin(-1)
    return (nearest + 8 * (values < 0)).astype(np.uint8)


def nibbles(codes: np.ndarray) -> torch.Tensor:
    """Two to a byte, the first in the low bits."""
    return torch.from_numpy(codes[..., 0::2] | codes[..., 1::2] << 4)


def mxfp4_rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes [..., columns], exponents u8 [..., columns / 32], and what they stand for."""
    blocks = weight.reshape(*weight.shape[:-1], -1, 32)
    top = np.abs(blocks).max(-1)
    exponent = np.floor(np.log2(np.maximum(top, 1e-30))) - 2
    codes = e2m1_codes(blocks / 2.0 ** exponent[..., None])
    made = E2M1[codes] * 2.0 ** exponent[..., None]
    return (
        codes.reshape(weight.shape),
        (exponent + 127).astype(np.uint8),
        made.reshape(weight.shape),
    )


def nvfp4_layer(weight: np.ndarray, *, exact: bool = False) -> Layer:
    """With `exact`, the scale of the whole is a power of two, and no product is rounded."""
    blocks = weight.reshape(len(weight), -1, 16)
    whole = torch.tensor(np.abs(weight).max() / (6 * 448), dtype=torch.float32)
    whole = whole.log2().ceil().exp2() if exact else whole
    top = torch.from_numpy(np.abs(blocks).max(-1) / 6 / whole.item())
    scales = top.clamp(2**-9, 448).to(torch.float8_e4m3fn)
    steps = scales.double().numpy() * whole.double().item()
    codes = e2m1_codes(blocks / steps[..., None])
    made = (E2M1[codes] * steps[..., None]).reshape(weight.shape)
    tensors = {
        ".weight": nibbles(codes.reshape(weight.shape)),
        ".weight_scale": scales,
        ".weight_scale_2": whole,
        ".input_scale": torch.tensor(0.5),
    }
    return tensors, made


def fp8_layer(weight: np.ndarray, *, by_row: bool = False) -> Layer:
    top = np.abs(weight).max(1) if by_row else np.abs(weight).max()
    scale = torch.as_tensor(top / 448, dtype=torch.float32)
    step = scale.double().numpy()[..., None] if by_row else scale.double().item()
    codes = torch.from_numpy(weight / step).float().to(torch.float8_e4m3fn)
    tensors = {".weight": codes, ".weight_scale": scale, ".input_scale": torch.tensor(0.5)}
    return tensors, codes.double().numpy() * step
