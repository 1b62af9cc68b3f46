"""Qwen3.5 (text), dense and with experts: linear attention in most layers, gated attention in the
others, and norms stored as weight - 1.

Of a multimodal checkpoint the language model is taken; its settings lie in `text_config`. Layers
that foretell further tokens (`mtp`) are left out. Files of this family go one way: they are not
written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, i32s
from qconvert.errors import UnsupportedError
from qconvert.model.families.parts import delta_net
from qconvert.model.families.parts.common import (
    SILU,
    decoder_metadata,
    expect,
    head_size,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import EMBEDDING, FEED_FORWARD, IGNORED, LAYER
from qconvert.model.families.parts.rope import (
    check_rope,
    rope_metadata,
    rope_parameters,
    rope_sections,
)
from qconvert.model.transforms import Columns, Function
from qconvert.model.types import Config, Family, Rule

NAME, NAME_OF_EXPERTS = "qwen35", "qwen35moe"
SECTIONS = [11, 11, 10]

DEFAULTS = {
    **delta_net.DEFAULTS,
    "vocab_size": 248_320,
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
}

DEFAULTS_OF_EXPERTS = {
    **DEFAULTS,
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_experts": 256,
    "num_experts_per_tok": 8,
}


def metadata(config: Config, name: str = NAME) -> Metadata:
    sections = {"rope.dimension_sections": i32s([*rope_sections(config, SECTIONS), 0])}
    return {
        **decoder_metadata(name, config),
        **rope_metadata(name, config),
        **delta_net.metadata(name, config),
        **prefixed(name, sections),
    }


def metadata_of_experts(config: Config) -> Metadata:
    width = {"intermediate_size": whole(config, "moe_intermediate_size")}  # no layer is dense
    return {
        **metadata({**width, **config}, NAME_OF_EXPERTS),
        **delta_net.expert_metadata(NAME_OF_EXPERTS, config),
    }


def limits(config: Config) -> None:
    delta_net.limits(config)
    expect(config, "hidden_act", SILU)
    expect(config, "attention_bias", (False,))
    expect(config, "attn_output_gate", (True,))
    check_rope(config, partly=True)
    sections = rope_sections(config, SECTIONS)
    pairs = int(head_size(config) * real(rope_parameters(config), "partial_rotary_factor")) // 2
    if any(pair >= 3 * sections[pair % 3] for pair in range(pairs)):
        raise UnsupportedError(
            f"config.json: mrope_section {sections} leaves some of {pairs} pairs without a position"
        )


def rules(config: Config) -> tuple[Rule, ...]:
    return (*_rules(config), *FEED_FORWARD, *delta_net.OUTPUT)


def rules_of_experts(config: Config) -> tuple[Rule, ...]:
    return (*_rules(config), *delta_net.experts(config), *delta_net.OUTPUT)


def _rules(config: Config) -> tuple[Rule, ...]:
    linear, full = delta_net.blocks_of(config)
    others = delta_net.full_attention(LAYER + "self_attn.")
    return (
        *EMBEDDING,
        *delta_net.NORMS,
        *(replace(rule, blocks=full) for rule in others),
        *(replace(rule, blocks=linear) for rule in _linear_attention(config)),
    )


def _linear_attention(config: Config) -> tuple[Rule, ...]:
    source, heads = LAYER + "linear_attn.", delta_net.heads_of(config)
    both = 2 * heads.key_rows
    channels = both + heads.value_rows
    mixed = ((0, both), *heads.repeated(heads.size, both))
    single = heads.repeated(1)
    numbers = Columns(tuple(start for start, _ in single))
    values = heads.repeated(heads.size)
    columns = Columns(tuple(i for start, stop in values for i in range(start, stop)))
    kernel = whole(config, "linear_conv_kernel_dim")
    conv = Rule(
        "blk.{i}.ssm_conv1d.weight",
        source + "conv1d.weight",
        stored=(channels, 1, kernel),
        runs=mixed,
    )
    return (
        Rule("blk.{i}.attn_qkv.weight", source + "in_proj_qkv.weight", runs=mixed),
        Rule("blk.{i}.attn_gate.weight", source + "in_proj_z.weight", runs=values),
        conv,
        Rule("blk.{i}.ssm_dt.bias", source + "dt_bias", steps=(numbers,)),
        Rule("blk.{i}.ssm_a", source + "A_log", steps=(numbers, Function("-exp(x)"))),
        Rule("blk.{i}.ssm_beta.weight", source + "in_proj_b.weight", runs=single),
        Rule("blk.{i}.ssm_alpha.weight", source + "in_proj_a.weight", runs=single),
        Rule("blk.{i}.ssm_norm.weight", source + "norm.weight"),
        Rule("blk.{i}.ssm_out.weight", source + "out_proj.weight", steps=(columns,)),
    )


VISION = r"(model\.)?visual\..*"

QWEN3_5 = Family(
    name=NAME,
    classes=("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    caveats=delta_net.caveats,
    ignored=(*IGNORED, VISION),
    shapes=delta_net.SHAPES,
)

QWEN3_5_MOE = Family(
    name=NAME_OF_EXPERTS,
    classes=("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration"),
    metadata=metadata_of_experts,
    rules=rules_of_experts,
    defaults=DEFAULTS_OF_EXPERTS,
    limits=limits,
    caveats=delta_net.caveats,
    ignored=(*IGNORED, VISION),
    shapes=delta_net.SHAPES,
    experts=True,
)
