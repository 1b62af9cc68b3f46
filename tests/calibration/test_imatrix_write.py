"""Importance matrices made of calibrations, against what llama.cpp itself sees of the same
tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captures import run_capture
from common import convert_model, save_model
from llama_inputs import gather

from qconvert.calibration.imatrix import read_importance
from qconvert.calibration.imatrix_write import imatrix_bytes, write_imatrix
from qconvert.calibration.importance import importance_of, match_importance
from qconvert.calibration.types import FEW_TOKENS, Calibration
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UsageError
from qconvert.model.open import open_model


@pytest.fixture(scope="module", params=["llama", "mixtral", "qwen3_moe"])
def calibrated(request, tmp_path_factory) -> tuple[Path, Calibration]:
    """A model's directory, and its calibration."""
    folder = tmp_path_factory.mktemp(request.param)
    save_model(request.param, folder / "model", wide=True)
    captured = run_capture(folder / "model", folder / "calib.safetensors")
    return folder / "model", captured.calibration


def written(calibration: Calibration, path: Path) -> Any:
    write_imatrix(imatrix_bytes(calibration, path.suffix), path)
    return read_importance(path)


def test_it_is_what_llama_cpp_gathers_from_the_same_tokens(calibrated, tmp_path):
    model, calibration = calibrated
    convert_model(model, tmp_path / "model.gguf", "f32")
    seen = gather(tmp_path / "model.gguf", calibration.sample.tokens.tolist())
    values = written(calibration, tmp_path / "imatrix.gguf").values
    assert seen.keys() == values.keys()
    for name, (sums, counts) in seen.items():
        np.testing.assert_array_equal(calibration.by_weight[name].count, counts)
        expected = sums[counts > 0] / counts[counts > 0, None]
        off = abs(values[name][counts > 0] / expected - 1)
        assert np.median(off) < 0.001, name
        assert off.max() < 0.02, name


def test_both_forms_say_the_same(calibrated, tmp_path):
    model, calibration = calibrated
    shapes = {t.name: t.shape for t in open_model(open_checkpoint(str(model))).tensors}
    new, _ = match_importance(written(calibration, tmp_path / "imatrix.gguf"), shapes)
    old, _ = match_importance(written(calibration, tmp_path / "imatrix.dat"), shapes)
    assert list(new.values) == list(old.values) == sorted(calibration.by_weight)
    assert new.unseen == old.unseen
    for name, values in new.values.items():
        np.testing.assert_allclose(old.values[name], values, rtol=1e-6)


def test_it_says_what_it_was_measured_on(calibrated, tmp_path):
    windows, window = calibrated[1].sample.tokens.shape
    new = written(calibrated[1], tmp_path / "imatrix.gguf")
    assert (new.datasets, new.chunk_count, new.chunk_size) == (("drawn",), windows, window)
    old = written(calibrated[1], tmp_path / "imatrix.dat")
    assert (old.datasets, old.chunk_count) == (("drawn",), windows)


def test_what_is_read_back_is_what_the_calibration_itself_gives(calibrated, tmp_path):
    calibration = calibrated[1]
    own, read = importance_of(calibration), written(calibration, tmp_path / "imatrix.gguf")
    for name, values in read.values.items():
        enough = calibration.by_weight[name].count >= FEW_TOKENS
        np.testing.assert_allclose(values[enough], own.values[name][enough], rtol=1e-6)


@pytest.mark.parametrize("suffix", ["", ".bin", ".safetensors"])
def test_a_path_that_does_not_say_the_form_is_refused(calibrated, suffix):
    with pytest.raises(UsageError, match="form"):
        imatrix_bytes(calibrated[1], suffix)


def test_the_same_calibration_gives_the_same_bytes(calibrated):
    for suffix in (".gguf", ".dat"):
        assert imatrix_bytes(calibrated[1], suffix) == imatrix_bytes(calibrated[1], suffix)
