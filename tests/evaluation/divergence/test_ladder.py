"""Fewer bits: smaller, and further from the original; a real model and one of another family."""

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from common import convert_model
from packages import write_short_smollm2
from safetensors.numpy import load_file, save_file
from speaking_models import PROSE, save_speaking_model

from qconvert.evaluation.divergence.evaluate import Choices, evaluate
from qconvert.evaluation.runtimes import torch_blocks as torch_runtime

BLOCKS = 8
LADDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q2_k")


def climb(model: Path, folder: Path, text: str, choices: Choices) -> None:
    """Quantize to every type, and hold sizes and divergences against their order."""
    (folder / "text.txt").write_text(text, encoding="utf-8")
    for kind in LADDER:
        convert_model(model, folder / f"{kind}.gguf", kind)
    files = [folder / f"{kind}.gguf" for kind in LADDER]
    made = evaluate(str(model), str(folder / "text.txt"), files, choices)
    sizes = [file.nbytes for file in made.files]
    means = [file.divergence.mean for file in made.files]
    assert sizes == sorted(set(sizes), reverse=True)
    assert means == sorted(set(means)), means
    assert means[0] < 0.005


def leave_the_grid(model: Path) -> None:
    """The packaged model was made of 4-bit blocks, which formats of 4 bits would find again. Other
    orders of the residual stream, of the FFN's neurons and of each head's values change nothing
    in what it computes, and tear these blocks apart."""
    path = model / "model.safetensors"
    weights = load_file(path)
    rng = np.random.default_rng(0)
    stream = rng.permutation(576)
    for name, values in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight", "norm.weight")):
            weights[name] = values[stream]
        else:
            weights[name] = values[:, stream]
    for layer in range(BLOCKS):
        at = f"model.layers.{layer}."
        neurons, inside = rng.permutation(1536), rng.permutation(64)
        for part in ("gate", "up"):
            weights[f"{at}mlp.{part}_proj.weight"] = weights[f"{at}mlp.{part}_proj.weight"][neurons]
        down = f"{at}mlp.down_proj.weight"
        weights[down] = weights[down][:, neurons]
        value, out = f"{at}self_attn.v_proj.weight", f"{at}self_attn.o_proj.weight"
        weights[value] = weights[value].reshape(3, 64, 576)[:, inside].reshape(192, 576)
        weights[out] = weights[out].reshape(576, 9, 64)[:, :, inside].reshape(576, 576)
    save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_of_smollm2(tmp_path, monkeypatch):
    """The weights alone: inputs are rounded to 8 bits, which no type of the ladder is about."""
    monkeypatch.setattr(torch_runtime, "llama_inputs", lambda checkpoint: None)
    write_short_smollm2(tmp_path / "model", BLOCKS)
    leave_the_grid(tmp_path / "model")
    text = "\n".join(topics.values())
    climb(tmp_path / "model", tmp_path, text, Choices(tokens=1024, backend="torch"))


def test_of_a_qwen3(tmp_path):
    save_speaking_model(tmp_path / "model", "qwen3", before=None, wide=True, num_hidden_layers=2)
    climb(tmp_path / "model", tmp_path, PROSE * 6, Choices(window=32))
