"""Directories for MLX on the command line: how they are asked for, and what is said of them where
they are not run."""

import json
from pathlib import Path

import pytest

from qconvert.errors import UsageError
from qconvert.evaluation.answers.generators import runtime_of

TEXT = ("--data", "{text}")


@pytest.fixture(scope="module")
def directory(qconvert, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "tiny-mlx4"
    done = qconvert("quantize", model, "-t", "MLX4", "--group-size", "32", "-o", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(out)
    return out


def test_what_a_loader_wants_is_there(directory):
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in directory.iterdir()
    }
    quantization = json.loads((directory / "config.json").read_text())["quantization"]
    assert quantization == {"group_size": 32, "bits": 4, "mode": "affine"}


def test_one_override_serves_outputs_of_three_containers(qconvert, model, tmp_path):
    overrides = [f"*.down_proj.weight={name}" for name in ("q8_0", "w8a16", "mlx8")]
    done = qconvert(
        *["quantize", model, "-t", "mlx-mxfp4", "-t", "q4_0", "-t", "w4a16", "--dry-run", "--json"],
        *[word for one in overrides for word in ("--override", one)],
        *["--group-size", "32", "-o", f"{tmp_path}/out/"],
    )
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)["outputs"]
    assert [Path(one["path"]).name for one in outputs] == [
        "tiny-llama-mlx-mxfp4",
        "tiny-llama-Q4_0.gguf",
        "tiny-llama-w4a16",
    ]
    for one, words in zip(outputs, ("mlx8", "Q8_0", "w8a16"), strict=True):
        assert [name for name in one["tensors"] if name.startswith(words)], one["tensors"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["-t", "mlx7"], "did you mean mlx"),
        (["-t", "mlx4", "--group-size", "channel"], "known: 32, 64, 128"),
        (["-t", "mlx-nvfp4", "--group-size", "32"], "no meaning for mlx-nvfp4"),
        (["-t", "mlx4", "--lm-head"], "no meaning for mlx4"),
        (["-t", "mlx4", "--override", "*=q4_k"], "'q4_k' is no type of MLX"),
        (["-t", "mlx4", "--weight-range", "entropy"], "minmax or mse"),
        (["-t", "mlx4", "-o", "x.gguf"], "makes a directory"),
    ],
)
def test_wrong_usage_is_one_line_and_a_hint(qconvert, model, options, what):
    done = qconvert("quantize", model, *options, "--dry-run")
    assert done.returncode == 2
    assert what in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_budget_without_a_calibration_says_what_it_needs(qconvert, model):
    done = qconvert("quantize", model, "-t", "mlx4", "--bits", "4", "--dry-run")
    assert done.returncode == 1
    assert "needs a calibration" in done.stderr


def test_inspect_tells_what_it_is(qconvert, directory):
    done = qconvert("inspect", directory)
    assert done.returncode == 0
    assert "mlx, affine" in done.stdout
    assert "mlx-lm and LM Studio run them" in done.stderr
    data = json.loads(qconvert("inspect", directory, "--json").stdout)
    assert data["method"] == "mlx"
    assert data["not_quantized"] == []


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "{out}", "--reference", "{model}", "--backend", "transformers", *TEXT],
        ["compare", "{out}", "--reference", "{model}"],
    ],
)
def test_what_does_not_read_it_says_so(qconvert, model, directory, words, tmp_path):
    (tmp_path / "text.txt").write_text("words " * 900)
    places = {"out": directory, "model": model, "text": tmp_path / "text.txt"}
    done = qconvert(*[word.format(**places) for word in words])
    assert done.returncode in (1, 2)
    assert "MLX" in done.stderr or "mlx-lm" in done.stderr


def test_a_report_measures_it_and_evaluate_agrees(qconvert, model, directory, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words and other words " * 300)
    plain = ["--no-speed", "--no-answers", "--no-sensitivity"]
    types = ["-t", "mlx4", "-t", "q8_0"]
    done = qconvert(
        "report", model, *types, "--data", text, "-o", tmp_path / "report", *plain, "--json"
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)["files"]}
    assert set(rows) == {"mlx4", "Q8_0"}
    path = tmp_path / "report" / rows["mlx4"]["path"]
    alone = qconvert("evaluate", path, "--reference", model, "--data", text, "--json")
    assert alone.returncode == 0, alone.stderr
    (found,) = json.loads(alone.stdout)["files"]
    reported = rows["mlx4"]["kl_divergence"]["mean"]
    assert found["kl_divergence"]["mean"] == pytest.approx(reported, rel=1e-3)
    assert rows["Q8_0"]["kl_divergence"]["mean"] < reported


def test_it_writes_no_answers_here(directory):
    with pytest.raises(UsageError, match="is for MLX"):
        runtime_of(directory)
