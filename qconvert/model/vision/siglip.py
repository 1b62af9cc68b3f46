"""The SigLIP vision tower, which Gemma 3, Idefics3 and SmolVLM have: learned positions of a square
image, layer norms, separate queries, keys and values.

Source: llama.cpp's tools/mtmd/models/siglip.cpp, transformers' modeling_siglip.py.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from qconvert.model.vision.tower import Tower, linear, norm
from qconvert.model.vision.types import Line

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}

FIXED = {"v.patch_embd.weight": "F32"}


def siglip_lines(tower: Tower, root: str) -> tuple[Line, ...]:
    """The tower's tensors.

    Args:
        root: what stands before "embeddings" and "encoder" in the names.
    """
    embeddings, positions = f"{root}.embeddings", (tower.image // tower.patch) ** 2
    return (
        Line("v.patch_embd.weight", f"{embeddings}.patch_embedding.weight", tower.patch_shape),
        Line("v.patch_embd.bias", f"{embeddings}.patch_embedding.bias", (tower.hidden,)),
        Line(
            "v.position_embd.weight",
            f"{embeddings}.position_embedding.weight",
            (positions, tower.hidden),
        ),
        *chain.from_iterable(_block(tower, root, block) for block in range(tower.blocks)),
        *norm("v.post_ln", f"{root}.post_layernorm", tower.hidden),
    )


def _block(tower: Tower, root: str, block: int) -> Iterator[Line]:
    gguf, hf = f"v.blk.{block}.", f"{root}.encoder.layers.{block}."
    width = tower.hidden
    yield from norm(gguf + "ln1", hf + "layer_norm1", width)
    for name in ("q", "k", "v"):
        yield from linear(f"{gguf}attn_{name}", f"{hf}self_attn.{name}_proj", width, width)
    yield from linear(gguf + "attn_out", hf + "self_attn.out_proj", width, width)
    yield from norm(gguf + "ln2", hf + "layer_norm2", width)
    yield from linear(gguf + "ffn_up", hf + "mlp.fc1", tower.ffn, width)
    yield from linear(gguf + "ffn_down", hf + "mlp.fc2", width, tower.ffn)
