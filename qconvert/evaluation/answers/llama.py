"""Text from a GGUF file by llama.cpp, through its plain C functions."""

import codecs
import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.gguf import read_gguf
from qconvert.checkpoint.metadata import Field
from qconvert.errors import CheckpointError, QconvertError, UnsupportedError
from qconvert.evaluation.answers.generators import Name
from qconvert.evaluation.runtimes.library import import_llama, keep_log, on_cpu

BATCH = 512
"""Tokens that are computed at once, as llama.cpp does by default."""

SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
"""What templates call special tokens, and where GGUF keeps them."""


class LlamaGenerator:
    """A `Generator`. Nothing is computed on a GPU, so that figures mean the same everywhere."""

    runtime: Name = "llama.cpp"

    def __init__(self, path: Path, threads: int) -> None:
        llama = import_llama()
        self._llama = llama
        self._path = path
        self._threads = threads
        self._context: Any = None
        self._size = 0
        self._log, callback = keep_log()
        # Whoever else is in this process may have asked for the log since.
        llama.llama_log_set(callback, ctypes.c_void_p(0))
        self._log.clear()
        parameters = on_cpu(llama.llama_model_default_params())
        self._model = llama.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise CheckpointError(f"llama.cpp cannot load {path}{self._said()}")
        self._vocabulary = llama.llama_model_get_vocab(self._model)
        self.vocabulary = int(llama.llama_vocab_n_tokens(self._vocabulary))
        self.context = int(llama.llama_model_n_ctx_train(self._model))
        if self._stated(f"{self._stated('general.architecture')}.attention.causal") == "false":
            raise UnsupportedError(f"{path} holds an encoder, which writes no text")

    @cached_property
    def ends(self) -> frozenset[int]:
        return frozenset(
            token
            for token in range(self.vocabulary)
            if self._llama.llama_vocab_is_eog(self._vocabulary, token)
        )

    def _stated(self, key: str) -> str:
        """A short value of the file's metadata, as llama.cpp spells it."""
        room = ctypes.create_string_buffer(256)
        count = self._llama.llama_model_meta_val_str(self._model, key.encode(), room, len(room))
        return room.value.decode(errors="replace") if count >= 0 else ""

    def chat_template(self) -> tuple[str, dict[str, str]] | None:
        metadata = read_gguf(self._path)[0]
        template = metadata.get("tokenizer.chat_template")
        if template is None or not isinstance(template.value, str):
            return None
        return template.value, special_texts(metadata)

    def tokenize(self, text: str, *, around: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = (ctypes.c_int32 * (len(data) + 16))()
        count = self._llama.llama_tokenize(
            self._vocabulary, data, len(data), room, len(room), around, True
        )
        if count < 0:
            raise CheckpointError(f"{self._path}: llama.cpp cannot tokenize with it")
        return list(room[:count])

    def detokenize(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        data = b"".join(self._piece(token) for token in tokens)
        # A character that the last token leaves unfinished is left out.
        return codecs.getincrementaldecoder("utf-8")("replace").decode(data)

    def _piece(self, token: int) -> bytes:
        size = 64
        while True:
            room = ctypes.create_string_buffer(size)
            count = self._llama.llama_token_to_piece(self._vocabulary, token, room, size, 0, False)
            if count >= 0:
                return room.raw[:count]
            size = -count

    def begin(self, tokens: int) -> None:
        if self._context and tokens == self._size:
            self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
            return
        self._free_context()
        self._size = tokens
        parameters = self._llama.llama_context_default_params()
        parameters.n_ctx = tokens
        parameters.n_batch = parameters.n_ubatch = BATCH
        self._context = self._llama.llama_init_from_model(self._model, parameters)
        if not self._context:
            raise QconvertError(f"llama.cpp cannot run {self._path}{self._said()}")
        self._llama.llama_set_n_threads(self._context, self._threads, self._threads)

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        for start in range(0, len(tokens), BATCH):
            part = tokens[start : start + BATCH]
            array = (ctypes.c_int32 * len(part))(*part)
            self._decode(self._llama.llama_batch_get_one(array, len(part)))
        return self._logits(-1)

    def feed_for_all(self, tokens: Sequence[int], first: int) -> np.ndarray:
        """Go on with these tokens; float32 [len(tokens) - first, vocabulary], the logits behind
        each from the first on.

        Raises:
            QconvertError: llama.cpp cannot.
        """
        rows = []
        batch = self._llama.llama_batch_init(BATCH, 0, 1)
        try:
            for start in range(0, len(tokens), BATCH):
                places = range(start, min(start + BATCH, len(tokens)))
                batch.n_tokens = len(places)
                for number, place in enumerate(places):
                    batch.token[number], batch.pos[number] = tokens[place], place
                    batch.n_seq_id[number], batch.seq_id[number][0] = 1, 0
                    batch.logits[number] = place >= first
                self._decode(batch)
                wanted = [number for number, place in enumerate(places) if place >= first]
                rows += [self._logits(number).copy() for number in wanted]
        finally:
            self._llama.llama_batch_free(batch)
        return np.array(rows, np.float32).reshape(-1, self.vocabulary)

    def _decode(self, batch: Any) -> None:
        status = self._llama.llama_decode(self._context, batch)
        if status != 0:
            raise QconvertError(
                f"llama.cpp cannot run {self._path}: llama_decode gives {status}{self._said()}"
            )

    def _logits(self, number: int) -> np.ndarray:
        pointer = self._llama.llama_get_logits_ith(self._context, number)
        if not pointer:
            raise QconvertError(f"llama.cpp gives no logits of {self._path}{self._said()}")
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary,))

    def _said(self) -> str:
        """Why llama.cpp fails, as it says it: the reason first."""
        reasons = [line for line in self._log if "error" in line or "failed" in line]
        return f": {[*reasons, *self._log][0]:.300}" if self._log else ""

    @property
    def prefix(self) -> int:
        """What stands before a text that has nothing before it: BOS, else EOS."""
        begins = int(self._llama.llama_vocab_bos(self._vocabulary))
        return begins if begins >= 0 else int(self._llama.llama_vocab_eos(self._vocabulary))

    def close(self) -> None:
        self._free_context()
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = None

    def _free_context(self) -> None:
        if self._context:
            self._llama.llama_free(self._context)
            self._context = None


def special_texts(metadata: Mapping[str, Field]) -> dict[str, str]:
    """Special tokens by the names that templates use."""
    field = metadata.get("tokenizer.ggml.tokens")
    tokens = field.value if field is not None else ()
    numbers = {name: metadata[key].value for name, key in SPECIAL.items() if key in metadata}
    return {
        name: str(tokens[number])
        for name, number in numbers.items()
        if isinstance(number, int) and 0 <= number < len(tokens)
    }
