"""ModernBERT (arXiv 2412.13663), the GTE and Granite embedding models made of it, and rerankers:
encoders with rotary positions, of which most blocks see a window on both sides, full attention in
the first of each three. Norms come before and have no bias; the first block has none ahead of its
attention. Gate and up are one matrix, queries, keys and values another.

The head that classifies takes the first token or the mean of all: a matrix, GELU, a norm, and a row
for each label.
"""

from dataclasses import replace
from typing import Any

from gguf import PoolingType

from qconvert.checkpoint.metadata import Metadata, f32, flag, flags, text, u32
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.decoder.windows import KINDS, stated_windows
from qconvert.model.families.parts.common import (
    MOST_BLOCKS,
    block_count,
    expect,
    head_count,
    prefixed,
    real,
    whole,
)
from qconvert.model.families.parts.keys import Keys
from qconvert.model.families.parts.lines import DRAWN, pair
from qconvert.model.families.parts.ranking import (
    DENSE,
    LABELS,
    MARK,
    label_settings,
    labels,
    rank_keys,
)
from qconvert.model.families.parts.rope import PLAIN, check_rope, rope_parameters, sliding_rope
from qconvert.model.folding import DOWN_OF_FUSED, FUSED_ATTENTION, FUSED_FEED_FORWARD
from qconvert.model.types import Config, Family, Rule

NAME = "modern-bert"
LAYER = "model.layers.{i}."
INTERVAL = 3
"""llama.cpp's own pattern, and transformers': full attention in block 0, 3, 6 and so on."""
PATTERN, EPSILON = "attention.sliding_window_pattern", "attention.layer_norm_epsilon"
POOLING = {"cls": PoolingType.CLS, "mean": PoolingType.MEAN}
CLASSIFIER_POOLING = "classifier.pooling_type"

DEFAULTS = {
    "vocab_size": 50_368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "max_position_embeddings": 8192,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "local_attention": 128,
    "rope_theta": 160_000.0,
    "rope_local_base_freq": 10_000.0,
    "classifier_pooling": "cls",
}
ALIASES = {"global_rope_theta": "rope_theta", "local_rope_theta": "rope_local_base_freq"}


def metadata(config: Config) -> Metadata:
    return prefixed(
        NAME,
        {
            "block_count": u32(block_count(config)),
            "context_length": u32(whole(config, "max_position_embeddings")),
            "embedding_length": u32(whole(config, "hidden_size")),
            "feed_forward_length": u32(whole(config, "intermediate_size")),
            "attention.head_count": u32(head_count(config)),
            EPSILON: f32(real(config, "norm_eps")),
            "attention.causal": flag(False),
            "vocab_size": u32(whole(config, "vocab_size")),
            "rope.freq_base": f32(real(rope_parameters(config), "rope_theta")),
            "rope.freq_base_swa": f32(real(sliding_rope(config), "rope_theta")),
            "rope.scaling.type": text("none"),
            "hidden_activation": text(str(config["hidden_activation"])),
            **_windows(config),
        },
    )


def _windows(config: Config) -> Metadata:
    """The tokens seen on both sides together, and which blocks see no others."""
    interval = whole(config, "global_attn_every_n_layers", default=INTERVAL, most=MOST_BLOCKS)
    usual = [block % interval != 0 for block in range(block_count(config))]
    sliding = stated_windows(config)
    pattern = u32(interval) if sliding is None or sliding == usual else flags(sliding)
    return {"attention.sliding_window": u32(whole(config, "local_attention")), PATTERN: pattern}


def limits(config: Config) -> None:
    expect(config, "hidden_activation", ("gelu", "silu"))
    for name in ("norm_bias", "attention_bias", "mlp_bias"):
        expect(config, name, (False,))
    window = whole(config, "local_attention")
    expect({"local_attention": window % 2 == 0}, "local_attention", (True,), "it has to be even")
    check_rope(config, PLAIN)


