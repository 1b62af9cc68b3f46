"""The calibration file: safetensors, with a description in JSON in its header.

    tokens                I32 [windows, window]
    <weight>.count        I64 [matrices]                of each input, named by the first weight
    <weight>.sum_squares  F32 [matrices, columns]       that it is multiplied with
    <weight>.mean         F32 [matrices, columns]
    <weight>.minimum      F32 [matrices, columns]
    <weight>.maximum      F32 [matrices, columns]
    <weight>.absmax       F32 [matrices, columns]
    <weight>.histogram    I64 [matrices, BINS]
    <weight>.negatives    I64 [matrices, BINS]
    <weight>.peaks        I64 [matrices, PEAK_BINS]
    <weight>.energies     F64 [matrices, PEAK_BINS]

    __metadata__  {"format": "qconvert.calibration", "calibration": JSON}
    JSON: {"format_version", "version", "model", "fingerprint", "tokenizer", "source", "seed",
           "dtype", "inputs": [[weight, ...], ...], "histogram": {"lowest", "octaves", ...}}

What the arrays mean is said in `qconvert.calibration.types`. The same calibration gives the same
bytes. A file is hostile until it is checked.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.calibration.types import (
    BINS,
    LOWEST,
    OCTAVES,
    PEAK_BINS,
    PEAKS_PER_OCTAVE,
    PER_OCTAVE,
    Calibration,
    InputStatistics,
)
from qconvert.checkpoint import Checkpoint, TensorInfo, fingerprint, read_bytes
from qconvert.checkpoint.files import parse_json, read_bytes_at
from qconvert.checkpoint.safetensors import read_metadata, read_safetensors
from qconvert.containers.safetensors import write_arrays
from qconvert.errors import CheckpointError, PlanError
from qconvert.text.types import Sample

FORMAT, FORMAT_VERSION = "qconvert.calibration", 1
MADE_BY = "a calibration file is made by: qconvert calibrate MODEL --data TEXT"
DAMAGED = "the file is damaged or incomplete: make it again with qconvert calibrate"
TOKENS = "tokens"

ARRAYS: dict[str, tuple[str, str, int]] = {
    "count": ("I64", "<i8", 0),
    "sum_squares": ("F32", "<f4", -1),
    "mean": ("F32", "<f4", -1),
    "minimum": ("F32", "<f4", -1),
    "maximum": ("F32", "<f4", -1),
    "absmax": ("F32", "<f4", -1),
    "histogram": ("I64", "<i8", BINS),
    "negatives": ("I64", "<i8", BINS),
    "peaks": ("I64", "<i8", PEAK_BINS),
    "energies": ("F64", "<f8", PEAK_BINS),
}
"""safetensors' dtype, numpy's, and the second dimension: 0 for none, -1 for the columns."""

NATURAL = ("count", "sum_squares", "absmax", "histogram", "negatives", "peaks", "energies")
"""What cannot be below zero."""

HISTOGRAM = {
    "lowest": LOWEST,
    "octaves": OCTAVES,
    "bins_per_octave": PER_OCTAVE,
    "peaks_per_octave": PEAKS_PER_OCTAVE,
}


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file under a temporary name, have the disk take it, and rename it.

    Raises:
        OutputError: it cannot be written.
    """
    described = {
        "format_version": FORMAT_VERSION,
        "version": calibration.version,
        "model": calibration.model,
        "fingerprint": calibration.fingerprint,
        "tokenizer": calibration.tokenizer,
        "source": calibration.sample.source,
        "seed": calibration.sample.seed,
        "dtype": calibration.dtype,
        "histogram": HISTOGRAM,
    }
    tokens = np.ascontiguousarray(calibration.sample.tokens, "<i4")
    write_inputs(list(calibration.inputs.values()), path, described, {TOKENS: tokens})


def write_inputs(
    inputs: Sequence[InputStatistics],
    path: Path,
    described: Mapping[str, Any],
    more: Mapping[str, np.ndarray],
) -> None:
    """Write statistics with what is said of them, and int32 arrays beside them.

    Raises:
        OutputError: it cannot be written.
    """
    described = {**described, "inputs": [list(one.weights) for one in inputs]}
    arrays = dict(more)
    for one in inputs:
        for name, (_, kind, _) in ARRAYS.items():
            arrays[f"{one.weights[0]}.{name}"] = np.ascontiguousarray(getattr(one, name), kind)
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":"))
    write_arrays(path, arrays, {"format": FORMAT, "calibration": text}, "make room")


def read_calibration(path: Path) -> Calibration:
    """Read and check a calibration file.

    Raises:
        CheckpointError: it is no calibration file, damaged, or says what cannot be.
    """
    inputs, described, tensors = read_inputs(path)
    tokens = _array(path, tensors, TOKENS, "I32", "<i4")
    if tokens.ndim != 2 or not tokens.size or (tokens < 0).any():
        raise CheckpointError(f"{path}: its tokens are no windows of token ids", DAMAGED)
    for one in inputs:
        # Some layers are called several times for each token.
        if one.matrices == 1 and (one.count[0] % tokens.size or not one.count[0]):
            raise CheckpointError(
                f"{path}: {one.weights[0]} counts {one.count[0]} tokens, the sample has "
                f"{tokens.size}",
                DAMAGED,
            )
    strings = {
        key: _string(path, described, key)
        for key in ("version", "model", "fingerprint", "tokenizer", "source", "dtype")
    }
    seed = described.get("seed")
    if type(seed) is not int:
        raise CheckpointError(f"{path}: its description has no seed", DAMAGED)
    return Calibration(
        path,
        Sample(tokens, strings["source"], seed),
        {one.weights[0]: one for one in inputs},
        strings["model"],
        strings["fingerprint"],
        strings["tokenizer"],
        strings["version"],
        strings["dtype"],
    )


