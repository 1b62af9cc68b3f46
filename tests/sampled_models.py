"""Models with calibrations whose tokens are there, and what comes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from captures import make_sample
from common import random_tokens

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.export import make_export_plan
from qconvert.run.outputs import write_outputs, write_stale
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run

OTHER = torch.tensor(random_tokens(8 * 64, seed=99)).reshape(8, 64)
SAMPLE = make_sample(64, 32)


def quantized(
    made: Any,
    family: str,
    recipe: Recipe,
    watcher: Any = None,
    threads: int = 2,
    device: str = "auto",
) -> Path:
    return quantized_together(made, family, [recipe], watcher, threads, device)[0]


def quantized_together(
    made: Any,
    family: str,
    recipes: list[Recipe],
    watcher: Any = None,
    threads: int = 2,
    device: str = "auto",
) -> list[Path]:
    """The weight files of several outputs of one run."""
    _, model, calibration = made(family)
    watcher = watcher or Silent()
    asked = [replace(one, calibration=calibration, vocabulary=False) for one in recipes]
    run = Run(threads, watcher, device)
    plans = plan_outputs(open_checkpoint(str(model)), asked, run)
    return [result.paths[0] for result in write_stale(plans, threads, watcher, device)]


def divergence(model: Any, path: Path, folder: Path) -> float:
    """Of the file's predictions from the model's, by transformers."""
    if path.suffix == ".gguf":
        exported = Recipe("auto", output=folder / "exported")
        write_outputs([make_export_plan(open_checkpoint(str(path)), exported)], 2, Silent())
        path = folder / "exported"
    else:
        path = path.parent
    other = type(model).from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        own, its = (torch.log_softmax(one(OTHER).logits.double(), -1) for one in (model, other))
    return float((own.exp() * (own - its)).sum(-1).mean())
