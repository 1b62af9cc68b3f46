"""Layers of linear attention, the gated delta rule (arXiv 2412.06464), that Qwen3-Next and Qwen3.5
have between those with full attention.

Each key head serves several value heads. Hugging Face has them by key head, llama.cpp repeats key
heads over the value heads, so that Qwen3.5 has them the other way round there:

    Hugging Face    k0 v0   k0 v1   k1 v0   k1 v1
    llama.cpp       k0 v0   k1 v0   k0 v1   k1 v1

Source: llama.cpp's src/models/qwen35.cpp, qwen3next.cpp and delta-net-base.cpp.
"""

from dataclasses import dataclass

from qconvert.checkpoint.metadata import Metadata, flags, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts import lines
from qconvert.model.families.parts.common import block_count, head_size, prefixed, real, whole
from qconvert.model.families.parts.layers import FULL, RECURRENT
from qconvert.model.families.parts.lines import LAYER, attention, gated
from qconvert.model.families.parts.rope import rope_parameters
from qconvert.model.types import Config, Rule

EPSILON = 1e-6
"""Of the norms of queries and keys in these layers, in transformers."""

Runs = tuple[tuple[int, int], ...]

SHAPES = {
    "attn_q.weight": ("query_gate", "hidden"),
    "attn_qkv.weight": ("linear_channels", "hidden"),
    "attn_gate.weight": ("linear_value", "hidden"),
    "ssm_conv1d.weight": ("linear_channels", "kernel"),
    "ssm_dt.bias": ("linear_heads",),
    "ssm_a": ("linear_heads",),
    "ssm_beta.weight": ("linear_heads", "hidden"),
    "ssm_alpha.weight": ("linear_heads", "hidden"),
    "ssm_ba.weight": ("linear_gates", "hidden"),
    "ssm_norm.weight": ("linear_head",),
    "ssm_out.weight": ("hidden", "linear_value"),
}

NORMS = (
    Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight", add=1.0),
    Rule("blk.{i}.post_attention_norm.weight", LAYER + "post_attention_layernorm.weight", add=1.0),
)

OUTPUT = (
    Rule("output_norm.weight", "model.norm.weight", add=1.0),
    Rule("output.weight", "lm_head.weight", optional=True),
)

DEFAULTS = {
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": EPSILON,
    "rope_theta": 10_000.0,
    "head_dim": 256,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "full_attention_interval": 4,
}


@dataclass(frozen=True)
class Heads:
    """Of the linear layers.

    Attributes:
        keys, shared: how many key heads, and how many value heads share each.
        size: elements of a head of either kind.
    """

    keys: int
    shared: int
    size: int

    @property
    def key_rows(self) -> int:
        return self.keys * self.size

    @property
    def value_rows(self) -> int:
        return self.key_rows * self.shared

    def repeated(self, size: int, first: int = 0) -> Runs:
        """Value heads of so many rows, from a row on, in llama.cpp's order."""
        if self.shared == 1:
            return ((first, first + self.keys * size),)
        keys = range(self.keys)
        numbers = [key * self.shared + own for own in range(self.shared) for key in keys]
        return tuple((first + n * size, first + (n + 1) * size) for n in numbers)


def heads_of(config: Config) -> Heads:
    """
    Raises:
        UnsupportedError: value heads are of another size than key heads.
        CheckpointError: the settings contradict each other.
    """
    keys, values = (whole(config, f"linear_num_{name}_heads") for name in ("key", "value"))
    sizes = {whole(config, f"linear_{name}_head_dim") for name in ("key", "value")}
    if values % keys:
        raise CheckpointError(f"config.json: {values} value heads for {keys} key heads")
    if len(sizes) > 1:
        raise UnsupportedError(
            "config.json: linear key and value heads are not of one size, as llama.cpp wants them"
        )
    return Heads(keys, values // keys, sizes.pop())


def metadata(name: str, config: Config) -> Metadata:
    """What tells of these layers, and the part of each head that turns."""
    heads = heads_of(config)
    factor = real(rope_parameters(config), "partial_rotary_factor")
    keys = {
        "ssm.conv_kernel": u32(whole(config, "linear_conv_kernel_dim")),
        "ssm.state_size": u32(heads.size),
        "ssm.group_count": u32(heads.keys),
        "ssm.time_step_rank": u32(heads.keys * heads.shared),
        "ssm.inner_size": u32(heads.value_rows),
        "attention.recurrent_layers": flags(linear_layers(config)),
        "full_attention_interval": u32(whole(config, "full_attention_interval")),
        "rope.dimension_count": u32(int(head_size(config) * factor)),
    }
    return prefixed(name, keys)


def linear_layers(config: Config) -> list[bool]:
    """Which layers have linear attention."""
    count = block_count(config)
    kinds = config.get("layer_types")
    if kinds is None:
        interval = whole(config, "full_attention_interval")
        return [(layer + 1) % interval != 0 for layer in range(count)]
    if not isinstance(kinds, list) or len(kinds) != count:
        raise CheckpointError(f"config.json: layer_types is no list of {count} names")
    if any(kind not in (RECURRENT, FULL) for kind in kinds):
        raise UnsupportedError(f"config.json: layer_types knows {RECURRENT} and {FULL} only")
    return [kind == RECURRENT for kind in kinds]


def blocks_of(config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers of the blocks with linear attention, and of the others."""
    kinds = linear_layers(config)
    return tuple(i for i, kind in enumerate(kinds) if kind), tuple(
        i for i, kind in enumerate(kinds) if not kind
    )


def limits(config: Config) -> None:
    heads_of(config)
    linear_layers(config)


def caveats(config: Config) -> tuple[str, ...]:
    epsilon = real(config, "rms_norm_eps")
    if epsilon == EPSILON:
        return ()
    return (
        f"llama.cpp takes rms_norm_eps = {epsilon:g} for queries and keys of linear attention too, "
        f"where transformers has {EPSILON:g}: logits differ a little",
    )


def full_attention(source: str) -> tuple[Rule, ...]:
    """Of the other blocks: queries of double width, whose second half is a gate."""
    return (
        *attention(source=source),
        Rule("blk.{i}.attn_q_norm.weight", source + "q_norm.weight", add=1.0),
        Rule("blk.{i}.attn_k_norm.weight", source + "k_norm.weight", add=1.0),
    )


def expert_metadata(name: str, config: Config) -> Metadata:
    keys = {
        "expert_count": u32(whole(config, "num_experts")),
        "expert_used_count": u32(whole(config, "num_experts_per_tok")),
        "expert_feed_forward_length": u32(whole(config, "moe_intermediate_size")),
        "expert_shared_feed_forward_length": u32(whole(config, "shared_expert_intermediate_size")),
    }
    return prefixed(name, keys)


def experts(config: Config) -> tuple[Rule, ...]:
    """Experts, with one besides that every token takes, as far as its gate says."""
    source, hidden = LAYER + "mlp.", whole(config, "hidden_size")
    shared = source + "shared_expert"
    return (
        Rule("blk.{i}.ffn_gate_inp.weight", source + "gate.weight"),
        *lines.experts(whole(config, "moe_intermediate_size")),
        Rule("blk.{i}.ffn_gate_inp_shexp.weight", shared + "_gate.weight", stored=(1, hidden)),
        *gated(shared + ".", "_shexp"),
    )
