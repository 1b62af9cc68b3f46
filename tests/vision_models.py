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
BREAK, IMAGE = 7, 298
"""The numbers of Mistral's [IMG_BREAK], and of what stands for an image in a text."""

BUFFERS = ("_min", "_max", "std_bias", "std_scale")
"""Endings of the names of buffers that a checkpoint has."""

_TEXT = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]
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
        | {"layer_types": ["full_attention"] * 3},
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
        {"layer_types": LAYERS, "query_pre_attn_scalar": 16},
        _SIGLIP | {"model_type": "siglip_vision_model", "layer_norm_eps": 1e-3},
        outer={"mm_tokens_per_image": 16},
    ),
    "Gemma4": Seeing(
        {"layer_types": LAYERS, "global_head_dim": 16, "use_bidirectional_attention": "vision"}
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
        **{"image_token_index" if name in ("Gemma3", "Mistral3") else "image_token_id": IMAGE},
        **entry.outer,
    )
    config._attn_implementation = "eager"
    model = cls(config).float().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        buffers = (one for one in model.named_buffers() if one[0].endswith(BUFFERS))
        for key, weight in [*model.named_parameters(), *buffers]:
            random = torch.randn(weight.shape, generator=draw)
            if key.endswith(("_min", "_max")):  # of what is clipped, a hundredth
                weight.copy_((-3.0 if key.endswith("_min") else 3.0) + 0.1 * random)
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


def torch_inputs(name: str, model: Any, image: np.ndarray) -> dict[str, Any]:
    """What transformers is given for an image of the size that the model takes."""
    import torch

    values = image.astype(np.float32) / 255
    if MODELS[name].scaled:
        values = (values - np.float32(MEAN)) / np.float32(STD)
    pixels = torch.from_numpy(values.transpose(2, 0, 1).copy())
    size = model.config.vision_config.patch_size
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    if name.startswith("Qwen"):  # patches of two frames, 2 x 2 of them behind each other
        cut = pixels.expand(2, -1, -1, -1)
        cut = cut.reshape(2, 3, rows // 2, 2, size, columns // 2, 2, size)
        flat = cut.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows * columns, -1)
        return {"pixel_values": flat, "image_grid_thw": torch.tensor([[1, rows, columns]])}
    if name == "Gemma4":  # patches pixel by pixel, with their places
        cut = pixels.reshape(3, rows, size, columns, size).permute(1, 3, 2, 4, 0)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
        flat = cut.reshape(1, rows * columns, -1)
        return {"pixel_values": flat, "image_position_ids": places}
    if name == "Mistral3":
        return {"pixel_values": pixels[None], "image_sizes": torch.tensor([pixels.shape[1:]])}
    return {"pixel_values": pixels[None] if name == "Gemma3" else pixels[None, None]}


def torch_sees(name: str, model: Any, image: np.ndarray) -> np.ndarray:
    """What transformers makes of an image.

    Returns:
        float32 [tokens, width]; with Mistral's breaks between rows, and Qwen3-VL's further features
        beside the first ones, as llama.cpp has them.
    """
    import torch

    with torch.no_grad():
        features = model.model.get_image_features(**torch_inputs(name, model, image))
    found = _joined(features)
    deep = getattr(features, "deepstack_features", None) or ()
    found = np.concatenate([found, *map(_joined, deep)], axis=1)
    if name != "Mistral3":
        return found
    end = model.get_input_embeddings().weight[BREAK].detach().numpy()
    lines = found.reshape(-1, tokens_of_row(model, image), found.shape[-1])
    return np.concatenate([part for line in lines for part in (line, end[None])][:-1])


def tokens_of_row(model: Any, image: np.ndarray) -> int:
    """How many tokens Mistral has between two breaks."""
    merged = model.config.vision_config.patch_size * model.config.spatial_merge_size
    return int(image.shape[1] // merged)


def torch_answers(
    name: str, model: Any, image: np.ndarray, tokens: list[int], seen: list[bool]
) -> np.ndarray:
    """The logits of the last token of a text with an image in it.

    Args:
        tokens: of the text, anything where the image is.
        seen: which of them are the image's.
    """
    import torch

    ids, kinds = np.array(tokens), torch.tensor([seen]).long()
    ids[seen] = IMAGE
    given = torch_inputs(name, model, image)
    if name == "Mistral3":
        step = tokens_of_row(model, image) + 1
        ids[np.flatnonzero(seen)[step - 1 :: step]] = BREAK
    elif name == "Gemma3":
        given["token_type_ids"] = kinds
    else:
        given["mm_token_type_ids"] = kinds
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids[None]), **given).logits
    answer: np.ndarray = logits[0, -1].numpy()
    return answer


def _joined(found: Any) -> np.ndarray:
    import torch

    found = getattr(found, "pooler_output", found)
    found = torch.cat(list(found)) if isinstance(found, list | tuple) else found
    joined: np.ndarray = found.reshape(-1, found.shape[-1]).numpy()
    return joined
