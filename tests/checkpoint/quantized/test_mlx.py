"""Directories of MLX, read back as MLX dequantizes them."""

import json
from pathlib import Path

import numpy as np
import pytest
from common import random_tokens, save_model
from compressed_models import quantize_model

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.rows import read_rows
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.subject import open_subject
from qconvert.text.types import Windows

mx = pytest.importorskip("mlx.core")
pytest.importorskip("mlx_lm")

OVERRIDES = (("*.0.mlp.down_proj.weight", "mlx6"),)


def write(family: str, folder: Path, type_: str) -> Path:
    save_model(family, folder / "model", wide=True, num_hidden_layers=2)
    options = {"overrides": OVERRIDES} if type_ == "mlx4" else {}
    quantize_model(folder / "model", folder / "out", type_, **options)
    return folder / "out"


@pytest.mark.parametrize("type_", ["mlx4", "mlx3", "mlx-mxfp4", "mlx-nvfp4", "mlx-mxfp8"])
def test_weights_are_those_that_mlx_dequantizes(type_: str, tmp_path: Path) -> None:
    out = write("llama", tmp_path, type_)
    config = json.loads((out / "config.json").read_text())["quantization"]
    stored = mx.load(str(out / "model.safetensors"))
    tensors = open_checkpoint(str(out)).tensors
    assert {name.removesuffix("scales") for name in stored if name.endswith("scales")} == {
        name.removesuffix("weight") for name, info in tensors.items() if info.codes is not None
    }
    for name, info in tensors.items():
        if info.codes is None:
            continue
        stem = name.removesuffix(".weight")
        own = {key: config[key] for key in ("bits", "group_size", "mode") if key in config}
        own |= config.get(stem, {})
        parts = [stored.get(f"{stem}.{part}") for part in ("weight", "scales", "biases")]
        if own.get("mode", "affine") == "affine":
            parts[1:] = [part.astype(mx.float32) for part in parts[1:]]
        expected = np.array(mx.dequantize(*parts, **own).astype(mx.float32))
        np.testing.assert_allclose(read_rows(info, 0, info.rows), expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(read_rows(info, 3, 9), read_rows(info, 0, info.rows)[3:9])


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2"])
def test_torch_computes_what_mlx_does(family: str, tmp_path: Path) -> None:
    from mlx_lm.utils import load_model

    out = write(family, tmp_path, "mlx4")
    subject = open_subject(str(out), settings=Settings(device="cpu", dtype="f32"))
    assert subject.kind == "mlx4"
    tokens = np.array([random_tokens(33)], np.int32)
    windows = Windows(tokens, "", "")
    (computed,) = subject.runtime.logits(windows)
    made = load_model(out)[0](mx.array(tokens)).astype(mx.float32)
    expected = np.array(made)[0, windows.first : -1]
    assert np.abs(computed - expected).max() < 2e-3 * np.abs(expected).max()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    out = write("llama", tmp_path, "mlx4")
    path = out / "config.json"
    config = json.loads(path.read_text())
    for changes, error, words in (
        ({"bits": 3}, CheckpointError, "do not"),
        ({"bits": 7}, UnsupportedError, "7"),
        ({"group_size": 32}, CheckpointError, "do not fit"),
        ({"mode": "mxfp4"}, UnsupportedError, "mxfp4"),
    ):
        quantization = {**config["quantization"], **changes}
        path.write_text(json.dumps({**config, "quantization_config": quantization}))
        with pytest.raises(error, match=words):
            open_checkpoint(str(out))
