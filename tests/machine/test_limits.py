"""Limits of containers, in folders laid out as the kernel lays them out."""

import os
from pathlib import Path

import psutil
import pytest

from qconvert.machine.limits import Limits, read_cores, read_disk, read_limits, read_memory


def lay_out(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def limits(tmp_path: Path, own: str, files: dict[str, str]) -> Limits:
    lay_out(tmp_path / "cgroup", files)
    (tmp_path / "own").write_text(own)
    return read_limits(tmp_path / "cgroup", tmp_path / "own")


def test_version_2(tmp_path: Path):
    files = {
        "a/b/memory.max": "4000000000",
        "a/b/memory.current": "1500000000",
        "a/b/memory.stat": "anon 1\ninactive_file 500000000\nactive_file 7",
        "a/b/cpu.max": "150000 100000",
    }
    assert limits(tmp_path, "0::/a/b\n", files) == Limits(1.5, 4_000_000_000, 1_000_000_000)


def test_folders_above_count_too(tmp_path: Path):
    files = {
        "a/memory.max": "2000000000",
        "a/memory.current": "100",
        "a/cpu.max": "50000 100000",
        "a/b/memory.max": "max",
        "a/b/cpu.max": "max 100000",
    }
    assert limits(tmp_path, "0::/a/b\n", files) == Limits(0.5, 2_000_000_000, 100)


def test_inside_a_container_the_own_folder_may_be_out_of_sight(tmp_path: Path):
    files = {"memory.max": "1000", "cpu.max": "200000 100000"}
    assert limits(tmp_path, "0::/../../docker/x\n", files) == Limits(2.0, 1000, 0)


def test_version_1(tmp_path: Path):
    files = {
        "memory/job/memory.limit_in_bytes": "3000000000",
        "memory/job/memory.usage_in_bytes": "2000000000",
        "memory/job/memory.stat": "total_inactive_file 1500000000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "cpu/job/cpu.cfs_quota_us": "300000",
        "cpu/job/cpu.cfs_period_us": "100000",
    }
    own = "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n"
    assert limits(tmp_path, own, files) == Limits(3.0, 3_000_000_000, 500_000_000)
    lay_out(tmp_path / "cgroup", {"cpu/job/cpu.cfs_quota_us": "-1"})
    assert read_limits(tmp_path / "cgroup", tmp_path / "own").cores is None


@pytest.mark.parametrize("own", ["", "nonsense\n", "0::/\n", "4:memory:/x\n"])
def test_without_limits_there_are_none(tmp_path: Path, own: str):
    assert limits(tmp_path, own, {"memory.max": "max", "cpu.max": "max"}) == Limits()


def test_a_limit_bounds_cores_and_memory():
    free = read_memory(Limits())
    assert free.total == psutil.virtual_memory().total
    assert free.limit is None
    bound = read_memory(Limits(None, 1000, 400))
    assert (bound.total, bound.available, bound.limit) == (1000, 600, 1000)
    assert read_memory(Limits(None, 1 << 59, 0)).limit is None
    assert read_cores(Limits(0.5)).usable == 1
    assert read_cores(Limits()).usable == len(os.sched_getaffinity(0))


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path):
    found = read_disk("cache", tmp_path / "a" / "b")
    assert found.free > 0
    assert found.writable
    assert found.path == tmp_path / "a" / "b"
