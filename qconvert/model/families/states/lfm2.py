"""LFM2, dense and with experts: short convolutions in most layers, attention in the others. `w1` of
the feed-forward is the gate, `w3` up, `w2` down; the last norm is called that of the embedding.

llama.cpp tells the kinds of layers by their heads of keys: convolutions have none. Experts follow
behind leading dense layers, scored by sigmoids, and chosen by scores with a bias added. Files of
this family go one way: they are not written back as directories.
"""

from dataclasses import replace

from qconvert.checkpoint.metadata import Metadata, i32s, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.common import (
    block_count,
    decoder_metadata,
    expect,
    heads_fill_width,
    kv_head_count,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.lines import EMBEDDING, IGNORED, LAYER, fused_experts
from qconvert.model.families.parts.rope import check_rope, rope_metadata
from qconvert.model.types import Config, Family, Rule

NAME, NAME_OF_EXPERTS = "lfm2", "lfm2moe"
CONVOLUTION, ATTENTION = "conv", "full_attention"
SIGMOID = 2
"""llama.cpp's number of how experts are scored."""

SHAPES = {
    "shortconv.conv.weight": ("hidden", "taps"),
    "shortconv.in_proj.weight": ("convolved", "hidden"),
    "shortconv.out_proj.weight": ("hidden", "hidden"),
    "exp_probs_b.bias": ("experts",),
}

DEFAULTS = {
    "vocab_size": 65_536,
    "hidden_size": 2560,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 128_000,
    "norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "conv_L_cache": 3,
    "block_multiple_of": 256,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": True,
}

DEFAULTS_OF_EXPERTS = {
    **DEFAULTS,
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "block_auto_adjust_ff_dim": False,
}

ALIASES = {"tie_embedding": "tie_word_embeddings"}


def metadata(config: Config, name: str = NAME) -> Metadata:
    heads = [0 if kind == CONVOLUTION else kv_head_count(config) for kind in _kinds(config)]
    keys = {
        "attention.head_count_kv": i32s(heads),
        "shortconv.l_cache": u32(whole(config, "conv_L_cache")),
    }
    epsilon = real(config, "norm_eps")
    sizes = {**config, "intermediate_size": _width(config), "rms_norm_eps": epsilon}
    return {
        **decoder_metadata(name, sizes),
        **rope_metadata(name, config),
        **prefixed(name, keys),
    }


def metadata_of_experts(config: Config) -> Metadata:
    keys = {
        "leading_dense_block_count": u32(_leading(config)),
        "expert_count": u32(whole(config, "num_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
        "expert_gating_func": u32(SIGMOID),
    }
    return {**metadata(config, NAME_OF_EXPERTS), **prefixed(NAME_OF_EXPERTS, keys)}


def _width(config: Config) -> int:
    """Of the feed-forward: two thirds of what is said, rounded up, where it is to be adjusted."""
    width = whole(config, "intermediate_size")
    if not config.get("block_auto_adjust_ff_dim"):
        return width
    width = int(2 * width / 3)
    if config.get("block_ffn_dim_multiplier") is None:
        return width
    step = whole(config, "block_multiple_of")
    return -(-int(real(config, "block_ffn_dim_multiplier") * width) // step) * step


def _kinds(config: Config) -> list[str]:
    count, kinds = block_count(config), config.get("layer_types")
    if kinds is None:
        numbers = config.get("full_attn_idxs", list(range(count)))
        if not isinstance(numbers, list):
            raise CheckpointError("config.json: full_attn_idxs is no list")
        return [ATTENTION if i in numbers else CONVOLUTION for i in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"config.json: layer_types is no list of {count} names")
    if any(kind not in (CONVOLUTION, ATTENTION) for kind in kinds):
        raise UnsupportedError(f"config.json: layer_types knows {CONVOLUTION} and {ATTENTION} only")
    return kinds


def _leading(config: Config) -> int:
    """How many layers at the beginning have no experts."""
    first: int = config.get("num_dense_layers", 0)
    if type(first) is int and 0 <= first <= block_count(config):
        return first
    raise CheckpointError(f"config.json: num_dense_layers is {first!r:.60}")


def limits(config: Config) -> None:
    _kinds(config)
    heads_fill_width(config)
    expect(config, "conv_bias", (False,))
    check_rope(config)


def limits_of_experts(config: Config) -> None:
    limits(config)
    expect(config, "norm_topk_prob", (True,), "llama.cpp would behave as if it were true")
    expect(config, "routed_scaling_factor", (1.0,))
    expect(config, "use_expert_bias", (True,), "llama.cpp wants the experts' bias")


def rules(config: Config) -> tuple[Rule, ...]:
    return (*_rules(config), *_feed_forward(), *_OUTPUT)


def rules_of_experts(config: Config) -> tuple[Rule, ...]:
    count, leading = block_count(config), _leading(config)
    return (
        *_rules(config),
        *(replace(rule, blocks=tuple(range(leading))) for rule in _feed_forward()),
        *(replace(rule, blocks=tuple(range(leading, count))) for rule in _experts(config)),
        *_OUTPUT,
    )


_OUTPUT = (
    Rule("token_embd_norm.weight", "model.embedding_norm.weight"),
    Rule("output.weight", "lm_head.weight", optional=True),
)


def _rules(config: Config) -> tuple[Rule, ...]:
    kinds, width = _kinds(config), whole(config, "hidden_size")
    convolved = tuple(i for i, kind in enumerate(kinds) if kind == CONVOLUTION)
    attending = tuple(i for i, kind in enumerate(kinds) if kind == ATTENTION)
    conv, attention = LAYER + "conv.", LAYER + "self_attn."
    kernel = (width, 1, whole(config, "conv_L_cache"))
    of_convolution = (
        Rule("blk.{i}.shortconv.conv.weight", conv + "conv.weight", stored=kernel),
        Rule("blk.{i}.shortconv.in_proj.weight", conv + "in_proj.weight"),
        Rule("blk.{i}.shortconv.out_proj.weight", conv + "out_proj.weight"),
    )
    of_attention = (
        Rule("blk.{i}.attn_q.weight", attention + "q_proj.weight"),
        Rule("blk.{i}.attn_k.weight", attention + "k_proj.weight"),
        Rule("blk.{i}.attn_v.weight", attention + "v_proj.weight"),
        Rule("blk.{i}.attn_output.weight", attention + "out_proj.weight"),
        Rule("blk.{i}.attn_q_norm.weight", attention + "q_layernorm.weight"),
        Rule("blk.{i}.attn_k_norm.weight", attention + "k_layernorm.weight"),
    )
    return (
        *EMBEDDING,
        Rule("blk.{i}.attn_norm.weight", LAYER + "operator_norm.weight"),
        Rule("blk.{i}.ffn_norm.weight", LAYER + "ffn_norm.weight"),
        *(replace(rule, blocks=convolved) for rule in of_convolution),
        *(replace(rule, blocks=attending) for rule in of_attention),
    )


def _feed_forward() -> tuple[Rule, ...]:
    source = LAYER + "feed_forward."
    names = {"gate": "w1", "up": "w3", "down": "w2"}
    return tuple(
        Rule(f"blk.{{i}}.ffn_{gguf}.weight", f"{source}{hf}.weight") for gguf, hf in names.items()
    )


def _experts(config: Config) -> tuple[Rule, ...]:
    source = LAYER + "feed_forward."
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        Rule("blk.{i}.exp_probs_b.bias", source + "expert_bias"),
        Rule("blk.{i}.ffn_gate_exps.weight", source + "experts.{e}.w1.weight"),
        Rule("blk.{i}.ffn_up_exps.weight", source + "experts.{e}.w3.weight"),
        Rule("blk.{i}.ffn_down_exps.weight", source + "experts.{e}.w2.weight"),
        *fused_experts(whole(config, "moe_intermediate_size"), source + "experts."),
    )


LFM2 = Family(
    name=NAME,
    classes=("Lfm2ForCausalLM",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases={**ALIASES, "block_ff_dim": "intermediate_size"},
    limits=limits,
    ignored=IGNORED,
    shapes=SHAPES,
)

LFM2_MOE = Family(
    name=NAME_OF_EXPERTS,
    classes=("Lfm2MoeForCausalLM",),
    metadata=metadata_of_experts,
    rules=rules_of_experts,
    defaults=DEFAULTS_OF_EXPERTS,
    aliases=ALIASES,
    limits=limits_of_experts,
    ignored=IGNORED,
    shapes=SHAPES,
    experts=True,
)
