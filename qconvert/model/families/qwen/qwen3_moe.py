"""Qwen3-MoE: Qwen3 whose feed-forward layers are all experts, without a shared one."""

from dataclasses import replace

from qconvert.errors import CheckpointError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import Experts, Only
from qconvert.model.families.parts.common import block_count, whole
from qconvert.model.families.qwen import qwen2, qwen3
from qconvert.model.types import Config

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
EVERYWHERE = (
    Only("decoder_sparse_step", (1,), "llama.cpp wants experts in every layer"),
    Only("mlp_only_layers", ([],), "llama.cpp wants experts in every layer"),
)


def dense_blocks(config: Config) -> tuple[int, ...]:
    """The blocks without experts."""
    step = whole(config, "decoder_sparse_step", default=1)
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise CheckpointError("config.json: mlp_only_layers is no list")
    return tuple(i for i in range(block_count(config)) if i in dense or (i + 1) % step)


DECODER = replace(
    qwen3.DECODER,
    name="qwen3moe",
    model_type="qwen3_moe",
    classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    defaults=DEFAULTS,
    aliases={"num_local_experts": "num_experts"},
    experts=Experts(dense=dense_blocks),
    only=(
        *qwen3.DECODER.only,
        *EVERYWHERE,
        Only("norm_topk_prob", (True,), "llama.cpp would behave as if it were true"),
    ),
    pooled=False,
    window_by_choice=False,
)

QWEN3_MOE = family_of(DECODER)
