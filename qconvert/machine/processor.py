"""What a CPU can do, told from what its system says of it.

Linux      /proc/cpuinfo (Documentation/arch/x86/cpuinfo.rst, Documentation/arch/arm64/
           elf_hwcaps.rst): read at once, where a library takes a second and starts processes
macOS      sysctl -a hw machdep.cpu
elsewhere  torch.cpu.get_capabilities(), which asks the processor itself
"""

from collections.abc import Iterable, Mapping
from typing import Any

from qconvert.machine.types import Processor

X86 = {
    "AVX2": ("avx2",),
    "FMA": ("fma", "fma3"),
    "F16C": ("f16c",),
    "AVX-VNNI": ("avx_vnni",),
    "AVX-512": ("avx512f", "avx512_f"),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX-512 BF16": ("avx512_bf16",),
    "AVX-512 FP16": ("avx512_fp16",),
    "AMX INT8": ("amx_int8",),
    "AMX BF16": ("amx_bf16",),
    "AMX FP16": ("amx_fp16",),
}
"""Features, and the flags of Linux and torch that say so."""

ARM = {
    "NEON": ("asimd", "neon", "advsimd"),
    "FP16": ("asimdhp", "feat_fp16"),
    "dotprod": ("asimddp", "feat_dotprod"),
    "i8mm": ("i8mm", "feat_i8mm"),
    "bf16": ("bf16", "feat_bf16"),
    "SVE": ("sve",),
    "SVE2": ("sve2",),
    "SME": ("sme", "feat_sme"),
}

ARM_PARTS = {
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3",
    (0xC0, 0xAC3): "Ampere-1",
    (0xC0, 0xAC4): "Ampere-1a",
}
"""Implementer and part number (the MIDR register): what Linux says in place of a name."""

X86_NAMES, ARM_NAMES = ("x86_64", "amd64", "i386", "i686"), ("arm64", "aarch64")


def make_processor(
    machine: str, flags: Iterable[str], name: str = "", *, apple: bool = False
) -> Processor:
    """A processor by its flags.

    Args:
        machine: as `platform.machine()` says it.
        flags: in any case.
    """
    small = machine.lower()
    known: Mapping[str, tuple[str, ...]] = {}
    if small in X86_NAMES:
        small, known = "x86_64", X86
    elif small in ARM_NAMES:
        small, known = "arm64", ARM
    own = {flag.lower() for flag in flags}
    has = tuple(feature for feature, names in known.items() if own & set(names))
    lacks = tuple(feature for feature in known if feature not in has)
    return Processor(small, " ".join(name.split()), has, lacks, apple)


def from_cpuinfo(text: str, machine: str) -> Processor:
    """Of the text of /proc/cpuinfo. Where cores differ, what all of them have."""
    flags: set[str] | None = None
    first: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        first.setdefault(key.lower(), value)
        if key.lower() in ("flags", "features"):
            flags = set(value.split()) if flags is None else flags & set(value.split())
    name = first.get("model name", "")
    return make_processor(machine, flags or (), name or _arm_name(first))


def _arm_name(first: Mapping[str, str]) -> str:
    try:
        key = int(first["cpu implementer"], 16), int(first["cpu part"], 16)
    except (KeyError, ValueError):
        return ""
    return ARM_PARTS.get(key, "")


def from_sysctl(text: str, machine: str) -> Processor:
    """Of the lines of `sysctl -a hw machdep.cpu`."""
    values = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        values[key.strip()] = value.strip()
    flags = [key.rpartition(".")[2] for key, value in values.items() if value == "1"]
    for key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
        flags += values.get(key, "").split()
    name = values.get("machdep.cpu.brand_string", "")
    return make_processor(machine, flags, name, apple=name.startswith("Apple"))


def from_torch(capabilities: Mapping[str, Any], machine: str) -> Processor:
    """Of what `torch.cpu.get_capabilities()` gives."""
    flags = [key for key, value in capabilities.items() if value is True]
    return make_processor(machine, flags, str(capabilities.get("cpu_name", "")))
