"""GGUF's `general.*` keys: what the model is and where it comes from.

The `gguf` package reads the model card and names for us; size labels and names follow the GGUF
naming convention (ggml/docs/gguf.md).
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from gguf import GGUFValueType, GGUFWriter
from gguf import Metadata as GeneralMetadata
from gguf.utility import size_label

from qconvert.checkpoint.files import read_small_text
from qconvert.checkpoint.metadata import Field, Metadata, text
from qconvert.model.types import TensorMap

SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
"""Names in generation_config.json and in GGUF."""

LARGEST_FLOAT = 3.4e38

CARD = "README.md"
RESULTS = ("model-index", "widget", "model_index")
MOST_MATTER = 100_000
"""Characters of a card's front matter."""

# The card's reader complains of every entry that it cannot place, on standard error.
logging.getLogger("metadata").addHandler(logging.NullHandler())


def general_metadata(
    path: Path, source: str, architecture: str, tensors: Sequence[TensorMap]
) -> Metadata:
    """Keys for a model in a Hugging Face directory.

    Args:
        source: hub id or directory name; where the names come from.
    """
    writer = GGUFWriter(None, "")
    writer.kv_data[0].clear()
    total = sum(tensor.elements for tensor in tensors)
    described = _describe(path, source, total)
    described.size_label = _size_label(tensors)
    _add_sampling(described, path)
    with suppress(Exception):  # a list of nothing for a word, say: what came before it stays
        described.set_gguf_meta_model(writer)
    keys = {
        key: Field(value.type, value.value, _item_type(value.value))
        for key, value in writer.kv_data[0].items()
        if _is_sound(value.type, value.value)
    }
    return {"general.architecture": text(architecture), "general.type": text("model"), **keys}


def front_matter(path: Path) -> str:
    """The model card's YAML, without the lists of results and examples, of which some cards have
    megabytes; "" where there is none."""
    if not (path / CARD).is_file():
        return ""
    first, *lines = read_small_text(path, CARD).splitlines() or [""]
    kept, wanted = [], True
    for line in takewhile(lambda line: line != "---", lines if first == "---" else ()):
        if line[:1].strip(" \t-#"):
            wanted = line.partition(":")[0] not in RESULTS
        if wanted:
            kept.append(line)
    return "\n".join(kept)


def card_notices(path: Path) -> tuple[str, ...]:
    """What of the card is left out."""
    size = len(front_matter(path))
    what = f"{CARD}: a front matter of {size} characters is left out, with the license in it"
    return (what,) if size > MOST_MATTER else ()


def _card(text: str) -> dict[str, Any]:
    if len(text) > MOST_MATTER:
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # As the `gguf` package mends what cards have: `no` for Norwegian, and tabs.
    data = yaml.load(f"{text}\n".replace("- no\n", '- "no"\n').replace("\t", "  "), loader)
    return data if isinstance(data, dict) else {}


def _item_type(value: Any) -> GGUFValueType | None:
    """The writer leaves open what its lists hold (tags, languages)."""
    return GGUFValueType.STRING if isinstance(value, list) else None


def _is_sound(type_: GGUFValueType, value: Any) -> bool:
    """Whether a value from a card can be written as what it should be."""
    if type_ is GGUFValueType.STRING:
        return isinstance(value, str) and _is_utf8(value)
    if type_ is GGUFValueType.ARRAY:
        return isinstance(value, list) and all(isinstance(v, str) and _is_utf8(v) for v in value)
    if type_ is GGUFValueType.FLOAT32:
        return isinstance(value, int | float) and abs(value) < LARGEST_FLOAT
    return isinstance(value, int) and 0 <= value < 2**31


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell
        return False
    return True


def _describe(path: Path, source: str, total: int) -> GeneralMetadata:
    """The model card's words, or at least a name; a broken card must not stop a conversion."""
    identity = source.partition("@")[0]
    try:
        card = _card(front_matter(path))
    except Exception:  # the card is free text from strangers, and the reader trusts it
        card = {}
    try:
        return GeneralMetadata.apply_metadata_heuristic(
            GeneralMetadata(), card, None, Path(identity), total
        )
    except Exception:
        return GeneralMetadata(name=Path(identity).name)


def _add_sampling(described: GeneralMetadata, path: Path) -> None:
    """The sampling parameters that the model's authors recommend."""
    try:
        recommended = dict(GeneralMetadata.load_generation_config(path))
    except Exception:  # as above: a wrong file beside the weights is no reason to stop
        return
    for name in SAMPLING:
        value = recommended.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            setattr(described, f"sampling_{SAMPLING[name]}", value)


def _size_label(tensors: Sequence[TensorMap]) -> str:
    experts = [tensor for tensor in tensors if "_exps." in tensor.name]
    total = sum(tensor.elements for tensor in tensors)
    if not experts:
        return str(size_label(total, total, 0, 0))
    stacked, count = sum(tensor.elements for tensor in experts), experts[0].shape[0]
    return str(size_label(total, total - stacked, stacked // count, count))
