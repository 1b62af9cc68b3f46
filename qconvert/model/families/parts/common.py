"""What most families share: reading `config.json` and the metadata of a decoder.

Keys and their meaning: llama.cpp's `llama-arch.cpp` and the GGUF specification. Hyper-parameters
come from strangers, so every number is checked before it is used.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from qconvert.checkpoint.metadata import Metadata, f32, u32
from qconvert.errors import CheckpointError, UnsupportedError
from qconvert.model.types import Config, Family

EMPTY_AS_ABSENT = ("rope_theta", "rope_local_base_freq", "rope_parameters")
"""Settings whose null stands for the default, and not for none."""

LARGEST = 2**31 - 1
MOST_BLOCKS = 4096


def text_config(family: Family, config: Config) -> dict[str, Any]:
    """The settings of the language model, as transformers understands `config.json`: those of a
    multimodal model's `text_config` lie over the outer ones, the family's defaults stand for what
    neither mentions, and null is left out. Outputs are tied where it is said, or by default.

    Raises:
        CheckpointError: `text_config` is no object.
    """
    inner = config.get("text_config") or {}
    if not isinstance(inner, Mapping):
        raise CheckpointError("config.json: text_config is no object")
    stated = {
        key: value
        for key, value in {**config, **inner}.items()
        if value is not None or key not in EMPTY_AS_ABSENT
    }
    every = {**family.defaults, **stated}
    every |= {name: stated[alias] for alias, name in family.aliases.items() if alias in stated}
    settings = {key: plain_numbers(value) for key, value in every.items() if value is not None}
    if not inner:  # of wrappers some classes tie where nothing is said, and some do not
        settings.setdefault("tie_word_embeddings", False)
    return settings


def named_class(config: Config) -> str | None:
    """The class that `config.json` names; None where it names none."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return None
    return names[0]


SPECIAL = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def plain_numbers(value: Any) -> Any:
    """What transformers writes into `config.json` for numbers that JSON has not, `{"__float__":
    "Infinity"}`, as the numbers; in lists and objects too."""
    if isinstance(value, list):
        return [plain_numbers(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__float__"} and str(value["__float__"]) in SPECIAL:
        return SPECIAL[str(value["__float__"])]
    return {key: plain_numbers(one) for key, one in value.items()}


def whole(config: Config, *names: str, default: int | None = None, most: int = LARGEST) -> int:
    """The first of these settings that is given: an integer from 1 to `most`.

    Raises:
        CheckpointError: none is given, or it is no such integer.
    """
    name, value = _first(config, names, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise CheckpointError(f"config.json: {name} is {value!r:.60}, not a whole number in range")
    return value


def real(config: Config, *names: str, default: float | None = None) -> float:
    """The first of these settings that is given: a finite number.

    Raises:
        CheckpointError: none is given, or it is no such number.
    """
    name, value = _first(config, names, default)
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    if not usable or abs(value) > 1e30 or not math.isfinite(value):
        raise CheckpointError(f"config.json: {name} is {value!r:.60}, not a number in range")
    return float(value)


def expect(config: Config, name: str, allowed: Collection[Any], why: str = "") -> None:
    """Refuse a setting that llama.cpp would ignore. An absent one is taken for allowed.

    Raises:
        UnsupportedError: the setting has a value that is not among `allowed`.
    """
    value = config.get(name)
    if value is not None and value not in allowed:
        raise UnsupportedError(
            f"config.json: {name} = {value!r:.60} cannot be expressed in GGUF for this family",
            hint=why or f"llama.cpp runs it with {' or '.join(map(repr, allowed))} only",
        )


def _first(config: Config, names: tuple[str, ...], default: Any) -> tuple[str, Any]:
    for name in names:
        if config.get(name) is not None:
            return name, config[name]
    if default is None:
        raise CheckpointError(f"config.json: no {names[0]}")
    return names[0], default


def head_count(config: Config) -> int:
    return whole(config, "num_attention_heads")


def kv_head_count(config: Config) -> int:
    """Key and value heads: as many as query heads where grouping is not mentioned."""
    return whole(config, "num_key_value_heads", default=head_count(config))


def head_size(config: Config) -> int:
    """Elements of one head: `head_dim`, or the width shared out evenly."""
    return whole(config, "head_dim", default=whole(config, "hidden_size") // head_count(config))


SILU = ("silu", "swish")


def heads_fill_width(config: Config) -> None:
    """Refuse heads that together are wider or narrower than the model, for families whose output
    projection llama.cpp takes for square."""
    if head_count(config) * head_size(config) != whole(config, "hidden_size"):
        raise UnsupportedError(
            "config.json: llama.cpp runs this family only where num_attention_heads * head_dim is "
            "hidden_size"
        )


def block_count(config: Config) -> int:
    return whole(config, "num_hidden_layers", most=MOST_BLOCKS)


EPSILONS = {"rms": "attention.layer_norm_rms_epsilon", "layer": "attention.layer_norm_epsilon"}
"""GGUF's key of what norms add to a variance, by their kind."""

RMS_EPSILON = ("rms_norm_eps", EPSILONS["rms"])


def decoder_metadata(name: str, config: Config, epsilon: tuple[str, str] = RMS_EPSILON) -> Metadata:
    """The sizes of a decoder, as llama.cpp's converter writes them. `vocab_size` is added for
    every family: llama.cpp needs it where a file has no tokens.

    Args:
        name: `general.architecture`.
        config: the language model's settings.
        epsilon: the setting and the key of what norms add to a variance.
    """
    keys = {
        "block_count": u32(block_count(config)),
        "context_length": u32(whole(config, "max_position_embeddings")),
        "embedding_length": u32(whole(config, "hidden_size")),
        "feed_forward_length": u32(whole(config, "intermediate_size")),
        "attention.head_count": u32(head_count(config)),
        "attention.head_count_kv": u32(kv_head_count(config)),
        epsilon[1]: f32(real(config, epsilon[0])),
        "vocab_size": u32(whole(config, "vocab_size")),
    }
    if config.get("head_dim") is not None:
        keys["attention.key_length"] = u32(head_size(config))
        keys["attention.value_length"] = u32(head_size(config))
    return prefixed(name, keys)


def prefixed(name: str, keys: Metadata) -> Metadata:
    """Put the architecture's name before every key."""
    return {f"{name}.{key}": value for key, value in keys.items()}
