"""The block-by-block run against transformers' own whole model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import FAMILIES, random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

WINDOWS, WINDOW = 5, 40


def sample() -> np.ndarray:
    return np.array(random_tokens(WINDOWS * WINDOW), np.int32).reshape(WINDOWS, WINDOW)


def walk_through(model: Path, folder: Path, batch: int = 2) -> tuple[np.ndarray, dict, Walk]:
    """The last hidden states, and the inputs of each weight as [tokens, columns]."""
    seen: dict[tuple[str, int], list[np.ndarray]] = {}

    def observe(names: tuple[str, ...], x: Any, matrix: int) -> None:
        for name in names:
            seen.setdefault((name, matrix), []).append(x.numpy().copy())

    folder.mkdir()
    place = Place(folder, device="cpu", dtype="f32", batch=batch)
    walk = Walk(open_model(open_checkpoint(str(model))), sample(), place)
    for block in walk:
        block.run(observe)
    walk.finish(observe)
    hidden = np.concatenate([part.numpy() for part in walk.last_hidden()])
    return hidden, {key: np.concatenate(parts) for key, parts in seen.items()}, walk


def whole_model(family: str, model: Any, names: list[str]) -> tuple[np.ndarray, dict]:
    """The same of transformers' own model, without experts' inputs."""
    import torch

    seen = {}
    hooks = []
    for name, module in model.named_modules():
        if name in names:
            hook = lambda m, args, name=name: seen.__setitem__(  # noqa: E731
                name, args[0].reshape(-1, args[0].shape[-1]).numpy()
            )
            hooks.append(module.register_forward_pre_hook(hook))
    head = model.get_output_embeddings()
    caught = []
    if head is not None:
        hooks.append(head.register_forward_pre_hook(lambda m, args: caught.append(args[0])))
    with torch.no_grad():
        out = model(torch.from_numpy(sample()).long())
    for hook in hooks:
        hook.remove()
    return (caught[0] if caught else out.last_hidden_state).numpy(), seen


def close(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


BEYOND_LLAMA_CPP: list[tuple[str, dict[str, Any]]] = [
    ("qwen3", {"attention_bias": True}),
    ("gemma3", {"query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0}),
    ("qwen3_moe", {"decoder_sparse_step": 2, "norm_topk_prob": False}),
]


@pytest.mark.parametrize(("family", "changes"), [*((f, {}) for f in FAMILIES), *BEYOND_LLAMA_CPP])
def test_every_family_computes_what_the_whole_model_computes(
    family: str, changes: dict[str, Any], tmp_path: Path
):
    model = save_model(family, tmp_path / "model", **changes)
    hidden, seen, walk = walk_through(tmp_path / "model", tmp_path / "work")
    modules = {}
    for name, _ in model.named_parameters():
        for target, _ in walk.source.targets_of(name):
            if (target, 0) in seen and "_exps" not in target:
                modules[target] = name.removesuffix(".weight")
    expected, inputs = whole_model(family, model, list(modules.values()))
    assert hidden.shape == expected.shape
    assert close(hidden, expected) < 1e-5
    blocks = model.config.num_hidden_layers
    assert len(modules) >= 4 * blocks
    for target, name in modules.items():
        if target not in ("output.weight", "token_embd.weight"):
            assert close(seen[target, 0], inputs[name]) < 1e-5, target
