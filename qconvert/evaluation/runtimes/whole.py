"""Logits by transformers, of the model as `from_pretrained` loads it.

This is how a directory whose layers round their inputs runs as its files say: compressed-tensors
rounds them. All of the model is in memory.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qconvert.errors import CheckpointError, first_line
from qconvert.evaluation.divergence.scores import check_finite
from qconvert.evaluation.divergence.types import Backend
from qconvert.evaluation.runtimes.loading import HINT, load_model, quiet_libraries
from qconvert.evaluation.runtimes.settings import DEFAULT, Settings
from qconvert.forward.device import choose_device, choose_dtype
from qconvert.text.types import Windows


class TransformersRuntime:
    """A directory as transformers runs it.

    Args:
        path: the directory.
        source: how the user names it.
        settings: where and how.
    """

    backend: Backend = "transformers"

    def __init__(self, path: Path, source: str, settings: Settings = DEFAULT) -> None:
        self.path = path
        self.source = source
        self.settings = settings

    def logits(self, windows: Windows) -> Iterator[np.ndarray]:
        """As `Runtime` says; the model is in memory until the last window is done.

        Raises:
            UnsupportedError, CheckpointError: transformers does not load or run it.
            UsageError: the device or type cannot be had.
            WeightError: NaN or infinite logits.
        """
        import torch

        device = choose_device(self.settings.device)
        if self.settings.threads and device == "cpu":
            torch.set_num_threads(self.settings.threads)
        dtype = choose_dtype(self.settings.exact_dtype, device)
        model = load_model(self.path, self.source, dtype, device)
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        count = windows.tokens.shape[1] - windows.first
        options = {"logits_to_keep": count} if keeps else {}
        for number, tokens in enumerate(windows.tokens):
            ids = torch.from_numpy(tokens[None].astype(np.int64)).to(device)
            try:
                with torch.no_grad(), quiet_libraries():
                    made = model(input_ids=ids, use_cache=False, **options).logits
            except Exception as error:
                raise CheckpointError(
                    f"transformers cannot run {self.source}: {first_line(error)}", HINT
                ) from error
            logits: np.ndarray = made[0, -count:-1].float().cpu().numpy()
            check_finite(logits, self.source, number)
            yield logits
