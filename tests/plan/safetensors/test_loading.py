"""What transformers computes from a directory, by its default route, is what the original model
computes with the weights and inputs rounded so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from common import random_tokens, save_model
from compressed_models import (
    SCHEMES,
    choices_of,
    load_model,
    outputs,
    quantize_model,
    reference_model,
)
from packages import smollm2_gguf

from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.safetensors.notices import is_loadable
from qconvert.plan.statistics import Range, Statistics

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

EXPERTS = ("w8a16", "w4a16", "w3a16", "fp8", "fp8 tensor", "mxfp4a16")
"""Schemes whose experts transformers can fuse."""

QUICK = (
    *("w8a8", "w4a16", "w3a16", "fp8", "fp8 block", "nvfp4a16", "nvfp4a4", "mxfp4a16"),
    *("w4a8", "w4afp8", "mxfp4a4", "mixtral", "llama"),
)

"""One of each kind; the others take longer together."""


def each(*names: str) -> list[Any]:
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=name)
        for name in names
    ]


def assert_loads(
    source: Path, path: Path, name: str, vocabulary: int = 323, **options: Any
) -> None:
    type_ = name.split()[0]
    plan = quantize_model(source, path, type_, **SCHEMES.get(name, {}), **options)
    assert is_loadable(choices_of(plan))
    dtype = "bfloat16" if "fp4" in name else "float32"
    tokens = random_tokens(vocabulary=vocabulary)
    expected = outputs(reference_model(plan, path, dtype), tokens)
    computed = outputs(load_model(path, dtype), tokens)
    assert np.abs(computed - expected).max() <= 1e-5
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", each(*SCHEMES))
def test_dense_layers(name: str, tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", wide=True, num_hidden_layers=2)
    assert_loads(tmp_path / "model", tmp_path / "out", name)


@pytest.mark.parametrize("family", each("mixtral", "qwen3_moe"))
@pytest.mark.parametrize("name", each(*EXPERTS))
def test_experts(name: str, family: str, tmp_path: Path) -> None:
    experts = {"num_experts" if family == "qwen3_moe" else "num_local_experts": 4}
    save_model(family, tmp_path / "model", wide=True, num_hidden_layers=2, **experts)
    assert_loads(tmp_path / "model", tmp_path / "out", name)


@pytest.mark.parametrize("family", each("llama", "gemma3", "phi3", "granite", "olmo2", "smollm3"))
def test_other_families_whose_rows_do_not_fit(family: str, tmp_path: Path) -> None:
    save_model(family, tmp_path / "model")
    assert_loads(tmp_path / "model", tmp_path / "out", "w4a16")


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {**PLAIN_ROPE, "partial_rotary_factor": 0.5}}),
        ("qwen2", {"rope_parameters": {**PLAIN_ROPE, **YARN, "beta_fast": 16}}),
        ("qwen3", {"attention_bias": True}),
        ("gemma3", {"query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0}),
        ("olmo2", {"attention_bias": True}),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1, 0]}),
        ("qwen3_moe", {"norm_topk_prob": False}),
        ("qwen3_moe", {"decoder_sparse_step": 2}),
        ("qwen3_moe", {"mlp_only_layers": [1]}),
    ],
)
def test_what_llama_cpp_cannot_run_is_no_matter_here(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    save_model(family, tmp_path / "model", **changes)
    model = open_model(open_checkpoint(str(tmp_path / "model")))
    with pytest.raises(UnsupportedError, match=r"llama\.cpp|GGUF"):
        make_plan(model, Recipe("q8_0"))
    assert_loads(tmp_path / "model", tmp_path / "out", "w8a16 groups")


def test_a_multimodal_model_is_loaded_by_its_own_class(tmp_path: Path) -> None:
    save_gemma3_with_images(tmp_path / "model")
    for name in ("w8a8", "fp8", "w4a16"):
        assert_loads(tmp_path / "model", tmp_path / name, name, vocabulary=300)


def save_gemma3_with_images(path: Path) -> None:
    """A random Gemma 3 with a tower for images; its output is tied, as the published ones are."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        **sizes,
        "intermediate_size": 128,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "vocab_size": 323,
    }
    vision = {**sizes, "intermediate_size": 64, "image_size": 28, "patch_size": 14}
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=300,
        boi_token_index=301,
        eoi_token_index=302,
    )
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(path)


def test_a_tied_output_stays_tied(tmp_path: Path) -> None:
    save_model("llama", tmp_path / "model", tied=True)
    assert_loads(tmp_path / "model", tmp_path / "out", "w8a8")


@pytest.mark.parametrize(("type_", "asymmetric"), [("w8a8", False), ("w8a8", True), ("fp8", False)])
def test_static_inputs(type_: str, asymmetric: bool, tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", wide=True, num_hidden_layers=2)
    zero = np.array([11], np.int8) if asymmetric else None
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ranges: dict[str, Range | None] = {
        f"blk.{block}.{kind}.weight": Range(np.array([0.03], np.float32), zero)
        for block in range(2)
        for kind in kinds
    }
    ranges["blk.1.ffn_down.weight"] = None
    options = {"activations": "static", **({"asymmetric": True} if asymmetric else {})}
    plan = quantize_model(
        tmp_path / "model", tmp_path / "out", type_, Statistics(ranges=ranges), **options
    )
    assert [tensor.name for tensor in plan.fallbacks] == ["model.layers.1.mlp.down_proj.weight"]
    tokens = random_tokens()
    expected = outputs(reference_model(plan, tmp_path / "out"), tokens)
    assert np.abs(outputs(load_model(tmp_path / "out"), tokens) - expected).max() <= 1e-5


def test_several_schemes_in_one_directory(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model", wide=True, num_hidden_layers=3)
    overrides = (
        ("*.0.*", "w4a16"),
        ("*.down_proj.weight", "fp8"),
        ("*.1.mlp.down_proj.weight", "keep"),
        ("lm_head.weight", "w8a8"),
    )
    assert_loads(tmp_path / "model", tmp_path / "out", "w8a8", overrides=overrides)


@pytest.mark.parametrize("name", ["w8a8", "w4a16"])
def test_a_gguf_file(name: str, tmp_path: Path) -> None:
    from common import convert_model

    save_model("llama", tmp_path / "model", wide=True, num_hidden_layers=2)
    convert_model(tmp_path / "model", tmp_path / "model.gguf", "q8_0")
    assert_loads(tmp_path / "model.gguf", tmp_path / "out", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w4a16", "fp8 block"])
def test_smollm2(name: str, tmp_path: Path) -> None:
    assert_loads(smollm2_gguf(), tmp_path / "out", name, vocabulary=49152)
