"""Mixtral: a Llama whose feed-forward layers are experts, `w1` the gate, `w3` up, `w2` down."""

from qconvert.architectures import llama
from qconvert.architectures.common import head_count, kv_head_count, prefixed, text_config, whole
from qconvert.architectures.parts import (
    EMBEDDING,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    OUTPUT_BIAS,
    attention,
    fused_experts,
)
from qconvert.architectures.rope import llama3_factors
from qconvert.architectures.types import Architecture, Config, Rule
from qconvert.metadata import Metadata, u32

NAME = llama.NAME
THETA = 1_000_000.0


def metadata(config: Config) -> Metadata:
    settings = text_config(config, {"rope_theta": THETA})
    experts = {
        "expert_count": u32(whole(config, "num_local_experts", default=8)),
        "expert_used_count": u32(whole(config, "num_experts_per_tok", default=2)),
    }
    return {**llama.metadata(settings), **prefixed(NAME, experts)}


def rules(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "block_sparse_moe."
    return (
        *EMBEDDING,
        *NORMS,
        *attention(head_count(config), kv_head_count(config)),
        *OUTPUT_BIAS,
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.ffn_gate_inp.weight", LAYER + "mlp.gate.weight"),
        Rule("blk.{i}.ffn_gate_exps.weight", source + "experts.{e}.w1.weight"),
        Rule("blk.{i}.ffn_up_exps.weight", source + "experts.{e}.w3.weight"),
        Rule("blk.{i}.ffn_down_exps.weight", source + "experts.{e}.w2.weight"),
        *fused_experts(whole(config, "intermediate_size")),
        *OUTPUT,
    )


MIXTRAL = Architecture(
    name=NAME,
    classes=("MixtralForCausalLM", "MixtralModel"),
    metadata=metadata,
    rules=rules,
    constants=llama3_factors,
    ignored=IGNORED,
)
