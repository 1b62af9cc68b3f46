"""RoBERTa and XLM-RoBERTa (BGE-M3, multilingual E5) and the rerankers made of them: BERTs whose
positions begin behind the number of the padding. GGUF has them from the first that is used.

A head that classifies takes the first token: a matrix, tanh, and a row for each label. llama.cpp
calls the result of one row a rank.
"""

from dataclasses import replace
from typing import Any

from qconvert.checkpoint.metadata import Metadata
from qconvert.errors import CheckpointError
from qconvert.model.families.encoders import bert
from qconvert.model.families.parts.common import MOST_BLOCKS, whole
from qconvert.model.families.parts.ranking import MARK, head, labels, rank_keys
from qconvert.model.types import Config, Family, Rule

DEFAULTS = {**bert.DEFAULTS, "pad_token_id": 1}
POSITIONS = "position_embd.weight"


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


def rank_metadata(config: Config) -> Metadata:
    return {**metadata(config), **rank_keys(bert.NAME, labels(config))}


def rank_rules(config: Config) -> tuple[Rule, ...]:
    return (*rules(config), *head("classifier.dense", "classifier.out_proj"))


def bert_rank_metadata(config: Config) -> Metadata:
    return {**bert.metadata(config), **rank_keys(bert.NAME, labels(config))}


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
