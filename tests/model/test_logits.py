"""A converted model is right when llama.cpp computes from it what transformers computes.

float32 files are compared within 1e-3 of the logits' range: llama.cpp looks GELU up in a table of
16-bit floats, which costs the families that use it up to 2e-4; the others agree to 1e-6. Files of
8-bit blocks are compared by correlation.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import (
    FAMILIES,
    LLAMA3,
    convert_model,
    correlation,
    llama_embeddings,
    llama_logits,
    random_tokens,
    save_model,
    torch_hidden,
    torch_logits,
    worst_difference,
)
from packages import minilm_archive
from safetensors.numpy import load_file, save_file

pytest.importorskip("llama_cpp")

DECODERS = [name for name in FAMILIES if name != "bert"]

YARN = {
    "rope_type": "yarn",
    "rope_theta": 20000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + 0.05 * i for i in range(15)],
    "long_factor": [1.5 + 0.4 * i for i in range(15)],
}
TEXT = """A converted model is right when it says what the original says. Sentences that mean the
same lie close together; others, about cooking or the tides of 1954, lie far away."""
LINEAR = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}

ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama without stretching": ("llama", {"rope_type": "default", "rope_theta": 12345.0}),
    "llama, linear": ("llama", LINEAR),
    "llama, yarn": ("llama", YARN),
    "mistral, llama3": ("mistral", LLAMA3),
    "granite, llama3": ("granite", LLAMA3),
    "qwen2, yarn": ("qwen2", YARN),
    "qwen3, yarn with its own magnitude": ("qwen3", YARN | {"attention_factor": 1.3}),
    "qwen3, yarn with mscale": ("qwen3", YARN | {"mscale": 0.7, "mscale_all_dim": 1.4}),
    "smollm3, yarn": ("smollm3", YARN),
    "olmo2, linear": ("olmo2", LINEAR),
    "qwen3_moe, yarn": ("qwen3_moe", YARN),
}


def assert_same_logits(model: Any, path: Path) -> None:
    tokens = random_tokens()
    assert worst_difference(torch_logits(model, tokens), llama_logits(path, tokens)) <= 1e-3


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", DECODERS)
def test_the_logits_are_those_of_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    model = save_model(family, tmp_path / "model", tied=tied)
    tokens = random_tokens()
    expected = torch_logits(model, tokens)

    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    convert_model(tmp_path / "model", tmp_path / "q8_0.gguf", "q8_0")

    written = any(tensor.name == "output.weight" for tensor in plan.tensors)
    assert written == (not tied or family == "olmo2")
    assert worst_difference(expected, llama_logits(tmp_path / "f32.gguf", tokens)) <= 1e-3
    assert correlation(expected, llama_logits(tmp_path / "q8_0.gguf", tokens)) > 0.999


@pytest.mark.parametrize("name", ROPES)
def test_stretched_rotary_embeddings_turn_alike(name: str, tmp_path: Path) -> None:
    family, rope = ROPES[name]
    model = save_model(family, tmp_path / "model", rope_parameters=rope)
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert_same_logits(model, tmp_path / "f32.gguf")


@pytest.mark.parametrize(("original", "longest"), [(32, 512), (512, 2048)], ids=["long", "short"])
def test_long_rope_takes_the_table_for_the_length(
    original: int, longest: int, tmp_path: Path
) -> None:
    model = save_model(
        "phi3",
        tmp_path / "model",
        rope_parameters=LONG_ROPE | {"original_max_position_embeddings": original},
        original_max_position_embeddings=original,
        max_position_embeddings=longest,
    )
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert_same_logits(model, tmp_path / "f32.gguf")


def test_settings_of_older_configurations_are_understood(tmp_path: Path) -> None:
    model = save_model("llama", tmp_path / "model")

    def rewrite(config: dict[str, Any]) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope

    change_config(tmp_path / "model", rewrite)
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert_same_logits(model, tmp_path / "f32.gguf")


def test_gemma3_settings_of_older_configurations_are_understood(tmp_path: Path) -> None:
    model = save_model("gemma3", tmp_path / "model")

    def rewrite(config: dict[str, Any]) -> None:
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["full_attention"].pop("rope_theta")
        config["rope_scaling"] = rope["full_attention"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]

    change_config(tmp_path / "model", rewrite)
    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert_same_logits(model, tmp_path / "f32.gguf")


def test_windows_fall_on_the_layers_that_gemma3_gives_them_by_default(tmp_path: Path) -> None:
    model = save_model("gemma3", tmp_path / "model", layer_types=None, num_hidden_layers=7)
    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert "gemma3.attention.sliding_window_pattern" not in plan.target.metadata
    assert_same_logits(model, tmp_path / "f32.gguf")


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_fused_experts_are_taken_apart(family: str, tmp_path: Path) -> None:
    model = save_model(family, tmp_path / "model")
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in state)
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})

    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert_same_logits(model, tmp_path / "f32.gguf")


@pytest.mark.parametrize("wrapper", ["language_model.", "new"])
def test_the_language_model_of_a_multimodal_gemma3_is_taken(wrapper: str, tmp_path: Path) -> None:
    model = save_model("gemma3", tmp_path / "model", tied=True)
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    renamed = {
        f"language_model.{name}"
        if wrapper != "new"
        else name.replace("model.", "model.language_model.", 1): value
        for name, value in tensors.items()
    }
    tower = {"vision_tower.encoder.weight": np.ones((3, 5), np.float32)}
    save_file({**renamed, **tower}, weights, metadata={"format": "pt"})

    def rewrite(config: dict[str, Any]) -> None:
        inner = dict(config)
        config.clear()
        inner.pop("architectures")
        config["architectures"] = ["Gemma3ForConditionalGeneration"]
        config["model_type"] = "gemma3"
        config["text_config"] = inner

    change_config(tmp_path / "model", rewrite)
    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert any("vision_tower.encoder.weight" in notice for notice in plan.notices)
    assert_same_logits(model, tmp_path / "f32.gguf")


def test_a_base_model_gets_the_embedding_for_an_output(tmp_path: Path) -> None:
    whole = save_model("llama", tmp_path / "whole", tied=True)
    whole.model.save_pretrained(tmp_path / "base")
    plan = convert_model(tmp_path / "base", tmp_path / "f32.gguf", "f32")
    assert plan.checkpoint.config["architectures"] == ["LlamaModel"]
    assert "embed_tokens.weight" in plan.checkpoint.tensors
    assert_same_logits(whole, tmp_path / "f32.gguf")


def test_the_hidden_states_of_bert_are_those_of_transformers(tmp_path: Path) -> None:
    model = save_model("bert", tmp_path / "model")
    tokens = random_tokens()
    expected = torch_hidden(model, tokens)

    convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    convert_model(tmp_path / "model", tmp_path / "q8_0.gguf", "q8_0")

    assert worst_difference(expected, llama_embeddings(tmp_path / "f32.gguf", tokens)) <= 1e-3
    assert correlation(expected, llama_embeddings(tmp_path / "q8_0.gguf", tokens)) > 0.999


def test_minilm_gives_the_embeddings_of_transformers(tmp_path: Path) -> None:
    import transformers

    directory = tmp_path / "minilm"
    minilm_archive().extractall(directory)
    model = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").float()
    tokens = transformers.AutoTokenizer.from_pretrained(directory)(TEXT)["input_ids"]
    convert_model(directory, tmp_path / "f32.gguf", "f32")
    convert_model(directory, tmp_path / "q8_0.gguf", "q8_0")
    actual = llama_embeddings(tmp_path / "f32.gguf", tokens)
    pooled = llama_embeddings(tmp_path / "f32.gguf", tokens, pooled=True)

    own = torch_hidden(model, tokens)
    assert cosine(own.mean(axis=0), pooled[0]) > 0.9999
    assert correlation(own, llama_embeddings(tmp_path / "q8_0.gguf", tokens)) > 0.999

    # The model was trained with the exact GELU and llama.cpp has the approximation by tanh: with
    # the same one in transformers nothing but rounding is left.
    for layer in model.encoder.layer:
        layer.intermediate.intermediate_act_fn = transformers.activations.ACT2FN["gelu_new"]
    same = torch_hidden(model, tokens)
    assert worst_difference(same, actual) <= 1e-3
    assert worst_difference(same.mean(axis=0, keepdims=True), pooled) <= 1e-3


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def change_config(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
