"""Smoothing leaves a model's function as it is, and stored ranges are made where they can be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import FAMILIES, Silent, random_tokens, save_model, torch_hidden, torch_logits

from qconvert.architectures.assemble import assemble
from qconvert.calibration.statistics import Collector
from qconvert.calibration.types import Calibration, Sample
from qconvert.checkpoint import open_checkpoint
from qconvert.compressed.activations import prepare_activations
from qconvert.compressed.source import Source, read_source
from qconvert.compressed.statistics import factors_of
from qconvert.compressed.types import Smoothing
from qconvert.formats.compressed import ActivationFormat, Estimator
from qconvert.forward.walk import Place, Walk

TOKENS = np.array([random_tokens(32, seed=seed) for seed in range(3)], np.int32)
DYNAMIC = ActivationFormat("int", 8, "token", True)
STATIC = ActivationFormat("int", 8, "tensor", False)

FOLDABLE = [name for name in FAMILIES if name != "bert"]


def calibrate(directory: Path, folder: Path) -> tuple[Source, Calibration]:
    checkpoint = open_checkpoint(str(directory))
    walk = Walk(checkpoint, TOKENS, Place(folder, "cpu", "f32"))
    inputs = {}
    with Collector(1) as collector:
        for block in walk:
            block.run(collector.observe)
            sizes = {
                name: len(getattr(line.module, line.parameter))
                for name, line in block.linears.items()
                if line.parameter != "weight"
            }
            inputs |= {one.weights[0]: one for one in collector.take(sizes)}
    sample = Sample(TOKENS, "random", 0)
    path = folder / "calibration.safetensors"
    return read_source(checkpoint), Calibration(path, sample, inputs, "tiny", "")


def smoothed_model(directory: Path, source: Source, smoothing: Mapping[str, Smoothing]) -> Any:
    """The model that is read from a checkpoint whose tensors have been multiplied."""
    import transformers
    from safetensors.numpy import load_file, save_file

    path = directory / "model.safetensors"
    tensors = load_file(path)
    touched = set()
    for weight in source.weights:
        factors = factors_of(weight, smoothing)
        if factors is None:
            continue
        touched.add(weight.gguf)
        rows = assemble(weight.matrix_map, source.checkpoint.tensors, 0, weight.matrix_map.rows)
        made = factors.apply(rows + np.float32(weight.add), 0) - np.float32(weight.add)
        made = made.T if weight.conv1d else made.reshape(weight.map.shape)
        tensors[weight.name] = np.ascontiguousarray(made)
    assert touched == set(smoothing)
    save_file(tensors, path, {"format": "pt"})
    name = source.config["architectures"][0]
    model = getattr(transformers, name).from_pretrained(directory, dtype="float32")
    model.set_attn_implementation("eager")
    return model.eval()


def outputs(model, family):
    run = torch_hidden if family == "bert" else torch_logits
    return run(model, random_tokens(48, seed=9))


@pytest.mark.parametrize("family", FOLDABLE)
def test_a_smoothed_model_computes_what_it_did(family, tmp_path):
    model = save_model(family, tmp_path / "model")
    source, calibration = calibrate(tmp_path / "model", tmp_path)
    expected = outputs(model, family)
    made = prepare_activations(
        source,
        calibration,
        DYNAMIC,
        smooth=0.7,
        estimator=Estimator(),
        place=Place(tmp_path, "cpu", "f32"),
        watcher=Silent(),
    )
    assert made.smoothing
    assert set(made.alphas.values()) == {0.7}
    found = outputs(smoothed_model(tmp_path / "model", source, made.smoothing), family)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
