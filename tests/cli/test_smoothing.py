"""Ctrl-C while the exponents of smoothing are searched."""

import signal
from pathlib import Path

import pytest
from captures import run_capture
from checkpoints import Llama, write_llama

SAID = "interrupted: the same command goes on where this one stopped"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, its calibration, and what is made of them without a break."""
    folder = tmp_path_factory.mktemp("smoothing")
    model = write_llama(folder / "model", Llama(64, 6, 128, 4, 2, 400))
    run_capture(model, folder / "calib.safetensors")
    return folder


@pytest.fixture(scope="module")
def command(place) -> list[object]:
    options = ["-t", "w8a8", "--smooth", "auto", "--activations", "static", "--device", "cpu"]
    return ["quantize", place / "model", "-c", place / "calib.safetensors", *options]


@pytest.fixture(scope="module")
def whole(qconvert, place, command) -> dict[str, bytes]:
    done = qconvert(*command, "-o", place / "whole")
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in (place / "whole").iterdir()}


def found(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_interrupted_search_goes_on(qconvert, interrupt, command, whole, tmp_path):
    out, work = tmp_path / "out", tmp_path / ".out.smoothing.partial"
    ended = interrupt(
        signal.SIGINT, lambda: len(list(work.glob("block-*.json"))) > 2, *command, "-o", out
    )
    assert ended.returncode == 130
    assert SAID in ended.stderr
    assert not out.exists()
    done = qconvert(*command, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "going on where an earlier run stopped" in done.stderr
    assert found(out) == whole
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_in_the_way_is_said_before_the_search(qconvert, command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    done = qconvert(*command, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "not empty" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
