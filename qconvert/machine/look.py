"""Everything about this machine, in a few seconds: children load packages meanwhile."""

import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qconvert.machine.gpus import make_gpu
from qconvert.machine.limits import read_cores, read_disk, read_limits, read_memory
from qconvert.machine.processor import read_processor
from qconvert.machine.runtimes import read_runtimes
from qconvert.machine.types import Kernels, Machine


def look(
    places: Mapping[str, Path], kernels: Path, kernel_cache: Path, *, every: bool = False
) -> Machine:
    """This machine.

    Args:
        places: folders whose disks matter, by what they are for.
        kernels: the folder with the kernels' sources.
        kernel_cache: where they are kept once they are compiled.
        every: load packages that take seconds, too.
    """
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(read_runtimes, every=every)
        limits = read_limits()
        cores, memory = read_cores(limits), read_memory(limits)
        disks = tuple(read_disk(purpose, path) for purpose, path in places.items())
        compiled = read_kernels(kernels, kernel_cache)
        runtimes, facts = loading.result()
    torch = facts.get("torch", {})
    return Machine(
        f"{platform.system()} {platform.release()}",
        read_processor(),
        cores,
        memory,
        disks,
        tuple(make_gpu(one) for one in torch.get("gpus", ())),
        runtimes,
        compiled,
    )


def read_kernels(sources: Path, cache: Path) -> Kernels:
    """How many of the modules with kernels have been compiled since they were written. Numba
    names its index files `<module>.<function>-<line>.py311.nbi`."""
    newest: dict[str, float] = {}
    for index in cache.rglob("*.nbi") if cache.is_dir() else ():
        module = index.name.partition(".")[0]
        newest[module] = max(newest.get(module, 0.0), index.stat().st_mtime)
    modules = [
        path for path in sources.glob("*.py") if "cache=True" in path.read_text(errors="replace")
    ]
    compiled = sum(newest.get(path.stem, 0.0) >= path.stat().st_mtime for path in modules)
    return Kernels(cache, read_disk("", cache).writable, len(modules), compiled)
