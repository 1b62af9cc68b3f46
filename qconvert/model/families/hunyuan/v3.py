"""Hunyuan 3 (HY V3): norms of queries and keys, leading dense layers, experts chosen by sigmoids
with a bias added, and one for all tokens besides. Published checkpoints and transformers have other
names for the router and that one.

Layers that foretell further tokens, behind the last, are left out. Files of this family go one way:
they are not written back as directories.
"""

from dataclasses import replace

from gguf import ExpertGatingFuncType

from qconvert.checkpoint.metadata import Metadata, f32, flag, u32
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.types import SILU_ONLY, Attention, Decoder, Experts, Only
from qconvert.model.families.deepseek.deepseek import further_layers
from qconvert.model.families.parts.common import prefixed, real, whole
from qconvert.model.families.parts.layers import blocks_with, dense_and_sparse, only_in
from qconvert.model.families.parts.lines import LAYER, gated
from qconvert.model.types import Config, Rule

NAME = "hy_v3"


def dense(config: Config) -> tuple[int, ...]:
    """The blocks without experts."""
    return blocks_with(dense_and_sparse(config, 1), "dense")


DECODER = Decoder(
    name=NAME,
    model_type="hy_v3",
    classes=("HYV3ForCausalLM",),
    defaults={
        "vocab_size": 120_832,
        "hidden_size": 4096,
        "intermediate_size": 13_312,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 11_158_840.0,
        "num_experts": 192,
        "num_experts_per_tok": 8,
        "num_shared_experts": 1,
        "moe_intermediate_size": 1536,
        "router_scaling_factor": 2.826,
    },
    attention=Attention(bias=False, output_bias=False, qk_norms="heads"),
    experts=Experts(
        routers=("mlp.router.gate.weight", "mlp.gate.weight"),
        correction=("mlp.expert_bias", "mlp.e_score_correction_bias"),
        gating=ExpertGatingFuncType.SIGMOID,
        dense=dense,
    ),
    only=(
        SILU_ONLY,
        Only("attention_bias", (False,)),
        Only("mlp_bias", (False,)),
        Only("route_norm", (True,)),
    ),
    aliases={"num_local_experts": "num_experts"},
)


def metadata(config: Config) -> Metadata:
    shared = whole(config, "moe_intermediate_size") * whole(config, "num_shared_experts")
    keys = {
        "expert_shared_feed_forward_length": u32(shared),
        "expert_weights_norm": flag(True),
        "expert_weights_scale": f32(real(config, "router_scaling_factor")),
    }
    return {**decoder_keys(DECODER, config), **prefixed(NAME, keys)}


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    dense(config)


def rules(config: Config) -> tuple[Rule, ...]:
    """llama.cpp has no ending behind the name of the bias of choice."""
    *usual, norm, output = decoder_rules(DECODER, config)
    shared = (
        *gated(LAYER + "mlp.shared_mlp.", "_shexp"),
        *gated(LAYER + "mlp.shared_experts.", "_shexp"),
    )
    return (
        *(
            replace(rule, gguf=rule.gguf.replace("exp_probs_b.bias", "exp_probs_b"))
            for rule in usual
        ),
        *only_in(blocks_with(dense_and_sparse(config, 1), "sparse"), shared),
        norm,
        output,
    )


_FAMILY = family_of(DECODER)

HY_V3 = replace(
    _FAMILY,
    metadata=metadata,
    limits=limits,
    rules=rules,
    config=None,
    dropped=further_layers,
    shapes={**_FAMILY.shapes, "exp_probs_b": ("experts",)},
)
