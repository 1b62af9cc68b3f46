"""Which types suit a machine, and why; and of a model's types, which fit and which one to take.

The reasons are facts of the runtimes: llama.cpp multiplies K-types by AVX2 or NEON and repacks
q4_0 for i8mm; vLLM and SGLang multiply fp8 from compute capability 8.9 on, fp4 from 10.0 on, int8
from 7.5 on, and unpack w4a16 (Marlin) from 8.0 on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qconvert.machine.types import Gpu, Machine, Processor

CPU_SHARE, GPU_SHARE = 0.9, 0.9
"""Of the free memory, what a model may take."""

WORKSPACE = 300_000_000
"""Bytes that a runtime needs beside weights and cache: activations, logits, code."""

LADDER = ("q4_k_m", "q4_k_s", "iq4_xs", "q3_k_m", "q3_k_s", "q2_k")
"""GGUF types for a CPU, the one to take first."""

SMALL_LADDER = ("q8_0", "q6_k", "q5_k_m", *LADDER)
"""For models that lose much at 4 bits, and are fast at 8."""

SMALL = 2_000_000_000
"""Weights below which a model is small."""


@dataclass(frozen=True)
class Suited:
    """A type that suits a machine.

    Attributes:
        type: what `-t` accepts.
        runtime: what would run it.
        place: the CPU, or the GPU's name.
        reason: one line.
    """

    type: str
    runtime: str
    place: str
    reason: str


def suited_types(machine: Machine) -> tuple[Suited, ...]:
    """What suits a machine, the best first: of each kind of GPU, then of the CPU."""
    found: list[Suited] = []
    for gpu in {gpu.name: gpu for gpu in machine.gpus}.values():
        found += _for_gpu(gpu)
    return (*found, *_for_cpu(machine.processor))


def _for_gpu(gpu: Gpu) -> list[Suited]:
    if gpu.backend == "mps":
        reason = "llama.cpp computes K-types on Apple's GPU"
        return [Suited("q4_k_m", "llama.cpp", gpu.name, reason)]
    servers = "vLLM, SGLang"
    found = []
    if "fp8" in gpu.numbers:
        reason = "its matrix units multiply fp8: nearly the original, at half its size"
        found.append(Suited("fp8", servers, gpu.name, reason))
    elif "int8" in gpu.numbers:
        reason = "its matrix units multiply int8, and no fp8"
        found.append(Suited("w8a8", servers, gpu.name, reason))
    if "fp4" in gpu.numbers:
        reason = "it has fp4: a quarter of the original's size"
        found.append(Suited("nvfp4a16", servers, gpu.name, reason))
    if gpu.backend == "cuda" and "bf16" in gpu.numbers:
        reason = "4-bit weights are unpacked by fast kernels: a quarter of the original's size"
        found.append(Suited("w4a16", servers, gpu.name, reason))
    reason = "llama.cpp computes K-types on it; layers that do not fit stay on the CPU"
    return [*found, Suited("q4_k_m", "llama.cpp", gpu.name, reason)]


def _for_cpu(processor: Processor) -> list[Suited]:
    has = set(processor.features)
    fast = next((name for name in ("AVX-512", "AVX2", "i8mm", "dotprod") if name in has), "")
    if not fast and "NEON" in has:
        fast = "NEON"
    if fast:
        reason = f"llama.cpp computes K-types with {fast}: the usual balance of size and quality"
        found = [Suited("q4_k_m", "llama.cpp", "CPU", reason)]
        reason = "nearly the original; reading weights sets the speed, so it is about half as fast"
        found.append(Suited("q8_0", "llama.cpp", "CPU", reason))
    else:
        reason = "the simplest type to compute, for there is no AVX2 or NEON here"
        found = [Suited("q4_0", "llama.cpp", "CPU", reason)]
    if "i8mm" in has or ("dotprod" in has and not processor.apple):
        reason = f"the fastest here: llama.cpp rearranges it on loading for {fast}"
        found.append(Suited("q4_0", "llama.cpp", "CPU", reason))
    if "AMX INT8" in has or "AVX-512 VNNI" in has:
        unit = "AMX INT8" if "AMX INT8" in has else "AVX-512 VNNI"
        reason = f"vLLM's CPU build multiplies int8 with {unit}: for many prompts at once"
        found.append(Suited("w8a8", "vLLM", "CPU", reason))
    return found


@dataclass(frozen=True)
class Size:
    """A type of a model.

    Attributes:
        container: "gguf" or "safetensors".
        nbytes: of the file or directory.
    """

    type: str
    container: Literal["gguf", "safetensors"]
    nbytes: int


@dataclass(frozen=True)
class Fit:
    """Whether a type of a model fits.

    Attributes:
        needs: bytes in all: weights, the cache of a context, and a workspace.
        memory: whether that fits into main memory.
        gpu: whether that fits into the largest GPU; None where there is none.
        take: whether it is the one to take.
        reason: why, for that one.
    """

    size: Size
    needs: int
    memory: bool
    gpu: bool | None
    take: bool = False
    reason: str = ""


def fits(
    machine: Machine,
    sizes: Sequence[Size],
    weights: int,
    cache: int,
    ladder: Sequence[str] = (),
) -> tuple[Fit, ...]:
    """Which types fit, the largest first, and which one to take.

    Args:
        sizes: of the types.
        weights: of the model, counted.
        cache: bytes that keys and values of a context take.
        ladder: GGUF types, the one to take first; by default those for such a model on a CPU.
    """
    room = machine.memory.available * CPU_SHARE
    free = max((gpu.free for gpu in machine.gpus), default=0) * GPU_SHARE
    found = []
    for size in sorted(sizes, key=lambda size: -size.nbytes):
        needs = size.nbytes + cache + WORKSPACE
        found.append(Fit(size, needs, needs <= room, needs <= free if machine.gpus else None))
    choice, reason = choose(machine, found, weights, ladder)
    return tuple(
        Fit(fit.size, fit.needs, fit.memory, fit.gpu, True, reason) if fit is choice else fit
        for fit in found
    )


def room_for_files(machine: Machine, cache: int) -> int:
    """The largest file that fits into memory, in bytes; below 1 for none."""
    return int(machine.memory.available * CPU_SHARE) - cache - WORKSPACE


def choose(
    machine: Machine, found: Sequence[Fit], weights: int, ladder: Sequence[str] = ()
) -> tuple[Fit | None, str]:
    """The type to take: of those that suit the GPU the first that fits into it, else the first of
    a ladder for the CPU."""
    by_type = {fit.size.type: fit for fit in found}
    for suited in suited_types(machine):
        fit = by_type.get(suited.type)
        if suited.place != "CPU" and fit and fit.gpu:
            return fit, f"{suited.reason} ({suited.runtime} on {suited.place})"
    first = next((suited for suited in suited_types(machine) if suited.place == "CPU"), None)
    given = bool(ladder)
    ladder = ladder or (SMALL_LADDER if weights < SMALL else LADDER)
    if first and first.type not in ladder:
        ladder = (first.type, *ladder)
    for name in ladder:
        fit = by_type.get(name)
        if fit and fit.memory:
            fast = _reason(machine, name) if given and weights >= SMALL else ""
            return fit, fast or _why(name, ladder, weights)
    return None, ""


def _reason(machine: Machine, type_: str) -> str:
    """Why a type suits the CPU."""
    return next((one.reason for one in suited_types(machine) if one.type == type_), "")


def _why(name: str, ladder: Sequence[str], weights: int) -> str:
    if name != ladder[0]:
        return f"the first of {', '.join(ladder[: ladder.index(name) + 1])} that fits into memory"
    if weights < SMALL:
        return "a small model loses much at fewer bits, and is fast as it is"
    return "the usual balance of size, quality and speed on a CPU"
