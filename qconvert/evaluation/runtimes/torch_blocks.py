"""Logits by torch, one block of the model in memory at a time, whatever its weights are stored as.

Hidden states of all windows wait on the disk between blocks; then the output projection is read,
and makes the logits of one window after the other. Memory holds one block, or the projection, and
a batch.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qconvert.checkpoint import Checkpoint
from qconvert.errors import WeightError
from qconvert.evaluation.divergence.scores import check_finite
from qconvert.evaluation.divergence.types import Backend
from qconvert.evaluation.runtimes.llama_inputs import llama_inputs
from qconvert.evaluation.runtimes.settings import DEFAULT, Settings
from qconvert.forward.device import choose_device, choose_dtype
from qconvert.forward.head import Head
from qconvert.forward.walk import Place, Walk
from qconvert.forward.weights import find_parameters
from qconvert.model.open import Model, open_model
from qconvert.text.types import Windows


class TorchRuntime:
    """A model as torch computes it.

    Args:
        checkpoint: the model; its weights are dequantized as they are read. Of a GGUF file the
            inputs of products are rounded as llama.cpp rounds them.
        settings: where and how.
    """

    backend: Backend = "torch"

    def __init__(self, checkpoint: Checkpoint, settings: Settings = DEFAULT) -> None:
        self.checkpoint = checkpoint
        self.settings = settings
        self._head: Head | None = None

    @cached_property
    def _model(self) -> Model:
        return open_model(self.checkpoint)

    def logits(self, windows: Windows) -> Iterator[np.ndarray]:
        """`project` of each of `hidden`.

        Raises:
            WeightError: they are NaN or infinite; the message names the window.
        """
        for number, hidden in enumerate(self.hidden(windows)):
            logits = self.project(hidden)
            check_finite(logits, self.checkpoint.source, number)
            yield logits

    def hidden(self, windows: Windows) -> Iterator[np.ndarray]:
        """For each window in order, float32 [scored of a window, hidden]: what the output
        projection is given where tokens are scored.

        Raises:
            UnsupportedError, PlanError, CheckpointError, UsageError: the model cannot be run.
            WeightError: NaN or infinite values appear on the way.
        """
        with TemporaryDirectory(prefix="qconvert-", dir=self.settings.folder) as folder:
            inputs = llama_inputs(self.checkpoint)
            walk = Walk(self._model, windows.tokens, self._place(folder), inputs=inputs)
            self._through(walk)
            for batch in walk.last_hidden():
                for states in batch[:, windows.first : -1]:
                    yield states.float().cpu().numpy()

    def project(self, hidden: np.ndarray) -> np.ndarray:
        """Logits, float32 [tokens, vocabulary], of hidden states, float32 [tokens, hidden]. The
        projection is read at the first call, and kept until `release`."""
        if self._head is None:
            device = choose_device(self.settings.device)
            dtype = choose_dtype(self.settings.exact_dtype, device)
            inputs = llama_inputs(self.checkpoint)
            self._head = Head(find_parameters(self._model), device, dtype, inputs)
        return self._head.project(hidden)

    def release(self) -> None:
        """Forget the output projection."""
        self._head = None

    def _place(self, folder: str) -> Place:
        settings = self.settings
        return Place(Path(folder), settings.device, settings.exact_dtype, settings.threads)

    def _through(self, walk: Walk) -> None:
        through = self.settings.through or _here
        try:
            through(walk, llama_inputs, self.settings.progress)
        except WeightError as error:
            raise WeightError(f"{self.checkpoint.source}: {error.message}", error.hint) from error


def _here(walk: Walk, _: object, progress: Callable[[int, int], None] | None) -> None:
    for block in walk:
        block.run()
        if progress:
            progress(block.index + 1, len(walk))
