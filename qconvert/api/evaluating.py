"""How far files are from their original."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qconvert.api.types import SILENT, Where
from qconvert.machine.watcher import Watcher

if TYPE_CHECKING:
    from qconvert.evaluation.divergence.types import Evaluation


def evaluate(
    files: Where | Sequence[Where],
    reference: Where,
    data: Where,
    *,
    tokens: int | None = None,
    window: int = 512,
    backend: Literal["auto", "torch", "transformers", "llama.cpp"] = "auto",
    exact: bool = False,
    adapter: Where | None = None,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    watcher: Watcher = SILENT,
) -> "Evaluation":
    """How far files are from the original that they were made of, on a text.

    Args:
        files: GGUF files, directories or hub ids.
        reference: the original.
        data: a text, as the command takes it.
        adapter: a directory of PEFT's, merged into the original.

    Raises:
        UsageError, CheckpointError, UnsupportedError: a file cannot be compared.
        WeightError: a model's logits are NaN or infinite.
    """
    from qconvert.evaluation.divergence.evaluate import Choices
    from qconvert.evaluation.divergence.evaluate import evaluate as run
    from qconvert.evaluation.runtimes.settings import Settings

    several = [files] if isinstance(files, str | Path) else list(files)
    settings = Settings(device, dtype, threads)
    merged = None if adapter is None else Path(adapter)
    choices = Choices(tokens, window, backend, exact, merged, settings=settings)
    return run(str(reference), str(data), several, choices, watcher)
