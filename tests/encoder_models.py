"""Random encoders of any class, saved."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from common import VOCABULARY, decode, llama_context

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 160,
    "num_attention_heads": 4,
    "intermediate_size": 224,
    "num_hidden_layers": 2,
    "max_position_embeddings": 98,
    "layer_norm_eps": 0.02,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}

OWN: dict[str, dict[str, Any]] = {
    "ModernBert": {"norm_eps": 0.02, "local_attention": 16, "num_hidden_layers": 5},
    "NomicBert": {"type_vocab_size": 2},
    "Gemma3Text": {
        "num_key_value_heads": 2,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "rms_norm_eps": 0.02,
        "use_bidirectional_attention": True,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_hidden_layers": 3,
    },
    "T5": {"d_kv": 24, "d_ff": 224, "layer_norm_epsilon": 0.02, "num_hidden_layers": 3}
    | {"relative_attention_num_buckets": 16, "feed_forward_proj": "gated-gelu"},
    "UMT5": {"d_kv": 24, "d_ff": 224, "layer_norm_epsilon": 0.02, "num_hidden_layers": 3},
}
"""What some classes have besides, by the beginning of their names."""


def save_encoder(name: str, folder: Path, **changes: Any) -> Any:
    """A random model of a class, in evaluation mode."""
    cls = getattr(transformers, name)
    own = next((more for begin, more in OWN.items() if name.startswith(begin)), {})
    config = cls.config_class(**SIZES | own | changes)
    config._attn_implementation = "eager"
    model = cls(config).float().eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            random = torch.randn(weight.shape, generator=draw)
            norm = weight.dim() == 1 and key.endswith("weight") and "Gemma" not in name
            scale = 0.06 if weight.dim() > 1 and "embeddings" not in key else 0.2
            if key.endswith("SelfAttention.q.weight"):  # T5 divides no scores: its queries are less
                scale /= config.d_kv**0.5
            weight.copy_(scale * random + (1.0 if norm else 0.0))
    model.save_pretrained(folder)
    return model


def llama_encoded(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """What comes out of an encoder whose graph llama.cpp runs apart: float32 [tokens, hidden]."""
    import llama_cpp

    pooling = llama_cpp.LLAMA_POOLING_TYPE_NONE
    with llama_context(path, len(tokens), embeddings=True, pooling_type=pooling) as (
        opened,
        context,
    ):
        numbers = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(numbers, len(tokens))
        assert llama_cpp.llama_encode(context, batch) == 0
        pointer = llama_cpp.llama_get_embeddings(context)
        shape = (len(tokens), llama_cpp.llama_model_n_embd(opened))
        return np.ctypeslib.as_array(pointer, shape=shape).copy()


def llama_ranks(path: Path, tokens: Sequence[int]) -> tuple[list[str], np.ndarray]:
    """What a head that classifies tells apart in llama.cpp, and what it gives for a text."""
    import llama_cpp

    pooling = llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED
    with llama_context(path, len(tokens), embeddings=True, pooling_type=pooling) as (
        opened,
        context,
    ):
        decode(context, tokens)
        count = llama_cpp.llama_model_n_cls_out(opened)
        labels = (llama_cpp.llama_model_cls_label(opened, number) for number in range(count))
        names = [ctypes.string_at(label).decode() for label in labels]
        pointer = llama_cpp.llama_get_embeddings_seq(context, 0)
        return names, np.ctypeslib.as_array(pointer, shape=(count,)).copy()
