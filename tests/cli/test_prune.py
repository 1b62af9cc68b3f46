"""`qconvert prune` as it is typed."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captures import run_capture
from checkpoints import Llama, write_llama
from safetensors import safe_open

SIZES = Llama(256, 6, 1024, 4, 2, 400)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    model = write_llama(folder / "model", SIZES, tokenizer=True)
    run_capture(model, folder / "calib.safetensors")
    return folder


@pytest.fixture(scope="module")
def prune(qconvert, place) -> Any:
    def run(*arguments: object, model: str = "model") -> Any:
        calibration = place / "calib.safetensors"
        return qconvert("prune", place / model, "-c", calibration, "--device", "cpu", *arguments)

    return run


def parsed(done: Any) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["outputs"][0]


def test_a_smaller_model_is_told_before_and_after_and_goes_on(qconvert, prune, place, tmp_path):
    asked = ("--layers", 4, "--ffn", 600, "--heads", 1, "--tokens", 64)
    told = parsed(prune(*asked, "--dry-run", "--json", "-o", tmp_path / "out"))
    assert [entry.name for entry in tmp_path.iterdir()] == []
    made = parsed(prune(*asked, "--json", "-o", tmp_path / "out"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert told["files"] == []
    assert set(made["files"]) == {str(path) for path in (tmp_path / "out").iterdir()}
    assert made["sizes"]["layers"] == {"before": 6, "after": 4}
    assert made["sizes"]["ffn"] == {"before": 1024, "after": 768}  # a multiple of 256
    assert made["sizes"]["heads"] == {"before": 4, "after": 4}  # of 2 heads rows would have 128
    assert "--ffn 600 becomes 768: rows stay multiples of 256, without fallbacks" in made["notices"]
    for key in ("sizes", "parameters", "layers_gone", "measured", "fallbacks", "original"):
        assert told[key] == made[key]
    assert told["cost"]["divergence"] == pytest.approx(made["cost"]["divergence"], rel=0.03)
    assert made["cost"]["divergence"] > 0
    card = (tmp_path / "out/README.md").read_text()
    assert "| Layers | 4 of 6 |" in card
    assert f"{made['cost']['divergence']:.4g}, on" in card
    file = tmp_path / "out/model.safetensors"
    with safe_open(file, "np") as stored:
        assert stored.metadata()["qconvert.kept"].startswith("{'layers': [")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (
        place / "model/tokenizer.json"
    ).read_bytes()
    then = qconvert("quantize", tmp_path / "out", "-t", "q4_k_m", "-o", tmp_path / "x.gguf")
    assert then.returncode == 0, then.stderr
    assert "fall back" not in then.stderr


@pytest.mark.parametrize(
    ("budget", "key", "most"),
    [(("--to", "4.5M"), "parameters", 4_500_000), (("--under", "2600K", "-t", "q4_k_m"), "", 0)],
)
def test_a_budget_is_kept(qconvert, prune, tmp_path, budget, key, most):
    made = parsed(prune(*budget, "--tokens", 32, "--json", "-o", tmp_path / "out"))
    assert {"layers", "ffn"} <= made["measured"].keys()
    if key:
        assert 0.8 * most < made[key]["after"] <= most
        return
    path = tmp_path / "x.gguf"
    then = qconvert("quantize", tmp_path / "out", "-t", "q4_k_m", "-o", path)
    assert then.returncode == 0, then.stderr
    assert 0.8 * 2_600_000 < path.stat().st_size <= 2_600_000


def test_zeros(prune, tmp_path):
    made = parsed(prune("--sparsity", "2:4", "--tokens", 64, "--json", "-o", tmp_path / "out"))
    assert made["sparsity"]["zeros"] == pytest.approx(0.5, abs=0.002)
    assert made["sparsity"]["matrices"] == 7 * SIZES.layers
    assert made["sizes"]["ffn"] == {"before": 1024, "after": 1024}
    import torch

    with safe_open(tmp_path / "out/model.safetensors", "pt") as stored:
        for name in stored.keys():  # noqa: SIM118
            values = stored.get_tensor(name)
            assert values.dtype is torch.bfloat16
            is_sparse = name.endswith("proj.weight")
            zeros = (values == 0).reshape(-1, 4).sum(1)
            assert bool((zeros >= 2).all()) == is_sparse, name


def test_what_was_interrupted_goes_on_to_the_same_result(interrupt, prune, place, tmp_path):
    asked = ("--layers", 3, "--tokens", 128)
    whole = prune(*asked, "-o", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    scores = tmp_path / ".out.scores.partial"
    command = ("prune", place / "model", "-c", place / "calib.safetensors", *asked)
    command = (*command, "--device", "cpu", "-o", tmp_path / "out")
    done = interrupt(signal.SIGINT, lambda: list(scores.glob("*.safetensors")), *command)
    assert done.returncode == 130
    assert not (tmp_path / "out").exists()
    kept = len(list(scores.glob("*.safetensors")))
    assert kept
    assert prune(*asked, "-o", tmp_path / "out").returncode == 0
    assert not scores.exists()
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((), "nothing is to be left out"),
        (("--layers", 6), "--layers 6 is what shall be left, and the model has 6"),
        (("--experts", 2), "--experts: the model has none"),
        (("--to", "6X"), "--to '6X' is no number of parameters"),
        (("--to", "100K"), "100000 is too small"),
        (("--to", "6B"), "the model is no larger than that"),
        (("--to", "4M", "--layers", 3), "a budget chooses sizes, and --layers names one"),
        (("--under", "4MB"), "--under and --type go together"),
        (("--sparsity", "2:4", "--ffn", 512), "--sparsity keeps every part"),
        (("--sparsity", "4:2"), "neither a share nor a pattern"),
    ],
)
def test_what_cannot_be_is_one_line(prune, tmp_path, asked, said):
    done = prune(*asked, "-o", tmp_path / "out")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_models_calibration_and_what_is_there_are_refused(prune, place, tmp_path):
    write_llama(place / "other", SIZES, seed=1)
    done = prune("--layers", 5, "-o", tmp_path / "out", model="other")
    assert "other is another model" in done.stderr
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    for more in ((), ("--force",)):
        done = prune("--ffn", 512, "-o", tmp_path / "out", *more)
        assert done.returncode == 1
        assert (tmp_path / "out/mine").exists()


def test_force_replaces_what_this_program_made(prune, tmp_path):
    for size in (768, 512):
        done = prune("--ffn", size, "--tokens", 32, "--force", "--json", "-o", tmp_path / "out")
        assert parsed(done)["sizes"]["ffn"]["after"] == size
    with safe_open(tmp_path / "out/model.safetensors", "np") as stored:
        shape = stored.get_slice("model.layers.0.mlp.up_proj.weight").get_shape()
    assert np.array_equal(shape, [512, 256])
