"""Tiny models that read images, of every class whose vision part is converted."""

import atexit
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np

MEAN, STD = [0.5, 0.45, 0.4], [0.25, 0.3, 0.5]
BREAK = 7
"""The number of Mistral's [IMG_BREAK]."""

_TEXT = {
    "vocab_size": 96,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
_QWEN = {"depth": 3, "hidden_size": 96, "num_heads": 3, "intermediate_size": 160, "patch_size": 8}
_SIGLIP = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 8,
}


@dataclass(frozen=True)
class Seeing:
    """A class of transformers' with its tiny model.

    Attributes:
        image: height and width of an image that it takes as it is.
        scaled: colours are scaled before the model sees them.
    """

    text: dict[str, Any]
    vision: dict[str, Any]
    image: tuple[int, int] = (64, 64)
    outer: dict[str, Any] = field(default_factory=dict)
    scaled: bool = True


MODELS: dict[str, Seeing] = {
    "Qwen3VL": Seeing(
        {"rope_parameters": _ROPE},
        _QWEN
        | {"out_hidden_size": 64, "num_position_embeddings": 36}
        | {"deepstack_visual_indexes": [0, 2]},
        (64, 96),
    ),
    "Qwen3_5": Seeing(
        {"rope_parameters": _ROPE | {"mrope_section": [1, 1, 0], "partial_rotary_factor": 0.25}}
        | {"layer_types": ["full_attention"]},
        _QWEN | {"out_hidden_size": 64, "num_position_embeddings": 36},
        (96, 64),
    ),
    "Qwen2_5_VL": Seeing(
        {"rope_parameters": _ROPE},
        _QWEN | {"depth": 4, "out_hidden_size": 64, "fullatt_block_indexes": [1, 3]},
        (144, 160),
    ),
    "Qwen2VL": Seeing(
        {"rope_parameters": _ROPE},
        {"depth": 3, "embed_dim": 96, "num_heads": 3, "hidden_size": 64, "patch_size": 8}
        | {"mlp_ratio": 2},
        (64, 96),
    ),
    "Gemma3": Seeing(
        {"layer_types": ["full_attention"]},
        _SIGLIP | {"model_type": "siglip_vision_model", "layer_norm_eps": 1e-3},
        outer={"mm_tokens_per_image": 16},
    ),
    "Gemma4": Seeing(
        {"layer_types": ["full_attention"], "global_head_dim": 16}
        | {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
        {key: value for key, value in _SIGLIP.items() if key != "image_size"}
        | {"num_key_value_heads": 3, "head_dim": 32, "position_embedding_size": 40}
        | {"pooling_kernel_size": 2, "use_clipped_linears": True, "standardize": True},
        (128, 160),
        scaled=False,
    ),
    "Mistral3": Seeing(
        {"model_type": "mistral", "rms_norm_eps": 1e-5},
        _SIGLIP | {"model_type": "pixtral", "head_dim": 32, "num_hidden_layers": 3},
        (64, 96),
        {"spatial_merge_size": 2},
    ),
    "Idefics3": Seeing({"model_type": "llama"}, _SIGLIP, outer={"scale_factor": 2}),
    "SmolVLM": Seeing({"model_type": "llama"}, _SIGLIP, outer={"scale_factor": 4}),
}


def save_seeing(name: str, directory: Path) -> Any:
    """Write a tiny model as the hub has it; returns the model."""
    import torch
    import transformers

    entry = MODELS[name]
    cls = getattr(transformers, f"{name}ForConditionalGeneration")
    config = cls.config_class(
        text_config=_TEXT | entry.text,
        vision_config=entry.vision,
        tie_word_embeddings=False,
        **entry.outer,
    )
    config._attn_implementation = "eager"
    model = cls(config).float().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in [*model.named_parameters(), *model.named_buffers()]:
            random = torch.randn(weight.shape, generator=draw)
            if key.endswith(("_min", "_max")):  # of what is clipped, a hundredth
                weight.copy_((-3.0 if key.endswith("_min") else 3.0) + 0.1 * random)
            elif key.endswith(("inv_freq", "position_ids")):
                continue
            elif weight.dim() > 1:
                weight.copy_(0.06 * random)
            elif key.endswith(("q_norm.weight", "k_norm.weight")):  # scores that are not far apart
                weight.copy_(0.4 + 0.1 * random)
            elif key.endswith(("bias", "std_bias", "soft_emb_norm.weight")):
                weight.copy_(0.1 * random)
            else:
                weight.copy_(1.0 + 0.2 * random)
    model.save_pretrained(directory)
    prepared = {"image_mean": MEAN, "image_std": STD, "size": {"longest_edge": entry.image[0]}}
    if not entry.scaled:
        prepared = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    (directory / "preprocessor_config.json").write_text(json.dumps(prepared))
    tokens = {"added_tokens": [{"id": BREAK, "content": "[IMG_BREAK]", "special": True}]}
    (directory / "tokenizer.json").write_text(json.dumps(tokens))
    return model


@cache
def seeing(name: str) -> tuple[Path, Any]:
    """A tiny model in a directory, and as transformers has it; made once, to be read alone."""
    folder = Path(mkdtemp())
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder, save_seeing(name, folder)


def random_image(name: str) -> np.ndarray:
    """uint8 [height, width, 3]."""
    height, width = MODELS[name].image
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def torch_sees(name: str, model: Any, image: np.ndarray) -> np.ndarray:
    """What transformers makes of an image of the size that the model takes.

    Returns:
        float32 [tokens, width]; with Mistral's breaks between rows, and Qwen3-VL's further features
        beside the first ones, as llama.cpp has them.
    """
    import torch

    values = image.astype(np.float32) / 255
    if MODELS[name].scaled:
        values = (values - np.float32(MEAN)) / np.float32(STD)
    pixels = torch.from_numpy(values.transpose(2, 0, 1).copy())[None]
    with torch.no_grad():
        if name.startswith("Qwen"):
            return _qwen_sees(model, pixels)
        if name == "Gemma4":
            return _gemma4_sees(model, pixels)
        if name == "Mistral3":
            return _mistral_sees(model, pixels)
        given = pixels if name == "Gemma3" else pixels[None]
        found = model.model.get_image_features(pixel_values=given)
    return _joined(found)


def _joined(found: Any) -> np.ndarray:
    import torch

    found = getattr(found, "pooler_output", found)
    found = torch.cat(list(found)) if isinstance(found, list | tuple) else found
    return found.reshape(-1, found.shape[-1]).numpy()


def _qwen_sees(model: Any, pixels: Any) -> np.ndarray:
    """Patches of two frames, 2 x 2 of them behind each other."""
    import torch

    size = model.config.vision_config.patch_size
    rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
    frames = pixels[0].expand(2, -1, -1, -1)
    cut = frames.reshape(2, 3, rows // 2, 2, size, columns // 2, 2, size)
    flat = cut.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)
    grid = torch.tensor([[1, rows, columns]])
    found = model.model.get_image_features(pixel_values=flat, image_grid_thw=grid)
    deep = [_joined(one) for one in getattr(found, "deepstack_features", None) or ()]
    return np.concatenate([_joined(found), *deep], axis=1)


def _gemma4_sees(model: Any, pixels: Any) -> np.ndarray:
    """Patches pixel by pixel, with their places."""
    import torch

    size = model.config.vision_config.patch_size
    rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
    cut = pixels[0].reshape(3, rows, size, columns, size).permute(1, 3, 2, 4, 0)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    found = model.model.get_image_features(cut.reshape(1, rows * columns, -1), places)
    return _joined(found)


def _mistral_sees(model: Any, pixels: Any) -> np.ndarray:
    import torch

    sizes = torch.tensor([pixels.shape[2:]])
    found = _joined(model.model.get_image_features(pixel_values=pixels, image_sizes=sizes))
    merged = model.config.vision_config.patch_size * model.config.spatial_merge_size
    end = model.get_input_embeddings().weight[BREAK].detach().numpy()
    lines = found.reshape(pixels.shape[2] // merged, -1, found.shape[-1])
    parts = [part for line in lines for part in (line, end[None])]
    return np.concatenate(parts[:-1])
