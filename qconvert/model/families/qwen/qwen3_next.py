"""Qwen3-Next: linear attention in most layers, gated attention in the others, experts in all, and
norms stored as weight - 1.

Queries, keys, values and gates of linear attention lie by key head in one tensor, which llama.cpp
wants in two, each kind by itself:

    in_proj_qkvz   q0 k0 v0 z0   q1 k1 v1 z1   ...

Files of this family go one way: they are not written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families.parts import delta_net
from qconvert.model.families.parts.common import SILU, decoder_metadata, expect, whole
from qconvert.model.families.parts.lines import EMBEDDING, IGNORED, LAYER
from qconvert.model.families.parts.rope import check_rope, rope_metadata
from qconvert.model.transforms import Function
from qconvert.model.types import Config, Family, Rule

NAME = "qwen3next"

DEFAULTS = {
    **delta_net.DEFAULTS,
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 512,
    "num_experts_per_tok": 10,
}


def metadata(config: Config) -> Metadata:
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **delta_net.metadata(NAME, config),
        **delta_net.expert_metadata(NAME, config),
    }


def limits(config: Config) -> None:
    delta_net.limits(config)
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    expect(config, "decoder_sparse_step", (1,), "llama.cpp wants experts in every layer")
    expect(config, "mlp_only_layers", ([],), "llama.cpp wants experts in every layer")
    expect(config, "norm_topk_prob", (True,), "llama.cpp would behave as if it were true")
    check_rope(config, partly=True)


def rules(config: Config) -> tuple[Rule, ...]:
    linear, full = delta_net.blocks_of(config)
    others = delta_net.full_attention(LAYER + "self_attn.")
    return (
        *EMBEDDING,
        *delta_net.NORMS,
        *(replace(rule, blocks=full) for rule in others),
        *(replace(rule, blocks=linear) for rule in _linear_attention(config)),
        *delta_net.experts(config),
        *delta_net.OUTPUT,
    )


def _linear_attention(config: Config) -> tuple[Rule, ...]:
    source, heads = LAYER + "linear_attn.", delta_net.heads_of(config)
    mixed, gate = _kinds(heads)
    channels = 2 * heads.key_rows + heads.value_rows
    kernel = whole(config, "linear_conv_kernel_dim")
    conv = source + "conv1d.weight"
    return (
        Rule("blk.{i}.attn_qkv.weight", source + "in_proj_qkvz.weight", runs=mixed),
        Rule("blk.{i}.attn_gate.weight", source + "in_proj_qkvz.weight", runs=gate),
        Rule("blk.{i}.ssm_conv1d.weight", conv, stored=(channels, 1, kernel)),
        Rule("blk.{i}.ssm_dt.bias", source + "dt_bias"),
        Rule("blk.{i}.ssm_a", source + "A_log", steps=(Function("-exp(x)"),)),
        Rule("blk.{i}.ssm_ba.weight", source + "in_proj_ba.weight"),
        Rule("blk.{i}.ssm_norm.weight", source + "norm.weight"),
        Rule("blk.{i}.ssm_out.weight", source + "out_proj.weight"),
    )


def _kinds(heads: delta_net.Heads) -> tuple[delta_net.Runs, delta_net.Runs]:
    """Where the rows of queries, keys and values are, each kind by itself, and those of gates."""
    sizes = (heads.size, heads.size, heads.shared * heads.size, heads.shared * heads.size)
    starts = [sum(sizes[:kind]) for kind in range(len(sizes) + 1)]
    queries, keys, values, gates = (
        tuple(
            (head * starts[-1] + starts[kind], head * starts[-1] + starts[kind + 1])
            for head in range(heads.keys)
        )
        for kind in range(len(sizes))
    )
    return (*queries, *keys, *values), gates


QWEN3_NEXT = Family(
    name=NAME,
    classes=("Qwen3NextForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    caveats=delta_net.caveats,
    ignored=IGNORED,
    shapes=delta_net.SHAPES,
    experts=True,
)
