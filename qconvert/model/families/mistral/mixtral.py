"""Mixtral: a Llama whose feed-forward layers are experts, `w1` the gate, `w3` up, `w2` down."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import Attention, Experts
from qconvert.model.families.llama import llama

DEFAULTS = {
    **llama.DEFAULTS,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}

DECODER = replace(
    llama.DECODER,
    mark="expert_count",
    model_type="mixtral",
    classes=("MixtralForCausalLM", "MixtralModel"),
    defaults=DEFAULTS,
    aliases={"num_experts": "num_local_experts"},
    attention=Attention(regrouped=True, bias=False, output_bias=False),
    feed_forward=None,
    experts=Experts(
        count="num_local_experts",
        size="intermediate_size",
        sized=False,
        single=tuple(f"block_sparse_moe.experts.{{e}}.w{part}.weight" for part in (1, 3, 2)),
        routers=("block_sparse_moe.gate.weight", "mlp.gate.weight"),
    ),
    written={"sliding_window": None},
)

MIXTRAL = family_of(DECODER)
