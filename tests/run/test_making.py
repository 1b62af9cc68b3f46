"""Weights that a format cannot hold: refused by name, clipped where that is allowed, and said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import TINY, write_llama
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import WeightError
from qconvert.formats import FORMATS
from qconvert.formats.floats import BF16
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs


class Quiet(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


NAME = "model.layers.1.mlp.up_proj.weight"
GGUF_NAME = "blk.1.ffn_up.weight"
TYPES = [
    *("f16", "bf16", "q8_0", "q6_k", "q5_k_s", "q5_1", "q5_0", "q4_k_s", "q4_1", "q4_0"),
    *("iq4_nl", "iq4_xs", "q3_k_s", "q2_k", "tq1_0", "tq2_0"),
]


def altered(folder: Path, change, dtype: str = "bfloat16") -> Path:
    """A small Llama with one matrix changed, its weights float32 under a config of `dtype`."""
    model = write_llama(folder, TINY)
    (shard,) = model.glob("*.safetensors")
    tensors = {name: tensor.float() for name, tensor in load_file(shard).items()}
    tensors[NAME] = change(tensors[NAME].clone())
    save_file(tensors, shard, {"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"torch_dtype": dtype}))
    return model


def scaled(size: float):
    return lambda weight: (
        torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * size
    )


def one_at(size: float):
    def change(weight: torch.Tensor) -> torch.Tensor:
        weight[3, 7] = size
        return weight

    return change


@pytest.fixture(scope="module", params=[1e6, 1e15, 1e30])
def huge(request, tmp_path_factory) -> Path:
    return altered(tmp_path_factory.mktemp("huge"), scaled(request.param))


def write(model: Path, out: Path, kind: str, **options) -> tuple[Plan, list[str]]:
    """What was planned, and what was said."""
    plan = make_plan(open_model(open_checkpoint(str(model))), Recipe(kind, output=out, **options))
    watcher = Quiet()
    write_outputs([plan], 2, watcher)
    return plan, watcher.notes


def refusal(model: Path, out: Path, kind: str, **options) -> str:
    """Why it was not written; empty where it was."""
    try:
        write(model, out, kind, **options)
    except WeightError as error:
        return error.message
    return ""


def read(path: Path) -> np.ndarray:
    tensor = next(t for t in GGUFReader(path).tensors if t.name == GGUF_NAME)
    return dequantize(tensor.data, tensor.tensor_type)


def is_kept(made: np.ndarray, weights: np.ndarray) -> bool:
    """Whether no row has lost itself; the coarsest of these types are off by .6 of the norm."""
    off = np.linalg.norm(made.astype(np.float64) - weights, axis=1)
    return bool((off < 0.9 * np.linalg.norm(weights.astype(np.float64), axis=1)).all())


@pytest.mark.parametrize("kind", TYPES)
def test_what_a_type_cannot_hold_is_refused_by_name_or_reads_back(huge, tmp_path, kind):
    weights = load_file(next(huge.glob("*.safetensors")))[NAME].numpy()
    out = tmp_path / "x.gguf"
    refused = refusal(huge, out, kind, pure=True)
    if not refused:
        assert is_kept(read(out), weights)
        return
    assert refused.startswith(f"{GGUF_NAME} holds a weight of ")
    assert not out.exists()
    _, notes = write(huge, out, kind, pure=True, allow_nan=True)
    made = read(out)
    assert np.isfinite(made).all()
    assert is_kept(made, np.clip(weights, made.min() - 1, made.max() + 1))
    assert any(note.startswith(GGUF_NAME) and note.endswith("clipped") for note in notes)


@pytest.mark.parametrize("kind", ["tq1_0", "tq2_0"])
def test_one_weight_does_not_spoil_its_block(tmp_path, kind):
    model = altered(tmp_path / "model", one_at(7e4))
    with pytest.raises(WeightError, match=f"{GGUF_NAME} holds a weight of 70000, beyond"):
        write(model, tmp_path / "x.gguf", kind, pure=True)
    _, notes = write(model, tmp_path / "x.gguf", kind, pure=True, allow_nan=True)
    assert any(note.startswith(f"{GGUF_NAME}: 1 weights were beyond") for note in notes)
    assert np.isfinite(read(tmp_path / "x.gguf")).all()


def test_bf16_ends_below_float32(tmp_path):
    model = altered(tmp_path / "model", one_at(3.4e38))
    with pytest.raises(WeightError, match=r"3\.4e\+38, beyond BF16"):
        write(model, tmp_path / "x.gguf", "bf16")
    write(model, tmp_path / "x.gguf", "bf16", allow_nan=True)
    raw = next(t.data for t in GGUFReader(tmp_path / "x.gguf").tensors if t.name == GGUF_NAME)
    made = BF16.dequantize((raw,))
    assert made[3, 7] == torch.finfo(torch.bfloat16).max
    write(model, tmp_path / "y.gguf", "f32")
    assert read(tmp_path / "y.gguf")[3, 7] == np.float32(3.4e38)


@pytest.mark.parametrize("scheme", ["w8a8", "fp8", "w4a16", "nvfp4a16", "mxfp4a16"])
@pytest.mark.parametrize(("size", "dtype"), [(1e15, "float16"), (1e30, "bfloat16")])
def test_schemes_hold_what_they_are_given_or_refuse_it(tmp_path, scheme, size, dtype):
    model = altered(tmp_path / "model", scaled(size), dtype)
    out = tmp_path / "x"
    refused = refusal(model, out, scheme)
    if refused:
        assert refused.startswith(f"{NAME} holds a weight of ")
        assert not out.exists()
        return
    plan, _ = write(model, tmp_path / "y", scheme)
    tensor = next(t for t in plan.tensors if t.name == NAME)
    stored = load_file(next((tmp_path / "x").glob("*.safetensors")))
    pieces = []
    for slot in tensor.slots:
        piece = stored[slot.name]
        bits = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8}.get(piece.dtype)
        array = (piece if bits is None else piece.view(bits)).numpy()
        pieces.append(array.view(np.uint16) if array.dtype == np.int16 else array)
    assert is_kept(
        tensor.coding.format.dequantize(tuple(pieces)),
        load_file(next(model.glob("*.safetensors")))[NAME].numpy(),
    )


def test_weights_that_become_zeros_are_said(tmp_path):
    model = altered(tmp_path / "model", scaled(1e-12))
    plan, notes = write(model, tmp_path / "x.gguf", "q4_k_s")
    (tensor,) = (t for t in plan.tensors if t.name == GGUF_NAME)
    assert not read(tmp_path / "x.gguf").any()
    count = tensor.map.elements
    assert f"{GGUF_NAME}: {count} weights are too small for Q4_K: they are zeros now" in notes


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("F32", "F16", "BF16")])
def test_weights_that_every_format_is_trusted_with_come_back(name):
    """Between the bounds within which nothing is checked."""
    rng = np.random.default_rng(1)
    format_ = FORMATS[name]
    for size in (2.0**-10, 2.0**15):
        x = rng.uniform(-size, size, (4, 512)).astype(np.float32)
        params = format_.fit(x, None)
        made = format_.dequantize(format_.pack(format_.round(x, params), params))
        assert is_kept(made, x)
