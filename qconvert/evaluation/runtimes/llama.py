"""Logits by llama.cpp itself, through llama-cpp-python.

Everything is as llama.cpp has it by default (keys and values in float16, flash attention where it
is there), as in llama-perplexity; a window is one batch.
"""

import ctypes
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.errors import CheckpointError, UsageError, first_line
from qconvert.evaluation.divergence.scores import ONE_MODEL, check_finite
from qconvert.evaluation.divergence.types import Backend
from qconvert.evaluation.runtimes.settings import DEFAULT, Settings
from qconvert.run.executor import default_threads
from qconvert.text.types import Windows

INSTALL = "pip install llama-cpp-python"
LINES = 50
"""Of llama.cpp's log, so many lines are kept for messages."""


def has_llama() -> bool:
    """Whether llama-cpp-python is installed; it may still not load."""
    return find_spec("llama_cpp") is not None


def import_llama() -> Any:
    """The module.

    Raises:
        UsageError: it is not installed, or does not load.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise UsageError("llama.cpp needs llama-cpp-python", INSTALL) from error
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"llama-cpp-python does not load: {first_line(error)}",
            "install it anew, or --backend torch",
        ) from error
    return llama_cpp


class LlamaRuntime:
    """A GGUF file as llama.cpp runs it.

    Args:
        path: of the file; of several shards, the first.
        settings: threads, by default as many as there are cores.

    Raises:
        UsageError: llama-cpp-python is missing.
    """

    backend: Backend = "llama.cpp"

    def __init__(self, path: Path, settings: Settings = DEFAULT) -> None:
        import_llama()
        self.path = path
        self.settings = settings

    def logits(self, windows: Windows) -> Iterator[np.ndarray]:
        """As `Runtime` says; the model is in memory until the last window is done.

        Raises:
            CheckpointError: llama.cpp does not load or run it, or its vocabulary is too small.
            WeightError: NaN or infinite logits.
        """
        with opened(self.path, windows.tokens.shape[1], self.settings.threads) as (model, context):
            size = _vocabulary(model)
            highest = int(windows.tokens.max())
            if highest >= size:
                raise CheckpointError(
                    f"{self.path.name} has {size} tokens, and the text has token {highest}",
                    ONE_MODEL,
                )
            for number, tokens in enumerate(windows.tokens):
                logits = _decode(context, tokens, windows.first, size, self.path)
                check_finite(logits, self.path.name, number)
                yield logits


@contextmanager
def opened(path: Path, window: int, threads: int | None) -> Iterator[tuple[Any, Any]]:
    """llama.cpp's model and a context for one window, freed at the end; its log is not shown.

    Raises:
        CheckpointError: it does not load; the message has llama.cpp's reason.
    """
    llama_cpp = import_llama()
    log, callback = keep_log()
    log.clear()
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    settings = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), settings)
    if not model:
        raise _failed(path, "load", log)
    context = None
    try:
        context = llama_cpp.llama_init_from_model(model, _parameters(window, threads))
        if not context:
            raise _failed(path, "run", log)
        yield model, context
    finally:
        if context:
            llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def _parameters(window: int, threads: int | None) -> Any:
    import llama_cpp

    parameters = llama_cpp.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = window
    parameters.n_ubatch = min(window, parameters.n_ubatch)
    count = threads or default_threads()
    parameters.n_threads = parameters.n_threads_batch = count
    return parameters


def _decode(context: Any, tokens: np.ndarray, first: int, size: int, path: Path) -> np.ndarray:
    """The logits of the tokens from `first` on but the last, float32 [scored, size]."""
    import llama_cpp

    last = len(tokens) - 1
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens.tolist()):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = first <= index < last
        status = llama_cpp.llama_decode(context, batch)
    finally:
        llama_cpp.llama_batch_free(batch)
    if status:
        raise CheckpointError(f"{path.name}: llama.cpp gives up with status {status}")
    # The context may be gone before the last one is looked at.
    pointer = llama_cpp.llama_get_logits(context)
    found: np.ndarray = np.ctypeslib.as_array(pointer, (last - first, size)).copy()
    return found


def _vocabulary(model: Any) -> int:
    import llama_cpp

    return int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)))


def _failed(path: Path, what: str, log: Iterable[str]) -> CheckpointError:
    """llama.cpp says the reason first and where it led after it."""
    said = [line for word in ("error", "failed") for line in log if word in line]
    reason = [*said, *log, "no reason given"][0]
    return CheckpointError(
        f"llama.cpp cannot {what} {path}: {reason:.300}",
        "the file may be damaged, or newer than the installed llama.cpp; --backend torch may read "
        "it",
    )


@cache
def keep_log() -> tuple[deque[str], Any]:
    """llama.cpp's last lines, which it would print otherwise, and the callback that keeps them.
    A process has one log, and ctypes' callbacks must stay alive: both are made once."""
    llama_cpp = import_llama()
    lines: deque[str] = deque(maxlen=LINES)

    def keep(level: int, text: bytes, data: ctypes.c_void_p) -> None:
        lines.append(text.decode(errors="replace").strip())

    return lines, llama_cpp.llama_log_callback(keep)
