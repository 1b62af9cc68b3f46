"""Qwen3-MoE: Qwen3 whose feed-forward layers are all experts, without a shared one."""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError
from qconvert.model.families import qwen2
from qconvert.model.families.common import (
    SILU,
    block_count,
    decoder_metadata,
    expect,
    prefixed,
    whole,
)
from qconvert.model.families.keys import Keys, decoder_config
from qconvert.model.families.parts import (
    EMBEDDING,
    FEED_FORWARD,
    IGNORED,
    LAYER,
    NORMS,
    OUTPUT,
    QK_NORMS,
    attention,
    fused_experts,
    stated_biases,
)
from qconvert.model.families.rope import check_rope, rope_metadata
from qconvert.model.families.rope_config import rope_config
from qconvert.model.folding import SPARSE
from qconvert.model.types import Config, Family, Rule

NAME = "qwen3moe"
DEFAULTS = {
    **qwen2.DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "norm_topk_prob": False,
}


def metadata(config: Config) -> Metadata:
    experts = {
        "expert_count": u32(whole(config, "num_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
    }
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **prefixed(NAME, experts),
    }


def limits(config: Config) -> None:
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    expect(config, "decoder_sparse_step", (1,), "llama.cpp wants experts in every layer")
    expect(config, "mlp_only_layers", ([],), "llama.cpp wants experts in every layer")
    expect(config, "norm_topk_prob", (True,), "llama.cpp would behave as if it were true")
    check_rope(config)


def _dense_blocks(config: Config) -> tuple[int, ...]:
    """The blocks without experts."""
    step = whole(config, "decoder_sparse_step", default=1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise CheckpointError("config.json: mlp_only_layers is no list")
    return tuple(i for i in range(block_count(config)) if i in dense or (i + 1) % step)


def rules(config: Config) -> tuple[Rule, ...]:
    source, dense = LAYER + "mlp.", _dense_blocks(config)
    others = tuple(i for i in range(block_count(config)) if i not in dense) if dense else None
    return (
        *EMBEDDING,
        *NORMS,
        *attention(),
        *stated_biases(config),
        *QK_NORMS,
        *(replace(rule, blocks=dense) for rule in FEED_FORWARD if dense),
        *(
            replace(rule, blocks=others)
            for rule in (
                Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
                Rule("blk.{i}.ffn_gate_exps.weight", source + "experts.{e}.gate_proj.weight"),
                Rule("blk.{i}.ffn_up_exps.weight", source + "experts.{e}.up_proj.weight"),
                Rule("blk.{i}.ffn_down_exps.weight", source + "experts.{e}.down_proj.weight"),
                *fused_experts(whole(config, "moe_intermediate_size")),
            )
        ),
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
    defaults=DEFAULTS,
    aliases={"num_local_experts": "num_experts"},
    limits=limits,
    ignored=IGNORED,
    config=config_json,
    folds=SPARSE,
    experts=True,
)
