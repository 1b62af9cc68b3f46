"""Heads that classify: the names of what they tell apart, and that llama.cpp takes their result for
the vector of a text. It calls the result of one row a rank."""

from typing import Any

from gguf import PoolingType

from qconvert.checkpoint.metadata import Metadata, texts, u32
from qconvert.errors import CheckpointError
from qconvert.model.families.parts.common import MOST_BLOCKS, prefixed, whole
from qconvert.model.families.parts.lines import pair
from qconvert.model.types import Config, Rule

MARK = "classifier.output_labels"
"""The key that only files with such a head have."""

DENSE, LABELS = "cls", "cls.output"
"""GGUF's names of a head's two layers, without ".weight" and ".bias"."""


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


def rank_keys(name: str, names: list[str]) -> Metadata:
    """The pooling that takes the head's result, and the labels.

    Args:
        name: `general.architecture`.
    """
    return prefixed(name, {"pooling_type": u32(PoolingType.RANK), MARK: texts(names)})


def label_settings(names: list[str]) -> dict[str, Any]:
    """What `config.json` says of them."""
    return {
        "id2label": {str(number): label for number, label in enumerate(names)},
        "label2id": {label: number for number, label in enumerate(names)},
    }


def head(dense: str, output: str) -> tuple[Rule, ...]:
    """The two layers of a head.

    Args:
        dense, output: what Hugging Face calls them.
    """
    return (*pair(DENSE, dense), *pair(LABELS, output))
