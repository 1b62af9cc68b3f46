"""Which layers write into the residual stream, and what it is there: transformers' own says it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.forward.residual import writers
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

TOKENS = np.array(random_tokens(4 * 24), np.int32).reshape(4, 24)

PLAIN = {"attn_output": 1.0, "ffn_down": 1.0}


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("llama", PLAIN),
        ("gpt2", PLAIN),
        ("phi3", PLAIN),
        ("qwen3_moe", {"attn_output": 1.0}),
        ("granite", {"attn_output": None, "ffn_down": None}),
        ("gemma3", {}),  # norms stand between the layers and the stream
        ("olmo2", {}),
    ],
)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_those_that_add_to_it(family: str, wanted: Any, dtype: str, tmp_path: Path):
    model = save_model(family, tmp_path / family, wide=True)
    factor = getattr(model.config, "residual_multiplier", 1.0)
    place = Place(tmp_path, "cpu", dtype)
    for block in Walk(open_model(open_checkpoint(str(tmp_path / family))), TOKENS, place):
        _, hidden = next(iter(block.batches()))
        found = {name.split(".")[2]: writer for name, writer in writers(block, hidden).items()}
        assert {*found} == {*wanted}
        for writer in found.values():
            assert writer.factor == pytest.approx(factor, rel=0.02)
