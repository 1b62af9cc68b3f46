"""Experts one at a time against transformers' own layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import save_model, tiny_model

from qconvert.checkpoint import open_checkpoint
from qconvert.forward.experts import are_experts, run_experts
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

MOE = ("mixtral", "qwen3_moe")


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if are_experts(module)]


def route(module: Any, tokens: int, skip: int | None = None) -> tuple[Any, Any, Any]:
    """Hidden states, chosen experts (never `skip`) and their weights."""
    import torch

    draw = torch.Generator().manual_seed(4)
    hidden = torch.randn(tokens, module.gate_up_proj.shape[-1], generator=draw)
    scores = torch.rand(tokens, len(module.down_proj), generator=draw)
    if skip is not None:
        scores[:, skip] = -1
    weights, chosen = torch.topk(scores, 2)
    return hidden, chosen, weights


@pytest.mark.parametrize("family", MOE)
def test_every_layer_of_experts_is_found(family: str):
    model = tiny_model(family)
    assert len(layers(model)) == model.config.num_hidden_layers
    assert not layers(tiny_model("llama"))


@pytest.mark.parametrize("skip", [None, 0, 4])
@pytest.mark.parametrize("family", MOE)
def test_the_output_is_that_of_transformers(family: str, skip: int | None):
    import torch

    module = layers(tiny_model(family))[0]
    hidden, chosen, weights = route(module, 50, skip)
    with torch.no_grad():
        expected = module(hidden, chosen, weights)
        found = run_experts(module, ((), ()), lambda names, inputs: None, hidden, chosen, weights)
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("family", MOE)
def test_each_expert_shows_its_inputs(family: str):
    import torch

    module = layers(tiny_model(family))[0]
    hidden, chosen, weights = route(module, 50, skip=2)
    seen: dict[tuple[str, int], Any] = {}
    with torch.no_grad():
        run_experts(
            module,
            (("gate", "up"), ("down",)),
            lambda names, inputs: seen.update({(names[0], expert): x for x, expert in inputs}),
            hidden,
            chosen,
            weights,
        )
    assert sorted({expert for _, expert in seen}) == [0, 1, 3, 4]
    for expert in (0, 1, 3, 4):
        tokens = (chosen == expert).any(dim=1)
        x = seen["gate", expert]
        assert torch.equal(x, hidden[tokens])
        gate, up = (x @ module.gate_up_proj[expert].T).chunk(2, dim=-1)
        inner = torch.nn.functional.silu(gate) * up
        assert torch.allclose(seen["down", expert], inner, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", MOE)
def test_a_walk_shows_each_expert_what_the_whole_model_routes_to_it(family: str, tmp_path: Path):
    import torch

    model = save_model(family, tmp_path / "m")
    tokens = np.random.default_rng(1).integers(3, 323, (3, 40)).astype(np.int32)
    routed: list[tuple[Any, Any]] = []
    for module in layers(model):
        module.register_forward_pre_hook(lambda m, args: routed.append((args[0], args[1])))
    with torch.no_grad():
        model(torch.from_numpy(tokens).long())
    seen: dict[tuple[str, int], list[Any]] = {}
    (tmp_path / "w").mkdir()
    place = Place(tmp_path / "w", device="cpu", dtype="f32", batch=2)
    for block in Walk(open_model(open_checkpoint(str(tmp_path / "m"))), tokens, place):
        block.run(lambda names, x, expert: seen.setdefault((names[0], expert), []).append(x))
    for index, (hidden, chosen) in enumerate(routed):
        for expert in range(5):
            expected = hidden[(chosen == expert).any(dim=1)]
            found = torch.cat(seen.get((f"blk.{index}.ffn_gate_exps.weight", expert), []))
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
