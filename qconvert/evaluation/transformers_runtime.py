"""Logits by transformers, of the model as `from_pretrained` loads it.

This is how a directory whose layers round their inputs runs as its files say: compressed-tensors
rounds them. All of the model is in memory.
"""

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.errors import CheckpointError, first_line
from qconvert.evaluation.finite import check_finite
from qconvert.evaluation.settings import DEFAULT, Settings
from qconvert.evaluation.types import Backend, Windows
from qconvert.forward.device import choose_device, choose_dtype
from qconvert.forward.quiet import quiet_transformers

HINT = (
    "the directory has to load with AutoModelForCausalLM.from_pretrained; --backend torch measures "
    "its weights alone"
)


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
            CheckpointError: transformers does not load or run it.
            WeightError: NaN or infinite logits.
        """
        import torch

        device = choose_device(self.settings.device)
        if self.settings.threads and device == "cpu":
            torch.set_num_threads(self.settings.threads)
        with quiet_libraries():
            model = load_model(self.path, self.source, self.settings)
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


def load_model(path: Path, source: str, settings: Settings = DEFAULT) -> Any:
    """transformers' model of a directory, by the default route, ready to run.

    Raises:
        CheckpointError: it does not load, or not all of its weights are there.
        UsageError: the device or type cannot be had.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device = choose_device(settings.device)
    dtype = choose_dtype(settings.exact_dtype, device)
    try:
        with quiet_libraries():
            model, report = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except Exception as error:
        # transformers and compressed-tensors let all kinds of exceptions through.
        raise CheckpointError(
            f"transformers cannot load {source}: {first_line(error)}", HINT
        ) from error
    for words, key in (("lacks", "missing_keys"), ("does not know", "unexpected_keys")):
        names = sorted(report.get(key) or ())
        if names:
            raise CheckpointError(
                f"transformers cannot load {source}: it {words} {', '.join(names[:2])}"
                + (f" and {len(names) - 2} more" if len(names) > 2 else ""),
                HINT,
            )
    return model.to(device).eval()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """transformers and compressed-tensors without their bars, warnings and hints."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    level, make = logging.root.manager.disable, tqdm.__init__

    def silent(bar: Any, *args: Any, **options: Any) -> None:
        make(bar, *args, **{**options, "disable": True})

    logging.disable(logging.WARNING)
    tqdm.__init__ = silent  # compressed-tensors asks nobody whether to show bars
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        tqdm.__init__ = make
