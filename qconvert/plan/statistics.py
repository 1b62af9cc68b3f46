"""What a calibration adds to a plan.

Layers go by the GGUF names of their weights, "blk.0.attn_q.weight", whatever the checkpoint calls
them. Of a weight with several matrices (experts), arrays have a first dimension for these.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from qconvert.calibration.importance import Importance


@dataclass(frozen=True)
class Range:
    """The stored range of a linear layer's input.

    Attributes:
        scale: float32 [matrices]: a step of the input's codes.
        zero_point: int8 [matrices]: the code of zero; None if the range is symmetric.
    """

    scale: np.ndarray
    zero_point: np.ndarray | None = None


@dataclass(frozen=True)
class Smoothing:
    """What the rows and columns of a weight, or the elements of a norm, are multiplied with.

    Both are None where nothing is to be done.

    Attributes:
        columns: float32 [columns] or [matrices, columns]. Of a norm: by its elements, to be
            applied to the norm as it acts (Gemma's as weight + 1).
        rows: float32 [rows of all matrices], in the order of the rows of the GGUF tensor. The
            layer's bias, which lies in another tensor of the same rows, is named by itself.
    """

    columns: np.ndarray | None = None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class Cache:
    """The largest absolute keys and values of a block."""

    keys: float
    values: float


Ranges = Mapping[str, Range | None]
"""By GGUF name; None makes a layer's inputs dynamic."""


@dataclass(frozen=True)
class Statistics:
    """What a calibration adds.

    Attributes:
        importance: of weights; it need not have been matched with the model.
        ranges: of inputs, for static activations. Without any at all, what shall be static is
            planned so, its bytes being known all the same.
        smoothing: of weights, norms and biases.
        peaks: float32 [matrices], the largest absolute values of inputs, by GGUF name. Without any
            at all, scales that follow from them are planned, their bytes being known.
        caches: by block; None where nobody has looked, the same.
        notices: what the user should know of it.
        sample: int [windows, window], its tokens; None where there are none.
    """

    importance: Importance | None = None
    ranges: Ranges | None = None
    smoothing: Mapping[str, Smoothing] | None = None
    peaks: Mapping[str, np.ndarray] | None = None
    caches: Mapping[int, Cache] | None = None
    notices: tuple[str, ...] = ()
    sample: np.ndarray | None = None


NOTHING = Statistics()
