"""Which layers write into the residual stream, and what it is there: transformers' own says it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.forward.residual import streams_at, writers
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


def test_the_stream_in_front_of_a_layer(tmp_path: Path):
    model = save_model("llama", tmp_path / "llama", wide=True)
    seen: list[torch.Tensor] = []
    model.model.layers[0].post_attention_layernorm.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(torch.from_numpy(TOKENS).long())
    place = Place(tmp_path, "cpu", "f32")
    block = next(iter(Walk(open_model(open_checkpoint(str(tmp_path / "llama"))), TOKENS, place)))
    _, hidden = next(iter(block.batches()))
    point = writers(block, hidden)["blk.0.ffn_down.weight"].point
    with streams_at(block, [point]) as streams:
        block.forward(hidden)
    assert (streams[point] - seen[0]).abs().max() < 1e-5 * seen[0].abs().max()


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_nothing_is_computed_behind_what_is_wanted(family: str, tmp_path: Path):
    """And what is in front is the same, with what attention gave from the pass before."""
    save_model(family, tmp_path / family, wide=True)
    place = Place(tmp_path, "cpu", "f32")
    block = next(iter(Walk(open_model(open_checkpoint(str(tmp_path / family))), TOKENS, place)))
    _, hidden = next(iter(block.batches()))
    whole: list[tuple[Any, Any]] = []
    out = block.forward(hidden, lambda names, x, matrix: whole.append((names, x.clone())))
    attended: dict[Any, Any] = {}
    dense = [names for names, _ in whole if block.linears[names[0]].parameter == "weight"]
    for group in dense:
        part: list[tuple[Any, Any]] = []
        block.forward(
            hidden,
            lambda names, x, matrix, to=part: to.append((names, x.clone())),
            until=group,
            attended=attended,
        )
        count = [names for names, _ in whole].index(group) + 1
        assert [names for names, _ in part] == [names for names, _ in whole[:count]]
        assert all(torch.equal(x, other) for (_, x), (_, other) in zip(part, whole, strict=False))
    assert len(attended) == 1
    assert torch.equal(block.forward(hidden, attended=attended), out)
