"""Packages that load, break, crash and hang: real ones, written into a folder."""

import os
from pathlib import Path

import pytest

from qconvert.machine.gpus import make_gpu
from qconvert.machine.look import read_kernels
from qconvert.machine.runtimes import Package, is_installed, read_runtimes

SOURCES = {
    "good_package": "print('something of its own')",
    "broken_package": "raise ImportError('libxyz.so.3: cannot open\\nand more')",
    "leaving_package": "import os; os._exit(3)",
    "crashing_package": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "sleeping_package": "import time; time.sleep(60)",
    "last_package": "",
}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Package]:
    for name, text in SOURCES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    return {name: Package(name, name, needed=True, group="one") for name in SOURCES}


def test_one_that_breaks_says_why_and_the_rest_goes_on(packages: dict[str, Package]):
    chosen = [p for name, p in packages.items() if "sleeping" not in name]
    found, _ = read_runtimes(chosen)
    assert [(one.name.split("_")[0], one.state, one.detail) for one in found] == [
        ("good", "loads", ""),
        ("broken", "broken", "ImportError: libxyz.so.3: cannot open"),
        ("leaving", "broken", "importing it ends the process with exit code 3"),
        ("crashing", "broken", "importing it crashes (SIGSEGV)"),
        ("last", "loads", ""),
    ]


def test_one_that_hangs_is_given_up(packages: dict[str, Package]):
    chosen = [packages["sleeping_package"], packages["last_package"]]
    found, _ = read_runtimes(chosen, timeout=3)
    assert [(one.state, one.detail) for one in found] == [
        ("broken", "is not loaded after 3 s"),
        ("loads", ""),
    ]


def test_what_is_not_there_is_missing():
    found, facts = read_runtimes([Package("no-such", "no_such_package", False, "x")])
    assert (found[0].state, found[0].version, facts) == ("missing", "", {})
    assert not is_installed("no_such_package")


def test_llama_and_numba_tell_of_themselves():
    pytest.importorskip("llama_cpp")
    chosen = [
        Package("numba", "numba", True, "a"),
        Package("llama-cpp-python", "llama_cpp", 0, "b"),
    ]
    (numba, llama), facts = read_runtimes(chosen)
    assert numba.state == llama.state == "loads"
    assert "=" in facts["llama_cpp"]["system"]
    assert llama.version


def test_the_prebuilt_llama_cpp_tells_what_it_was_compiled_for():
    pytest.importorskip("xllamacpp")
    (found,), facts = read_runtimes([Package("xllamacpp", "xllamacpp", False, "a")])
    assert (found.state, found.version != "") == ("loads", True)
    assert "=" in facts["xllamacpp"]["system"]


@pytest.mark.parametrize(
    ("capability", "numbers"),
    [
        ((7, 0), ("fp16",)),
        ((7, 5), ("int8", "fp16")),
        ((8, 6), ("bf16", "int8", "fp16")),
        ((8, 9), ("fp8", "bf16", "int8", "fp16")),
        ((9, 0), ("fp8", "bf16", "int8", "fp16")),
        ((10, 0), ("fp4", "fp8", "bf16", "int8", "fp16")),
        ((12, 0), ("fp4", "fp8", "bf16", "int8", "fp16")),
    ],
)
def test_a_compute_capability_says_what_is_multiplied(capability, numbers):
    facts = {"backend": "cuda", "name": "X", "total": 10, "free": 9, "capability": list(capability)}
    gpu = make_gpu(facts)
    assert (gpu.capability, gpu.numbers) == (capability, numbers)


def test_other_gpus_go_by_their_name():
    facts = {"backend": "rocm", "name": "X", "total": 1, "free": 1, "capability": [9, 4]}
    assert "fp8" in make_gpu({**facts, "gcn": "gfx942:sramecc+:xnack-"}).numbers
    assert make_gpu({**facts, "gcn": "gfx42"}).numbers == ()
    apple = make_gpu({"backend": "mps", "name": "Apple GPU", "total": 2, "free": 1})
    assert apple.capability is None
    assert "fp8" not in apple.numbers


def test_kernels_are_compiled_once_their_index_is_newer_than_they_are(tmp_path: Path):
    cache = tmp_path / "cache" / "kernels_0123"
    cache.mkdir(parents=True)
    for name in ("fits", "stale", "never"):
        (tmp_path / f"{name}.py").write_text("@njit(cache=True)")
        os.utime(tmp_path / f"{name}.py", (1000, 1000))
    (tmp_path / "plain.py").write_text("")
    for name, time in (("fits.a-1", 2000), ("stale.a-1", 900), ("fits.b-7", 500)):
        index = cache / f"{name}.py311.nbi"
        index.write_text("")
        os.utime(index, (time, time))
    found = read_kernels(tmp_path, tmp_path / "cache")
    assert (found.modules, found.compiled, found.writable) == (3, 1, True)
    assert read_kernels(tmp_path, tmp_path / "not there").compiled == 0
