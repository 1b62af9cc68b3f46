"""Which families transformers reads from a GGUF file by itself, as the README says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from common import (
    FAMILIES,
    convert_model,
    correlation,
    random_tokens,
    save_model,
    torch_logits,
)
from readme import FROM_GGUF
from transformers import AutoModelForCausalLM

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
HEADS = {"hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": {**HEADS, "attention_bias": False, "mlp_bias": False, "rope_parameters": PLAIN},
    "mistral": {**HEADS, "rope_parameters": PLAIN},
    "mixtral": HEADS,
    "qwen3": {**HEADS, "head_dim": 128},
    "qwen3_moe": {**HEADS, "head_dim": 128},
    "gpt2": {"n_inner": None},
}
"""As published models have them: nothing that only some of a family's models have."""


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"bert"}))
def test_a_family_is_read_right_or_the_readme_does_not_say_so(family: str, tmp_path: Path) -> None:
    model = save_model(family, tmp_path / "model", **SETTINGS.get(family, {}))
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "f32")
    tokens = random_tokens()
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file="model.gguf", dtype=torch.float32
        )
        is_right = correlation(torch_logits(model, tokens), torch_logits(loaded, tokens)) > 0.999
    except Exception:  # one of many ways in which it fails
        is_right = False
    assert is_right == (family in FROM_GGUF)
