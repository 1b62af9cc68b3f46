"""llama.cpp's C functions out of the shared library that the wheel of xllamacpp carries.

The wheel is built for Python, and exports llama.cpp's own functions beside its Python module, which
is not imported here. They get the names that llama-cpp-python gives them, so that either serves.

Two structures are handed over by value, and grow from release to release. Only their first fields
are named here, which have kept their places for years; room behind them holds the rest as
llama.cpp's own defaults fill it:

    llama_model_params     devices* | overrides* | n_gpu_layers (int32) | ...
    llama_context_params   n_ctx | n_batch | n_ubatch (uint32 each) | ...

A structure that is larger than it need be does no harm: it lies in memory behind all other
arguments, and llama.cpp reads its beginning. Both beginnings are compared with the defaults that
llama.h documents before they are used. Source: include/llama.h.
"""

import ctypes
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from qconvert.errors import UsageError, first_line

LAYOUT = "2026.10.11549"
"""The release of xllamacpp whose structures were read."""
SPARE = 1024
"""Bytes behind the named fields; both structures had fewer than 200 in all."""


class ModelParams(ctypes.Structure):
    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int32),
        ("rest", ctypes.c_uint64 * (SPARE // 8)),
    )


class ContextParams(ctypes.Structure):
    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("rest", ctypes.c_uint64 * (SPARE // 8)),
    )


class Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    )


DEFAULTS: dict[str, dict[str, int | None]] = {
    "llama_model_default_params": {"devices": None, "n_gpu_layers": -1, "split_mode": 1},
    "llama_context_default_params": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
    },
}
"""What llama.cpp fills in where a structure begins as it does here."""

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, c_char_p, c_void_p)

FUNCTIONS = {
    "llama_backend_init": (None, ()),
    "llama_batch_free": (None, (Batch,)),
    "llama_batch_get_one": (Batch, (POINTER(c_int32), c_int32)),
    "llama_batch_init": (Batch, (c_int32, c_int32, c_int32)),
    "llama_context_default_params": (ContextParams, ()),
    "llama_decode": (c_int32, (c_void_p, Batch)),
    "llama_free": (None, (c_void_p,)),
    "llama_get_logits": (POINTER(c_float), (c_void_p,)),
    "llama_get_logits_ith": (POINTER(c_float), (c_void_p, c_int32)),
    "llama_get_memory": (c_void_p, (c_void_p,)),
    "llama_init_from_model": (c_void_p, (c_void_p, ContextParams)),
    "llama_log_set": (None, (LogCallback, c_void_p)),
    "llama_memory_clear": (None, (c_void_p, c_bool)),
    "llama_model_default_params": (ModelParams, ()),
    "llama_model_free": (None, (c_void_p,)),
    "llama_model_get_vocab": (c_void_p, (c_void_p,)),
    "llama_model_load_from_file": (c_void_p, (c_char_p, ModelParams)),
    "llama_model_meta_val_str": (c_int32, (c_void_p, c_char_p, c_char_p, c_size_t)),
    "llama_model_n_ctx_train": (c_int32, (c_void_p,)),
    "llama_print_system_info": (c_char_p, ()),
    "llama_set_n_threads": (None, (c_void_p, c_int32, c_int32)),
    "llama_supports_gpu_offload": (c_bool, ()),
    "llama_token_to_piece": (
        c_int32,
        (c_void_p, c_int32, c_char_p, c_int32, c_int32, c_bool),
    ),
    "llama_tokenize": (
        c_int32,
        (c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool),
    ),
    "llama_vocab_bos": (c_int32, (c_void_p,)),
    "llama_vocab_eos": (c_int32, (c_void_p,)),
    "llama_vocab_is_eog": (c_bool, (c_void_p, c_int32)),
    "llama_vocab_n_tokens": (c_int32, (c_void_p,)),
}
"""Results and arguments, by name."""


@cache
def load_bindings() -> SimpleNamespace:
    """The functions of FUNCTIONS by their names, and `llama_log_callback`, which makes a callback
    of a function.

    Raises:
        ImportError: xllamacpp is not installed.
        UsageError: its library does not load, or is laid out in another way.
    """
    path = _library()
    try:
        library = ctypes.CDLL(str(path))
        found = {name: getattr(library, name) for name in FUNCTIONS}
    except (OSError, AttributeError) as error:
        raise UsageError(
            f"xllamacpp does not load: {first_line(error)}",
            f"pip install xllamacpp=={LAYOUT}, or --backend torch",
        ) from error
    for name, (result, arguments) in FUNCTIONS.items():
        found[name].restype, found[name].argtypes = result, arguments
    for name, expected in DEFAULTS.items():
        made = found[name]()
        if any(getattr(made, field) != value for field, value in expected.items()):
            raise UsageError(
                f"the installed xllamacpp lays out {name.replace('_default', '')} in a new way",
                f"pip install xllamacpp=={LAYOUT}",
            )
    return SimpleNamespace(**found, llama_log_callback=LogCallback)


def _library() -> Path:
    """The package's only compiled module; found, and not imported."""
    package = find_spec("xllamacpp")
    for folder in (package and package.submodule_search_locations) or ():
        for path in sorted(Path(folder).glob("xllamacpp.*")):
            if path.suffix in (".so", ".pyd", ".dylib"):
                return path
    raise ImportError("xllamacpp is not installed")
