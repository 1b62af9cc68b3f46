"""A directory's model by transformers' default route, with all of its weights, or an error."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qconvert.checkpoint.huggingface import quantization_of, read_config
from qconvert.errors import CheckpointError, UnsupportedError, first_line
from qconvert.inspection.quantized import look_at_quantized
from qconvert.model.quiet import quiet_transformers

HINT = (
    "the directory has to load with AutoModelForCausalLM.from_pretrained; evaluate --backend torch "
    "measures its weights alone"
)


def load_model(path: Path, source: str, dtype: str = "auto", device: str = "cpu") -> Any:
    """A causal language model, ready to run.

    Args:
        path: the directory.
        source: how the user names it.
        dtype: torch's name; "auto" is the one that the weights are stored in.

    Raises:
        UnsupportedError: transformers computes wrongly with what the directory holds.
        CheckpointError: it does not load, or not all of its weights are there.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _check_fit(path, source)
    try:
        with quiet_libraries():
            model, report = AutoModelForCausalLM.from_pretrained(
                path,
                dtype="auto" if dtype == "auto" else getattr(torch, dtype),
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


def _check_fit(path: Path, source: str) -> None:
    """Some layouts load without a word, and give wrong answers."""
    if quantization_of(read_config(path)) is not None:
        misfit = look_at_quantized(source, path).misfit
        if misfit:
            raise UnsupportedError(f"{source}: {misfit}", "evaluate --backend torch measures it")


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
