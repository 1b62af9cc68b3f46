"""Calibrations of tiny models, for several parts of the tests."""

import time
from pathlib import Path

import numpy as np
from common import random_tokens

from qconvert.calibration.capture import Captured, capture
from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.text.types import Sample


class Slow(Silent):
    """Takes its time after each batch, so that one can interrupt it."""

    def __init__(self, pause: float) -> None:
        self.pause = pause

    def advance(self, weights: int, tensor: str) -> None:
        time.sleep(self.pause)


def make_sample(windows: int = 12, window: int = 32, seed: int = 7) -> Sample:
    tokens = np.array(random_tokens(windows * window, seed=seed), np.int32)
    return Sample(tokens.reshape(windows, window), "drawn", seed)


def run_capture(
    model: Path,
    path: Path,
    *,
    pause: float = 0.0,
    sample: Sample | None = None,
    dtype: str = "f32",
    threads: int = 1,
    batch: int | None = 3,
) -> Captured:
    """Calibrate a model on the CPU."""
    return capture(
        open_checkpoint(str(model)),
        sample or make_sample(),
        path,
        device="cpu",
        dtype=dtype,
        threads=threads,
        batch=batch,
        watcher=Slow(pause),
    )
