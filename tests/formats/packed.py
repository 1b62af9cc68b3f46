"""Bytes of ggml's formats, by name."""

import numpy as np

from qconvert.formats import FORMATS
from qconvert.formats.quantize import quantize
from qconvert.formats.types import Seen


def seen_of(importance: np.ndarray | None) -> Seen | None:
    return None if importance is None else Seen(importance)


def packed_of(name: str, x: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """uint8 [rows, row bytes]."""
    return quantize(FORMATS[name], x, seen_of(importance))[0]


def weights_of(name: str, packed: np.ndarray) -> np.ndarray:
    """float32 [rows, columns]."""
    return FORMATS[name].dequantize((packed,))
