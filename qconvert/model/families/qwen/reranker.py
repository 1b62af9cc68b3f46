"""Qwen3 that ranks: as a causal model whose answer is "yes" or "no" (Qwen3-Reranker), or with a
head that classifies. llama.cpp takes the last token, multiplies with a row for each label, and
gives the labels' shares (softmax).

Nothing in `config.json` tells the first from other models of its class; its name does, or its card,
by which llama.cpp's converter knows it too.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from qconvert.checkpoint.files import read_small_text
from qconvert.checkpoint.metadata import Metadata, text, texts
from qconvert.checkpoint.types import Checkpoint
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.families.parts.lines import EMBEDDING, OUTPUT
from qconvert.model.families.parts.ranking import LABELS, MARK, labels, rank_keys
from qconvert.model.families.qwen.qwen3 import QWEN3
from qconvert.model.types import Config, Family, Rule

NAME, CARD = "qwen3-reranker", "README.md"
ANSWERS = ("yes", "no")
TASK = "Given a web search query, retrieve relevant passages that answer the query"
TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    f"<|im_start|>user\n<Instruct>: {TASK}\n<Query>: {{query}}\n<Document>: {{document}}<|im_end|>"
    "\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""The prompt that the models were trained with, of their card; llama-server fills it."""


def is_reranker(family: Family, checkpoint: Checkpoint) -> bool:
    """Whether a causal Qwen3 answers "yes" or "no" to what is asked of a document."""
    if family is not QWEN3:
        return False
    names = (checkpoint.source, checkpoint.path.name, str(checkpoint.config.get("_name_or_path")))
    if any(NAME in name.lower() for name in names):
        return True
    card = checkpoint.path / CARD
    return card.is_file() and f"# {NAME}" in read_small_text(checkpoint.path, CARD).lower()


def as_reranker(family: Family, tokens: Sequence[str]) -> Family:
    """The family with the rows of the two answers for a head.

    Args:
        tokens: the vocabulary.

    Raises:
        CheckpointError: it lacks one of them.
    """
    missing = [answer for answer in ANSWERS if answer not in tokens]
    if missing:
        raise CheckpointError(f"a reranker answers {missing[0]!r}, and its vocabulary lacks that")
    rows = tuple((tokens.index(answer), tokens.index(answer) + 1) for answer in ANSWERS)
    return replace(
        family,
        rules=partial(_answer_rules, rows),
        metadata=_answer_metadata,
        caveats=_caveats,
        config=None,
        pooled=False,
    )


def _answer_rules(rows: tuple[tuple[int, int], ...], config: Config) -> tuple[Rule, ...]:
    """The output's rows of the answers, or the embedding's where that is the output."""
    sources = (OUTPUT[1].hf, EMBEDDING[0].hf)
    return (*QWEN3.rules(config), *(Rule(f"{LABELS}.weight", name, runs=rows) for name in sources))


def _answer_metadata(config: Config) -> Metadata:
    return {
        **QWEN3.metadata(config),
        **rank_keys(QWEN3.name, list(ANSWERS)),
        "tokenizer.chat_templates": texts(["rerank"]),
        "tokenizer.chat_template.rerank": text(TEMPLATE),
    }


def _caveats(config: Config) -> tuple[str, ...]:
    return (
        'taken for a reranker: it gives the share of "yes" beside "no" (llama-server --rerank)',
    )


def rank_rules(config: Config) -> tuple[Rule, ...]:
    body = (rule for rule in QWEN3.rules(config) if rule.gguf != OUTPUT[1].gguf)
    return (*body, Rule(f"{LABELS}.weight", "score.weight"))


def rank_metadata(config: Config) -> Metadata:
    return {**QWEN3.metadata(config), **rank_keys(QWEN3.name, labels(config))}


def rank_limits(config: Config) -> None:
    QWEN3.limits(config)
    if len(labels(config)) < 2:
        raise UnsupportedError(
            "llama.cpp gives each label's share of all (softmax), which is 1 where there is one",
            "Qwen's own rerankers, with the answers yes and no, can be converted",
        )


def _rank_caveats(config: Config) -> tuple[str, ...]:
    return ("llama.cpp gives each label's share (softmax) where transformers gives its logit",)


QWEN3_RANK = replace(
    QWEN3,
    classes=("Qwen3ForSequenceClassification",),
    rules=rank_rules,
    metadata=rank_metadata,
    limits=rank_limits,
    caveats=_rank_caveats,
    config=None,
    mark=MARK,
    encoder=True,
    pooled=False,
)
