"""Random encoders of any class, saved."""

from pathlib import Path
from typing import Any

import torch
import transformers
from common import VOCABULARY

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
            norm = weight.dim() == 1 and key.endswith("weight")
            scale = 0.06 if weight.dim() > 1 and "embeddings" not in key else 0.2
            weight.copy_(scale * random + (1.0 if norm else 0.0))
    model.save_pretrained(folder)
    return model
