"""Which types suit a machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from qconvert.machine.advice import Size, fits, suited_types
from qconvert.machine.devices import DEVICES, machine_of
from qconvert.machine.gpus import make_gpu
from qconvert.machine.processor import make_processor
from qconvert.machine.types import Cores, Gpu, Kernels, Machine, Memory
from qconvert.plan.safetensors.schemes import find_type

GB = 10**9
X86 = make_processor("x86_64", ["avx2", "fma", "f16c"])
SIZES = [
    Size("f16", "gguf", 16 * GB),
    Size("q8_0", "gguf", int(8.5 * GB)),
    Size("fp8", "safetensors", 9 * GB),
    Size("w8a8", "safetensors", 9 * GB),
    Size("q4_k_m", "gguf", int(4.9 * GB)),
    Size("q4_0", "gguf", int(4.7 * GB)),
    Size("w4a16", "safetensors", int(5.7 * GB)),
    Size("nvfp4a16", "safetensors", int(5.9 * GB)),
    Size("q3_k_m", "gguf", 4 * GB),
    Size("q2_k", "gguf", int(3.2 * GB)),
]
WEIGHTS, CACHE = 8 * GB, GB // 2


def machine(memory: float, *gpus: Gpu, processor=X86) -> Machine:
    size = int(memory * GB)
    none = Kernels(Path(), True, 0, 0)
    return Machine("Linux", processor, Cores(8, 4, 8), Memory(size, size), (), gpus, (), none)


def gpu(capability: tuple[int, int], memory: float) -> Gpu:
    facts = {"backend": "cuda", "name": "some GPU", "capability": capability}
    return make_gpu({**facts, "total": int(memory * GB), "free": int(memory * GB)})


def taken(found) -> str | None:
    return next((fit.size.type for fit in found if fit.take), None)


def test_a_plain_cpu_takes_k_types():
    found = suited_types(machine(16))
    assert (found[0].type, found[0].runtime, found[0].place) == ("q4_k_m", "llama.cpp", "CPU")
    assert "AVX2" in found[0].reason
    assert "w8a8" not in [one.type for one in found]


def test_an_old_cpu_takes_the_simplest_type():
    found = suited_types(machine(16, processor=make_processor("x86_64", ["sse2"])))
    assert [one.type for one in found] == ["q4_0"]


def test_arm_with_i8mm_takes_q4_0_for_speed():
    arm = make_processor("aarch64", ["neon", "dotprod", "i8mm"])
    types = {one.type: one.reason for one in suited_types(machine(16, processor=arm))}
    assert "i8mm" in types["q4_0"]
    assert "q4_k_m" in types


@pytest.mark.parametrize("flag", ["amx-int8", "avx512vnni"])
def test_int8_instructions_suit_w8a8(flag: str):
    processor = make_processor("x86_64", ["avx2", "avx512f", flag])
    assert "w8a8" in [one.type for one in suited_types(machine(16, processor=processor))]


@pytest.mark.parametrize(
    ("capability", "types"),
    [
        ((10, 0), ["fp8", "nvfp4a16", "w4a16", "q4_k_m"]),
        ((9, 0), ["fp8", "w4a16", "q4_k_m"]),
        ((8, 6), ["w8a8", "w4a16", "q4_k_m"]),
        ((7, 5), ["w8a8", "q4_k_m"]),
        ((6, 1), ["q4_k_m"]),
    ],
)
def test_gpus_take_what_their_units_multiply(capability, types):
    found = suited_types(machine(16, gpu(capability, 24)))
    assert [one.type for one in found if one.place == "some GPU"] == types


def test_every_type_named_is_one_that_can_be_asked_for():
    apple = Gpu("mps", "Apple GPU", 1, 1)
    for one in suited_types(machine(16, gpu((10, 0), 24), gpu((7, 5), 8), apple)):
        assert find_type(one.type) == one.type


@pytest.mark.parametrize(
    ("capability", "memory", "type_"),
    [
        ((9, 0), 80, "fp8"),
        ((9, 0), 8, "w4a16"),
        ((10, 0), 8, "nvfp4a16"),
        ((8, 6), 24, "w8a8"),
        ((8, 6), 7, "q4_k_m"),
        ((8, 6), 2, "q4_k_m"),  # into main memory
    ],
)
def test_the_first_that_fits_into_the_gpu_is_taken(capability, memory, type_):
    found = fits(machine(64, gpu(capability, memory)), SIZES, WEIGHTS, CACHE)
    assert taken(found) == type_


def test_without_a_gpu_memory_decides():
    choices = [taken(fits(machine(m), SIZES, WEIGHTS, CACHE)) for m in (64, 6.5, 5.5, 4.5, 3)]
    assert choices == ["q4_k_m", "q4_k_m", "q3_k_m", "q2_k", None]


def test_small_models_take_more_bits():
    assert taken(fits(machine(64), SIZES, GB, CACHE)) == "q8_0"


def test_each_type_says_what_it_needs_and_whether_it_fits():
    found = fits(machine(11), SIZES, WEIGHTS, CACHE)
    assert [fit.size.nbytes for fit in found] == sorted((s.nbytes for s in SIZES), reverse=True)
    by_type = {fit.size.type: fit for fit in found}
    assert not by_type["f16"].memory
    assert by_type["q8_0"].memory
    assert by_type["q8_0"].gpu is None
    assert by_type["q8_0"].needs > by_type["q8_0"].size.nbytes + CACHE
    busy = replace(machine(11), memory=Memory(11 * GB, 3 * GB))
    assert not any(fit.memory for fit in fits(busy, SIZES, WEIGHTS, CACHE))


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("phone", {7: "q2_k", 5: "q4_0", 1: "q8_0"}),
        ("pi", {8: "q4_0", 9: "q4_0", 20: None}),
        ("laptop-8gb", {6: "q4_k_m", 8: "q2_k"}),
    ],
)
def test_devices_take_what_their_kernels_like_and_their_memory_holds(name, types):
    """By billions of weights; sizes are those of an 8B model, in proportion."""
    device = DEVICES[name]
    for billions, expected in types.items():
        sizes = [replace(size, nbytes=size.nbytes * billions // 8) for size in SIZES]
        ladder = device.small_ladder if billions < 2 else device.ladder
        found = fits(machine_of(device), sizes, billions * GB, CACHE * billions // 8, ladder)
        assert taken(found) == expected, billions
    assert all(find_type(one) for one in (*device.ladder, *device.small_ladder))
