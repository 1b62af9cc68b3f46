"""DistilBERT: a BERT under other names, without kinds of segments: those are zero in GGUF."""

from dataclasses import replace

import numpy as np

from qconvert.checkpoint.metadata import Metadata
from qconvert.model.families.encoders import bert
from qconvert.model.families.parts.common import expect, whole
from qconvert.model.types import Config, Family, Rule

ALIASES = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}
DEFAULTS = {**bert.DEFAULTS, "num_hidden_layers": 6, "type_vocab_size": 1}
SEGMENTS = "token_types.weight"

NAMES = {
    "encoder.layer.": "transformer.layer.",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
"""BERT's names and its own, the longer ones first."""


def metadata(config: Config) -> Metadata:
    return bert.metadata({**config, "layer_norm_eps": DEFAULTS["layer_norm_eps"]})


def limits(config: Config) -> None:
    expect(config, "activation", bert.ACTIVATIONS)


def rules(config: Config) -> tuple[Rule, ...]:
    return tuple(
        replace(rule, hf=_renamed(rule.hf)) for rule in bert.rules(config) if rule.gguf != SEGMENTS
    )


def _renamed(name: str) -> str:
    for theirs, own in NAMES.items():
        name = name.replace(theirs, own)
    return name


def constants(config: Config) -> dict[str, np.ndarray]:
    return {SEGMENTS: np.zeros((1, whole(config, "hidden_size")), np.float32)}


DISTILBERT = Family(
    name=bert.NAME,
    classes=("DistilBertModel", "DistilBertForMaskedLM"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    aliases=ALIASES,
    limits=limits,
    constants=constants,
    ignored=(r"vocab_(transform|layer_norm|projector)\..*",),
    encoder=True,
    pooled=True,
)
