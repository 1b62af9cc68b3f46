"""What a calibration says of one weight: the importance of its columns, the range of its input, and
what it is multiplied with.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from qconvert.calibration.importance import Importance
from qconvert.errors import PlanError
from qconvert.model.weights import Weight
from qconvert.plan.blocks import Factors
from qconvert.plan.safetensors.choices import Choice
from qconvert.plan.safetensors.tensors import LocalInput, StaticInput
from qconvert.plan.statistics import Range, Smoothing, Statistics


def factors_of(weight: Weight, smoothing: Mapping[str, Smoothing] | None) -> Factors | None:
    """What SmoothQuant multiplies a weight with, its rows in Hugging Face's order.

    Raises:
        PlanError: there are more or fewer factors than rows or columns.
    """
    found = (smoothing or {}).get(weight.gguf)
    if found is None or (found.columns is None and found.rows is None):
        return None
    map_ = weight.matrix_map
    columns, rows = found.columns, found.rows
    if columns is not None and columns.ndim > 1:
        columns = columns[weight.matrix]
    if len(map_.shape) == 1:  # a norm or a bias: elements, which lie in one row
        columns = columns if columns is not None else _reordered(rows, weight, map_.columns)
        rows = None
    if rows is not None:
        rows = _reordered(rows, weight, map_.rows)
    if columns is not None and columns.shape != (map_.columns,):
        raise PlanError(f"{weight.name} has {map_.columns} columns, not {columns.size} to smooth")
    return Factors(columns, rows, weight.add)


def _reordered(values: np.ndarray | None, weight: Weight, count: int) -> np.ndarray | None:
    """Factors of rows, from GGUF's order to Hugging Face's."""
    if values is None:
        return None
    index = np.arange(count)
    if weight.order:
        group = len(weight.order)
        index = index // group * group + np.array(weight.order)[index % group]
    index += weight.first
    if index.max(initial=0) >= len(values):
        raise PlanError(f"{weight.name} has {count} rows, and {len(values)} factors are too few")
    chosen: np.ndarray = values[index]
    return chosen


def column_importance(
    weight: Weight,
    importance: Mapping[str, np.ndarray] | None,
    factors: Factors | None,
) -> np.ndarray | None:
    """That of a weight's columns, as its smoothed inputs have it."""
    found = (importance or {}).get(weight.gguf)
    if found is None:
        return None
    values = found.reshape(-1, found.shape[-1])
    row = values[min(weight.matrix, len(values) - 1)].astype(np.float32)
    if weight.columns:
        row = row[np.argsort(weight.columns)]
    if factors is not None and factors.columns is not None:
        row = row / np.maximum(factors.columns, np.float32(1e-12)) ** 2
    return np.ascontiguousarray(row, np.float32)


def static_input(choice: Choice, found: Range | None) -> StaticInput:
    """The range of a weight's input as it is stored."""
    assert found is not None
    assert choice.scheme is not None
    assert choice.scheme.inputs is not None
    matrix = min(choice.weight.matrix, len(found.scale) - 1)
    if choice.scheme.inputs.symmetric:
        return StaticInput(float(found.scale[matrix]))
    zero = 0 if found.zero_point is None else int(found.zero_point[matrix])
    return StaticInput(float(found.scale[matrix]), zero)


def local_input(choice: Choice, peaks: Mapping[str, np.ndarray]) -> LocalInput:
    """The largest value of a weight's input. That of all experts of a layer is one, as engines
    have it that multiply them together.

    Raises:
        PlanError: the calibration does not know this input.
    """
    found = peaks.get(choice.weight.gguf)
    if found is None:
        raise PlanError(
            f"the calibration knows no input of {choice.weight.name}",
            "the scale of its input needs a calibration of this model: qconvert calibrate",
        )
    return LocalInput(float(found.max()))


def statistics_digest(importance: Importance | None, statistics: Statistics) -> dict[str, str]:
    """What identifies the statistics, and with them the output.

    Args:
        importance: matched with the model.
    """
    values = importance.values if importance else None
    given = (values, statistics.ranges, statistics.smoothing, statistics.peaks)
    if all(one is None for one in (*given, statistics.caches)):
        return {}
    digest = hashlib.sha256()
    for block, cache in sorted((statistics.caches or {}).items()):
        digest.update(f"{block} {cache.keys!r} {cache.values!r}\n".encode())
    for arrays in given:
        for name, value in sorted((arrays or {}).items()):
            digest.update(name.encode())
            fields = vars(value).values() if hasattr(value, "__dict__") else [value]
            for array in fields:
                digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    named = {"qconvert.calibration": importance.path.name} if importance else {}
    return {**named, "qconvert.statistics.sha256": digest.hexdigest()}
