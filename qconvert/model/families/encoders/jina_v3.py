"""Jina Embeddings v3, as transformers has it: a BERT whose positions turn. Checkpoints have
queries, keys and values in one matrix, and other names than transformers.

Of the adapters that its makers train for tasks, none is a part of it; PEFT's are merged with
`--adapter`. Files of this family go one way: they are not written back.
Source: llama.cpp's src/models/bert.cpp, transformers' modeling_jina_embeddings_v3.py.
"""

from itertools import chain

from qconvert.checkpoint.metadata import Metadata, f32
from qconvert.model.families.encoders import bert
from qconvert.model.families.encoders.nomic_bert import CUT, HELD, STORED
from qconvert.model.families.parts.common import expect, heads_fill_width, prefixed, real, whole
from qconvert.model.families.parts.lines import pair
from qconvert.model.families.parts.rope import PLAIN, check_rope, rope_parameters
from qconvert.model.types import Config, Family, Rule

NAME = "jina-bert-v3"
DEFAULTS = {
    "vocab_size": 250_002,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "rope_theta": 20_000.0,
}


def metadata(config: Config) -> Metadata:
    theta = real(rope_parameters(config), "rope_theta")
    return {**bert.metadata(config, NAME), **prefixed(NAME, {"rope.freq_base": f32(theta)})}


def limits(config: Config) -> None:
    heads_fill_width(config)
    expect(config, "hidden_act", bert.ACTIVATIONS)
    check_rope(config, PLAIN)


def rules(config: Config) -> tuple[Rule, ...]:
    return (
        Rule("token_embd.weight", "embeddings.word_embeddings.weight"),
        Rule("token_types.weight", "embeddings.token_type_embeddings.weight"),
        *pair("token_embd_norm", "emb_ln"),
        *pair("token_embd_norm", "embeddings.LayerNorm"),
        *chain.from_iterable(_third(config, number) for number in range(3)),
        *_either("attn_output", "mixer.out_proj", "self_attn.o_proj"),
        *_either("attn_output_norm", "norm1", "post_attention_layernorm"),
        *_either("ffn_up", "mlp.fc1", "mlp.fc1"),
        *_either("ffn_down", "mlp.fc2", "mlp.fc2"),
        *_either("layer_output_norm", "norm2", "post_mlp_layernorm"),
    )


def _either(gguf: str, stored: str, held: str) -> tuple[Rule, ...]:
    """As checkpoints call it, or transformers."""
    name = f"blk.{{i}}.{gguf}"
    return (*pair(name, STORED + stored), *pair(name, HELD + held))


def _third(config: Config, number: int) -> tuple[Rule, ...]:
    """Queries, keys or values, which lie in one matrix."""
    width, part = whole(config, "hidden_size"), "qkv"[number]
    name, fused = f"blk.{{i}}.attn_{part}", STORED + "mixer.Wqkv"
    rows = (number * width, (number + 1) * width)
    return (
        Rule(f"{name}.weight", f"{fused}.weight", rows=rows),
        Rule(f"{name}.bias", f"{fused}.bias", rows=rows, stored=(3 * width,)),
        *pair(name, f"{HELD}self_attn.{part}_proj"),
    )


JINA_V3 = Family(
    name=NAME,
    classes=("JinaEmbeddingsV3Model",),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=(r"embeddings\.position_ids", r"pooler\..*", r"lm_head\..*"),
    encoder=True,
    unstored=("pooler",),
    unpacked=CUT,
    pooled=True,
)
