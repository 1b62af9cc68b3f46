"""Which packages are installed, and whether they load: each is imported in a child process, so
that one that crashes or hangs takes nothing with it. The children run side by side."""

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from qconvert.machine.gpus import may_have_gpu
from qconvert.machine.probe import MARK
from qconvert.machine.requirements import unmet
from qconvert.machine.types import Runtime, State

TIMEOUT = 60.0
"""Seconds that a child may take."""


@dataclass(frozen=True)
class Package:
    """A package to look for.

    Attributes:
        name: as one installs it.
        module: as one imports it.
        needed: this program does not work without it.
        group: those of one group are imported by one process, one after the other.
        slow: importing it takes seconds: unless that is asked for, only what it needs is looked at.
            torch is imported all the same where it may know of a GPU.
    """

    name: str
    module: str
    needed: bool
    group: str
    slow: bool = False


# What stands on torch shares its import, which is the longest of all.
PACKAGES = (
    Package("torch", "torch", True, "torch", slow=not may_have_gpu()),
    Package("transformers", "transformers", True, "torch", slow=True),
    Package("compressed-tensors", "compressed_tensors", True, "torch", slow=True),
    Package("numba", "numba", True, "small"),
    Package("matplotlib", "matplotlib", True, "small"),
    Package("xllamacpp", "xllamacpp", False, "xllamacpp"),
    Package("llama-cpp-python", "llama_cpp", False, "llama"),
    Package("vllm", "vllm", False, "vllm", slow=True),
    Package("sglang", "sglang", False, "sglang", slow=True),
    Package("lm-eval", "lm_eval", False, "lm-eval", slow=True),
)


@dataclass
class Report:
    """What a child said of a module; `error` is None where it did not get to the end."""

    error: str | None = None
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def read_runtimes(
    packages: Sequence[Package] = PACKAGES, timeout: float = TIMEOUT, *, every: bool = False
) -> tuple[tuple[Runtime, ...], dict[str, dict[str, Any]]]:
    """Look for packages and load them.

    Args:
        every: slow ones too.

    Returns:
        What holds for each, and the facts that each module told of itself.
    """
    found = [package for package in packages if is_installed(package.module)]
    groups = [
        [one.module for one in found if one.group == group and (every or not one.slow)]
        for group in dict.fromkeys(package.group for package in found)
    ]
    groups = [group for group in groups if group]
    with ThreadPoolExecutor(max(len(groups), 1)) as pool:
        answers = list(pool.map(lambda modules: load_all(modules, timeout), groups))
    reports = {name: report for answer in answers for name, report in answer.items()}
    runtimes = tuple(
        _as_installed(package)
        if package in found and package.module not in reports
        else _runtime(package, reports.get(package.module))
        for package in packages
    )
    return runtimes, {name: report.facts for name, report in reports.items()}


def is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def load_all(modules: Sequence[str], timeout: float) -> dict[str, Report]:
    """Import modules in a child; where one takes the child with it, the rest in another."""
    reports: dict[str, Report] = {}
    left = list(modules)
    while left:
        answers, end = _run(left, timeout)
        reports.update(answers)
        done = [name for name in left if reports.get(name, Report()).error is not None]
        left = [name for name in left if name not in done]
        if left:  # the first of them did not come back
            reports[left[0]] = Report(end)
            left = left[1:]
    return reports


def _run(modules: Sequence[str], timeout: float) -> tuple[dict[str, Report], str]:
    """What a child said, and how it ended."""
    command = [sys.executable, "-m", "qconvert.machine.probe", *modules]
    settings = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=timeout,
            env=settings,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return _answers(error.stdout or b""), f"is not loaded after {timeout:.0f} s"
    except OSError as error:
        return {}, f"no child process: {error.strerror}"
    return _answers(done.stdout), _how_it_ended(done.returncode)


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"importing it ends the process with exit code {code}"
    try:
        return f"importing it crashes ({signal.Signals(-code).name})"
    except ValueError:
        return f"importing it crashes (signal {-code})"


def _answers(output: bytes) -> dict[str, Report]:
    found: dict[str, Report] = {}
    for line in output.decode(errors="replace").splitlines():
        if line.startswith(MARK):
            value = json.loads(line[len(MARK) :])
            if "error" in value:
                found[value["name"]] = Report(value["error"], value["seconds"], value["facts"])
    return found


def _as_installed(package: Package) -> Runtime:
    """One that is not loaded."""
    fault = unmet(package.name)
    state: State = "broken" if fault else "installed"
    return Runtime(package.name, _version(package.name), state, package.needed, fault)


def _runtime(package: Package, report: Report | None) -> Runtime:
    if report is None:
        return Runtime(package.name, "", "missing", package.needed)
    version = _version(package.name)
    if report.error:
        return Runtime(package.name, version, "broken", package.needed, report.error)
    detail = _detail(package.module, report.facts)
    return Runtime(package.name, version, "loads", package.needed, detail, report.seconds)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _detail(module: str, facts: dict[str, Any]) -> str:
    if module == "torch":
        kinds = {gpu["backend"] for gpu in facts["gpus"]}
        return f"{', '.join(sorted(kinds)) or 'cpu only'}, {facts['threads']} threads"
    if module in ("llama_cpp", "xllamacpp"):
        return f"{'with GPU offload' if facts['gpu'] else 'CPU only'}; {facts['system']}"
    return ""
