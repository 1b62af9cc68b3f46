"""BERT and what is built like it (MiniLM, BGE, E5): encoders that give embeddings.

Heads (pooler, masked language model, next sentence) have no place in GGUF.
"""

from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, flag, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.model.families.parts.common import (
    block_count,
    expect,
    head_count,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.lines import pair
from qconvert.model.types import Config, Family, Rule

NAME = "bert"
DEFAULTS = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
LAYER = "encoder.layer.{i}."
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python")


def metadata(config: Config, name: str = NAME) -> Metadata:
    """`tokenizer.ggml.token_type_count` is here because it is a size of the model.

    Args:
        name: `general.architecture`.
    """
    keys = {
        "block_count": u32(block_count(config)),
        "context_length": u32(whole(config, "max_position_embeddings")),
        "embedding_length": u32(whole(config, "hidden_size")),
        "feed_forward_length": u32(whole(config, "intermediate_size")),
        "attention.head_count": u32(head_count(config)),
        "attention.layer_norm_epsilon": f32(real(config, "layer_norm_eps")),
        "attention.causal": flag(False),
        "vocab_size": u32(whole(config, "vocab_size")),
    }
    types = {"tokenizer.ggml.token_type_count": u32(whole(config, "type_vocab_size"))}
    return {**prefixed(name, keys), **types}


def limits(config: Config) -> None:
    expect(config, "hidden_act", ACTIVATIONS)
    expect(config, "position_embedding_type", ("absolute",))
    expect(config, "is_decoder", (False,))


def rules(config: Config) -> tuple[Rule, ...]:
    attention = LAYER + "attention."
    return (
        Rule("token_embd.weight", "embeddings.word_embeddings.weight"),
        Rule("position_embd.weight", "embeddings.position_embeddings.weight"),
        Rule("token_types.weight", "embeddings.token_type_embeddings.weight"),
        *_norm("token_embd_norm", "embeddings.LayerNorm"),
        *pair("blk.{i}.attn_q", attention + "self.query"),
        *pair("blk.{i}.attn_k", attention + "self.key"),
        *pair("blk.{i}.attn_v", attention + "self.value"),
        *pair("blk.{i}.attn_output", attention + "output.dense"),
        *_norm("blk.{i}.attn_output_norm", attention + "output.LayerNorm"),
        *pair("blk.{i}.ffn_up", LAYER + "intermediate.dense"),
        *pair("blk.{i}.ffn_down", LAYER + "output.dense"),
        *_norm("blk.{i}.layer_output_norm", LAYER + "output.LayerNorm"),
    )


def _norm(gguf: str, hf: str) -> tuple[Rule, ...]:
    """With the names of checkpoints that came from TensorFlow."""
    return (
        *pair(gguf, hf),
        Rule(gguf + ".weight", hf + ".gamma"),
        Rule(gguf + ".bias", hf + ".beta"),
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return settings(Keys(checkpoint, NAME))


def settings(keys: Keys) -> dict[str, Any]:
    """`config.json`, from a file's keys."""
    types = keys.checkpoint.tensors.get("token_types.weight")
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": keys.vocabulary,
        "hidden_size": keys.whole("embedding_length"),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.blocks,
        "num_attention_heads": keys.whole("attention.head_count"),
        "max_position_embeddings": keys.whole("context_length"),
        "type_vocab_size": types.rows if types else 1,
        "layer_norm_eps": keys.real("attention.layer_norm_epsilon"),
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
    }


BERT = Family(
    name=NAME,
    classes=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=limits,
    ignored=(r"(bert\.)?embeddings\.position_ids", r"(bert\.)?pooler\..*", r"cls\..*"),
    config=config_json,
    encoder=True,
    unstored=("pooler",),
    pooled=True,
)
