"""`qconvert calibrate` on the command line."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import Llama, write_llama
from common import save_model
from safetensors import safe_open

from qconvert.calibration.file import read_calibration

SMALL = ("--tokens", "64", "--window", "16", "--device", "cpu", "--dtype", "f32", "--threads", "1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that names its first token, and so can write a sample."""
    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    save_model("llama", path)
    return path


def test_a_model_without_a_text_calibrates_itself(qconvert, model, tmp_path):
    out = tmp_path / "x.safetensors"
    done = qconvert("calibrate", model, "-o", out, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["path"] == str(out)
    assert data["bytes"] == out.stat().st_size
    assert (data["tokens"], data["windows"], data["window"]) == (64, 4, 16)
    assert (data["blocks"], data["layers"]) == (3, 3 * 7 + 1)
    assert (data["dtype"], data["device"], data["seed"]) == ("float32", "cpu", 0)
    assert data["resumed_blocks"] == 0
    assert data["rare_experts"] == []
    calibration = read_calibration(out)
    assert calibration.model == model.name
    assert data["data"] == calibration.sample.source
    assert "output.weight" in calibration.by_weight
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_the_result_is_two_lines_and_the_name_is_the_models(model, tmp_path):
    program = str(Path(sys.executable).with_name("qconvert"))
    done = subprocess.run(
        [program, "calibrate", str(model), *SMALL],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "tiny-llama.calib.safetensors"
    assert lines[1].startswith(
        "64 tokens in 4 windows of 16, 22 layers in 3 blocks, float32 on cpu"
    )
    assert len(lines) == 2
    with safe_open(tmp_path / lines[0], "np") as file:
        assert "tokens" in file.keys()  # noqa: SIM118 (no mapping)


def test_experts_that_few_tokens_reach_are_said(qconvert, tmp_path):
    save_model("qwen3_moe", tmp_path / "moe")
    out = tmp_path / "x"
    done = qconvert("calibrate", tmp_path / "moe", "-o", out, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert sum(data["expert_tokens"]["blk.0.ffn_gate_exps.weight"]) == 2 * 64
    rare = data["rare_experts"][0]
    assert rare["name"] == "blk.0.ffn_gate_exps.weight"
    assert "fewer than 128 tokens reached blk.0.ffn_gate_exps.weight[0]" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--device", "abacus"), 2, "'abacus' is not a device"),
        (("--dtype", "int3"), 2, "'int3' is not a type"),
        (("-o", "-"), 2, "standard output"),
        (("-o", "/dev/null/x"), 1, "/dev/null is no directory"),
        (("--data", "missing.txt"), 1, "missing.txt"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(arguments, code, message, qconvert, model):
    done = qconvert("calibrate", model, *SMALL, *arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_what_the_same_command_takes_up(how, qconvert, interrupt, tmp_path):
    model = write_llama(tmp_path / "m", Llama(256, 12, 512, 4, 2, 500))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"bos_token_id": 1}))
    command = ["calibrate", model, "--window", "64", "--threads", "1"]
    command += ["--tokens", "8192", "--dtype", "f32", "-o", tmp_path / "x", "--json"]
    work = tmp_path / ".x.partial"
    ended = interrupt(how, lambda: list(work.glob("block-*")), *command)
    assert ended.returncode == 130
    assert "the same command goes on" in ended.stderr
    done = qconvert(*command)
    assert done.returncode == 0
    assert json.loads(done.stdout)["resumed_blocks"] >= 1
    assert "going on where an earlier run stopped" in done.stderr
    assert not work.exists()


def test_what_a_model_has_written_of_its_sample_is_kept(qconvert, interrupt, tmp_path):
    model = write_llama(tmp_path / "m", Llama(64, 2, 128, 4, 2, 400))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"bos_token_id": 1}))
    command = ["calibrate", model, "--window", "32", "--tokens", "8192", "--device", "cpu"]
    work = tmp_path / ".x.partial"
    ended = interrupt(
        signal.SIGINT, lambda: list(work.glob("written-*")), *command, "-o", tmp_path / "x"
    )
    assert ended.returncode == 130
    assert "what is complete is kept, and the same command makes the rest" in ended.stderr
    assert not (tmp_path / "x").exists()
    for name in ("x", "whole"):
        assert qconvert(*command, "-o", tmp_path / name).returncode == 0
    assert (tmp_path / "x").read_bytes() == (tmp_path / "whole").read_bytes()
    assert not work.exists()
