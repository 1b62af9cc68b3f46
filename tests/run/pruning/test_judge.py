"""What cuts cost, and which layers go: held against transformers, which is run once for each."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import tiny_model
from pruned_models import without_blocks, zero_columns
from sampled_models import SAMPLE

from qconvert.calibration.file import read_calibration
from qconvert.checkpoint import open_checkpoint
from qconvert.containers.store import open_store
from qconvert.forward.walk import Place
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.pruning.cut import query_mask
from qconvert.run.pruning import layers
from qconvert.run.pruning.choose import columns, group_masks, neuron_masks
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.judge import Judge, Trial
from qconvert.run.pruning.layers import layer_rounds

TOKENS = torch.from_numpy(SAMPLE.tokens[:6].astype(np.int64))


@pytest.fixture
def desk(made: Any, tmp_path: Path) -> Iterable[Desk]:
    _, folder, calibration = made("llama")
    model = open_model(open_checkpoint(str(folder)))
    tokens = TOKENS.numpy()
    with open_store(tmp_path / "x", "one") as store:
        place = Place(store.folder, "cpu", "f32")
        found = read_calibration(calibration)
        yield Desk(model, found, tokens, tokens, tokens, place, store, Silent())


def divergence(model: Any, other: Any) -> float:
    with torch.no_grad():
        p, q = (
            torch.log_softmax(one(TOKENS).logits[:, :-1].double(), -1) for one in (model, other)
        )
    return float((p.exp() * (p - q)).sum(-1).mean())


def cut_by_hand(gone: Iterable[int]) -> Any:
    whole = tiny_model("llama", wide=True)
    left = tuple(b for b in range(whole.config.num_hidden_layers) if b not in set(gone))
    return without_blocks(whole, left)


def test_a_trial_costs_what_the_smaller_model_costs(desk: Desk):
    model = tiny_model("llama", wide=True)
    judge = Judge(desk.model, desk.shown, desk.place)
    ffn, groups = neuron_masks(desk, 300), group_masks(desk, 1)
    shape = desk.shape
    base = Trial(frozenset({5}))
    both = Trial(frozenset({2, 5}), columns(shape, ffn, groups))
    costs = judge.costs([Trial(frozenset({2, 5})), both, base], base)
    narrow = zero_columns(cut_by_hand({2, 5}), (), {})
    expected = [divergence(model, narrow)]
    wide = tiny_model("llama", wide=True)
    zero_columns(wide, ("mlp.down_proj",), ffn)
    masks = {block: query_mask(mask, shape) for block, mask in groups.items()}
    zero_columns(wide, ("self_attn.o_proj",), masks)
    left = tuple(b for b in range(shape.layers) if b not in (2, 5))
    expected += [divergence(model, without_blocks(wide, left)), divergence(model, cut_by_hand({5}))]
    found = [cost.divergence for cost in costs]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    with torch.no_grad():
        logits = model(TOKENS).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, TOKENS[:, 1:].flatten())
    assert judge.own.perplexity == pytest.approx(float(loss.exp()), rel=1e-4)
    assert judge.own.divergence == 0


def test_layers_go_one_by_one_where_that_costs_least(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """As trying every layer in every round would have it, and without trying every layer."""
    monkeypatch.setattr(layers, "AT_ONCE", 2)
    monkeypatch.setattr(layers, "ASKED", 2)
    asked = 0
    model = tiny_model("llama", wide=True)
    gone: list[int] = []
    for made in layer_rounds(desk, 3):
        left = [n for n in range(desk.shape.layers) if n not in gone]
        costs = {n: divergence(model, cut_by_hand({*gone, n})) for n in left}
        assert made.gone == min(costs, key=costs.__getitem__)
        assert made.cost.divergence == pytest.approx(costs[made.gone], rel=1e-3)
        gone.append(made.gone)
        asked += len(made.costs)
    assert asked < 8 + 7 + 6


def test_what_was_measured_is_not_measured_again(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    first = layer_rounds(desk, 2)
    monkeypatch.setattr(Judge, "costs", None)
    again = layer_rounds(replace(desk), 2)
    assert again == first
