"""Logits by llama.cpp itself.

Everything is as llama.cpp has it by default (keys and values in float16, flash attention where it
is there), as in llama-perplexity; a window is one batch.
"""

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.errors import CheckpointError
from qconvert.evaluation.divergence.scores import ONE_MODEL, check_finite
from qconvert.evaluation.divergence.types import Backend
from qconvert.evaluation.runtimes.library import import_llama, keep_log
from qconvert.evaluation.runtimes.settings import DEFAULT, Settings
from qconvert.run.executor import default_threads
from qconvert.text.types import Windows


class LlamaRuntime:
    """A GGUF file as llama.cpp runs it.

    Args:
        path: of the file; of several shards, the first.
        settings: threads, by default as many as there are cores.

    Raises:
        UsageError: there is no llama.cpp.
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
    llama = import_llama()
    log, callback = keep_log()
    log.clear()
    llama.llama_log_set(callback, ctypes.c_void_p(0))
    settings = llama.llama_model_default_params()
    model = llama.llama_model_load_from_file(os.fsencode(path), settings)
    if not model:
        raise _failed(path, "load", log)
    context = None
    try:
        context = llama.llama_init_from_model(model, _parameters(window))
        if not context:
            raise _failed(path, "run", log)
        count = threads or default_threads()
        llama.llama_set_n_threads(context, count, count)
        yield model, context
    finally:
        if context:
            llama.llama_free(context)
        llama.llama_model_free(model)


def _parameters(window: int) -> Any:
    parameters = import_llama().llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = window
    parameters.n_ubatch = min(window, parameters.n_ubatch)
    return parameters


def _decode(context: Any, tokens: np.ndarray, first: int, size: int, path: Path) -> np.ndarray:
    """The logits of the tokens from `first` on but the last, float32 [scored, size]."""
    llama = import_llama()
    last = len(tokens) - 1
    llama.llama_memory_clear(llama.llama_get_memory(context), True)
    batch = llama.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens.tolist()):
            batch.token[index] = token
            batch.pos[index] = index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = first <= index < last
        status = llama.llama_decode(context, batch)
    finally:
        llama.llama_batch_free(batch)
    if status:
        raise CheckpointError(f"{path.name}: llama.cpp gives up with status {status}")
    # The context may be gone before the last one is looked at.
    pointer = llama.llama_get_logits(context)
    found: np.ndarray = np.ctypeslib.as_array(pointer, (last - first, size)).copy()
    return found


def _vocabulary(model: Any) -> int:
    llama = import_llama()
    return int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))


def _failed(path: Path, what: str, log: Iterable[str]) -> CheckpointError:
    """llama.cpp says the reason first and where it led after it."""
    said = [line for word in ("error", "failed") for line in log if word in line]
    reason = [*said, *log, "no reason given"][0]
    return CheckpointError(
        f"llama.cpp cannot {what} {path}: {reason:.300}",
        "the file may be damaged, or newer than the installed llama.cpp; --backend torch may read "
        "it",
    )
