"""How far each variant has come from the original: its distributions over the scored tokens.

`qconvert.evaluation.sensitivity.measure` says what they are for.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from qconvert.containers.room import take_room
from qconvert.errors import WeightError
from qconvert.evaluation.sensitivity.walk import Journey
from qconvert.forward.head import Head
from qconvert.forward.states import States
from qconvert.forward.walk import Walk
from qconvert.text.types import Windows

SLAB = 1 << 22
"""Logits of each model that are compared at once."""


def divergences(journey: Journey, windows: Windows) -> list[np.ndarray]:
    """Kullback-Leibler divergences from the original in nats, of each variant: float64
    [windows, scored of a window].

    Raises:
        WeightError: logits are NaN or infinite.
    """
    walk, first = journey.walk, windows.first
    original = _last(walk, None, journey.folder / "last", first)
    arrived = [
        _last(walk, states, states.folder / "last", first) if states else original
        for states in (variant.states for variant in journey.variants)
    ]
    own = Head(walk.source, walk.device, walk.dtype)
    other = own
    if any(variant.head for variant in journey.variants):
        other = Head(journey.source, walk.device, walk.dtype)
    found = [np.empty(original.shape[:2]) for _ in arrived]
    for window, rows in _slabs(original, own.project(np.array(original[0, :1])).shape[1]):
        base = log_softmax(_logits(own, original[window, rows], walk, "nothing"))
        for variant, hidden, out in zip(journey.variants, arrived, found, strict=True):
            head = other if variant.head else own
            logits = _logits(head, hidden[window, rows], walk, variant.name)
            out[window, rows] = divergence(base, log_softmax(logits))
    return found


def divergence(base: np.ndarray, other: np.ndarray) -> np.ndarray:
    """sum p (log p - log q) over the vocabulary, float64 [tokens], of log p and log q. Never
    below zero, where rounding would lead it."""
    total: np.ndarray = (np.exp(base) * (base - other)).sum(axis=-1)
    total = np.maximum(total, 0.0)
    return total


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64, so that small divergences are more than rounding."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=-1, keepdims=True))
    return values


def _last(walk: Walk, states: States | None, path: Path, first: int) -> np.ndarray:
    """What the output projection is given where tokens are scored: float32 [windows, scored of a
    window, hidden], on the disk. None stands for the walk's own states, which come first: the
    others pass through their place."""
    end = len(walk)
    if states is not None:
        for start, stop in walk.batches():
            walk.states.write(end, start, states.read(end, start, stop))
    windows, window, width = walk.states.shape
    shape = (windows, window - 1 - first, width)
    take_room(path, 4 * math.prod(shape))
    kept = np.memmap(path, np.float32, "r+", shape=shape)
    starts = [start for start, _ in walk.batches()]
    for start, batch in zip(starts, walk.last_hidden(), strict=True):
        kept[start : start + len(batch)] = batch[:, first:-1].float().cpu().numpy()
    return kept


def _slabs(original: np.ndarray, vocabulary: int) -> Iterator[tuple[int, slice]]:
    """The windows, each in a few slices of its tokens."""
    step = max(1, SLAB // vocabulary)
    for window in range(len(original)):
        for start in range(0, original.shape[1], step):
            yield window, slice(start, start + step)


def _logits(head: Head, hidden: np.ndarray, walk: Walk, name: str) -> np.ndarray:
    logits = head.project(np.array(hidden))
    if not np.isfinite(logits.sum(dtype=np.float64)):
        raise WeightError(
            f"{walk.source.checkpoint.source} with {name} of the file gives logits that are NaN "
            "or infinite",
            "the file may be damaged",
        )
    return logits
