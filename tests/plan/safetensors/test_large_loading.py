"""What transformers computes from directories of models with mixed layers, expert layers and latent
attention: what the original computes with the weights rounded so."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from common import random_tokens
from compressed_models import choices_of, load_model, outputs, quantize_model, reference_model
from large_models import Converted

from qconvert.plan.safetensors.notices import is_loadable

FAMILIES = ("qwen3_next", "deepseek_v2", "glm4_moe_lite", "gemma4", "gemma3n", "lfm2", "lfm2_moe")


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_with_them(
    family: str, large: Callable[[str], Converted], tmp_path: Path
) -> None:
    plan = quantize_model(large(family).path, tmp_path / "w8a16", "w8a16")
    assert is_loadable(choices_of(plan))
    tokens = random_tokens(24)
    expected = outputs(reference_model(plan, tmp_path / "w8a16"), tokens)
    computed = outputs(load_model(tmp_path / "w8a16"), tokens)
    assert np.abs(computed - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
