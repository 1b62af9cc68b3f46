"""Weights in the layouts of GPTQ and AWQ, made by the block."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sampled_models import OTHER, quantized_together

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.plan.recipe import Recipe


def divergence(model: Any, folder: Path) -> float:
    """Of the model with the weights of a directory, on tokens that nothing was shown."""
    other = copy.deepcopy(model)
    state = other.state_dict()
    for name, one in open_checkpoint(str(folder)).tensors.items():
        if one.codes:
            state[name].copy_(torch.from_numpy(read_rows(one, 0, one.rows)))
    with torch.no_grad():
        expected, made = (of(OTHER).logits.log_softmax(-1) for of in (model, other))
    return float((expected.exp() * (expected - made)).sum(-1).mean())


@pytest.mark.parametrize("name", ["gptq4", "awq4"])
def test_feedback_is_nearer(name: str, made: Any, tmp_path: Path) -> None:
    recipe = Recipe(name, output=tmp_path / "with", group_size=32)
    plain = replace(recipe, output=tmp_path / "without", feedback=False)
    paths = quantized_together(made, "llama", [recipe, plain])
    own, other = (divergence(made("llama")[0], path.parent) for path in paths)
    assert 0 < own < 0.9 * other
