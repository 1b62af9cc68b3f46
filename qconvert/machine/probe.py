"""What runs in a child process: import packages one after the other, and say how that went.

    python -m qconvert.machine.probe torch transformers

prints a line of JSON for each, behind MARK, because packages print what they like:

    {"name": "torch", "begin": true}                     before, so that a crash has a name
    {"name": "torch", "error": "", "seconds": 1.9, "facts": {...}}
"""

import ctypes
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

MARK = "qconvert-probe: "


def main(names: list[str]) -> None:
    for name in names:
        _say({"name": name, "begin": True})
        begin = time.perf_counter()
        error, facts = "", {}
        try:
            facts = load(name)
        except BaseException as problem:
            error = one_line(problem)
        seconds = round(time.perf_counter() - begin, 3)
        _say({"name": name, "error": error, "seconds": seconds, "facts": facts})


def load(name: str) -> dict[str, Any]:
    """Import a module, and what it says of itself."""
    module = importlib.import_module(name)
    return FACTS[name](module) if name in FACTS else {}


def one_line(problem: BaseException) -> str:
    """The kind of an exception and the first line of what it says."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0]}"[:300] if lines else type(problem).__name__


def _torch(torch: Any) -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), "gpus": _gpus(torch)}


def _gpus(torch: Any) -> list[dict[str, Any]]:
    """CUDA's or ROCm's devices, or Apple's."""
    if torch.cuda.is_available():
        return [_cuda(torch, index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        return [{"backend": "mps", "name": "Apple GPU", "total": total, "free": free}]
    return []


def _cuda(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "backend": "rocm" if torch.version.hip else "cuda",
        "name": properties.name,
        "total": total,
        "free": free,
        "capability": [properties.major, properties.minor],
        "gcn": getattr(properties, "gcnArchName", ""),
    }


def _llama(llama_cpp: Any) -> dict[str, Any]:
    text = llama_cpp.llama_print_system_info().decode(errors="replace")
    gpu = bool(llama_cpp.llama_supports_gpu_offload())
    return {"system": " ".join(text.split()), "gpu": gpu}


def _xllamacpp(xllamacpp: Any) -> dict[str, Any]:
    """Its Python module has other names for what its library exports."""
    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    library.llama_print_system_info.restype = ctypes.c_char_p
    library.llama_supports_gpu_offload.restype = ctypes.c_bool
    return _llama(library)


FACTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "torch": _torch,
    "llama_cpp": _llama,
    "xllamacpp": _xllamacpp,
}


def _say(value: dict[str, Any]) -> None:
    print(f"\n{MARK}{json.dumps(value)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
