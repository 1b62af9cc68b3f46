"""Mixtral: a Llama whose feed-forward layers are experts, `w1` the gate, `w3` up, `w2` down."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families import llama
from qconvert.model.families.common import head_count, kv_head_count, prefixed, text_config, whole
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
    constants=llama3_factors,
    ignored=IGNORED,
    config=config_json,
    folds=SPARSE,
    experts=True,
    pooled=True,
)
