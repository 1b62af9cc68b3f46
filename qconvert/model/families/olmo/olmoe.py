"""OLMoE (arXiv 2409.02060): experts, and norms over all query and all key heads together."""

from dataclasses import replace

from qconvert.errors import UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_limits
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Decoder, Experts, Only
from qconvert.model.families.llama import llama
from qconvert.model.families.parts.common import head_count, kv_head_count
from qconvert.model.types import Config

DECODER = Decoder(
    name="olmoe",
    model_type="olmoe",
    classes=("OlmoeForCausalLM",),
    defaults={
        **llama.DEFAULTS,
        "vocab_size": 50_304,
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
    attention=Attention(qk_norms="all", square=True),
    feed_forward=None,
    experts=Experts(size="intermediate_size", sized=False),
    only=(
        SILU_ONLY,
        Only("attention_bias", (False,)),
        Only("clip_qkv", ()),
        Only("norm_topk_prob", (False,)),
    ),
    aliases={"num_local_experts": "num_experts"},
    tied_output=True,
)


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    if kv_head_count(config) != head_count(config):
        raise UnsupportedError(
            "config.json: llama.cpp runs OLMoE only with as many key and value heads as query heads"
        )


OLMOE = replace(family_of(DECODER), limits=limits)
