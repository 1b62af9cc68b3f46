"""Files made of quantized checkpoints are those that are made of the same numbers in plain."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from common import convert_model
from gguf import GGUFReader
from quantized_sources import Layer, awq_layer, gptq_layer, nvfp4_layer, save_quantized
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.model.open import open_model

SOURCES: dict[str, tuple[dict[str, Any], Callable[[np.ndarray], Layer]]] = {
    "gptq": ({"bits": 4, "group_size": 32}, lambda weight: gptq_layer(weight, act_order=True)),
    "awq": ({"bits": 4, "group_size": 32}, awq_layer),
    "modelopt": ({"quant_algo": "NVFP4"}, partial(nvfp4_layer, exact=True)),
}


def save_both(folder: Path, method: str) -> tuple[Path, Path]:
    """A quantized checkpoint, and one of the same numbers in float32."""
    settings, layer = SOURCES[method]
    changes = {"wide": True, "num_hidden_layers": 2}
    quantization = {"quant_method": method, **settings}
    expected = save_quantized(folder / "quantized", quantization, layer, **changes)
    stored = load_file(folder / "quantized" / "model.safetensors")
    endings = (".qweight", ".qzeros", ".scales", ".g_idx", "_scale", "_scale_2")
    tensors = {name: t for name, t in stored.items() if not name.endswith(endings)}
    tensors |= {name: torch.from_numpy(values).float() for name, values in expected.items()}
    save_quantized(
        folder / "plain", None, lambda w: ({".weight": torch.from_numpy(w)}, w), **changes
    )
    save_file(tensors, folder / "plain" / "model.safetensors", {"format": "pt"})
    return folder / "quantized", folder / "plain"


@pytest.mark.parametrize("method", SOURCES)
def test_a_gguf_file_has_the_same_bytes(method: str, tmp_path: Path) -> None:
    paths = save_both(tmp_path, method)
    files = [path.with_suffix(".gguf") for path in paths]
    for path, file in zip(paths, files, strict=True):
        convert_model(path, file, "q4_k_m")
    quantized, plain = (GGUFReader(file).tensors for file in files)
    assert [t.name for t in quantized] == [t.name for t in plain]
    for one, other in zip(quantized, plain, strict=True):
        assert one.tensor_type == other.tensor_type
        assert one.data.tobytes() == other.data.tobytes()


@pytest.mark.parametrize("method", SOURCES)
def test_that_a_source_was_quantized_is_said(method: str, tmp_path: Path) -> None:
    model = open_model(open_checkpoint(str(save_both(tmp_path, method)[0])))
    assert [notice for notice in model.notices if f"quantized already ({method} " in notice]
