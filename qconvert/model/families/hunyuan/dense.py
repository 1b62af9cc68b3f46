"""Hunyuan (dense): a Llama whose queries and keys are turned first and normed then. Longer contexts
have a larger base, by a factor that the settings call alpha ("NTK-aware")."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Decoder, Only
from qconvert.model.families.parts.common import head_size, real
from qconvert.model.families.parts.rope import rope_parameters
from qconvert.model.types import Config

DEFAULTS = {
    "vocab_size": 290_943,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}

DECODER = Decoder(
    name="hunyuan-dense",
    model_type="hunyuan_v1_dense",
    classes=("HunYuanDenseV1ForCausalLM",),
    defaults=DEFAULTS,
    attention=Attention(
        qk_norms="heads", qk_names=("self_attn.query_layernorm", "self_attn.key_layernorm")
    ),
    only=(SILU_ONLY, Only("attention_bias", (False,)), Only("use_cla", (False,))),
)


def metadata(config: Config) -> Metadata:
    return hunyuan_keys(DECODER, config)


def hunyuan_keys(decoder: Decoder, config: Config) -> Metadata:
    """A decoder's keys, with the base that the settings mean."""
    return decoder_keys(decoder, {**config, **_stretched(config)})


def _stretched(config: Config) -> dict[str, Any]:
    rope = rope_parameters(config)
    if rope["rope_type"] != "dynamic" or not rope.get("alpha"):
        return {}
    size = head_size(config)
    base = real(rope, "rope_theta") * real(rope, "alpha") ** (size / max(size - 2, 1))
    plain = {"rope_type": "default", "rope_theta": base}
    return {"rope_parameters": plain, "rope_scaling": None}


HUNYUAN_DENSE = replace(family_of(DECODER), metadata=metadata)
