"""`config.json` means what transformers' own configuration class makes of it: keys that are left
out, that are null, or that shadow each other."""

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
import transformers
from common import FAMILIES, tiny_model
from large_models import LARGE, large_model
from plain_models import ALWAYS_TIED, PLAIN, SMALL

from qconvert.errors import QconvertError, UnsupportedError
from qconvert.model.families import find_family
from qconvert.model.families.parts.common import plain_numbers, text_config

DRAWS = 300
SCALINGS: list[Any] = [
    None,
    {"type": "linear", "factor": 2.0},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    {"type": "yarn", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5},
]


def strange(
    rng: random.Random, config: dict[str, Any], aliases: Mapping[str, str]
) -> dict[str, Any]:
    """The configuration with keys left out, emptied, and others beside them.

    Args:
        aliases: other names of settings, and those that the class stores them under.
    """
    drawn = dict(config)
    for alias, name in aliases.items():
        if rng.random() < 0.3 and isinstance(drawn.get(name), int):
            drawn[alias] = 2 * drawn[name]
    for key in rng.sample(sorted(set(drawn) - {"architectures", "model_type"}), rng.randint(0, 5)):
        if rng.random() < 0.7:
            del drawn[key]
        else:
            drawn[key] = None
    if rng.random() < 0.5:
        drawn["rope_scaling"] = rng.choice(SCALINGS)
    if rng.random() < 0.5:
        drawn["rope_theta"] = rng.choice([1e4, 5e5, 1e6, None])
    if rng.random() < 0.4:
        drawn.pop("rope_parameters", None)
    if rng.random() < 0.2:
        drawn["rope_local_base_freq"] = 5e4
    if rng.random() < 0.2:
        drawn["partial_rotary_factor"] = rng.choice([1.0, 0.5])
    return drawn


def meaning(config: dict[str, Any]) -> dict[str, Any] | str:
    """GGUF's keys, or that there are none."""
    family = find_family(config)
    try:
        settings = text_config(family, config)
        family.limits(settings)
        keys = {key: field.value for key, field in family.metadata(settings).items()}
    except UnsupportedError:
        return "llama.cpp cannot run it"
    except QconvertError as error:
        return error.message
    name = family.name
    heads = keys[f"{name}.attention.head_count"]
    heads = max(heads if isinstance(heads, int) else heads[0], 1)
    keys.setdefault(f"{name}.attention.key_length", keys[f"{name}.embedding_length"] // heads)
    keys.pop(f"{name}.attention.value_length", None)
    return keys


@pytest.mark.parametrize("family", [*FAMILIES, *SMALL, *LARGE])
def test_a_configuration_means_what_transformers_makes_of_it(family: str) -> None:
    if family in LARGE:
        model = large_model(family)
    else:
        model = tiny_model(PLAIN.get(family, family), tied=family in ALWAYS_TIED)
    draws = DRAWS if family in FAMILIES else DRAWS // 3
    whole = json.loads(model.config.to_json_string(use_diff=False))
    whole["architectures"] = [type(model).__name__]
    rng = random.Random(family)
    compared = 0
    for _ in range(draws):
        config = strange(rng, whole, type(model.config).attribute_map)
        if family.startswith(("gemma4", "laguna", "mimo")):  # they never had the older key
            config.pop("rope_scaling", None)
        try:
            understood = type(model.config).from_dict(plain_numbers(json.loads(json.dumps(config))))
        except Exception:
            continue  # no configuration for transformers either
        stated = json.loads(understood.to_json_string(use_diff=False))
        stated["architectures"] = config["architectures"]
        assert meaning(config) == meaning(stated), config
        compared += 1
    assert compared > draws / 3


@pytest.mark.parametrize("name", [*FAMILIES, *SMALL, *LARGE])
def test_whether_the_output_is_tied_where_nothing_says_so(name: str) -> None:
    entry: Any = {**FAMILIES, **PLAIN, **LARGE}[name]
    sizes = entry.settings if name in LARGE else entry.tiny
    class_ = getattr(transformers, entry.config)(**sizes)
    config = json.loads(class_.to_json_string(use_diff=False)) | {"architectures": [entry.model]}
    expected = config.pop("tie_word_embeddings")
    if name != "bert":  # which predicts no tokens
        assert text_config(find_family(config), config)["tie_word_embeddings"] is expected


def test_published_wrappers_leave_out_what_is_transformers_default() -> None:
    config = transformers.Gemma3Config(text_config={"num_hidden_layers": 34, "hidden_size": 2560})
    short = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 34, "hidden_size": 2560},
    }
    whole = json.loads(config.to_json_string(use_diff=False))
    assert meaning(short) == meaning(whole | {"architectures": short["architectures"]})
