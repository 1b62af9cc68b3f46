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
from qconvert.forward.states import States, find_near
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

DEVICES = ("cpu", "cuda")

MADE = [
    ("llama", "q4_k_m"),
    ("llama", "q2_k"),
    ("llama", "iq3_xxs"),
    ("qwen3_moe", "q4_k_m"),
    ("gpt2", "q4_k_m"),
    ("llama", "w4a16"),
    ("olmo2", "w8a8"),
]


def test_weights_made_there_are_as_good(made: Any, tmp_path: Path):
    """One file is up to a fifth nearer or further off, by what roundings of products bring about;
    of several that evens out."""
    ratios = []
    for family, kind in MADE:
        model = made(family)[0]
        found = {}
        for device in DEVICES:
            folder = tmp_path / family / kind / device
            folder.mkdir(parents=True)
            is_scheme = kind.startswith("w")
            name = "out" if is_scheme else "out.gguf"
            settings = {"group_size": 32} if kind == "w4a16" else {}
            recipe = Recipe(kind, output=folder / name, **settings)
            path = quantized(made, family, recipe, device=device)
            found[device] = divergence(model, path, folder)
        ratios.append(found["cuda"] / found["cpu"])
        print(family, kind, found)
    assert max(ratios) < 1.25
    assert np.exp(np.mean(np.log(ratios))) < 1.05


def test_hidden_states_that_stay_there_are_on_the_disk_too(tmp_path: Path):
    states = States(tmp_path, (6, 4, 8), "bfloat16", near=find_near("cuda", 1))
    assert states.near is not None
    states.create()
    values = torch.randn(6, 4, 8, dtype=torch.bfloat16, device="cuda")
    for block in range(3):  # the third takes the place of the first
        for start in (0, 4):
            states.write(block, start, values[start : start + 4] * (block + 1))
    states.sync(2)
    there = states.read(2, 0, 4)
    assert there.is_cuda
    there.zero_()  # is the reader's own
    other = States(tmp_path, (6, 4, 8), "bfloat16")
    for block in (1, 2):
        assert torch.equal(other.read(block, 0, 6), (values * (block + 1)).cpu())
        assert torch.equal(states.read(block, 0, 4), values[:4] * (block + 1))
        assert torch.equal(states.read(block, 1, 5).cpu(), (values[1:5] * (block + 1)).cpu())
    states.remove()


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
