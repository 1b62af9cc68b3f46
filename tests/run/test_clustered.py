"""Clustered weights made by the block."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sampled_models import divergence, quantized_together

from qconvert.plan.recipe import Recipe


@pytest.mark.parametrize("rows", [None, 64])
def test_feedback_is_nearer_with_as_few_values(made: Any, tmp_path: Path, rows: int | None) -> None:
    recipe = Recipe("lut3", output=tmp_path / "with", group_size=rows)
    plain = replace(recipe, output=tmp_path / "without", feedback=False)
    paths = quantized_together(made, "llama", [recipe, plain])
    own, other = (divergence(made("llama")[0], path, tmp_path / path.parent.name) for path in paths)
    assert 0 < own < 0.9 * other
    for name, weight in load_file(paths[0]).items():
        if "proj" in name:
            groups = weight.split(rows or len(weight))
            assert max(len(torch.unique(group)) for group in groups) <= 8
