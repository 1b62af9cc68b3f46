"""Granite 3 with experts, gate and up of all in one tensor, and perhaps one for all tokens."""

from dataclasses import replace

from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.types import Experts, Shared
from qconvert.model.families.granite import granite

EXPERTS = Experts(
    count="num_local_experts",
    size="intermediate_size",
    sized=False,
    single=(),
    fused=(
        ("block_sparse_moe.input_linear.weight", "block_sparse_moe.output_linear.weight"),
        ("block_sparse_moe.experts.gate_up_proj", "block_sparse_moe.experts.down_proj"),
    ),
    routers=("block_sparse_moe.router.layer.weight", "block_sparse_moe.router.weight"),
)

DECODER = replace(
    granite.DECODER,
    name="granitemoe",
    model_type="granitemoe",
    classes=("GraniteMoeForCausalLM",),
    defaults={**granite.DECODER.defaults, "num_local_experts": 8, "num_experts_per_tok": 2},
    feed_forward=None,
    experts=EXPERTS,
)

SHARED = replace(
    DECODER,
    model_type="granitemoeshared",
    mark="expert_shared_feed_forward_length",
    classes=("GraniteMoeSharedForCausalLM",),
    experts=replace(
        EXPERTS,
        shared=Shared(
            "shared_intermediate_size",
            names=("shared_mlp.input_linear.weight", "shared_mlp.output_linear.weight"),
        ),
    ),
)

GRANITE_MOE = family_of(DECODER)
GRANITE_MOE_SHARED = family_of(SHARED)
