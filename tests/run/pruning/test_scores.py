"""Scores of neurons, heads, channels and experts, held against what transformers' modules show."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sampled_models import SAMPLE

from qconvert.calibration.file import read_calibration
from qconvert.checkpoint import open_checkpoint
from qconvert.containers.store import open_store
from qconvert.errors import UnsupportedError
from qconvert.forward.walk import Place
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.run.pruning.desk import Desk
from qconvert.run.pruning.experts import expert_scores
from qconvert.run.pruning.scores import channel_scores, group_scores, neuron_scores, norm_factors

TOKENS = torch.from_numpy(SAMPLE.tokens.astype(np.int64))


@contextmanager
def desk_of(made: Any, family: str, folder: Path) -> Iterator[tuple[Any, Desk]]:
    model, source, calibration = made(family)
    with open_store(folder / "x", "one") as store:
        found = read_calibration(calibration)
        opened = open_model(open_checkpoint(str(source)))
        place = Place(store.folder, "cpu", "f32")
        tokens = SAMPLE.tokens
        yield model, Desk(opened, found, tokens, tokens, tokens, place, store, Silent())


def inputs_of(model: Any, names: list[str]) -> dict[str, torch.Tensor]:
    """What goes into modules, [tokens, columns]."""
    seen: dict[str, torch.Tensor] = {}
    with ExitStack() as stack, torch.no_grad():
        for name in names:

            def keep(_: Any, args: Any, name: str = name) -> None:
                seen[name] = args[0].flatten(0, -2)

            hook = model.get_submodule(name).register_forward_pre_hook(keep)
            stack.callback(hook.remove)
        model(TOKENS)
    return seen


def test_neurons_and_groups_by_what_they_give(made: Any, tmp_path: Path):
    with desk_of(made, "llama", tmp_path) as (model, desk):
        names = [f"model.layers.3.{one}" for one in ("mlp.down_proj", "self_attn.o_proj")]
        seen = inputs_of(model, names)
        gives = [
            seen[name].square().mean(0) * model.get_submodule(name).weight.square().sum(0)
            for name in names
        ]
        own = neuron_scores(desk.model, desk.calibration, desk.shape)[3]
        np.testing.assert_allclose(own, gives[0].detach(), rtol=1e-3)
        own = group_scores(desk.model, desk.calibration, desk.shape)[3]
        np.testing.assert_allclose(own, gives[1].detach().reshape(2, -1).sum(1), rtol=1e-3)


def test_channels_by_activation_over_the_model(made: Any, tmp_path: Path):
    with desk_of(made, "llama", tmp_path) as (model, desk):
        names = [
            f"model.layers.{n}.{one}"
            for n in range(desk.shape.layers)
            for one in ("self_attn.q_proj", "mlp.up_proj")
        ]
        squares = [x.square().mean(0) for x in inputs_of(model, [*names, "lm_head"]).values()]
        wanted = torch.stack([one / one.mean() for one in squares]).mean(0)
        found = channel_scores(desk.model, desk.calibration)
        np.testing.assert_allclose(found, wanted.detach(), rtol=1e-3)
        kept = found >= np.median(found)
        factor = norm_factors(desk.model, desk.calibration, kept)["blk.4.attn_norm.weight"]
        stream = inputs_of(model, ["model.layers.4.input_layernorm"])
        x = stream["model.layers.4.input_layernorm"].square()
        ratio = (x[:, torch.from_numpy(kept)].mean(1) / x.mean(1)).mean()
        assert factor == pytest.approx(float(ratio.sqrt()), rel=0.05)


def test_experts_by_what_the_router_lets_through(made: Any, tmp_path: Path):
    with desk_of(made, "qwen3_moe", tmp_path) as (model, desk):
        layer = model.model.layers[2].mlp
        x = inputs_of(model, ["model.layers.2.mlp"])["model.layers.2.mlp"]
        with torch.no_grad():
            chance = torch.softmax(x @ layer.gate.weight.T, -1)
            weights, chosen = chance.topk(2, dim=-1)
            weights = weights / weights.sum(-1, keepdim=True)
            wanted = []
            for expert in range(desk.shape.experts):
                token, place = torch.where(chosen == expert)
                gate, up = (x[token] @ layer.experts.gate_up_proj[expert].T).chunk(2, -1)
                out = (torch.nn.functional.silu(gate) * up) @ layer.experts.down_proj[expert].T
                own = (weights[token, place] * out.norm(dim=-1)).sum() / max(len(token), 1)
                wanted.append(float(own))
        np.testing.assert_allclose(expert_scores(desk)[2], wanted, rtol=1e-3)
        with pytest.raises(UnsupportedError, match="experts, whose neurons are not cut"):
            neuron_scores(desk.model, desk.calibration, desk.shape)