def read_inputs(
    path: Path,
) -> tuple[list[InputStatistics], dict[str, Any], dict[str, TensorInfo]]:
    """The checked statistics, the description, and all tensors of a file."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory, not a calibration file", MADE_BY)
    if read_bytes_at(path, 0, 4) == b"GGUF":
        raise CheckpointError(
            f"{path} is a GGUF file, not a calibration file",
            f"if it is llama.cpp's importance matrix: --importance {path.name}",
        )
    if read_bytes_at(path, 8, 1) != b"{":
        raise CheckpointError(f"{path} is no calibration and no importance matrix", MADE_BY)
    tensors = read_safetensors(path)
    described = _description(path)
    names = described.get("inputs")
    if not isinstance(names, list) or not all(_are_names(entry) for entry in names):
        raise CheckpointError(f"{path}: its description lists no inputs", DAMAGED)
    every = [name for entry in names for name in entry]
    if not every or len(set(every)) != len(every):
        raise CheckpointError(f"{path}: its description lists no input, or one twice", DAMAGED)
    inputs = [_read_input(path, tensors, tuple(entry)) for entry in names]
    return inputs, described, tensors


def _are_names(entry: Any) -> bool:
    if not isinstance(entry, list) or not entry:
        return False
    return all(isinstance(name, str) and name and name.isprintable() for name in entry)


def _description(path: Path) -> dict[str, Any]:
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a calibration file but another safetensors file", MADE_BY
        )
    text = metadata.get("calibration", "")
    described = parse_json(text.encode(), f"{path}: description")
    if not isinstance(described, dict):
        raise CheckpointError(f"{path}: its description is no JSON object", DAMAGED)
    if described.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of format {described.get('format_version')!r:.20}, this program reads "
            f"{FORMAT_VERSION}",
            "make it again with this version of qconvert, or use the one that made it",
        )
    if described.get("histogram") != HISTOGRAM:
        raise CheckpointError(f"{path}: its histograms have other bins", DAMAGED)
    return described


def _string(path: Path, described: Mapping[str, Any], key: str) -> str:
    value = described.get(key)
    if not isinstance(value, str):
        raise CheckpointError(f"{path}: its description has no {key}", DAMAGED)
    return value


def _read_input(
    path: Path, tensors: Mapping[str, TensorInfo], weights: tuple[str, ...]
) -> InputStatistics:
    where = weights[0]
    arrays = {
        name: _array(path, tensors, f"{where}.{name}", dtype, kind)
        for name, (dtype, kind, _) in ARRAYS.items()
    }
    matrices = len(arrays["count"]) if arrays["count"].ndim == 1 else 0
    columns = arrays["sum_squares"].shape[-1] if arrays["sum_squares"].ndim else 0
    for name, (_, _, second) in ARRAYS.items():
        shape = (matrices, columns if second < 0 else second)[: 1 if second == 0 else 2]
        if not matrices or not columns or arrays[name].shape != shape:
            found = list(arrays[name].shape)
            raise CheckpointError(
                f"{path}: {where}.{name} has shape {found}, not {list(shape)}", DAMAGED
            )
    _check_values(path, where, arrays)
    absmax = arrays.pop("absmax")
    one = InputStatistics(weights, **arrays)
    if not np.array_equal(one.absmax, absmax):
        raise CheckpointError(f"{path}: {where}.absmax is not that of its range", DAMAGED)
    return one


def _check_values(path: Path, where: str, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {where}.{name} holds NaN or infinity", DAMAGED)
        if name in NATURAL and (array < 0).any():
            raise CheckpointError(f"{path}: {where}.{name} holds values below zero", DAMAGED)
    if (arrays["minimum"] > arrays["maximum"]).any():
        raise CheckpointError(f"{path}: {where}.minimum lies above its maximum", DAMAGED)
    count, columns = arrays["count"], arrays["sum_squares"].shape[1]
    if (arrays["peaks"].sum(axis=1) != count).any() or (
        arrays["histogram"].sum(axis=1) != count * columns
    ).any():
        raise CheckpointError(f"{path}: {where} has counts that disagree", DAMAGED)
    if (arrays["negatives"] > arrays["histogram"]).any():
        raise CheckpointError(f"{path}: {where} has more negative elements than elements", DAMAGED)
    blank = count == 0
    for name in ("sum_squares", "mean", "absmax", "energies"):
        if arrays[name][blank].any():
            raise CheckpointError(f"{path}: {where}.{name} is of tokens not counted", DAMAGED)


def _array(
    path: Path, tensors: Mapping[str, TensorInfo], name: str, dtype: str, kind: str
) -> np.ndarray:
    info = tensors.get(name)
    if info is None:
        raise CheckpointError(f"{path}: {name} is missing", DAMAGED)
    if info.dtype != dtype:
        raise CheckpointError(f"{path}: {name} is {info.dtype}, not {dtype}", DAMAGED)
    return read_bytes(info, 0, info.rows).reshape(-1).view(kind).reshape(info.shape)


def check_calibration(calibration: Calibration, checkpoint: Checkpoint) -> None:
    """Refuse another model's calibration.

    Raises:
        PlanError: it was made from another model; both are named.
    """
    if calibration.fingerprint != fingerprint(checkpoint):
        raise PlanError(
            f"{calibration.path} was made from {calibration.model}, "
            f"and {checkpoint.source} is another model",
            f"make one for it: qconvert calibrate {checkpoint.source} --data TEXT",
        )
