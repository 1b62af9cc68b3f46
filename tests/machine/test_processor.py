"""Processors told from what their systems say."""

import platform
from pathlib import Path

import pytest

from qconvert.machine.processor import ARM, X86, from_cpuinfo, from_sysctl, from_torch

COMMON = (
    "fpu vme de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse "
    "sse2 ht syscall nx pdpe1gb rdtscp lm pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt "
    "aes xsave avx f16c rdrand bmi1 avx2 smep bmi2 erms invpcid"
)
AVX512 = "avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi"
VNNI = "avx512_vbmi2 gfni vaes vpclmulqdq avx512_vnni avx512_bitalg avx512_vpopcntdq"

ZEN_4 = f"{COMMON} {AVX512} {VNNI}"
SAPPHIRE_RAPIDS = f"{COMMON} {AVX512} {VNNI} avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8"
HASWELL = COMMON
GRAVITON_2 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc"
GRAVITON_3 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp "
    "svei8mm svebf16 i8mm bf16 dgh rng"
)


def intel(name: str, flags: str, cores: int = 2) -> str:
    """The layout of x86."""
    block = (
        "processor\t: {core}\nvendor_id\t: Some\ncpu family\t: 25\nmodel name\t: {name}\n"
        "cpu MHz\t\t: 2596.136\nfpu\t\t: yes\nflags\t\t: {flags}\n"
        "bugs\t\t: spectre_v1\naddress sizes\t: 48 bits physical, 48 bits virtual\n"
        "power management:\n\n"
    )
    return "".join(block.format(core=core, name=name, flags=flags) for core in range(cores))


def arm(part: str, flags: str, cores: int = 2) -> str:
    """The layout of arm64."""
    block = (
        "processor\t: {core}\nBogoMIPS\t: 2100.00\nFeatures\t: {flags}\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n"
        "CPU part\t: {part}\nCPU revision\t: 1\n\n"
    )
    return "".join(block.format(core=core, part=part, flags=flags) for core in range(cores))


def test_zen_4():
    found = from_cpuinfo(intel("AMD EPYC  9654 96-Core Processor", ZEN_4), "x86_64")
    assert found.architecture == "x86_64"
    assert found.name == "AMD EPYC 9654 96-Core Processor"
    assert found.features == ("AVX2", "FMA", "F16C", "AVX-512", "AVX-512 VNNI", "AVX-512 BF16")
    assert found.lacks == ("AVX-VNNI", "AVX-512 FP16", "AMX INT8", "AMX BF16", "AMX FP16")


def test_sapphire_rapids_has_amx():
    found = from_cpuinfo(intel("Intel(R) Xeon(R) Platinum 8480+", SAPPHIRE_RAPIDS), "x86_64")
    assert set(X86) - set(found.features) == {"AMX FP16"}
    assert {"AMX INT8", "AMX BF16", "AVX-VNNI"} <= set(found.features)


def test_haswell_stops_at_avx2():
    found = from_cpuinfo(intel("Intel(R) Core(TM) i7-4770", HASWELL), "x86_64")
    assert found.features == ("AVX2", "FMA", "F16C")


def test_graviton_goes_by_its_part_number():
    second = from_cpuinfo(arm("0xd0c", GRAVITON_2), "aarch64")
    third = from_cpuinfo(arm("0xd40", GRAVITON_3), "aarch64")
    assert (second.name, third.name) == ("Neoverse-N1", "Neoverse-V1")
    assert second.architecture == third.architecture == "arm64"
    assert second.features == ("NEON", "FP16")
    assert third.features == ("NEON", "FP16", "dotprod", "i8mm", "bf16", "SVE")
    assert third.lacks == ("SVE2", "SME")


def test_where_cores_differ_what_all_have_counts():
    text = arm("0xd08", "fp asimd asimddp", 1) + arm("0xd08", "fp asimd", 1)
    assert from_cpuinfo(text, "aarch64").features == ("NEON",)


@pytest.mark.parametrize("text", ["", "nonsense", "CPU implementer: x\nCPU part: 1", ":\n::\n"])
def test_what_says_nothing_is_survived(text: str):
    found = from_cpuinfo(text, "aarch64")
    assert (found.name, found.features, found.lacks) == ("", (), tuple(ARM))
    assert from_cpuinfo(text, "riscv64").lacks == ()


def test_macs_say_it_by_sysctl():
    text = (
        "hw.memsize: 17179869184\nhw.optional.AdvSIMD: 1\nhw.optional.arm.FEAT_DotProd: 1\n"
        "hw.optional.arm.FEAT_I8MM: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.arm.FEAT_SME: 0\n"
        "hw.optional.arm.FEAT_FP16: 1\nmachdep.cpu.brand_string: Apple M2\n"
    )
    found = from_sysctl(text, "arm64")
    assert found.name == "Apple M2"
    assert found.apple
    assert found.features == ("NEON", "FP16", "dotprod", "i8mm", "bf16")
    old = (
        "machdep.cpu.brand_string: Intel(R) Core(TM) i9-9880H\n"
        "machdep.cpu.features: FPU SSE4.2 FMA F16C AVX1.0\n"
        "machdep.cpu.leaf7_features: BMI1 AVX2 BMI2\n"
    )
    found = from_sysctl(old, "x86_64")
    assert not found.apple
    assert found.features == ("AVX2", "FMA", "F16C")


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_linux_and_torch_agree_on_this_machine():
    import torch

    if not hasattr(torch.cpu, "get_capabilities") or platform.machine() != "x86_64":
        pytest.skip("this torch does not say")
    own = from_cpuinfo(Path("/proc/cpuinfo").read_text(), platform.machine())
    other = from_torch(torch.cpu.get_capabilities(), "AMD64")
    assert other.features == own.features
    assert other.architecture == own.architecture
