"""AWQ's layers, against what compressed-tensors makes of the same tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_sources import (
    awq_by_compressed_tensors,
    awq_layer,
    change_config,
    change_tensors,
    save_quantized,
)

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import CheckpointError, UnsupportedError

SETTINGS = {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm"}


def save(folder: Path, size: int = 32) -> dict[str, np.ndarray]:
    settings = SETTINGS | {"group_size": size}
    layers = {"num_hidden_layers": 1, "head_dim": 48}
    return save_quantized(folder, settings, lambda w: awq_layer(w, size), **layers)


@pytest.mark.parametrize("size", [16, 32])
def test_weights_are_what_compressed_tensors_makes_of_them(size: int, tmp_path: Path) -> None:
    expected = save(tmp_path, size)
    theirs = awq_by_compressed_tensors(tmp_path, size)
    tensors = open_checkpoint(str(tmp_path)).tensors
    assert set(theirs) == set(expected) == {key for key, t in tensors.items() if t.codes}
    draw = np.random.default_rng(0)
    for key, values in theirs.items():
        tensor = tensors[key]
        whole = read_rows(tensor, 0, tensor.rows)
        assert np.array_equal(whole, values)
        assert np.array_equal(whole, expected[key])
        for start, stop in np.sort(draw.integers(0, tensor.rows + 1, (4, 2))):
            assert np.array_equal(read_rows(tensor, start, stop), whole[start:stop])


@pytest.mark.parametrize(
    ("end", "how", "words"),
    [
        ("up_proj.qzeros", lambda t: None, "is missing"),
        ("up_proj.qzeros", lambda t: t[1:], "fits its weight"),
        ("up_proj.scales", lambda t: t[:, 8:], "fits its weight"),
        ("up_proj.qweight", lambda t: t[1:], "do not divide"),
        ("up_proj.qweight", lambda t: t[:, 1:], "fits its weight"),
    ],
)
def test_damage_is_named(end: str, how: Any, words: str, tmp_path: Path) -> None:
    save(tmp_path)
    change_tensors(tmp_path, lambda name, t: how(t) if name.endswith(end) else t)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(tmp_path))


@pytest.mark.parametrize("settings", [{"version": "gemv"}, {"bits": 3}])
def test_other_layouts_are_refused(settings: dict, tmp_path: Path) -> None:
    save(tmp_path)
    change_config(tmp_path, quantization_config=SETTINGS | settings)
    with pytest.raises(UnsupportedError, match="AWQ"):
        open_checkpoint(str(tmp_path))
