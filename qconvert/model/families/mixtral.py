"""Mixtral: a Llama whose feed-forward layers are experts, `w1` the gate, `w3` up, `w2` down."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families import llama
from qconvert.model.families.common import head_count, kv_head_count, prefixed, whole
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    attention,
    fused_experts,
)
from qconvert.model.families.rope import llama3_factors
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import SPARSE
from qconvert.model.types import Config, Family, Rule

NAME = llama.NAME
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


def metadata(config: Config) -> Metadata:
    experts = {
        "expert_count": u32(whole(config, "num_local_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
    }
    return {**llama.metadata(config), **prefixed(NAME, experts)}


def rules(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "block_sparse_moe."
    return (
        *EMBEDDING,
        *NORMS,
        *attention(head_count(config), kv_head_count(config)),
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.ffn_gate_inp.weight", LAYER + "mlp.gate.weight"),
        Rule("blk.{i}.ffn_gate_exps.weight", source + "experts.{e}.w1.weight"),
        Rule("blk.{i}.ffn_up_exps.weight", source + "experts.{e}.w3.weight"),
        Rule("blk.{i}.ffn_down_exps.weight", source + "experts.{e}.w2.weight"),
        *fused_experts(whole(config, "intermediate_size")),
        *OUTPUT,
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        **decoder_config(keys, "MixtralForCausalLM", "mixtral"),
        **rope_config(keys),
        "num_local_experts": keys.whole("expert_count"),
        "num_experts_per_tok": keys.whole("expert_used_count"),
        "sliding_window": None,
    }


MIXTRAL = Family(
    name=NAME,
    classes=("MixtralForCausalLM", "MixtralModel"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={"num_experts": "num_local_experts"},
    limits=llama.limits,
    constants=llama3_factors,
    ignored=IGNORED,
    config=config_json,
    folds=SPARSE,
    experts=True,
    pooled=True,
)
