"""Cores, memory and disk that this process may use: the machine's, and a container's limits.

A container is a control group (cgroup) of Linux. Version 2 has one tree of folders, version 1 one
for each kind of resource; the limits of all folders above a process's own count too.

    version 2   memory.max, memory.current, memory.stat; cpu.max ("quota period", "max" for none)
    version 1   memory/memory.limit_in_bytes, memory.usage_in_bytes, memory.stat;
                cpu/cpu.cfs_quota_us (-1 for none), cpu.cfs_period_us
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from qconvert.machine.types import Cores, Disk, Memory

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

UNLIMITED = 1 << 60
"""Version 1 says a number near 2^63 where there is no limit."""


@dataclass(frozen=True)
class Limits:
    """What a container may take.

    Attributes:
        cores: None without a limit.
        memory: bytes, None without a limit.
        used: bytes of it that cannot be given back.
    """

    cores: float | None = None
    memory: int | None = None
    used: int = 0


def read_limits(root: Path = ROOT, own: Path = OWN) -> Limits:
    """The limits of this process; none where there are no control groups."""
    paths = _groups(own)
    folders = [*_folders(root, paths.get("")), *_folders(root / "unified", paths.get(""))]
    memory_v1 = _folders(root / "memory", paths.get("memory"))
    cpu_v1 = _folders(root / "cpu", paths.get("cpu"))
    cores = [q for q in (*map(_quota, folders), *map(_quota_v1, cpu_v1)) if q is not None]
    pairs = [(folder, "memory.max", "memory.current", "inactive_file") for folder in folders]
    pairs += [
        (folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for folder in memory_v1
    ]
    limits = []
    for folder, limit_name, usage_name, idle_name in pairs:
        limit = _number(folder / limit_name)
        if limit is not None and limit < UNLIMITED:
            used = (_number(folder / usage_name) or 0) - _statistic(folder, idle_name)
            limits.append((limit, max(used, 0)))
    tightest = min(limits, key=lambda pair: pair[0] - pair[1], default=(None, 0))
    return Limits(min(cores, default=None), *tightest)


def _groups(own: Path) -> dict[str, str]:
    """The path of each controller's group; "" for version 2."""
    found = {}
    for line in _text(own).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _folders(root: Path, path: str | None) -> list[Path]:
    """The folder of a group and those above it, as far as they can be seen from here."""
    if path is None:
        return []
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [root.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def _quota(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = (_number(folder / f"cpu.cfs_{kind}_us") for kind in ("quota", "period"))
    return quota / period if quota and period and quota > 0 else None


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _statistic(folder: Path, name: str) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def read_cores(limits: Limits) -> Cores:
    """This process's."""
    import psutil

    logical = os.cpu_count() or 1
    allowed = logical
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    elif hasattr(psutil.Process, "cpu_affinity"):
        allowed = len(psutil.Process().cpu_affinity())
    return Cores(logical, psutil.cpu_count(logical=False), allowed, limits.cores)


def read_memory(limits: Limits) -> Memory:
    """The machine's, or what the container may take of it."""
    import psutil

    memory = psutil.virtual_memory()
    if limits.memory is None or limits.memory >= memory.total:
        return Memory(memory.total, memory.available)
    left = max(limits.memory - limits.used, 0)
    return Memory(limits.memory, min(memory.available, left), limits.memory)


def read_disk(purpose: str, path: Path) -> Disk:
    """The disk of a folder, or of the nearest folder above it that exists."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    usage = shutil.disk_usage(there)
    return Disk(purpose, path, usage.free, usage.total, os.access(there, os.W_OK))


def free_memory(device: str) -> int:
    """Bytes that can be had."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
