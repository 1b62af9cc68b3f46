"""RoBERTa and XLM-RoBERTa (BGE-M3, multilingual E5) and the rerankers made of them: BERTs whose
positions begin behind the number of the padding. GGUF has them from the first that is used.

A head that classifies takes the first token: a matrix, tanh, and a row for each label. llama.cpp
calls the result of one row a rank.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gguf import PoolingType

from qconvert.checkpoint.metadata import Metadata, texts, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.encoders import bert
from qconvert.model.families.parts.common import MOST_BLOCKS, prefixed, whole
from qconvert.model.types import Config, Family, Rule

DEFAULTS = {**bert.DEFAULTS, "pad_token_id": 1}
POSITIONS = "position_embd.weight"

DENSE, LABELS = ("cls.weight", "cls.bias"), ("cls.output.weight", "cls.output.bias")
"""GGUF's names of a classifying head."""


MARK = "classifier.output_labels"


def first_position(config: Config) -> int:
    """The row of the table of positions that a text begins with."""
    padding = config.get("pad_token_id")
    if type(padding) is not int or not 0 <= padding < MOST_BLOCKS:
        raise CheckpointError(f"config.json: pad_token_id is {padding!r:.60}, no number in range")
    return padding + 1


def _used(config: Config) -> dict[str, Any]:
    """The settings with the positions that can be used."""
    longest = whole(config, "max_position_embeddings") - first_position(config)
    return {**config, "max_position_embeddings": longest}


def metadata(config: Config) -> Metadata:
    return bert.metadata(_used(config))


def rules(config: Config) -> tuple[Rule, ...]:
    taken = first_position(config), whole(config, "max_position_embeddings")
    return tuple(
        replace(rule, rows=taken) if rule.gguf == POSITIONS else rule for rule in bert.rules(config)
    )


def labels(config: Config) -> list[str]:
    """The names of what is told apart.

    Raises:
        CheckpointError: they are no names by number.
    """
    stated = config.get("id2label")
    if stated is None:
        count = whole(config, "num_labels", default=2, most=MOST_BLOCKS)
        stated = {str(number): f"LABEL_{number}" for number in range(count)}
    numbers = [str(number) for number in range(len(stated))] if isinstance(stated, dict) else []
    if not numbers or set(stated) != {*numbers} or not all(type(v) is str for v in stated.values()):
        raise CheckpointError("config.json: id2label is no table of names by number")
    return [stated[number] for number in numbers]


def with_labels(base: Callable[[Config], Metadata], config: Config) -> Metadata:
    keys = {
        "pooling_type": u32(PoolingType.RANK),
        MARK: texts(labels(config)),
    }
    return {**base(config), **prefixed(bert.NAME, keys)}


def head(dense: str, output: str) -> tuple[Rule, ...]:
    """A classifying head.

    Args:
        dense, output: what Hugging Face calls its two layers.
    """
    ends = ("weight", "bias")
    return (
        *(Rule(name, f"{dense}.{end}") for name, end in zip(DENSE, ends, strict=True)),
        *(Rule(name, f"{output}.{end}") for name, end in zip(LABELS, ends, strict=True)),
    )


def rank_metadata(config: Config) -> Metadata:
    return with_labels(metadata, config)


def rank_rules(config: Config) -> tuple[Rule, ...]:
    return (*rules(config), *head("classifier.dense", "classifier.out_proj"))


def bert_rank_metadata(config: Config) -> Metadata:
    return with_labels(bert.metadata, config)


def bert_rank_rules(config: Config) -> tuple[Rule, ...]:
    return (*bert.rules(config), *head("pooler.dense", "classifier"))


IGNORED = (
    r"(roberta\.)?embeddings\.position_ids",
    r"(roberta\.)?pooler\..*",
    r"lm_head\..*",
)

XLM_ROBERTA = Family(
    name=bert.NAME,
    classes=("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    metadata=metadata,
    rules=rules,
    defaults=DEFAULTS,
    limits=bert.limits,
    ignored=IGNORED,
    encoder=True,
    unstored=("pooler",),
    pooled=True,
    first_position=first_position,
)

ROBERTA = replace(
    XLM_ROBERTA,
    classes=("RobertaModel", "RobertaForMaskedLM"),
    defaults={**DEFAULTS, "vocab_size": 50_265},
)

XLM_ROBERTA_RANK = replace(
    XLM_ROBERTA,
    classes=("XLMRobertaForSequenceClassification",),
    metadata=rank_metadata,
    rules=rank_rules,
    mark=MARK,
    pooled=False,
)

ROBERTA_RANK = replace(
    XLM_ROBERTA_RANK,
    classes=("RobertaForSequenceClassification",),
    defaults=ROBERTA.defaults,
)

BERT_RANK = replace(
    bert.BERT,
    classes=("BertForSequenceClassification",),
    metadata=bert_rank_metadata,
    rules=bert_rank_rules,
    mark=MARK,
    ignored=bert.BERT.ignored[:1],
    unstored=(),
    config=None,
    pooled=False,
)
