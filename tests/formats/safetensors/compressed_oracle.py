"""What the compressed-tensors package makes of a weight, and of what we made of it."""

import numpy as np
import torch
from compressed_tensors.compressors.base import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from qconvert.formats.safetensors.types import WeightFormat

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_VIEWS = {
    "BF16": (torch.int16, torch.bfloat16),
    "F8_E4M3": (torch.uint8, torch.float8_e4m3fn),
}


def arguments(form: WeightFormat) -> QuantizationArgs:
    strategy, scale = form.strategy, None
    if form.layout == "nvfp4-pack-quantized":
        strategy, scale = "tensor_group", torch.float8_e4m3fn
    elif form.layout == "mxfp4-pack-quantized":
        scale = torch.uint8
    return QuantizationArgs(
        num_bits=form.bits,
        type=form.type,
        strategy=strategy,
        group_size=form.group_size,
        block_structure=None if form.block is None else list(form.block),
        symmetric=form.symmetric,
        scale_dtype=scale,
    )


def scheme(form: WeightFormat) -> QuantizationScheme:
    return QuantizationScheme(targets=["Linear"], weights=arguments(form))


def extremes(form: WeightFormat, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if form.strategy == "tensor":
        return x.min(), x.max()
    if form.strategy == "channel":
        return x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    if form.strategy == "group":
        groups = x.unflatten(1, (-1, form.group_size))
        return groups.amin(-1), groups.amax(-1)
    height, width = form.block
    rows, columns = -(-x.shape[0] // height), -(-x.shape[1] // width)
    wide = torch.zeros(rows * height, columns * width, dtype=x.dtype)
    wide[: x.shape[0], : x.shape[1]] = x
    blocks = wide.reshape(rows, height, columns, width)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


def plain_params(form: WeightFormat, x: np.ndarray, dtype: str) -> dict[str, torch.Tensor]:
    """Scales, zero points and global scales by the package's own rule, for weights of `dtype`."""
    weights = torch.from_numpy(x).to(TORCH[dtype])
    made = {}
    if form.layout == "nvfp4-pack-quantized":
        made["weight_global_scale"] = generate_gparam(weights.min(), weights.max())
    low, high = extremes(form, weights)
    whole = made.get("weight_global_scale")
    scale, zero = calculate_qparams(low, high, arguments(form), global_scale=whole)
    return {"weight_scale": scale, "weight_zero_point": zero, **made}


def compress(form: WeightFormat, x: np.ndarray, params: dict) -> dict[str, torch.Tensor]:
    """The package's tensors for weights in float32, with these params."""
    compressor = BaseCompressor.load_from_registry(form.layout)
    return compressor.compress({"weight": torch.from_numpy(x), **params}, scheme(form))


def decompress(form: WeightFormat, parts: dict[str, np.ndarray], dtypes: dict[str, str]):
    """The package's weights of our arrays; scales in float32 where their dtype is open."""
    compressor = BaseCompressor.load_from_registry(form.layout)
    state = {name: as_torch(array, dtypes[name]) for name, array in parts.items()}
    if dtypes["weight_scale"] in TORCH:
        state["weight_scale"] = state["weight_scale"].float()
    if "weight_shape" in state:
        state["weight_shape"] = torch.Size(state["weight_shape"].tolist())
    return compressor.decompress(state, scheme(form))["weight"]


def as_torch(array: np.ndarray, dtype: str) -> torch.Tensor:
    if dtype not in _VIEWS:
        return torch.from_numpy(np.ascontiguousarray(array))
    bits, kind = _VIEWS[dtype]
    signed = array.view(np.int16) if bits is torch.int16 else array
    return torch.from_numpy(np.ascontiguousarray(signed)).view(kind)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Bits of what numpy does not know."""
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(np.uint16)
    if tensor.dtype is torch.float8_e4m3fn:
        return tensor.contiguous().view(torch.uint8).numpy()
    return tensor.contiguous().numpy()
