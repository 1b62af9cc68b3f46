"""Inputs of products, against llama.cpp's own."""

from pathlib import Path
from pydoc_data.topics import topics

import gguf
import numpy as np
import pytest
import torch
from common import convert_model, llama_logits, random_tokens, save_model
from packages import write_smollm2

from qconvert.checkpoint import open_checkpoint
from qconvert.evaluation.divergence.evaluate import Choices, evaluate
from qconvert.evaluation.runtimes import torch_blocks as torch_runtime
from qconvert.evaluation.runtimes.llama_inputs import llama_inputs
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.formats.ggml.inputs import input_type, round_input
from qconvert.text.perplexity_windows import make_windows

TOKENS = np.array(random_tokens(40), np.int32)


def values(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize(
    ("weights", "inputs"),
    [
        ("F32", ""),
        ("F16", "F16"),
        ("BF16", "BF16"),
        ("Q4_0", "Q8_0"),
        ("IQ4_NL", "Q8_0"),
        ("MXFP4", "Q8_0"),
        ("NVFP4", "Q8_0"),
        ("Q4_K", "Q8_K"),
        ("IQ2_XXS", "Q8_K"),
        ("TQ1_0", "Q8_K"),
    ],
)
def test_each_type_has_its_own_inputs(weights, inputs):
    assert input_type(weights) == inputs


def test_short_blocks_are_those_of_gguf():
    x = values(7, 3, 64)
    x[2] *= 1000
    x[3] /= 1000
    expected = gguf.quants.dequantize(
        gguf.quants.quantize(x.numpy(), gguf.GGMLQuantizationType.Q8_0),
        gguf.GGMLQuantizationType.Q8_0,
    )
    assert np.array_equal(round_input(x, "Q8_0").numpy(), expected)


def test_long_blocks_have_255_steps():
    x = values(2, 512)
    rounded = round_input(x, "Q8_K").view(4, 256)
    scale = x.view(4, 256).abs().amax(1, keepdim=True) / 127
    codes = rounded / scale
    assert (codes - codes.round()).abs().max() < 1e-4
    assert torch.equal(codes.round().abs().amax(1), torch.full((4,), 127.0))
    assert ((rounded - x.view(4, 256)).abs() <= scale * 0.5001).all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q8_K"])
def test_extremes(kind):
    zeros = torch.zeros(3, 256)
    assert torch.equal(round_input(zeros, kind), zeros)
    half = values(3, 256).half()
    assert round_input(half, kind).dtype == torch.float16
    bad = values(2, 256)
    bad[1, 5] = torch.inf
    assert round_input(bad, kind)[0].isfinite().all()
    assert round_input(bad, kind)[1].isnan().any()


def test_one_input_of_several_weights_is_rounded_once(tmp_path):
    save_model("llama", tmp_path / "model", wide=True)
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "q4_k_m")
    inputs = llama_inputs(open_checkpoint(str(tmp_path / "model.gguf")))
    x = values(4, 256)
    query = inputs(("blk.0.attn_q.weight",), x)
    assert inputs(("blk.0.attn_v.weight",), x) is query
    assert inputs(("blk.0.ffn_up.weight",), x.clone()) is not query
    assert llama_inputs(open_checkpoint(str(tmp_path / "model"))) is None


@pytest.mark.parametrize(
    ("family", "file_type"),
    [
        *[("llama", t) for t in ("q8_0", "q4_0", "q5_0", "q2_k", "q4_k_m", "iq4_xs", "bf16")],
        ("qwen3", "tq2_0"),
        ("phi3", "q6_k"),
        ("mixtral", "q4_k_m"),
        ("mixtral", "mxfp4_moe"),
    ],
)
def test_logits_are_llama_cpps(family, file_type, tmp_path: Path, monkeypatch):
    """But where a value lies so close to the middle of two codes that the order of a sum decides.
    One block, or such accidents would reach every token."""
    save_model(family, tmp_path / "model", wide=True, num_hidden_layers=1)
    convert_model(tmp_path / "model", tmp_path / "model.gguf", file_type)
    expected = llama_logits(tmp_path / "model.gguf", TOKENS.tolist())[20:-1]
    assert np.median(distances(tmp_path / "model.gguf", expected)) < 1e-6
    monkeypatch.setattr(torch_runtime, "llama_inputs", lambda checkpoint: None)
    assert np.median(distances(tmp_path / "model.gguf", expected)) > 1e-3


def distances(path: Path, expected: np.ndarray) -> np.ndarray:
    """Of each token's logits, relative to their length."""
    runtime = TorchRuntime(open_checkpoint(str(path)), Settings(device="cpu"))
    (own,) = list(runtime.logits(make_windows(TOKENS[None], "random")))
    return np.linalg.norm(own - expected, axis=1) / np.linalg.norm(expected, axis=1)


@pytest.mark.slow
def test_scores_of_smollm2_are_llama_cpps(tmp_path, monkeypatch):
    """Within 1 %, but for chance: llama.cpp itself differs by 2 % over so few tokens when its flash
    attention is switched off."""
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "cache"))
    write_smollm2(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(topics.values()), encoding="utf-8")
    files = [tmp_path / f"{kind}.gguf" for kind in ("q4_k_m", "q2_k")]
    for file in files:
        convert_model(tmp_path / "model", file, file.stem)
    found = [
        evaluate(
            str(tmp_path / "model"),
            str(tmp_path / "text.txt"),
            files,
            Choices(tokens=4096, backend=backend),
        ).files
        for backend in ("torch", "llama.cpp")
    ]
    for one, other in zip(*found, strict=True):
        assert one.perplexity == pytest.approx(other.perplexity, rel=0.01)
        apart = (one.tokens.divergence - other.tokens.divergence).mean(axis=1)
        chance = 2 * apart.std(ddof=1) / np.sqrt(len(apart))
        assert abs(apart.mean()) < 0.01 * other.divergence.mean + chance
        assert chance < 0.03 * other.divergence.mean
