"""Processors by what LLVM says of them."""

import platform
import sys
from pathlib import Path

import pytest

from qconvert.machine.processor import ARM, X86, make_processor, read_processor

HASWELL = ("avx", "avx2", "bmi", "fma", "f16c", "sse4.2")
ZEN_4 = (*HASWELL, "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "avx512vbmi2")
SAPPHIRE_RAPIDS = (*ZEN_4, "avxvnni", "avx512fp16", "amx-bf16", "amx-tile", "amx-int8")
GRAVITON_2 = ("neon", "fullfp16", "crc", "lse")
GRAVITON_3 = (*GRAVITON_2, "dotprod", "i8mm", "bf16", "sve", "rcpc")
M2 = ("neon", "fullfp16", "dotprod", "i8mm", "bf16")


def test_zen_4():
    found = make_processor("x86_64", ZEN_4, "AMD EPYC  9654 96-Core Processor")
    assert found.architecture == "x86_64"
    assert found.name == "AMD EPYC 9654 96-Core Processor"
    assert found.features == ("AVX2", "FMA", "F16C", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16")
    assert found.lacks == ("AVX-VNNI", "AVX-512 FP16", "AMX INT8", "AMX BF16", "AMX FP16")


def test_sapphire_rapids_has_amx():
    found = make_processor("AMD64", SAPPHIRE_RAPIDS, "Intel(R) Xeon(R) Platinum 8480+")
    assert set(X86) - set(found.features) == {"AMX FP16"}
    assert {"AMX INT8", "AMX BF16", "AVX-VNNI"} <= set(found.features)


def test_haswell_stops_at_avx2():
    assert make_processor("x86_64", HASWELL).features == ("AVX2", "FMA", "F16C")


def test_graviton_goes_by_llvms_name():
    second = make_processor("aarch64", GRAVITON_2, "neoverse-n1")
    third = make_processor("aarch64", GRAVITON_3, "neoverse-v1")
    assert (second.name, third.name) == ("Neoverse-N1", "Neoverse-V1")
    assert second.architecture == third.architecture == "arm64"
    assert second.features == ("NEON", "FP16")
    assert third.features == ("NEON", "FP16", "dotprod", "i8mm", "bf16", "SVE")
    assert third.lacks == ("SVE2", "SME")


def test_what_says_nothing_is_survived():
    found = make_processor("aarch64", [], "generic")
    assert (found.name, found.features, found.lacks) == ("", (), tuple(ARM))
    assert make_processor("riscv64", ["neon"]).lacks == ()


def test_a_machine_without_llvm_is_survived(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    assert read_processor().features == ()


def test_macs():
    found = make_processor("arm64", M2, "Apple M2")
    assert found.name == "Apple M2"
    assert found.apple
    assert found.features == ("NEON", "FP16", "dotprod", "i8mm", "bf16")
    assert not make_processor("x86_64", HASWELL, "Intel(R) Core(TM) i9-9880H").apple


@pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="reads /proc/cpuinfo"
)
def test_linux_agrees_on_this_machine():
    text = Path("/proc/cpuinfo").read_text()
    flags = next(line for line in text.splitlines() if line.startswith("flags")).split()
    own = read_processor()
    assert own.name in " ".join(text.split())
    for feature, llvm in X86.items():
        told = {llvm, llvm.replace("-", "_"), llvm.replace("avx512", "avx512_"), "avx_vnni"}
        told -= {"avx_vnni"} if llvm != "avxvnni" else set()
        assert (feature in own.features) == bool(told & set(flags)), feature
