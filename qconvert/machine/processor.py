"""What a CPU can do, as LLVM tells it of the machine it runs on (llvmlite comes with Numba)."""

import platform
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from qconvert.machine.types import Processor

X86 = {
    "AVX2": "avx2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX-VNNI": "avxvnni",
    "AVX-512": "avx512f",
    "AVX-512 VNNI": "avx512vnni",
    "AVX-512 BF16": "avx512bf16",
    "AVX-512 FP16": "avx512fp16",
    "AMX INT8": "amx-int8",
    "AMX BF16": "amx-bf16",
    "AMX FP16": "amx-fp16",
}
"""Features, and what LLVM calls them."""

ARM = {
    "NEON": "neon",
    "FP16": "fullfp16",
    "dotprod": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "SVE": "sve",
    "SVE2": "sve2",
    "SME": "sme",
}

X86_NAMES, ARM_NAMES = ("x86_64", "amd64", "i386", "i686"), ("arm64", "aarch64")


def read_processor() -> Processor:
    """This machine's; without features where LLVM does not load or does not know them."""
    try:
        from llvmlite import binding

        llvm_name, told = binding.get_host_cpu_name(), binding.get_host_cpu_features()
    except Exception:
        llvm_name, told = "", {}
    has = [feature for feature, there in told.items() if there]
    return make_processor(platform.machine(), has, _marketing_name() or llvm_name)


def make_processor(machine: str, has: Collection[str], name: str = "") -> Processor:
    """A processor by its features.

    Args:
        machine: as `platform.machine()` says it.
        has: features by LLVM's names.
        name: the maker's, or LLVM's: "neoverse-v1".
    """
    architecture = machine.lower()
    known: Mapping[str, str] = {}
    if architecture in X86_NAMES:
        architecture, known = "x86_64", X86
    elif architecture in ARM_NAMES:
        architecture, known = "arm64", ARM
    if name == "generic":
        name = ""
    if name.islower():
        name = name.title()
    features = tuple(feature for feature, flag in known.items() if flag in has)
    lacks = tuple(feature for feature in known if feature not in features)
    return Processor(
        architecture, " ".join(name.split()), features, lacks, name.startswith("Apple")
    )


def _marketing_name() -> str:
    """What the system calls it, which arm64's Linux does not say."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        return done.stdout.strip()
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() if platform.system() != "Linux" else ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == "model name"), "")
