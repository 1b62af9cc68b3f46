"""Batches that wait in front of a block's products, against a block that runs as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.forward import passage as passage_module
from qconvert.forward.passage import passing
from qconvert.forward.residual import writers
from qconvert.forward.walk import Block, Place, Walk
from qconvert.model.open import open_model

TOKENS = np.array(random_tokens(6 * 24), np.int32).reshape(6, 24)


def first_block(family: str, folder: Path) -> tuple[Any, Block]:
    model = save_model(family, folder / family, wide=True)
    place = Place(folder, "cpu", "f32", batch=2)
    return model, next(iter(Walk(open_model(open_checkpoint(str(folder / family))), TOKENS, place)))


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "qwen3_moe", "gemma3", "olmo2"])
def test_all_is_as_it_would_be_without_waiting(
    family: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if where == "disk":
        monkeypatch.setattr(passage_module, "WAITING", 0)
    _, block = first_block(family, tmp_path)
    batches = [hidden for _, hidden in block.batches()]
    whole: list[list[tuple[Any, Any, int]]] = [[] for _ in batches]
    outs = [
        block.forward(hidden, lambda n, x, k, to=to: to.append((n, x.clone(), k)))
        for hidden, to in zip(batches, whole, strict=True)
    ]
    groups = list(dict.fromkeys(names for names, _, _ in whole[0]))
    with passing(block) as passage:
        for group in groups:
            for number, hidden in enumerate(batches):
                stop = passage.to(number, hidden, group)
                wanted = [(x, k) for names, x, k in whole[number] if names == group]
                assert [k for _, k in stop.inputs] == [k for _, k in wanted]
                for (own, _), (other, _) in zip(stop.inputs, wanted, strict=True):
                    assert torch.equal(own, other)
        files = [*tmp_path.glob("states-waiting-*")]
        assert len(files) == (len(batches) if where == "disk" else 0)
        assert all(
            torch.equal(passage.finish(number, hidden), out)
            for number, (hidden, out) in enumerate(zip(batches, outs, strict=True))
        )
    assert not [*tmp_path.glob("states-waiting-*")]
    assert torch.equal(block.forward(batches[0]), outs[0])


def test_memory_has_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of those that wait on the disk; and it is given back when the passage is closed."""
    monkeypatch.setattr(passage_module, "WAITING", 0)
    _, block = first_block("llama", tmp_path)
    group = ("blk.0.ffn_down.weight",)
    with passing(block) as passage:
        stops = [passage.to(number, hidden, group) for number, (_, hidden) in batches_of(block)]
        held = [stop.held[0][0].numel() for stop in stops]
        assert held[-1] > 0
        assert not any(held[:-1])
    assert not [*tmp_path.glob("states-waiting-*")]


def batches_of(block: Block) -> Iterator[tuple[int, tuple[int, Any]]]:
    return enumerate(block.batches())


def test_what_is_installed_meanwhile_counts_for_what_follows(tmp_path: Path):
    _, block = first_block("llama", tmp_path)
    batches = [hidden for _, hidden in block.batches()]
    names = [name for name in block.linears if "attn_output" in name or "ffn_down" in name]
    rows = {name: torch.zeros_like(block.linears[name].module.weight) for name in names}
    with passing(block) as passage:
        for name in names:
            for number, hidden in enumerate(batches):
                passage.to(number, hidden, (name,))
            block.install(name, rows[name])
        # Nothing is added to the stream any more.
        for number, hidden in enumerate(batches):
            assert torch.equal(passage.finish(number, hidden), hidden)


def test_the_stream_in_front_of_a_layer(tmp_path: Path):
    model, block = first_block("llama", tmp_path)
    seen: list[torch.Tensor] = []
    model.model.layers[0].post_attention_layernorm.register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    with torch.no_grad():
        model(torch.from_numpy(TOKENS).long())
    batches = [hidden for _, hidden in block.batches()]
    points = {name: writer.point for name, writer in writers(block, batches[0]).items()}
    with passing(block, {*points.values()} - {""}) as passage:
        for name, wanted in (
            ("blk.0.attn_output.weight", torch.cat(batches)),
            ("blk.0.ffn_down.weight", seen[0]),
        ):
            streams = []
            for number, hidden in enumerate(batches):
                passage.to(number, hidden, (name,))
                streams.append(passage.stream(number, points[name]))
            off = torch.cat(streams) - wanted.flatten(0, 1)
            assert off.abs().max() < 1e-5 * wanted.abs().max()


def test_a_product_that_does_not_come_is_an_error_and_leaves_nothing(tmp_path: Path):
    _, block = first_block("llama", tmp_path)
    _, hidden = next(iter(block.batches()))
    with passing(block) as passage:
        passage.to(1, hidden, ("blk.0.ffn_gate.weight",))
        with pytest.raises(ValueError, match="not in front"):
            passage.to(0, hidden, ("blk.7.ffn_up.weight",))
    assert block.passage is None
    block.run()
    assert block.is_done
