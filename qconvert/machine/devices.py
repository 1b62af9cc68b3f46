"""Devices that a model is made for elsewhere: what of their memory a model may take, and which of
llama.cpp's fast ways their processors have.

Memory is that of the usual device of its kind, less what its system and other programs keep.
"""

from dataclasses import dataclass
from pathlib import Path

from qconvert.machine.processor import make_processor
from qconvert.machine.types import Cores, Kernels, Machine, Memory

GB = 1_000_000_000


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        what: the usual one of its kind, in words.
        total, available: bytes of memory, and of it what programs can have.
        architecture, features: of its processor, by LLVM's names.
        cores: that are worth using.
        ladder: GGUF types, the one to take first.
        small_ladder: the same for models below `advice.SMALL` weights.
    """

    what: str
    total: int
    available: int
    architecture: str
    features: tuple[str, ...]
    cores: int
    ladder: tuple[str, ...]
    small_ladder: tuple[str, ...]


_ON_ARM = ("q4_0", "iq4_nl", "q4_k_m", "q3_k_m", "q3_k_s", "q2_k")
_SMALL_ON_ARM = ("q8_0", *_ON_ARM)
_ON_X86 = ("q4_k_m", "q4_k_s", "iq4_xs", "q3_k_m", "q3_k_s", "q2_k")

DEVICES = {
    "phone": Device(
        "a phone with 8 GB and Armv8.6 cores (i8mm), of which apps get half",
        8 * GB,
        4 * GB,
        "aarch64",
        ("neon", "fullfp16", "dotprod", "i8mm"),
        4,
        _ON_ARM,
        _SMALL_ON_ARM,
    ),
    "pi": Device(
        "a Raspberry Pi 5 with 8 GB (Cortex-A76: dotprod)",
        8 * GB,
        7 * GB,
        "aarch64",
        ("neon", "fullfp16", "dotprod"),
        4,
        _ON_ARM,
        _SMALL_ON_ARM,
    ),
    "laptop-8gb": Device(
        "a laptop with 8 GB and AVX2, a browser open",
        8 * GB,
        5 * GB,
        "x86_64",
        ("avx2", "fma", "f16c"),
        4,
        _ON_X86,
        ("q8_0", "q6_k", "q5_k_m", *_ON_X86),
    ),
}


def machine_of(device: Device) -> Machine:
    """The device as a machine that nothing is installed on."""
    return Machine(
        device.what,
        make_processor(device.architecture, device.features),
        Cores(device.cores, device.cores, device.cores),
        Memory(device.total, device.available),
        (),
        (),
        (),
        Kernels(Path(), True, 0, 0),
    )
