"""Which llama.cpp runs GGUF files: llama-cpp-python's where that is installed, compiled for this
very processor, or else the one in the prebuilt wheel of xllamacpp."""

import ctypes
import platform
from collections import deque
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from qconvert.errors import UsageError, first_line
from qconvert.evaluation.runtimes.bindings import load_bindings
from qconvert.machine.processor import X86_NAMES, read_processor

INSTALL = "pip install xllamacpp, or llama-cpp-python, which is compiled and takes minutes"
"""For hints."""
MISSING = "llama.cpp is not installed"
LINES = 50
"""Of llama.cpp's log, so many lines are kept for messages."""


def has_llama() -> bool:
    """Whether there is a llama.cpp for this machine; it may still not load."""
    return bool(llama_name())


def llama_name() -> str:
    """The package that brings it, with its version: "xllamacpp 2026.10.11549"; "" where there is
    none."""
    if find_spec("llama_cpp") is not None:
        return f"llama-cpp-python {_version('llama-cpp-python')}"
    if find_spec("xllamacpp") is not None and runs_wheels():
        return f"xllamacpp {_version('xllamacpp')}"
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(unknown)"


@cache
def runs_wheels() -> bool:
    """Whether this processor has what prebuilt wheels are compiled for: on x86, AVX2 and FMA.
    Without them the process would end by SIGILL."""
    if platform.machine().lower() not in X86_NAMES:
        return True
    return {"AVX2", "FMA"} <= set(read_processor().features)


def import_llama() -> Any:
    """llama.cpp's C functions by their names.

    Raises:
        UsageError: there is none, or it does not load.
    """
    try:
        import llama_cpp
    except ImportError:
        return _wheel()
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"llama-cpp-python does not load: {first_line(error)}",
            "install it anew, or remove it: xllamacpp then takes its place",
        ) from error
    return llama_cpp


def _wheel() -> Any:
    if find_spec("xllamacpp") is None:
        raise UsageError(MISSING, INSTALL)
    if not runs_wheels():
        raise UsageError(
            "the llama.cpp of xllamacpp needs a processor with AVX2 and FMA",
            "pip install llama-cpp-python compiles one for this processor",
        )
    return load_bindings()


def on_cpu(parameters: Any) -> Any:
    """Parameters of a model that keep all of it, and what is computed, off every GPU."""
    none = (ctypes.c_void_p * 1)(None)  # a list of devices that ends at once
    parameters.devices = ctypes.cast(none, ctypes.c_void_p)
    parameters.n_gpu_layers = 0
    parameters.list_of_devices = none  # as long as the parameters live
    return parameters


@cache
def keep_log() -> tuple[deque[str], Any]:
    """llama.cpp's last lines, which it would print otherwise, and the callback that keeps them.
    A process has one log, and ctypes' callbacks must stay alive: both are made once."""
    llama = import_llama()
    lines: deque[str] = deque(maxlen=LINES)

    def keep(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        lines.append(text.decode(errors="replace").strip())

    return lines, llama.llama_log_callback(keep)
