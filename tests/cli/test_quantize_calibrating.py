"""`quantize --calibrate`, and what is said where there is no calibration."""

from pathlib import Path
from typing import Any

import pytest
from common import save_model
from speaking_models import save_speaking_model
from typer.testing import CliRunner

from qconvert.api import calibrating as calibrate
from qconvert.calibration.file import read_calibration
from qconvert.cli.app import Session, app


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program in this process, with a small sample."""
    monkeypatch.setattr(calibrate, "TOKENS", 128)
    monkeypatch.setattr(calibrate, "WINDOW", 16)

    def invoke(*args: object) -> Any:
        return CliRunner().invoke(app, [str(arg) for arg in args], obj=Session())

    return invoke


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that names its first token, and so can write a sample."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    save_model("llama", path, wide=True)
    return path


@pytest.mark.parametrize("bare", [("--calibrate", "-t", "q4_k_m"), ("-t", "q4_k_m", "--calibrate")])
def test_without_a_text_the_model_writes_its_own(run: Any, model: Path, bare: Any, tmp_path: Path):
    out = tmp_path / "x.gguf"
    done = run("quantize", model, "-o", out, "--no-vocabulary", *bare)
    assert done.exit_code == 0, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"x.gguf", "tiny.calib.safetensors"}
    assert read_calibration(tmp_path / "tiny.calib.safetensors").sample.tokens.size == 128
    assert "nearer to the original" in done.stderr
    assert "add --calibrate" not in done.stderr
    again = run("quantize", model, "-o", out, "--no-vocabulary", *bare)
    assert again.stderr.count("up to date") == 2


def test_a_text_is_read_and_read_again_when_it_changes(run: Any, tmp_path: Path):
    save_speaking_model(tmp_path / "smol", "llama")
    text = tmp_path / "notes.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    out = tmp_path / "out.gguf"
    command = ("quantize", tmp_path / "smol", "-t", "q8_0", "--no-feedback", "-o", out)
    calibration = tmp_path / "smol.calib.safetensors"
    assert run(*command, "--calibrate", text).exit_code == 0
    first = calibration.read_bytes()
    assert "notes.txt" in read_calibration(calibration).sample.source
    assert "up to date: " in run(*command, "--calibrate", text).stderr
    assert calibration.read_bytes() == first
    text.write_text("Colourless green ideas sleep furiously, and nobody minds them much. " * 40)
    done = run(*command, "--calibrate", text)
    assert "--force" in done.exception.hint
    assert calibration.read_bytes() != first
    assert run(*command, "--calibrate", text, "--force").exit_code == 0


def test_it_and_a_calibration_exclude_each_other(run: Any, model: Path, tmp_path: Path):
    done = run("quantize", model, "-c", tmp_path / "c", "--calibrate", "-t", "q4_k_m")
    assert "give one of them" in str(done.exception.hint)


def test_a_dry_run_says_it_and_writes_nothing(run: Any, model: Path, tmp_path: Path):
    out = tmp_path / "x.gguf"
    done = run("quantize", model, "-o", out, "-t", "q4_k_m", "--calibrate", "--dry-run",
               "--no-vocabulary")  # fmt: skip
    assert done.exit_code == 0
    assert "would calibrate first" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("type_", ["q4_k_m", "w4a16", "q8_0"])
def test_what_a_calibration_would_gain(run: Any, model: Path, type_: str, tmp_path: Path):
    more = () if type_ == "w4a16" else ("--no-vocabulary",)
    done = run("quantize", model, "-o", tmp_path / "x", "-t", type_, *more)
    assert done.exit_code == 0, done.output
    assert ("add --calibrate" in done.stderr) == (type_ != "q8_0")


def test_a_budget_is_shown_by_block_and_read_back(run: Any, model: Path, tmp_path: Path):
    command = ("quantize", model, "-o", tmp_path / "x.gguf", "--no-vocabulary", "--calibrate")
    done = run(*command, "--bits", "4.5")
    assert done.exit_code == 0, done.output
    shown = run(*command, "--bits", "4.5", "--dry-run").stdout
    assert "bits of a weight, block by block" in shown
    assert any(line.split()[0] == "ffn_down" for line in shown.splitlines() if line.strip())
    read = run("inspect", tmp_path / "x.gguf", "--json")
    assert "4.5 bits per weight" in read.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--under", "1M", "--bits", "4"), "two budgets"),
        (("--bits", "4", "-t", "q4_k_m"), "has no meaning"),
        (("--bits", "4", "--types", "q4_x"), "unknown tensor type"),
        (("--bits", "4"), "needs a calibration"),
        (("--types", "q4_k"), "no type is given"),
    ],
)
def test_wrong_budgets(run: Any, model: Path, args: Any, message: str):
    done = run("quantize", model, "--no-vocabulary", *args)
    assert message in str(done.exception)
