"""Inputs of layers, and their statistics by NumPy alone."""

from pathlib import Path

import numpy as np
from common import random_tokens

from qconvert.calibration.statistics import Collector
from qconvert.calibration.types import (
    BINS,
    PEAK_BINS,
    PEAKS_PER_OCTAVE,
    PER_OCTAVE,
    Calibration,
    InputStatistics,
    edges,
)
from qconvert.checkpoint import open_checkpoint
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import Model, open_model
from qconvert.text.types import Sample

TOKENS = np.array([random_tokens(32, seed=seed) for seed in range(3)], np.int32)


def observed(*inputs: np.ndarray, signs: bool = True) -> InputStatistics:
    """What a calibration would keep of the inputs [tokens, columns] of some matrices."""
    matrices = [x.astype(np.float32) for x in inputs]
    peaks = [_bins(np.abs(x).max(axis=1, initial=0), PEAKS_PER_OCTAVE) for x in matrices]
    energies = [(x.astype(np.float64) ** 2).sum(axis=1) for x in matrices]
    negative = [_histogram(x[x < 0]) for x in matrices]
    return InputStatistics(
        ("blk.0.ffn_down.weight",),
        np.array([len(x) for x in matrices]),
        np.stack([(x**2).sum(axis=0) for x in matrices]),
        np.stack([x.sum(axis=0) / max(len(x), 1) for x in matrices]),
        np.stack([x.min(axis=0, initial=0) if len(x) else x.sum(axis=0) for x in matrices]),
        np.stack([x.max(axis=0, initial=0) if len(x) else x.sum(axis=0) for x in matrices]),
        np.stack([_histogram(x) for x in matrices]),
        np.stack([np.bincount(bins, minlength=PEAK_BINS) for bins in peaks]),
        np.stack([np.bincount(b, e, PEAK_BINS) for b, e in zip(peaks, energies, strict=True)]),
        np.stack(negative) if signs else None,
    )


def _histogram(x: np.ndarray) -> np.ndarray:
    return np.bincount(_bins(np.abs(x).reshape(-1), PER_OCTAVE), minlength=BINS)


def _bins(size: np.ndarray, per_octave: int) -> np.ndarray:
    bounds = edges(per_octave)
    return np.clip(np.searchsorted(bounds, size, side="right") - 1, 0, len(bounds) - 2)


def normal(tokens: int = 1024, columns: int = 96) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((tokens, columns)).astype(np.float32)


def heavy(tokens: int = 1024, columns: int = 96) -> np.ndarray:
    """Student's t of three degrees of freedom."""
    return np.random.default_rng(2).standard_t(3, (tokens, columns)).astype(np.float32)


def gelu(tokens: int = 1024, columns: int = 96) -> np.ndarray:
    """What GELU makes of normal numbers: hardly anything is negative."""
    x = 2 * np.random.default_rng(3).standard_normal((tokens, columns))
    return (x / (1 + np.exp(-1.702 * x))).astype(np.float32)


def massive(tokens: int = 1024, columns: int = 96, window: int = 512) -> np.ndarray:
    """The first token of each window has two channels that are 1000 times larger."""
    x = normal(tokens, columns)
    x[::window, [5, 77]] = [1000.0, -700.0]
    return x


def calibrate(
    directory: Path, folder: Path, tokens: np.ndarray = TOKENS
) -> tuple[Model, Calibration]:
    """What a few windows of random tokens tell of a tiny model."""
    checkpoint = open_checkpoint(str(directory))
    walk = Walk(open_model(checkpoint), tokens, Place(folder, "cpu", "f32"))
    inputs = {}
    with Collector(1) as collector:
        for block in walk:
            block.run(collector.observe)
            inputs |= {one.weights[0]: one for one in collector.take(block.matrices)}
        walk.finish(collector.observe)
        inputs |= {one.weights[0]: one for one in collector.take({})}
    sample = Sample(tokens, "random", 0)
    path = folder / "calibration.safetensors"
    return open_model(checkpoint), Calibration(path, sample, inputs, "tiny", "")
