"""On a GPU, where there is one: as near to the original as what the CPU makes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sampled_models import SAMPLE, divergence, quantized

from qconvert.calibration.capture import capture
from qconvert.calibration.file import read_calibration
from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DEVICES = ("cpu", "cuda")


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("llama", "q4_k_m"),
        ("llama", "q2_k"),
        ("llama", "iq3_xxs"),
        ("qwen3_moe", "q4_k_m"),
        ("gpt2", "q4_k_m"),
        ("llama", "w4a16"),
        ("olmo2", "w8a8"),
    ],
)
def test_weights_made_there_are_as_good(family: str, kind: str, made: Any, tmp_path: Path):
    model = made(family)[0]
    found = {}
    for device in DEVICES:
        folder = tmp_path / device
        folder.mkdir()
        is_scheme = kind.startswith("w")
        name = "out" if is_scheme else "out.gguf"
        settings = {"group_size": 32} if kind == "w4a16" else {}
        recipe = Recipe(kind, output=folder / name, **settings)
        path = quantized(made, family, recipe, device=device)
        found[device] = divergence(model, path, folder)
    assert found["cuda"] < 1.1 * found["cpu"]


def test_bits_go_where_they_count_there_too(made: Any, tmp_path: Path):
    model = made("llama")[0]
    found = {}
    for device in DEVICES:
        folder = tmp_path / device
        folder.mkdir()
        recipe = Recipe("q8_0", output=folder / "out.gguf", bits=4.5)
        path = quantized(made, "llama", recipe, device=device)
        found[device] = divergence(model, path, folder)
    assert found["cuda"] < 1.1 * found["cpu"]


def test_what_is_seen_there_is_the_same(made: Any, tmp_path: Path):
    source = open_checkpoint(str(made("llama")[1]))
    seen = []
    for device in DEVICES:
        path = tmp_path / f"{device}.safetensors"
        capture(source, SAMPLE, path, device=device, dtype="f32", watcher=Silent())
        seen.append(read_calibration(path).inputs)
    for name, own in seen[0].items():
        other = seen[1][name]
        np.testing.assert_array_equal(other.count, own.count)
        np.testing.assert_allclose(other.sum_squares, own.sum_squares, rtol=1e-3)
        assert np.abs(other.histogram - own.histogram).sum() < 0.01 * own.histogram.sum()
