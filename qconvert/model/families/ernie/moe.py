"""ERNIE 4.5 with experts: leading dense layers, experts scored by softmax and chosen by scores with
a bias added, and some besides that every token takes. Files of this family go one way: they are not
written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.decoder.family import family_of
from qconvert.model.families.decoder.metadata import decoder_keys, decoder_limits
from qconvert.model.families.decoder.rules import decoder_rules
from qconvert.model.families.decoder.types import Experts, Shared
from qconvert.model.families.ernie.dense import DECODER as DENSE
from qconvert.model.families.parts.common import block_count, prefixed, real, whole
from qconvert.model.types import Config, Rule

NAME = "ernie4_5-moe"
LEAST = 6.103515625e-5
"""What llama.cpp takes at least for the sum of the scores of those that are chosen."""


def dense(config: Config) -> tuple[int, ...]:
    """The blocks without experts."""
    count, step = block_count(config), whole(config, "moe_layer_interval")
    first = _start(config)
    return tuple(i for i in range(count) if i < first or (i + 1) % step)


def _start(config: Config) -> int:
    first: int = config.get("moe_layer_start_index", 1)
    if type(first) is int and 0 <= first <= block_count(config):
        return first
    raise CheckpointError(f"config.json: moe_layer_start_index is {first!r:.60}")


EXPERTS = Experts(
    count="moe_num_experts",
    used="moe_k",
    correction=(
        "mlp.moe_statics.e_score_correction_bias",
        "mlp.gate.moe_statics.e_score_correction_bias",
    ),
    shared=Shared(
        "moe_num_shared_experts",
        key="expert_shared_count",
        names=(
            "mlp.shared_experts.gate_proj.weight",
            "mlp.shared_experts.up_proj.weight",
            "mlp.shared_experts.down_proj.weight",
        ),
    ),
    dense=dense,
)

DECODER = replace(
    DENSE,
    name=NAME,
    model_type="ernie4_5_moe",
    classes=("Ernie4_5_MoeForCausalLM",),
    defaults={
        **{key: value for key, value in DENSE.defaults.items() if key != "head_dim"},
        "hidden_size": 2560,
        "intermediate_size": 12_288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 1536,
        "moe_k": 6,
        "moe_num_experts": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
        "moe_norm_min": 1e-12,
    },
    experts=EXPERTS,
    aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
    ignored=(*DENSE.ignored, r"(model\.)?mtp_[a-z_]+\.\d+\..*"),
)


def metadata(config: Config) -> Metadata:
    keys = {
        "interleave_moe_layer_step": u32(whole(config, "moe_layer_interval")),
        "leading_dense_block_count": u32(_start(config)),
    }
    if config.get("moe_num_shared_experts"):
        every = whole(config, "moe_num_shared_experts") * whole(config, "moe_intermediate_size")
        keys["expert_shared_feed_forward_length"] = u32(every)
    return {**decoder_keys(DECODER, config), **prefixed(NAME, keys)}


def limits(config: Config) -> None:
    decoder_limits(DECODER, config)
    dense(config)
    if config.get("moe_layer_end_index", -1) not in (-1, block_count(config) - 1):
        raise UnsupportedError(
            "config.json: llama.cpp wants experts in the last layers (moe_layer_end_index)"
        )
    if real(config, "moe_norm_min") > LEAST:
        raise UnsupportedError(f"config.json: moe_norm_min is above llama.cpp's own {LEAST:g}")


def rules(config: Config) -> tuple[Rule, ...]:
    one = (1, whole(config, "moe_num_experts"))
    return tuple(
        replace(rule, stored=one) if rule.gguf.endswith("exp_probs_b.bias") else rule
        for rule in decoder_rules(DECODER, config)
    )


ERNIE4_5_MOE = replace(
    family_of(DECODER), metadata=metadata, limits=limits, rules=rules, config=None
)
