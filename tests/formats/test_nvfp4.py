"""NVFP4 of GGUF files: ggml reads the blocks as they are meant, and llama.cpp multiplies with the
float32 beside them."""

import ctypes
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from common import llama_logits, random_tokens, save_model, torch_logits
from gguf.quants import dequantize

from qconvert.checkpoint import open_checkpoint
from qconvert.checkpoint.rows import read_rows
from qconvert.formats.ggml.nvfp4 import NVFP4
from qconvert.formats.quantize import quantize
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan
from qconvert.run.outputs import write_outputs

BARE = ("gemma3",)
"""Families whose feed-forward layers llama.cpp runs without scales."""

TYPE = gguf.GGMLQuantizationType.NVFP4


def weights(rows: int = 40, columns: int = 256, size: float = 0.02) -> np.ndarray:
    x = np.random.default_rng(11).standard_t(5, (rows, columns)).astype(np.float32)
    return x * np.float32(size)


def made(x: np.ndarray) -> tuple[np.ndarray, ...]:
    return quantize(NVFP4, x, None, float(np.abs(x).max()))


def test_gguf_reads_the_blocks_as_they_are_meant() -> None:
    blocks, scale = made(weights())
    np.testing.assert_array_equal(NVFP4.dequantize((blocks,)), dequantize(blocks, TYPE))
    np.testing.assert_array_equal(
        NVFP4.dequantize((blocks, scale)), dequantize(blocks, TYPE) * scale[0]
    )


class Traits(ctypes.Structure):
    """`ggml_type_traits`, as far as the function that makes float32."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("size", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("nbytes", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    )


@pytest.fixture(scope="module")
def ggml() -> ctypes.CDLL:
    llama_cpp = pytest.importorskip("llama_cpp")
    return ctypes.CDLL(str(next(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.*"))))


def test_ggml_reads_every_scale_and_code(ggml: ctypes.CDLL) -> None:
    """All that fits a byte, but for what ends e4m3 (NaN)."""
    ggml.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    traits = ggml.ggml_get_type_traits(int(TYPE)).contents
    assert (traits.name, traits.size, traits.nbytes) == (b"nvfp4", 64, 36)
    codes = np.random.default_rng(2).integers(0, 256, (127, 32), np.uint8)
    scales = np.repeat(np.arange(127, dtype=np.uint8)[:, None], 4, axis=1)
    blocks = np.ascontiguousarray(np.concatenate([scales, codes], axis=1))
    out = np.empty(127 * 64, np.float32)
    traits.to_float(blocks.ctypes.data, out.ctypes.data, out.size)
    np.testing.assert_array_equal(NVFP4.dequantize((blocks,)).reshape(-1), out)


def test_the_float32_saves_what_small_weights_lose(ggml: ctypes.CDLL) -> None:
    """The scales of e4m3 end at 2**-9: blocks alone, as llama-quantize makes them, are coarse."""
    x = weights()
    alone = np.empty((len(x), x.shape[1] // 64 * 36), np.uint8)
    quantize_chunk = ggml.ggml_quantize_chunk
    quantize_chunk.restype = ctypes.c_size_t
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (x, alone)]
    sizes = [ctypes.c_int64(size) for size in (0, *x.shape)]
    assert quantize_chunk(int(TYPE), *pointers, *sizes, None) == alone.nbytes
    theirs, ours = dequantize(alone, TYPE), NVFP4.dequantize(made(x))
    print(np.square(ours - x).sum() / np.square(theirs - x).sum())
    assert np.square(ours - x).sum() < 0.8 * np.square(theirs - x).sum()


def write(source: Path, out: Path, **options: Any) -> Plan:
    plan = make_plan(open_model(open_checkpoint(str(source))), Recipe("nvfp4", out, **options))
    write_outputs([plan], 1, Silent())
    return plan


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("llama", {"mlp_bias": True}),
        ("qwen3", {}),
        ("mixtral", {"num_local_experts": 4}),
        ("qwen3_moe", {"num_experts": 4}),
        ("gemma3", {}),
    ],
)
def test_llama_cpp_runs_what_transformers_computes_of_the_weights_read_back(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """With the float32 in each linear layer, or Q8_0 where llama.cpp would leave it out."""
    pytest.importorskip("llama_cpp")
    model = save_model(family, tmp_path / "model", wide=True, num_hidden_layers=2, **changes)
    plan = write(tmp_path / "model", tmp_path / "out.gguf")
    back = make_plan(
        open_model(open_checkpoint(str(tmp_path / "out.gguf"))),
        Recipe("f32", tmp_path / "back.gguf"),
    )
    write_outputs([back], 1, Silent())
    tokens = random_tokens()
    expected = llama_logits(tmp_path / "back.gguf", tokens)
    actual = llama_logits(tmp_path / "out.gguf", tokens)
    original = torch_logits(model, tokens)
    # llama.cpp rounds the inputs of these formats to eight bits.
    assert np.corrcoef(expected.ravel(), actual.ravel())[0, 1] > 0.999
    assert np.corrcoef(original.ravel(), actual.ravel())[0, 1] > 0.9
    written = {tensor.name.split(".")[2] for tensor in plan.tensors if tensor.format == "NVFP4"}
    attention = {"attn_q", "attn_k", "attn_v", "attn_output"}
    if family in BARE:
        assert not written
    else:
        assert attention <= written
    assert any("ffn" in name for name in written) == (
        family != "gemma3" and not changes.get("mlp_bias")
    )


def test_a_file_is_read_with_its_scales(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=1)
    write(tmp_path / "model", tmp_path / "out.gguf")
    tensors = open_checkpoint(str(tmp_path / "out.gguf")).tensors
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    assert not any(name.endswith(".scale") for name in tensors)
    name = "blk.0.ffn_down.weight"
    blocks, scale = stored[name].data, stored["blk.0.ffn_down.scale"].data
    expected = dequantize(blocks, TYPE) * scale[0]
    np.testing.assert_array_equal(read_rows(tensors[name], 0, tensors[name].rows), expected)
    assert scale.shape == (1,)
    assert 0 < scale[0] < 1
