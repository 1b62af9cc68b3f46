"""Lines of tables that many families have in common, with Hugging Face's usual names."""

from qconvert.model.types import Rule

LAYER = "model.layers.{i}."

EMBEDDING = (Rule("token_embd.weight", "model.embed_tokens.weight"),)

OUTPUT = (
    Rule("output_norm.weight", "model.norm.weight"),
    Rule("output.weight", "lm_head.weight", optional=True),
)

NORMS = (
    Rule("blk.{i}.attn_norm.weight", LAYER + "input_layernorm.weight"),
    Rule("blk.{i}.ffn_norm.weight", LAYER + "post_attention_layernorm.weight"),
)

QK_NORMS = (
    Rule("blk.{i}.attn_q_norm.weight", LAYER + "self_attn.q_norm.weight"),
    Rule("blk.{i}.attn_k_norm.weight", LAYER + "self_attn.k_norm.weight"),
)


def pair(gguf: str, hf: str) -> tuple[Rule, Rule]:
    """A weight and its bias."""
    return Rule(gguf + ".weight", hf + ".weight"), Rule(gguf + ".bias", hf + ".bias")


def gated(source: str, end: str = "") -> tuple[Rule, ...]:
    """The gate, up and down of a feed-forward.

    Args:
        source: what Hugging Face's names begin with.
        end: what GGUF's have behind them: "_exps", "_shexp".
    """
    return tuple(
        Rule(f"blk.{{i}}.ffn_{part}{end}.weight", f"{source}{part}_proj.weight")
        for part in ("gate", "up", "down")
    )


FEED_FORWARD = gated(LAYER + "mlp.")

OUTPUT_BIAS = (Rule("blk.{i}.attn_output.bias", LAYER + "self_attn.o_proj.bias", optional=True),)
"""Absent where a model of another family was saved as a Llama; transformers takes zeros then."""

IGNORED = (
    r"(.*\.)?rotary_(pos_)?emb\.(inv_freq|(cos|sin)_cached)",
    r"(model\.)?(v_head|value_head|mtp)\..*",
    r"(.*\.)?_extra_state",
)
"""Tables of old versions, heads of training, layers that predict further tokens."""


def attention(
    heads: int = 0, kv_heads: int = 0, source: str = LAYER + "self_attn."
) -> tuple[Rule, ...]:
    """The four projections.

    Args:
        heads, kv_heads: how many to regroup for llama.cpp's neighbouring rotary pairs; 0 for
            families whose halves it takes as they are.
        source: what Hugging Face's names begin with.
    """
    return (
        Rule("blk.{i}.attn_q.weight", source + "q_proj.weight", heads=heads),
        Rule("blk.{i}.attn_k.weight", source + "k_proj.weight", heads=kv_heads),
        Rule("blk.{i}.attn_v.weight", source + "v_proj.weight"),
        Rule("blk.{i}.attn_output.weight", source + "o_proj.weight"),
    )


def attention_biases(heads: int = 0, kv_heads: int = 0) -> tuple[Rule, ...]:
    """The biases of queries, keys and values."""
    source = LAYER + "self_attn."
    return (
        Rule("blk.{i}.attn_q.bias", source + "q_proj.bias", heads=heads),
        Rule("blk.{i}.attn_k.bias", source + "k_proj.bias", heads=kv_heads),
        Rule("blk.{i}.attn_v.bias", source + "v_proj.bias"),
    )


def experts(size: int, source: str = LAYER + "mlp.") -> tuple[Rule, ...]:
    """Experts one by one, as checkpoints have them, or fused.

    Args:
        size: of each.
        source: what Hugging Face's names begin with.
    """
    single = gated(source + "experts.{e}.", "_exps")
    return (*single, *fused_experts(size, source + "experts."))


def fused_experts(size: int, source: str) -> tuple[Rule, ...]:
    """Experts as transformers 5 holds them in memory: `gate_up_proj` [experts, 2 * size, hidden],
    `down_proj` [experts, hidden, size]. They follow a family's own lines, for which they stand
    in."""
    return (
        Rule("blk.{i}.ffn_gate_exps.weight", source + "gate_up_proj", rows=(0, size)),
        Rule("blk.{i}.ffn_up_exps.weight", source + "gate_up_proj", rows=(size, 2 * size)),
        Rule("blk.{i}.ffn_down_exps.weight", source + "down_proj"),
    )


DRAWN = "it draws weights of such classes before it loads them, and packed layers have none to draw"
"""Of transformers, where it cannot load packed layers."""
