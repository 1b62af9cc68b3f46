from dataclasses import replace

import numpy as np
import pytest
from common import VOCABULARY, save_model

from qconvert.calibration.capture import capture
from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.report.overlap import seen_in_calibration
from qconvert.text.perplexity_windows import make_windows
from qconvert.text.types import Sample


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return np.random.default_rng(7).integers(0, VOCABULARY, (3, 128)).astype(np.int32)


@pytest.fixture(scope="module")
def calibration(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlap")
    save_model("llama", folder / "model", num_hidden_layers=1)
    path = folder / "tiny.calib.safetensors"
    checkpoint = open_checkpoint(str(folder / "model"))
    capture(checkpoint, Sample(sample, "random tokens", 7), path, watcher=Silent(), threads=1)
    return path


def test_windows_that_were_calibrated_on_are_found_wherever_they_begin(sample, calibration):
    own = np.random.default_rng(8).integers(0, VOCABULARY, (4, 100)).astype(np.int32)
    assert seen_in_calibration(make_windows(own, "other"), calibration) == 0
    own[2, 11:] = sample[1, 5:94]
    found = seen_in_calibration(make_windows(own, "other"), calibration)
    assert found == 0.25
    assert seen_in_calibration(make_windows(sample, "same"), calibration) == 1


def test_what_is_not_known_is_not_held_against_a_text(sample, tmp_path):
    windows = make_windows(sample, "same")
    assert seen_in_calibration(windows, tmp_path / "none") == 0
    (tmp_path / "imatrix.gguf").write_bytes(b"GGUF")
    assert seen_in_calibration(windows, tmp_path / "imatrix.gguf") == 0
    assert seen_in_calibration(replace(windows, tokens=sample[:, :20]), tmp_path / "none") == 0
