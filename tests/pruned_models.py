"""Tiny models made smaller, by the program and by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save_model

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.model.open import Model, open_model
from qconvert.plan.pruning.cut import Cut, Shape, shape_of
from qconvert.plan.pruning.plan import Smaller, make_smaller
from qconvert.plan.recipe import Recipe
from qconvert.run.pruning.write import plan_smaller, write_smaller


def some(size: int, count: int, seed: int = 3) -> np.ndarray:
    """A mask of so many, drawn."""
    mask = np.zeros(size, bool)
    mask[np.random.default_rng(seed).choice(size, count, replace=False)] = True
    return mask


def opened(family: str, folder: Path, **changes: Any) -> tuple[Any, Model, Shape]:
    """transformers' model, and the program's."""
    whole = save_model(family, folder, **changes)
    model = open_model(open_checkpoint(str(folder)))
    return whole, model, shape_of(model)


def drawn_cut(part: str, shape: Shape, layers: int = 0) -> Cut:
    """A cut of one part, other neurons and heads in every block."""
    whole = tuple(range(shape.layers))
    if part == "layers":
        return Cut((0, *whole[2:]))
    if part == "hidden":
        return Cut(whole, hidden=some(shape.hidden, shape.hidden - 32))
    sizes = {
        "ffn": (shape.ffn, shape.ffn - 96),
        "groups": (shape.kv, shape.kv - 1),
        "experts": (shape.experts, shape.experts - 2),
    }
    return Cut(whole, **{part: {block: some(*sizes[part], seed=block) for block in whole}})


def written(model: Model, cut: Cut, path: Path, of_layers: Mapping[str, Any] = {}) -> Smaller:
    """The smaller checkpoint on the disk."""
    smaller = make_smaller(model, cut, of_layers)
    plan = plan_smaller(smaller, Recipe("prune", output=path), {})
    write_smaller(smaller, plan, lambda made: {}, 2, Silent())
    return smaller


def without_blocks(model: Any, blocks: tuple[int, ...]) -> Any:
    """transformers' model with some of its blocks, in place."""
    base = model.model if hasattr(model, "model") else model.transformer
    name = "layers" if hasattr(base, "layers") else "h"
    setattr(base, name, torch.nn.ModuleList([getattr(base, name)[b] for b in blocks]))
    for listed in ("layer_types", "no_rope_layers"):
        values = getattr(model.config, listed, None)
        if values:
            setattr(model.config, listed, [values[b] for b in blocks])
    model.config.num_hidden_layers = len(blocks)
    model.config.use_cache = False  # whose places have the blocks' old numbers
    return model


@torch.no_grad()
def zero_columns(model: Any, endings: tuple[str, ...], masks: Mapping[int, np.ndarray]) -> Any:
    """transformers' model with zeros in the columns of a linear layer that do not stay, in place;
    what such a column is multiplied with then counts for nothing."""
    for name, module in model.named_modules():
        if name.endswith(endings):
            block = next(int(part) for part in name.split(".") if part.isdigit())
            keep = torch.from_numpy(masks[block])
            is_turned = type(module).__name__ == "Conv1D"
            module.weight.mul_(keep[:, None] if is_turned else keep)
    return model
