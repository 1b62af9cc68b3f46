"""gpt-oss: experts with biases in MXFP4, gate and up in turns, attention with sinks, and a window
in every second layer.

The rows of gate and up lie in turns in one tensor, [experts, in, 2 * size]. Its codes, stored
[out, in], move as they are. What goes back into a directory would have to put the turns together
again: files of this family go one way.
"""

from qconvert.checkpoint.metadata import Metadata, flags, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import (
    block_count,
    decoder_metadata,
    expect,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import (
    EMBEDDING,
    IGNORED,
    LAYER,
    OUTPUT,
    OUTPUT_BIAS,
    attention,
    attention_biases,
)
from qconvert.model.families.parts.rope import check_rope, rope_metadata
from qconvert.model.types import Config, Family, Rule

NAME = "gpt-oss"
KINDS = ("sliding_attention", "full_attention")

DEFAULTS = {
    "vocab_size": 201_088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150_000.0,
    "sliding_window": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "attention_bias": True,
    "swiglu_alpha": 1.702,
    "swiglu_limit": 7.0,
    "rope_parameters": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
}


def metadata(config: Config) -> Metadata:
    sliding = _sliding_layers(config)
    keys = {
        "expert_count": u32(whole(config, "num_local_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "intermediate_size")),
        "attention.sliding_window": u32(whole(config, "sliding_window")),
    }
    if sliding != [layer % 2 == 0 for layer in range(len(sliding))]:  # llama.cpp's own idea of it
        keys["attention.sliding_window_pattern"] = flags(sliding)
    return {
        **decoder_metadata(NAME, config),
        **rope_metadata(NAME, config),
        **prefixed(NAME, keys),
    }


def _sliding_layers(config: Config) -> list[bool]:
    """Which layers see a window only."""
    count = block_count(config)
    kinds = config.get("layer_types")
    if kinds is None:
        return [layer % 2 == 0 for layer in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"config.json: layer_types is no list of {count} names")
    if any(kind not in KINDS for kind in kinds):
        raise UnsupportedError(f"config.json: layer_types knows {' and '.join(KINDS)} only")
    return [kind == KINDS[0] for kind in kinds]


def limits(config: Config) -> None:
    for key, value in {"swiglu_alpha": 1.702, "swiglu_limit": 7.0}.items():
        if real(config, key) != value:
            raise UnsupportedError(f"config.json: llama.cpp runs this family with {key} = {value}")
    _sliding_layers(config)
    expect(config, "attention_bias", (True,))
    check_rope(config, untruncated=True)


def rules(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "mlp."
    return (
        *EMBEDDING,
        Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight"),
        *attention(),
        *attention_biases(),
        *OUTPUT_BIAS,
        Rule("blk.{i}.attn_sinks.weight", LAYER + "self_attn.sinks"),
        Rule("blk.{i}.post_attention_norm.weight", LAYER + "post_attention_layernorm.weight"),
        Rule("blk.{i}.ffn_gate_inp.weight", source + "router.weight"),
        Rule("blk.{i}.ffn_gate_inp.bias", source + "router.bias"),
        *_experts("ffn_gate_exps", source + "experts.gate_up_proj", (0, 1)),
        *_experts("ffn_up_exps", source + "experts.gate_up_proj", (1, 2)),
        *_experts("ffn_down_exps", source + "experts.down_proj"),
        *OUTPUT,
        # llama.cpp wants a tied one written out.
        *([Rule("output.weight", EMBEDDING[0].hf)] if config.get("tie_word_embeddings") else []),
    )


def _experts(name: str, source: str, rows: tuple[int, int] | None = None) -> tuple[Rule, Rule]:
    """Weight and bias, all rows or one of two."""
    period = 2 if rows else 0
    weight = f"blk.{{i}}.{name}.weight"
    return (
        Rule(weight, source, rows=rows, period=period, transpose=True),
        Rule(weight.replace(".weight", ".bias"), source + "_bias", rows=rows, period=period),
    )


GPT_OSS = Family(
    name=NAME,
    classes=("GptOssForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={"num_experts": "num_local_experts"},
    limits=limits,
    ignored=IGNORED,
    experts=True,
)
