"""What writes text, token by token: llama.cpp for GGUF files, transformers for directories.

Both compute on the CPU, with a cache of keys and values, and hand out logits; what is chosen of
them is chosen by our own few lines, the same for both, so that answers differ by the model alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.checkpoint.huggingface import quantization_of, read_config
from qconvert.checkpoint.quantized.mlx import is_mlx
from qconvert.errors import CheckpointError, UsageError
from qconvert.evaluation.runtimes.library import INSTALL, MISSING, has_llama

Name = Literal["llama.cpp", "transformers"]


class Generator(Protocol):
    """A loaded model.

    Attributes:
        runtime: what computes.
        vocabulary: how many logits there are.
        context: tokens that the model was trained for.
        ends: tokens at which an answer ends.
    """

    runtime: Name
    vocabulary: int
    context: int

    @property
    def ends(self) -> frozenset[int]: ...

    def chat_template(self) -> tuple[str, dict[str, str]] | None:
        """The template and the special tokens by name, or None where there is none."""

    def tokenize(self, text: str, *, around: bool) -> list[int]:
        """Tokens of a text, special tokens recognised.

        Args:
            around: put before and after it what the tokenizer puts (BOS), as for plain text.
        """

    def detokenize(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of tokens that come behind others, without control tokens."""

    def begin(self, tokens: int) -> None:
        """Make room for so many tokens, and forget all that was fed."""

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """Go on with these tokens; float32 [vocabulary], the logits behind the last, valid until
        the next call.

        Raises:
            QconvertError: the runtime cannot.
        """

    def close(self) -> None:
        """Free what it holds."""


def runtime_of(path: Path) -> Name:
    """What runs a file or directory.

    Raises:
        CheckpointError: it is neither a GGUF file nor a directory.
        UsageError: its runtime is not installed, or none of this program's.
    """
    if path.is_dir():
        if is_mlx(quantization_of(read_config(path))):
            raise UsageError(f"{path.name} is for MLX: mlx_lm.generate runs it")
        return "transformers"
    if path.suffix != ".gguf" and read_bytes_at(path, 0, min(4, file_size(path))) != b"GGUF":
        raise CheckpointError(
            f"{path} is neither a GGUF file nor a directory of safetensors",
            "name what llama.cpp or transformers loads",
        )
    file_size(path)
    if not has_llama():
        raise UsageError(MISSING, INSTALL)
    return "llama.cpp"


def load_generator(path: Path, threads: int) -> Generator:
    """Load a model for generating.

    Raises:
        QconvertError: it cannot be loaded, or is no model that writes.
    """
    if runtime_of(path) == "llama.cpp":
        from qconvert.evaluation.answers.llama import LlamaGenerator

        return LlamaGenerator(path, threads)
    from qconvert.evaluation.answers.whole import TransformersGenerator

    return TransformersGenerator(path, threads)
