"""Where the model computes, and in which type."""

from typing import Any

from qconvert.errors import UsageError

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"bf16": "bfloat16", "f32": "float32", "f16": "float16"}
"""The names that users give, and torch's."""


def choose_device(name: str) -> str:
    """The device that "auto" stands for: the first that is there of CUDA, MPS and the CPU.

    Raises:
        UsageError: no such device, or torch cannot use it here.
    """
    if name not in DEVICES:
        raise UsageError(f"{name!r} is not a device", f"choose {', '.join(DEVICES)}")
    import torch

    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, is_there in usable.items() if is_there)
    if not usable[name]:
        raise UsageError(f"torch finds no {name} device here", "choose another: --device cpu")
    return name


def choose_dtype(name: str, device: str) -> str:
    """torch's name of the type of matrix products.

    "auto" is bfloat16 where the device multiplies it natively, else float32 (on GPUs float16).

    Raises:
        UsageError: no such type.
    """
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise UsageError(f"{name!r} is not a type here", f"choose auto, {', '.join(DTYPES)}")
    import torch

    if device == "cpu":
        return "bfloat16" if _cpu_has_bf16(torch) else "float32"
    if device == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float16"
    return "bfloat16"


def free_memory(device: str) -> int:
    """Bytes that can be had."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _cpu_has_bf16(torch: Any) -> bool:
    """Whether the processor has instructions for products of bfloat16 (AVX-512 BF16 or AMX)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)
