"""What is said of a machine. Sizes are bytes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Processor:
    """A CPU.

    Attributes:
        architecture: "x86_64", "arm64", or as the system calls another.
        name: "AMD EPYC 9654", "Neoverse-V1"; empty where nothing says it.
        features: of those that matter to inference, what it has: "AVX2", "i8mm".
        lacks: of the same, what it has not.
        apple: Apple's own.
    """

    architecture: str
    name: str = ""
    features: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    apple: bool = False


@dataclass(frozen=True)
class Cores:
    """Cores, and which of them this process may use.

    Attributes:
        logical: of the machine, threads counted.
        physical: of the machine; None where unknown.
        allowed: by affinity.
        quota: the time of how many cores a container may take; None without a limit.
    """

    logical: int
    physical: int | None
    allowed: int
    quota: float | None = None

    @property
    def usable(self) -> int:
        """How many threads are of use."""
        limit = self.allowed if self.quota is None else min(self.allowed, self.quota)
        return max(1, int(limit))


@dataclass(frozen=True)
class Memory:
    """Main memory.

    Attributes:
        total: of the machine, or what a container may take.
        available: what can be used without swapping.
        limit: a container's, None without one.
    """

    total: int
    available: int
    limit: int | None = None


@dataclass(frozen=True)
class Disk:
    """Where files go.

    Attributes:
        purpose: "this folder", "hub cache".
        writable: whether this process may write there.
    """

    purpose: str
    path: Path
    free: int
    total: int
    writable: bool


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it.

    Attributes:
        backend: "cuda", "rocm" or "mps".
        capability: CUDA's compute capability, (8, 9); None for others.
        total, free: memory; Apple's is the machine's own.
        numbers: what its matrix units multiply: "fp4", "fp8", "bf16", "int8", "fp16".
    """

    backend: Literal["cuda", "rocm", "mps"]
    name: str
    total: int
    free: int
    capability: tuple[int, int] | None = None
    numbers: tuple[str, ...] = ()


State = Literal["loads", "installed", "broken", "missing"]

THERE: tuple[State, ...] = ("loads", "installed")


@dataclass(frozen=True)
class Runtime:
    """A package that runs models, or that this program stands on.

    Attributes:
        name: as one installs it.
        version: empty where it is not installed.
        state: whether importing it works; "installed" where that was not tried, and what it needs
            is there.
        needed: this program does not work without it.
        detail: what it says of itself, or why it does not load: one line.
        seconds: that loading took; counted from what was loaded before it.
    """

    name: str
    version: str
    state: State
    needed: bool
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Kernels:
    """Where compiled kernels are kept.

    Attributes:
        folder: of the cache.
        writable: whether kernels stay there once they are compiled.
        modules: that have kernels.
        compiled: of these, how many have been compiled since they were written.
    """

    folder: Path
    writable: bool
    modules: int
    compiled: int


@dataclass(frozen=True)
class Machine:
    """All of it."""

    system: str
    processor: Processor
    cores: Cores
    memory: Memory
    disks: tuple[Disk, ...]
    gpus: tuple[Gpu, ...]
    runtimes: tuple[Runtime, ...]
    kernels: Kernels

    def loads(self, name: str) -> bool:
        """Whether a runtime is there and works, as far as was looked."""
        return any(one.name == name and one.state in THERE for one in self.runtimes)

    @property
    def broken(self) -> tuple[Runtime, ...]:
        """What this program needs and does not get."""
        return tuple(one for one in self.runtimes if one.needed and one.state not in THERE)
