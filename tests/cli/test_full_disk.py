"""A disk that is full: one line, what to do, and nothing left behind."""

from pathlib import Path

import pytest
from full_disk import small_disk
from speaking_models import save_speaking_model

TEXT = "Rain falls on the hills, and the river carries it down to the sea. " * 200
HERE = "make room, or have TMPDIR name a folder on another disk"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_speaking_model(tmp_path_factory.mktemp("full") / "m")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def disk(tmp_path: Path):
    with small_disk(tmp_path / "disk", 1 << 20) as folder:
        yield folder


def fill(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes."""
    path = disk / "fill"
    path.write_bytes(bytes((1 << 20) - left))
    return path


def evaluate(qconvert, model: Path, text: Path, **settings: str):
    data = ("--data", text, "--window", 64, "--backend", "torch")
    return qconvert("evaluate", model, "--reference", model, *data, **settings)


def test_temporary_files(qconvert, model: Path, text: Path, disk: Path, tmp_path: Path):
    cache = str(tmp_path / "cache")
    done = evaluate(qconvert, model, text, TMPDIR=str(disk), QCONVERT_CACHE=cache)
    assert done.returncode == 1
    problem, hint = done.stderr.splitlines()[-2:]
    assert f"are needed in {disk}" in problem
    assert "for hidden states, and" in problem
    assert hint == f"hint: {HERE}"
    assert not list(disk.glob("qconvert-*"))


def test_an_error_of_the_system(qconvert, model: Path, text: Path, disk: Path, tmp_path: Path):
    """The tokenizer of a GGUF file is read from temporary files; the smallest room lets Python
    choose the disk for these."""
    source = tmp_path / "m.gguf"
    assert qconvert("export", model, "-o", source).returncode == 0
    fill(disk, 4096)
    options = ("--data", text, "--tokens", 512, "--window", 64)
    done = qconvert("calibrate", source, *options, "-o", tmp_path / "c", TMPDIR=str(disk))
    assert done.returncode == 1
    problem, hint = done.stderr.splitlines()[-2:]
    assert problem.startswith("error: No space left on device: ")
    assert hint == f"hint: {HERE}"
    assert not (tmp_path / "c").exists()


def test_the_cache(qconvert, model: Path, text: Path, disk: Path):
    done = evaluate(qconvert, model, text, QCONVERT_CACHE=str(disk / "cache"))
    assert done.returncode == 1
    problem, hint = done.stderr.splitlines()[-2:]
    assert problem.endswith("No space left on device")
    assert "QCONVERT_CACHE" in hint
    assert not [path for path in disk.rglob("*") if path.is_file()]


@pytest.mark.parametrize("left", [0, 8192])
def test_a_calibration(left: int, qconvert, model: Path, text: Path, disk: Path):
    filling = fill(disk, left)
    options = ("--data", text, "--tokens", 512, "--window", 64)
    done = qconvert("calibrate", model, *options, "-o", disk / "c.calib")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("hint: make room, ")
    assert "choose another place with -o" in done.stderr.splitlines()[-1]
    assert list(disk.iterdir()) == [filling]