def rules(config: Config) -> tuple[Rule, ...]:
    normed = tuple(range(1, block_count(config)))
    return (
        Rule("token_embd.weight", "model.embeddings.tok_embeddings.weight"),
        Rule("token_embd_norm.weight", "model.embeddings.norm.weight"),
        Rule("blk.{i}.attn_norm.weight", LAYER + "attn_norm.weight", blocks=normed),
        Rule("blk.{i}.attn_qkv.weight", LAYER + "attn.Wqkv.weight"),
        Rule("blk.{i}.attn_output.weight", LAYER + "attn.Wo.weight"),
        Rule("blk.{i}.ffn_norm.weight", LAYER + "mlp_norm.weight"),
        Rule("blk.{i}.ffn_up.weight", LAYER + "mlp.Wi.weight"),
        Rule("blk.{i}.ffn_down.weight", LAYER + "mlp.Wo.weight"),
        Rule("output_norm.weight", "model.final_norm.weight"),
    )


def rank_metadata(config: Config) -> Metadata:
    pooling = POOLING.get(str(config["classifier_pooling"]), PoolingType.CLS)
    own = prefixed(NAME, {CLASSIFIER_POOLING: u32(pooling)})
    return {**metadata(config), **rank_keys(NAME, labels(config)), **own}


def rank_limits(config: Config) -> None:
    limits(config)
    expect(config, "classifier_pooling", tuple(POOLING))
    expect(config, "classifier_activation", ("gelu",))
    expect(config, "classifier_bias", (False,))


def rank_rules(config: Config) -> tuple[Rule, ...]:
    return (
        *rules(config),
        Rule(f"{DENSE}.weight", "head.dense.weight"),
        Rule("cls.norm.weight", "head.norm.weight"),
        *pair(LABELS, "classifier"),
    )


def config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    stored = keys.value(PATTERN)
    pattern: dict[str, Any] = {"global_attn_every_n_layers": stored or INTERVAL}
    if isinstance(stored, list):
        pattern = {"layer_types": [KINDS[bool(windowed)] for windowed in stored]}
    return {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": keys.vocabulary,
        "hidden_size": keys.whole("embedding_length"),
        "intermediate_size": keys.whole("feed_forward_length"),
        "num_hidden_layers": keys.blocks,
        "num_attention_heads": keys.whole("attention.head_count"),
        "max_position_embeddings": keys.whole("context_length"),
        "norm_eps": keys.real(EPSILON),
        "hidden_activation": keys.value("hidden_activation") or "gelu",
        "local_attention": keys.whole("attention.sliding_window"),
        "global_rope_theta": keys.real("rope.freq_base"),
        "local_rope_theta": keys.real("rope.freq_base_swa", default=10_000.0),
        **pattern,
    }


def rank_config_json(checkpoint: Checkpoint) -> dict[str, Any]:
    keys = Keys(checkpoint, NAME)
    names = keys.value(MARK)
    if not isinstance(names, list) or not names or not all(type(name) is str for name in names):
        raise CheckpointError(f"{NAME}.{MARK} is no list of names")
    pooling = keys.whole(CLASSIFIER_POOLING, default=PoolingType.MEAN)
    by_number = {number: name for name, number in POOLING.items()}
    if pooling not in by_number:
        raise UnsupportedError(f"{NAME}.{CLASSIFIER_POOLING} is {pooling}, which has no name")
    return {
        **config_json(checkpoint),
        "architectures": ["ModernBertForSequenceClassification"],
        "classifier_pooling": by_number[pooling],
        **label_settings(names),
    }


MODERN_BERT = Family(
    name=NAME,
    classes=("ModernBertModel", "ModernBertForMaskedLM"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    ignored=(r"head\..*", r"decoder\..*"),
    config=config_json,
    shapes={"ffn_up.weight": ("gate_up", "hidden"), "cls.norm.weight": ("hidden",)},
    folds=(FUSED_ATTENTION, FUSED_FEED_FORWARD, DOWN_OF_FUSED),
    encoder=True,
    unpacked=DRAWN,
    pooled=True,
)

MODERN_BERT_RANK = replace(
    MODERN_BERT,
    classes=("ModernBertForSequenceClassification",),
    metadata=rank_metadata,
    rules=rank_rules,
    limits=rank_limits,
    config=rank_config_json,
    ignored=(),
    mark=MARK,
    pooled=False,
)
