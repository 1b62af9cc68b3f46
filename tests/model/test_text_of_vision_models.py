"""Of models that see, the language model is taken: llama.cpp computes from texts what the whole
class does, and so does the walk."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from common import (
    VOCABULARY,
    Family,
    convert_model,
    correlation,
    llama_logits,
    random_tokens,
    sizes,
    spread_weights,
    torch_logits,
    worst_difference,
)
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from qconvert.checkpoint import open_checkpoint
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model

NONE = {"rms_norm_eps": 1e-6}
"""llama.cpp reads no epsilon for Qwen2-VL and adds nothing: a published one cannot be seen."""

ROPE = {"rope_type": "default", "rope_theta": 20000.0}
TEXT = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48}

MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Qwen2_5_VL": (
        sizes(192, 6, 2, None, 416, 3, rope_parameters=ROPE | {"mrope_section": [4, 6, 6]}) | NONE,
        VISION | {"out_hidden_size": 192, "fullatt_block_indexes": [1]},
    ),
    "Qwen2VL": (
        sizes(192, 6, 2, None, 416, 3, rope_parameters=ROPE | {"mrope_section": [4, 6, 6]}) | NONE,
        {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 192},
    ),
    "Qwen3VL": (
        sizes(192, 6, 2, 40, 416, 3, rope_parameters=ROPE | {"mrope_section": [8, 6, 6]}),
        VISION | {"out_hidden_size": 192, "deepstack_visual_indexes": [0, 1]},
    ),
    "Qwen3VLMoe": (
        sizes(192, 6, 2, 40, 416, 3, rope_parameters=ROPE | {"mrope_section": [8, 6, 6]})
        | {"moe_intermediate_size": 128, "num_experts": 5, "num_experts_per_tok": 4},
        VISION | {"out_hidden_size": 192, "deepstack_visual_indexes": [0, 1]},
    ),
}


PIXTRAL = {"model_type": "pixtral", "hidden_size": 24, "intermediate_size": 40}
TOWER = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
INSIDE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "SmolVLM": (
        sizes(192, 6, 2, 32, 416, 2) | {"model_type": "llama"},
        TOWER | {"hidden_size": 32, "intermediate_size": 48},
        {"scale_factor": 2, "image_token_id": 5},
    ),
    "Idefics3": (
        sizes(192, 6, 2, 32, 416, 2) | {"model_type": "llama"},
        TOWER | {"hidden_size": 32, "intermediate_size": 48},
        {"scale_factor": 2, "image_token_id": 5},
    ),
    "InternVL": (
        sizes(192, 6, 2, 40, 416, 2) | {"model_type": "qwen3"},
        TOWER
        | {"hidden_size": 32, "intermediate_size": 48}
        | {"image_size": [28, 28], "patch_size": [14, 14]},
        {"image_token_id": 5},
    ),
    "Llava": (
        sizes(192, 6, 2, 24, 416, 2, sliding_window=None) | {"model_type": "mistral"},
        TOWER | PIXTRAL,
        {"image_token_index": 5},
    ),
    "Gemma4Unified": (
        {
            **sizes(192, 6, 2, 24, 224, 2, sliding_window=16),
            "global_head_dim": 48,
            "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 20.0,
        },
        {"mm_embed_dim": 32, "output_proj_dims": 32, "mm_posemb_size": 16},
        {"audio_config": None},
    ),
}
"""The settings of the language model, of what sees, and of both together."""


@pytest.mark.parametrize("name", INSIDE)
def test_the_language_model_inside_is_taken(name: str, tmp_path: Path) -> None:
    text, vision, both = INSIDE[name]
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    settings = {"text_config": text | TEXT, "vision_config": vision, **both}
    config = cls.config_class(**settings, tie_word_embeddings=False)
    config.text_config.tie_word_embeddings = False
    model = cls(config).float().eval()
    spread_weights(model, Family(name, "", {}))
    model.save_pretrained(tmp_path / "model")
    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    assert any("left out" in notice for notice in plan.notices)
    assert not open_model(open_checkpoint(str(tmp_path / "model"))).unknown
    tokens = random_tokens()
    expected = torch_logits(model, tokens)
    assert worst_difference(expected, llama_logits(tmp_path / "f32.gguf", tokens)) <= 1e-3


def store_inward(path: Path) -> None:
    """Experts as published ones lie, [experts, in, out]; transformers writes them turned."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if ".experts." in name:
            tensors[name] = tensor.transpose(1, 2).contiguous()
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("name", MODELS)
def test_texts_are_computed_alike(name: str, tmp_path: Path) -> None:
    text, vision = MODELS[name]
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    config = cls.config_class(
        text_config=text | TEXT, vision_config=vision, tie_word_embeddings=False
    )
    model = cls(config).float().eval()
    spread_weights(model, Family(name, "", {}))
    model.save_pretrained(tmp_path / "model")
    if name == "Qwen3VLMoe":
        convert_model(tmp_path / "model", tmp_path / "written.gguf", "f32")
        store_inward(tmp_path / "model" / "model.safetensors")
    plan = convert_model(tmp_path / "model", tmp_path / "f32.gguf", "f32")
    convert_model(tmp_path / "model", tmp_path / "q8_0.gguf", "q8_0")
    assert any("visual" in notice for notice in plan.notices)
    if name == "Qwen3VLMoe":
        one, other = (GGUFReader(tmp_path / file) for file in ("written.gguf", "f32.gguf"))
        for made, again in zip(one.tensors, other.tensors, strict=True):
            assert np.array_equal(made.data, again.data), made.name
    tokens = random_tokens()
    expected = torch_logits(model, tokens)
    assert worst_difference(expected, llama_logits(tmp_path / "f32.gguf", tokens)) <= 1e-3
    assert correlation(expected, llama_logits(tmp_path / "q8_0.gguf", tokens)) > 0.999

    place = Place(tmp_path / "work", device="cpu", dtype="f32")
    place.folder.mkdir()
    opened = open_model(open_checkpoint(str(tmp_path / "model")))
    walk = Walk(opened, np.array([tokens], np.int32), place)
    for block in walk:
        experts = any("exps" in name for name in block.linears)
        assert len(block.linears) == 7 + experts  # their router too
        block.run()
    (hidden,) = walk.last_hidden()
    with torch.no_grad():
        found = model.lm_head(hidden[0]).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
