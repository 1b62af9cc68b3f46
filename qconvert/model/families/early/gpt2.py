"""GPT-2: learned positions, biases everywhere, and matrices stored [in, out] (Conv1D)."""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.parts.common import MOST_BLOCKS, expect, prefixed, real, whole
from qconvert.model.families.parts.keys import Keys
from qconvert.model.folding import FUSED_ATTENTION, FUSED_FEED_FORWARD
from qconvert.model.types import Config, Family, Rule

NAME = "gpt2"
DEFAULTS = {
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_positions": 1024,
    "layer_norm_epsilon": 1e-05,
    "tie_word_embeddings": True,
}
LAYER = "transformer.h.{i}."
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}


def metadata(config: Config) -> Metadata:
    width = whole(config, "n_embd")
    keys = {
        "block_count": u32(whole(config, "n_layer", most=MOST_BLOCKS)),
        "context_length": u32(whole(config, "n_positions")),
        "embedding_length": u32(width),
        "feed_forward_length": u32(whole(config, "n_inner", default=4 * width)),
        "attention.head_count": u32(whole(config, "n_head")),
        "attention.layer_norm_epsilon": f32(real(config, "layer_norm_epsilon")),
        "vocab_size": u32(whole(config, "vocab_size")),
    }
    return prefixed(NAME, keys)


def limits(config: Config) -> None:
    expect(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh", "gelu"))
    expect(config, "scale_attn_weights", (True,))
    expect(config, "scale_attn_by_inverse_layer_idx", (False,))
    expect(config, "add_cross_attention", (False,))


def rules(config: Config) -> tuple[Rule, ...]:
    return (
        Rule("token_embd.weight", "transformer.wte.weight"),
        Rule("position_embd.weight", "transformer.wpe.weight"),
        *_pair("blk.{i}.attn_norm", LAYER + "ln_1"),
        *_pair("blk.{i}.attn_qkv", LAYER + "attn.c_attn", transpose=True),
        *_pair("blk.{i}.attn_output", LAYER + "attn.c_proj", transpose=True),
        *_pair("blk.{i}.ffn_norm", LAYER + "ln_2"),
        *_pair("blk.{i}.ffn_up", LAYER + "mlp.c_fc", transpose=True),
        *_pair("blk.{i}.ffn_down", LAYER + "mlp.c_proj", transpose=True),
        *_pair("output_norm", "transformer.ln_f"),
        Rule("output.weight", "lm_head.weight", optional=True),
    )


def _pair(gguf: str, hf: str, transpose: bool = False) -> tuple[Rule, Rule]:
    return (
        Rule(gguf + ".weight", hf + ".weight", transpose=transpose),
        Rule(gguf + ".bias", hf + ".bias"),
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": keys.vocabulary,
        "n_embd": keys.whole("embedding_length"),
        "n_inner": keys.whole("feed_forward_length"),
        "n_layer": keys.blocks,
        "n_head": keys.whole("attention.head_count"),
        "n_positions": keys.whole("context_length"),
        "layer_norm_epsilon": keys.real("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
        "tie_word_embeddings": not keys.has_tensor("output.weight"),
    }


GPT2 = Family(
    name=NAME,
    classes=("GPT2LMHeadModel", "GPT2Model"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    # Causal masks that old versions stored.
    ignored=(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias",),
    config=config_json,
    folds=(FUSED_ATTENTION, FUSED_FEED_FORWARD),
)
