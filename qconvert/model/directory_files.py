"""The small files of a directory that is made from a GGUF file: configuration and tokenizer."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from qconvert.checkpoint.metadata import Field
from qconvert.model.general import SAMPLING
from qconvert.model.pooling import pooling_files
from qconvert.model.tokenizers.export import json_bytes, tokenizer_files
from qconvert.model.tokenizers.stored import Stored


def directory_files(
    metadata: Mapping[str, Field], config: Mapping[str, Any], family: str, stored: Stored | None
) -> dict[str, bytes]:
    """All files but the weights and the model card, by name.

    Args:
        metadata: of the GGUF file.
        config: what config.json is to hold.
        family: `general.architecture`.
        stored: the tokenizer, if there is one.
    """
    values: dict[str, Any] = {"config.json": config}
    generation = generation_config(stored, metadata)
    if generation and family != "bert":
        values["generation_config.json"] = generation
    width = config.get("hidden_size") or config["n_embd"]
    values.update(pooling_files(metadata, family, width))
    files = {name: json_bytes(value) for name, value in values.items()}
    if stored is not None:
        context = config.get("max_position_embeddings") or config["n_positions"]
        files.update(tokenizer_files(stored, context))
    return files


def special_ids(stored: Stored | None, config: Mapping[str, Any]) -> dict[str, int | None]:
    """`bos_token_id` and so on, for config.json; null keeps out a family's own defaults.

    Args:
        config: what the family says of its own, for those that want a number.
    """
    special = stored.special if stored is not None else {}
    names = {name: f"{name}_token_id" for name in ("bos", "eos", "pad")}
    return {key: special.get(name, config.get(key)) for name, key in names.items()}


def generation_config(stored: Stored | None, metadata: Mapping[str, Field]) -> dict[str, Any]:
    """`generation_config.json`: where a text begins and ends, and the recommended sampling."""
    known = special_ids(stored, {}).items()
    config: dict[str, Any] = {name: number for name, number in known if number is not None}
    if stored is not None:
        ends = [stored.special[name] for name in ("eos", "eot", "eom") if name in stored.special]
        ends = list(dict.fromkeys(ends))
        if len(ends) > 1:
            config["eos_token_id"] = ends
    for name, short in SAMPLING.items():
        field = metadata.get(f"general.sampling.{short}")
        if field is not None and type(field.value) in (int, float) and isfinite(field.value):
            config["do_sample"] = True
            config[name] = field.value if type(field.value) is int else _shortest(field.value)
    return config


def _shortest(value: float) -> float:
    """The fewest digits that give the same float32."""
    return float(f"{value:.7g}")
