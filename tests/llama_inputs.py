"""What llama.cpp multiplies its weights with, seen through its callback for every node of the
graph: what llama-imatrix gathers."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import _decode, llama_context

MUL_MAT, MUL_MAT_ID = "MUL_MAT", "MUL_MAT_ID"


class Tensor(ctypes.Structure):
    """ggml_tensor, as ggml.h has it."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def values(tensor: Any, dtype: Any) -> np.ndarray:
    """A view of a tensor of four-byte elements, in row-major order (outermost first)."""
    shape, strides = list(tensor.ne)[::-1], list(tensor.nb)[::-1]
    size = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 4
    raw = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_uint8)), (size,))
    return np.ndarray(shape, dtype, raw, strides=strides)


def gather(path: Path, windows: Sequence[Sequence[int]]) -> dict[str, tuple[Any, Any]]:
    """Runs a GGUF file over windows of tokens.

    Returns:
        By weight: sums of squares, float64 [matrices, columns], and tokens, int64 [matrices].
    """
    import llama_cpp

    library = llama_cpp.llama_cpp._lib
    library.ggml_op_name.restype = ctypes.c_char_p
    names: dict[int, str] = {}
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def add(node: Any, several: bool) -> None:
        weight, given = node.src[0].contents, node.src[1].contents
        matrices = weight.ne[2]
        empty = np.zeros((matrices, weight.ne[0])), np.zeros(matrices, np.int64)
        total, count = sums.setdefault(weight.name.decode(), empty)
        x = values(given, np.float32)[0].astype(np.float64)  # [tokens, chosen or 1, columns]
        if not several and matrices > 1:  # a head each
            total += (x * x).sum(1)
            count += x.shape[1]
            return
        if not several:
            flat = x.reshape(-1, x.shape[-1])
            total[0] += (flat * flat).sum(0)
            count[0] += len(flat)
            return
        ids = values(node.src[2].contents, np.int32)[0, 0]  # [tokens, chosen]
        x = np.broadcast_to(x, (*ids.shape, x.shape[-1]))
        for expert in range(matrices):
            chosen = x[ids == expert]
            total[expert] += (chosen * chosen).sum(0)
            count[expert] += len(chosen)

    @ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(Tensor), ctypes.c_bool, ctypes.c_void_p)
    def see(pointer: Any, ask: bool, data: Any) -> bool:
        node = pointer.contents
        if node.op not in names:
            names[node.op] = library.ggml_op_name(node.op).decode()
        if names[node.op] not in (MUL_MAT, MUL_MAT_ID):
            return not ask
        if not node.src[0].contents.name.decode().endswith(".weight"):
            return not ask
        if not ask:
            add(node, names[node.op] == MUL_MAT_ID)
        return True

    cast = ctypes.cast(see, llama_cpp.ggml_backend_sched_eval_callback)
    with llama_context(path, len(windows[0]), cb_eval=cast) as (_, context):
        for window in windows:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
            _decode(context, window)
    return sums
