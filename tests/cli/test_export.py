"""`qconvert export` as its users run it, in both directions."""

import json

import gguf
import numpy as np
import pytest
from captures import run_capture
from safetensors.torch import load_file

from qconvert.calibration.imatrix import read_importance


@pytest.fixture(scope="module")
def file(qconvert, model, tmp_path_factory):
    """The tiny checkpoint as GGUF."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    done = qconvert("export", model, "-o", path, "--dtype", "f32", "--quiet")
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    return path


def test_there_and_back_again_keeps_every_weight(qconvert, model, file, tmp_path):
    done = qconvert("export", file, "-o", tmp_path / "back", "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["outputs"]
    assert result["path"] == str(tmp_path / "back")
    assert result["architecture"] == "LlamaForCausalLM"
    assert sum(result["tensors"].values()) == len(result_tensors(tmp_path / "back"))
    original, returned = result_tensors(model), result_tensors(tmp_path / "back")
    assert set(original) == set(returned)
    for name, value in original.items():
        assert np.array_equal(value.float().numpy(), returned[name].float().numpy()), name


def result_tensors(path):
    found = {}
    for shard in path.glob("*.safetensors"):
        found |= load_file(shard)
    return found


@pytest.mark.parametrize("dtype", ["f16", "bf16", "F32"])
def test_the_dtype_is_that_of_the_matrices(qconvert, model, dtype, tmp_path):
    path = tmp_path / "out.gguf"
    assert qconvert("export", model, "-o", path, "--dtype", dtype).returncode == 0
    kinds = {t.tensor_type.name for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2}
    assert kinds == {dtype.upper()}


def test_a_dry_run_writes_nothing(qconvert, file, tmp_path):
    done = qconvert("export", file, "-o", tmp_path / "out", "--dry-run", "--json")
    (plan,) = json.loads(done.stdout)["outputs"]
    assert plan["bytes"] == sum(tensor["bytes"] for tensor in plan["plan"])
    assert not list(tmp_path.iterdir())


WRONG = {
    "a file for a directory": ("gguf", ["-o", "x.gguf"]),
    "a directory for a file": ("model", ["-o", "x"]),
    "standard output for a directory": ("gguf", ["-o", "-"]),
    "standard output for a file": ("model", ["-o", "-"]),
    "splitting a directory": ("gguf", ["--split-max-size", "5G"]),
    "sharding a file": ("model", ["--max-shard-size", "5G"]),
    "a quantized dtype": ("model", ["--dtype", "q8_0"]),
    "no size": ("gguf", ["--max-shard-size", "much"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_usage_is_explained_with_a_hint(qconvert, model, file, name):
    source, arguments = WRONG[name]
    done = qconvert("export", {"gguf": file, "model": model}[source], *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "error: " in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_directory_is_left_alone(qconvert, file, tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = qconvert("export", file, "-o", tmp_path)
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert qconvert("export", file, "-o", tmp_path, "--force").returncode == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_up_to_date_is_left(qconvert, file, tmp_path):
    out = tmp_path / "out"
    assert qconvert("export", file, "-o", out).returncode == 0
    when = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = qconvert("export", file, "-o", out)
    assert again.returncode == 0
    assert "up to date" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == when
    other = ("export", file, "-o", out, "--dtype", "f16")
    assert qconvert(*other).returncode == 1
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == when
    assert qconvert(*other, "--force").returncode == 0


def test_rounding_is_mentioned(qconvert, file, tmp_path):
    done = qconvert("export", file, "-o", tmp_path / "out", "--dtype", "bf16")
    assert done.returncode == 0
    assert "rounded to BF16" in done.stderr


def test_a_calibration_becomes_an_importance_matrix(qconvert, model, tmp_path):
    path = tmp_path / "calib.safetensors"
    run_capture(model, path)
    for name in ("imatrix.gguf", "imatrix.dat"):
        done = qconvert("export", path, "-o", tmp_path / name, "--json")
        assert done.returncode == 0, done.stderr
        (result,) = json.loads(done.stdout)["outputs"]
        assert result["path"] == str(tmp_path / name)
        assert result["bytes"] == (tmp_path / name).stat().st_size
        assert result["tokens"] == 12 * 32
        matrix = read_importance(tmp_path / name)
        assert len(matrix.values) == result["weights"]
    used = qconvert(
        *("quantize", model, "-t", "q4_k_m", "-o", tmp_path / "out.gguf"),
        *("--importance", tmp_path / "imatrix.dat"),
    )
    assert used.returncode == 0, used.stderr
    assert (tmp_path / "out.gguf").exists()


def test_what_concerns_models_is_refused_for_a_calibration(qconvert, model, tmp_path):
    run_capture(model, tmp_path / "calib.safetensors")
    for arguments in (["--dtype", "f16"], ["-o", "x.txt"], ["-o", "-"], ["--split-max-size", "1G"]):
        done = qconvert("export", tmp_path / "calib.safetensors", *arguments)
        assert done.returncode == 2, arguments
        assert "hint: " in done.stderr
