"""Rows put in the place of a weight's own, against transformers' whole model with the same rows."""

from pathlib import Path

import numpy as np
import pytest
from common import random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.forward.linears import rows_of
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

TOKENS = np.array(random_tokens(80), np.int32).reshape(2, 40)

CHANGED = {
    "llama": {"blk.1.attn_k.weight": "k_proj.weight", "blk.1.ffn_down.weight": "down_proj.weight"},
    "qwen3_moe": {
        "blk.1.ffn_up_exps.weight": "experts.gate_up_proj",
        "blk.1.ffn_down_exps.weight": "experts.down_proj",
        "blk.1.attn_output.weight": "o_proj.weight",
    },
    "gpt2": {"blk.1.attn_qkv.weight": "c_attn.weight", "blk.1.ffn_up.weight": "c_fc.weight"},
    "phi3": {"blk.1.ffn_up.weight": "gate_up_proj.weight"},
}


def walk_of(family: str, folder: Path) -> tuple[Walk, object]:
    model = save_model(family, folder / "model")
    (folder / "states").mkdir()
    place = Place(folder / "states", device="cpu", dtype="f32")
    return Walk(open_model(open_checkpoint(str(folder / "model"))), TOKENS, place), model


@pytest.mark.parametrize("family", CHANGED)
def test_installed_rows_give_what_the_changed_model_gives(family: str, tmp_path: Path):
    import torch

    walk, model = walk_of(family, tmp_path)
    for block in walk:
        for name, ending in CHANGED[family].items() if block.index == 1 else ():
            line = block.linears[name]
            own = rows_of(line, getattr(line.module, line.parameter))
            noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(1)) * own.std()
            block.install(name, own + noise)
            theirs = next(
                p for n, p in model.named_parameters() if ".1." in n and n.endswith(ending)
            )
            with torch.no_grad():
                rows_of(line, theirs).add_(noise)
    with torch.no_grad():
        wanted = model(torch.from_numpy(TOKENS).long()).logits
        hidden = torch.cat(list(walk.last_hidden()))
        logits = model.get_output_embeddings()(hidden)
    assert (logits - wanted).abs().max() < 2e-4 * wanted.abs().max()


@pytest.mark.parametrize("family", CHANGED)
def test_a_loss_behind_a_block_leads_back_to_installed_rows(family: str, tmp_path: Path):

    walk, _ = walk_of(family, tmp_path)
    block = next(iter(walk))
    leaves = {}
    for name in (name.replace("blk.1", "blk.0") for name in CHANGED[family]):
        line = block.linears[name]
        leaf = rows_of(line, getattr(line.module, line.parameter)).detach().clone()
        leaves[name] = leaf.requires_grad_()
        block.install(name, leaf)
    _, hidden = next(block.batches())
    assert not block.forward(hidden).requires_grad
    block.forward(hidden, gradients=True).square().mean().backward()
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert leaf.grad.abs().sum() > 0
    block.unload()
    assert all(parameter.is_meta for parameter in block.module.parameters())
    assert len(leaves) <= len(list(block.module.parameters()))


def test_rows_of_another_shape_are_refused(tmp_path: Path):
    walk, _ = walk_of("llama", tmp_path)
    block = next(iter(walk))
    line = block.linears["blk.0.attn_q.weight"]
    with pytest.raises(ValueError, match="no rows of"):
        block.install("blk.0.attn_q.weight", getattr(line.module, line.parameter)[1:])
