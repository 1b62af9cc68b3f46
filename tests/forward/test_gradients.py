"""What the model foretells, derived by its layers' outputs: transformers and autograd say it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import random_tokens, save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.forward.gradients import (
    Product,
    derive_at_head,
    slopes_of_embedding,
    walk_back,
    walk_through,
)
from qconvert.forward.linears import rows_of
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

TOKENS = np.array(random_tokens(4 * 24), np.int32).reshape(4, 24)


def walk_of(family: str, folder: Path) -> tuple[Any, Walk]:
    model = save_model(family, folder / family, wide=True)
    opened = open_model(open_checkpoint(str(folder / family)))
    return model, Walk(opened, TOKENS, Place(folder, "cpu", "f32", batch=3, kept=True))


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "phi3", "qwen3_moe", "granite", "gemma3", "olmo2"]
)
def test_they_are_autograds_over_the_whole_model(family: str, tmp_path: Path):
    """The gradient of a weight is the sum over tokens of those of its output, times its input."""
    model, walk = walk_of(family, tmp_path)
    by_weight: dict[tuple[str, int], Any] = {}
    drawn: list[Any] = []

    def visit(product: Product) -> None:
        for name, slopes in product.slopes.items():
            key = name, product.matrix
            by_weight[key] = by_weight.get(key, 0) + slopes.T @ product.x
            if name == walk.output_name and len(slopes) != TOKENS.size:
                drawn.append(slopes.argmin(dim=1))

    walk_through(walk, lambda windows: None)
    derive_at_head(walk, visit)
    model.requires_grad_(True)
    embedded: list[Any] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: embedded.append(out.retain_grad() or out)
    )
    logits = model(torch.from_numpy(TOKENS).long()).logits
    hook.remove()
    torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.cat(drawn), reduction="sum"
    ).backward()
    compared = 0
    for block in walk_back(walk, len(walk) - 1, visit):
        own = dict(model.named_parameters())
        for name, line in block.linears.items():
            inner = next(n for n, module in block.module.named_modules() if module is line.module)
            path = f"{walk.skeleton.blocks_name}.{block.index}.{inner}.{line.parameter}"
            wanted = rows_of(line, own[path].grad)
            stacked = wanted if wanted.dim() == 3 else wanted[None]
            for matrix, one in enumerate(stacked):
                found = by_weight.pop((name, matrix), torch.zeros_like(one))
                assert (found - one).abs().max() <= 1e-3 * stacked.abs().max(), (name, matrix)
                compared += 1
    assert compared >= 4 * len(walk)
    assert {name for name, _ in by_weight} == {walk.output_name}
    at_start = torch.cat(list(slopes_of_embedding(walk)))
    wanted = embedded[0].grad
    factor = model.config.embedding_multiplier if family == "granite" else 1.0
    assert (at_start * factor - wanted).abs().max() < 1e-3 * wanted.abs().max()


def test_a_model_without_a_head_is_refused(tmp_path: Path):
    _, walk = walk_of("bert", tmp_path)
    walk_through(walk, lambda windows: None)
    with pytest.raises(UnsupportedError, match="no output projection"):
        derive_at_head(walk, lambda product: None)
