"""Qwen3-MoE: Qwen3 whose feed-forward layers are all experts, without a shared one."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import UnsupportedError
from qconvert.model.families.common import decoder_metadata, expect, prefixed, whole
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    QK_NORMS,
    attention,
    fused_experts,
)
from qconvert.model.families.rope import rope_metadata, whole_heads_turn
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import SPARSE
from qconvert.model.types import Config, Family, Rule

NAME = "qwen3moe"


def metadata(config: Config) -> Metadata:
    whole_heads_turn(config)
    expect(config, "attention_bias", (False,))
    expect(config, "decoder_sparse_step", (1,), "llama.cpp wants experts in every layer")
    expect(config, "mlp_only_layers", ([],), "llama.cpp wants experts in every layer")
    # transformers takes an absent value for false, and llama.cpp always normalizes.
    if config.get("norm_topk_prob") is not True:
        raise UnsupportedError(
            "config.json: norm_topk_prob is not true, and llama.cpp would behave as if it were",
        )
    experts = {
        "expert_count": u32(whole(config, "num_experts", "num_local_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
    }
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **prefixed(NAME, experts),
    }


def rules(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "mlp."
    return (
        *EMBEDDING,
        *NORMS,
        *attention(),
        *QK_NORMS,
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.ffn_gate_exps.weight", source + "experts.{e}.gate_proj.weight"),
        Rule("blk.{i}.ffn_up_exps.weight", source + "experts.{e}.up_proj.weight"),
        Rule("blk.{i}.ffn_down_exps.weight", source + "experts.{e}.down_proj.weight"),
        *fused_experts(whole(config, "moe_intermediate_size")),
        *OUTPUT,
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        **decoder_config(keys, "Qwen3MoeForCausalLM", "qwen3_moe"),
        **rope_config(keys),
        "head_dim": keys.head_size,
        "attention_bias": False,
        "use_sliding_window": False,
        "num_experts": keys.whole("expert_count"),
        "num_experts_per_tok": keys.whole("expert_used_count"),
        "moe_intermediate_size": keys.whole("expert_feed_forward_length"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


QWEN3_MOE = Family(
    name=NAME,
    classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    metadata=metadata,
    rules=rules,
    ignored=IGNORED,
    config=config_json,
    folds=SPARSE,
    experts=True,
)
