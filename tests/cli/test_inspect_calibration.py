"""`qconvert inspect` of calibrations and importance matrices."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imatrix_files import write_imatrix
from observed_inputs import observed

from qconvert.calibration.file import write_calibration
from qconvert.calibration.types import Calibration
from qconvert.text.types import Sample


@pytest.fixture(scope="module")
def calib(tmp_path_factory) -> Path:
    """Two layers and experts: channel 5 stands out, one expert saw nothing, one too little."""
    random = np.random.default_rng(0)
    inputs = {}

    def add(parts: tuple[str, ...], *arrays: np.ndarray) -> None:
        weights = tuple(f"{part}.weight" for part in parts)
        inputs[weights[0]] = replace(observed(*arrays), weights=weights)

    for layer in range(2):
        x = random.standard_normal((128, 64)).astype(np.float32)
        x[:, 5] *= 30
        add((f"blk.{layer}.attn_q", f"blk.{layer}.attn_k"), x)
        experts = [x[:100], x[:0], x[:3]]
        add((f"blk.{layer}.ffn_gate_exps", f"blk.{layer}.ffn_up_exps"), *experts)
    down = random.standard_normal((128, 64)).astype(np.float32)
    down[0] *= 1000
    add(("blk.1.ffn_down",), down)
    add(("output",), down[:, :32])
    sample = Sample(np.arange(128, dtype=np.int32).reshape(4, 32) % 50, "notes.txt", 7)
    path = tmp_path_factory.mktemp("calibrations") / "calib.safetensors"
    found = Calibration(
        path, sample, inputs, "org/model", "ab" * 32, "cd" * 32, "0.1.0", "bfloat16"
    )
    write_calibration(found, path)
    return path


def test_the_table_says_what_it_is_what_it_covers_and_what_stands_out(qconvert, calib):
    done = qconvert("inspect", calib)
    assert done.returncode == 0, done.stderr
    for words in (
        "a calibration of org/model (abababababababab)",
        "notes.txt: 128 tokens in 4 windows of 32, seed 7",
        "qconvert 0.1.0, bfloat16",
        "10 weights in 2 layers",
        "6 matrices saw 3 tokens at the median; 2 saw none, 4 fewer than 128",
        "blk.0.ffn_gate_exps.weight[1], blk.1.ffn_gate_exps.weight[1]",
        "attention input",
        "5 (2)",
        "blk.1.ffn_down.weight",
    ):
        assert words in done.stdout
    every = qconvert("inspect", calib, "--tensors").stdout
    assert every.startswith(done.stdout)
    assert "5 (x3" in every.removeprefix(done.stdout)


def test_json_has_all_but_the_arrays(qconvert, calib):
    done = qconvert("inspect", calib, "--json")
    data = json.loads(done.stdout)
    assert data["kind"] == "calibration"
    assert data["model"] == "org/model"
    assert data["fingerprint"] == "ab" * 32
    assert data["sample"] == {
        "source": "notes.txt",
        "seed": 7,
        "windows": 4,
        "window": 32,
        "tokens": 128,
        "distinct_tokens": 50,
    }
    inputs = {one["name"]: one for one in data["inputs"]}
    first = inputs["blk.0.attn_q.weight"]
    assert first["weights"] == ["blk.0.attn_q.weight", "blk.0.attn_k.weight"]
    assert first["tokens"] == [128]
    assert (first["layer"], first["kind"]) == (0, "attention input")
    assert [channel["channel"] for channel in first["outliers"]] == [5]
    assert inputs["output.weight"]["layer"] is None
    assert inputs["blk.1.ffn_down.weight"]["outlier_tokens"]["number"] == 1
    assert data["recurring_channels"]["attention input"] == [{"channel": 5, "layers": 2}]
    assert data["unseen_experts"]["blk.0.ffn_gate_exps.weight"] == [1]
    assert data["rare_experts"]["blk.0.ffn_gate_exps.weight"] == [0, 2]


def test_a_plot_is_written_whole_and_named(qconvert, calib, tmp_path):
    done = qconvert("inspect", calib, "--plot", tmp_path / "a.svg", "--json")
    assert json.loads(done.stdout)["plot"] == str(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes().rstrip().endswith(b"</svg>")
    done = qconvert("inspect", calib, "--plot", tmp_path / "a.PNG")
    assert done.stdout.splitlines()[-1] == str(tmp_path / "a.PNG")
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PNG", "a.svg"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--plot", "a.pdf"], 2, "neither a .png nor a .svg"),
        (["--plot", "/dev/null/a.png"], 1, "/dev/null is no directory"),
        (["--type", "q4_k_m"], 2, "--type is for models"),
    ],
)
def test_what_cannot_be_done_is_said(qconvert, calib, arguments, code, words):
    done = qconvert("inspect", calib, *arguments)
    assert done.returncode == code
    assert words in done.stderr


def test_a_plot_of_a_model_is_refused(qconvert, model, tmp_path):
    done = qconvert("inspect", model, "--plot", tmp_path / "a.png")
    assert done.returncode == 2
    assert "is no calibration" in done.stderr


def test_a_damaged_calibration_is_named(qconvert, calib, tmp_path):
    path = tmp_path / "half.safetensors"
    path.write_bytes(calib.read_bytes()[:-100])
    done = qconvert("inspect", path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: ")
    assert "Traceback" not in done.stderr


def test_an_importance_matrix_shows_its_entries(qconvert, tmp_path):
    sums = {
        "blk.0.attn_q.weight": np.full((1, 64), 8, np.float32),
        "blk.0.ffn_up_exps.weight": np.full((2, 64), 8, np.float32),
    }
    sums["blk.0.ffn_up_exps.weight"][1] = 0
    counts = {"blk.0.attn_q.weight": [4], "blk.0.ffn_up_exps.weight": [4, 0]}
    path = write_imatrix(tmp_path / "imatrix.gguf", sums, counts)
    done = qconvert("inspect", path, "--tensors")
    assert done.returncode == 0, done.stderr
    for words in ("a.txt, b.txt: 12 chunks of 512 tokens", "2 weights", "ffn_up_exps.weight[1]"):
        assert words in done.stdout
    data = json.loads(qconvert("inspect", path, "--json").stdout)
    assert data["kind"] == "importance"
    assert data["datasets"] == ["a.txt", "b.txt"]
    assert data["entries"] == [
        {"name": "blk.0.attn_q.weight", "matrices": 1, "columns": 64},
        {"name": "blk.0.ffn_up_exps.weight", "matrices": 2, "columns": 64},
    ]
    assert data["unseen"] == {"blk.0.ffn_up_exps.weight": [1]}
