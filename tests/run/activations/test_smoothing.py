"""What smoothing is good for, from a calibration to logits through transformers."""

from pathlib import Path

import numpy as np
import pytest
from common import random_tokens, save_model, torch_logits
from compressed_models import load_model, outputs, quantize_model
from observed_inputs import calibrate

from qconvert.formats.safetensors.types import ActivationFormat, Estimator
from qconvert.forward.walk import Place
from qconvert.machine.watcher import Silent
from qconvert.plan.statistics import Statistics
from qconvert.run.activations.prepare import prepare_activations

FORMS = {
    "dynamic": ActivationFormat("int", 8, "token", True),
    "static": ActivationFormat("int", 8, "tensor", False),
}


def plant_outliers(directory: Path) -> None:
    """Make some channels of every smoothed input 40 times louder, and the weights behind them
    fainter: the function stays."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(directory / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight")):
            tensor[::37] *= 40
        elif name.endswith("up_proj.weight"):
            tensor[5::53] *= 40
        elif name.endswith("down_proj.weight"):
            tensor[:, 5::53] /= 40
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) or name.endswith(
            ("gate_proj.weight", "up_proj.weight")
        ):
            tensor[:, ::37] /= 40
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("activations", FORMS)
def test_smoothing_finds_planted_outliers(activations: str, tmp_path: Path) -> None:
    original = save_model("qwen3", tmp_path / "model", num_hidden_layers=1)
    plant_outliers(tmp_path / "model")
    tokens = random_tokens(48, seed=9)
    expected = torch_logits(original, tokens)
    sample = np.array([random_tokens(128, seed=seed) for seed in range(8)], np.int32)
    source, calibration = calibrate(tmp_path / "model", tmp_path, sample)
    errors = {}
    for smooth in (None, 0.5, "auto"):
        made = prepare_activations(
            source,
            calibration,
            FORMS[activations],
            smooth=smooth,
            estimator=Estimator("mse"),
            place=Place(tmp_path, "cpu", "f32"),
            work=tmp_path / f"out-{smooth}",
            watcher=Silent(),
        )
        statistics = Statistics(ranges=made.ranges or None, smoothing=made.smoothing)
        out = tmp_path / f"out-{smooth}"
        quantize_model(tmp_path / "model", out, "w8a8", statistics, activations=activations)
        errors[smooth] = float(np.mean((outputs(load_model(out), tokens) - expected) ** 2))
    assert errors[0.5] < 0.2 * errors[None]
    assert errors["auto"] < 0.2 * errors[None]
    # Of a thousand tokens without any structure, stored ranges learn more than is true of others.
    assert errors["auto"] < 1.1 * errors[0.5] or activations == "static"
