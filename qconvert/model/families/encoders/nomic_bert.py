"""Nomic's BERT (nomic-embed-text v1 and v1.5): a BERT with rotary positions, without biases, and
with a gated feed-forward. Its norms lie where BERT's do.

Checkpoints have queries, keys and values in one matrix, and names and settings of their own, which
transformers renames when it loads them; what it keeps in memory goes by others. Both are here.
"""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.encoders import bert
from qconvert.model.families.parts.common import (
    SILU,
    expect,
    heads_fill_width,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.lines import pair
from qconvert.model.families.parts.rope import PLAIN, check_rope, rope_parameters
from qconvert.model.folding import DOWN
from qconvert.model.types import Config, Family, Rule

NAME = "nomic-bert"
STORED, HELD = "encoder.layers.{i}.", "layers.{i}."
"""What the names of a block begin with, in checkpoints and in transformers."""

CUT = "it cuts a matrix in three as it loads it, which fails where it is packed"
"""Of transformers."""

DEFAULTS = {
    **bert.DEFAULTS,
    "vocab_size": 30_528,
    "max_position_embeddings": 2048,
    "rope_theta": 1000.0,
    "hidden_act": "silu",
}
ALIASES = {
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}


def metadata(config: Config) -> Metadata:
    trained = whole(config, "max_trained_positions", default=2**31 - 1)
    longest = min(trained, whole(config, "max_position_embeddings"))
    base = bert.metadata({**config, "max_position_embeddings": longest}, NAME)
    theta = real(rope_parameters(config), "rope_theta")
    return {**base, **prefixed(NAME, {"rope.freq_base": f32(theta)})}


def limits(config: Config) -> None:
    heads_fill_width(config)
    expect(config, "hidden_act", SILU)
    expect(config, "activation_function", ("swiglu",))
    for name in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "prenorm", "causal"):
        expect(config, name, (False,))
    expect(config, "rotary_emb_interleaved", (False,))
    expect(config, "rotary_emb_fraction", (1.0,))
    expect(config, "rotary_emb_scale_base", ())
    expect(config, "rotary_scaling_factor", ())
    expect(config, "moe_every_n_layers", (0,), "transformers has no experts for it to compare with")
    check_rope(config, PLAIN)


def rules(config: Config) -> tuple[Rule, ...]:
    width = whole(config, "hidden_size")
    return (
        Rule("token_embd.weight", "embeddings.word_embeddings.weight"),
        Rule("token_types.weight", "embeddings.token_type_embeddings.weight"),
        *pair("token_embd_norm", "emb_ln"),
        *pair("token_embd_norm", "embeddings.LayerNorm"),
        *(
            rule
            for number, part in enumerate("qkv")
            for rule in (
                Rule(
                    f"blk.{{i}}.attn_{part}.weight",
                    STORED + "attn.Wqkv.weight",
                    rows=(number * width, (number + 1) * width),
                ),
                Rule(f"blk.{{i}}.attn_{part}.weight", f"{HELD}self_attn.{part}_proj.weight"),
            )
        ),
        *_linear("attn_output", "attn.out_proj", "self_attn.o_proj"),
        *pair("blk.{i}.attn_output_norm", STORED + "norm1"),
        *pair("blk.{i}.attn_output_norm", HELD + "post_attention_layernorm"),
        *_linear("ffn_gate", "mlp.fc12", "mlp.gate_proj"),
        *_linear("ffn_up", "mlp.fc11", "mlp.up_proj"),
        *_linear("ffn_down", "mlp.fc2", "mlp.down_proj"),
        *pair("blk.{i}.layer_output_norm", STORED + "norm2"),
        *pair("blk.{i}.layer_output_norm", HELD + "post_mlp_layernorm"),
    )


def _linear(gguf: str, stored: str, held: str) -> tuple[Rule, ...]:
    name = f"blk.{{i}}.{gguf}.weight"
    return Rule(name, f"{STORED}{stored}.weight"), Rule(name, f"{HELD}{held}.weight")


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    settings = bert.settings(keys)
    del settings["position_embedding_type"]
    return {
        **settings,
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "hidden_act": "silu",
        "pad_token_id": 0,  # transformers wants a number
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": keys.real("rope.freq_base", default=1000.0),
        },
    }


NOMIC_BERT = Family(
    name=NAME,
    classes=("NomicBertModel",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    ignored=(r"pooler\..*", r"cls\..*"),
    config=config_json,
    folds=(DOWN,),
    encoder=True,
    unpacked=CUT,
    pooled=True,
)
