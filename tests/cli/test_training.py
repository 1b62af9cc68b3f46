"""`tune` and `distill` as their users run them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

TEXT = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 60


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "notes.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def calibration(qconvert: Any, model: Path, text: Path) -> Path:
    path = text.with_name("c.safetensors")
    done = qconvert("calibrate", model, "--data", text, "--tokens", 256, "--window", 16, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def test_tune_writes_a_file_and_says_what_it_gained(qconvert, model, calibration, tmp_path):
    out = tmp_path / "tuned.gguf"
    command = ("tune", model, "-c", calibration, "-t", "q4_0", "-o", out, "--tokens", 512)
    done = qconvert(*command, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["outputs"]
    assert found["path"] == str(out)
    assert out.stat().st_size == found["bytes"]
    assert found["tuning"]["divergence_after"] <= found["tuning"]["divergence_before"]
    assert "448 tokens in 2 steps takes about" in done.stderr
    again = qconvert(*command)
    assert f"up to date: {out}" in again.stderr
    other = qconvert(*command, "--seed", 1)
    assert other.returncode == 1
    assert "--force replaces it" in other.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"tuned.gguf"}


def test_tune_shows_its_plan_and_writes_nothing(qconvert, model, calibration, tmp_path):
    out = tmp_path / "a.gguf"
    done = qconvert("tune", model, "-c", calibration, "-t", "q4_0", "-o", out, "--dry-run")
    assert f"would write {out}" in done.stdout
    assert "would train scales, minima and norms; 1024 tokens" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-t", "q4_0"), "tuning needs a calibration"),
        ((), "no type is given"),
        (("-t", "q4_0", "--tokens", "9", "--hours", "1"), "are two budgets"),
        (("-t", "f16", "-c"), "nothing that can be tuned"),
    ],
)
def test_tune_refuses(qconvert, model, calibration, tmp_path, options, message):
    more = (calibration,) if options[-1:] == ("-c",) else ()
    done = qconvert("tune", model, *options, *more, "-o", tmp_path / "a.gguf")
    assert done.returncode
    assert message in done.stderr


def test_a_calibration_is_no_model(qconvert, calibration, tmp_path):
    done = qconvert("tune", calibration, "-t", "q4_0", "-c", calibration, "-o", tmp_path / "a.gguf")
    assert f"{calibration} holds a calibration" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_student_that_knows_it_all_stays_as_it_is(qconvert, model, text, tmp_path):
    out = tmp_path / "taught"
    done = qconvert(
        *("distill", model, "--teacher", model, "--data", text, "-o", out),
        *("--tokens", 128, "--window", 16, "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["distilling"]["best_step"] == 0
    assert "what it changed is not kept" in done.stderr
    assert (out / "config.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"taught"}
    again = qconvert("distill", model, "--teacher", model, "--data", text, "-o", out)
    assert again.returncode == 1
    assert "exists and is not empty" in again.stderr


def test_another_tokenizer_is_refused_with_its_first_token(qconvert, model, text, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    names = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    vocabulary = tokenizer["model"]["vocab"]
    first, second = names[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    out = tmp_path / "out"
    done = qconvert("distill", model, "--teacher", other, "--data", text, "-o", out)
    assert done.returncode == 1
    assert f"token 10 is {first!r}, and {second!r}" in done.stderr
    assert not out.exists()


def test_a_text_that_is_too_short_is_said(qconvert, model, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Hello.")
    done = qconvert("distill", model, "--teacher", model, "--data", short, "-o", tmp_path / "o")
    assert done.returncode == 1
    assert "does not have enough text for one window" in done.stderr


def test_a_student_that_begins_anew_takes_the_place_of_another(qconvert, model, text, tmp_path):
    sizes = json.loads((model / "config.json").read_text()) | {"num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    out = tmp_path / "new"
    command = ("distill", "--like", tmp_path / "config.json", "--teacher", model, "--data", text)
    command += ("-o", out, "--tokens", 128, "--window", 16, "--json")
    command += ("--lora", 2, "--next-token", 0.5, "--hidden", 1)
    for more in ((), ("--force",)):
        done = qconvert(*command, *more)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["path"] == str(out)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 1
    assert (out / "tokenizer.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "new"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("small", "--data", "a.txt"), "no teacher is given"),
        (("--teacher", "large", "--data", "a.txt"), "no student is given"),
        (("small", "--like", "c.json", "--teacher", "large", "--data", "a.txt"), "and not both"),
        (("small", "--teacher", "large"), "no text is given to learn on"),
    ],
)
def test_distill_refuses(qconvert, options, message):
    done = qconvert("distill", *options, "-o", "out")
    assert done.returncode == 2
    assert message in done.stderr
