"""What a GPU's numbers mean: which types its matrix units multiply.

CUDA's by compute capability (CUDA C++ programming guide, appendix on compute capabilities):

    7.0 Volta     fp16              8.9 Ada        and fp8
    7.5 Turing    and int8          9.0 Hopper     the same
    8.0 Ampere    and bf16         10.0 Blackwell  and fp4
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qconvert.machine.types import Gpu

CUDA_SINCE = (
    ((10, 0), "fp4"),
    ((8, 9), "fp8"),
    ((8, 0), "bf16"),
    ((7, 5), "int8"),
    ((7, 0), "fp16"),
)

ROCM = {
    "gfx90a": ("bf16", "int8", "fp16"),
    "gfx942": ("fp8", "bf16", "int8", "fp16"),
    "gfx950": ("fp4", "fp8", "bf16", "int8", "fp16"),
    "gfx1100": ("bf16", "int8", "fp16"),
    "gfx1200": ("fp8", "bf16", "int8", "fp16"),
    "gfx1201": ("fp8", "bf16", "int8", "fp16"),
}
"""By AMD's name of the processor: MI200, MI300, MI350, Radeon 7900, Radeon 9060 and 9070."""


DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, of AMD and of Windows' Linux put up."""


def may_have_gpu() -> bool:
    """Whether torch could find a GPU; outside Linux only torch can tell."""
    return sys.platform != "linux" or any(Path(driver).exists() for driver in DRIVERS)


def cuda_numbers(capability: tuple[int, int]) -> tuple[str, ...]:
    """What is multiplied at a compute capability, the smallest numbers first."""
    return tuple(name for since, name in CUDA_SINCE if capability >= since)


def make_gpu(facts: Mapping[str, Any]) -> Gpu:
    """A GPU of what torch said of it (see `probe`)."""
    name, total, free = facts["name"], int(facts["total"]), int(facts["free"])
    if facts["backend"] == "mps":
        return Gpu("mps", name, total, free, None, ("bf16", "fp16"))
    if facts["backend"] == "rocm":
        return Gpu("rocm", name, total, free, None, ROCM.get(facts["gcn"].split(":")[0], ()))
    major, minor = facts["capability"]
    return Gpu("cuda", name, total, free, (major, minor), cuda_numbers((major, minor)))
