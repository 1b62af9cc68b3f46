"""What config.json says of rotary embeddings is what transformers' own class makes of it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from common import FAMILIES, save_model

from qconvert.errors import QconvertError
from qconvert.model.families import find_family
from qconvert.model.families.parts.common import text_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
PARAMETERS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "default", "rope_theta": 500000.0},
    {"rope_type": "linear", "factor": 8.0, "rope_theta": 300000.0},
    {**YARN, "rope_theta": 70000.0},
)
SCALING: tuple[dict[str, Any] | None, ...] = (
    None,
    {},
    {"rope_type": "linear", "factor": 2.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 9000.0},
    YARN,
)
THETA = (None, 20000.0)
CASES = list(itertools.product(PARAMETERS, SCALING, THETA))


def meant(path: Path) -> dict[str, Any]:
    """The settings of layers with full attention, by transformers."""
    config = transformers.AutoConfig.from_pretrained(path)
    rope = config.get_text_config().rope_parameters
    return rope.get("full_attention", rope)


@pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family not in ("bert", "gpt2", "phi3")]
)
def test_keys_beside_each_other_mean_what_transformers_makes_of_them(
    family: str, tmp_path: Path
) -> None:
    save_model(family, tmp_path)
    original = json.loads((tmp_path / "config.json").read_text())
    compared = 0
    for parameters, scaling, theta in CASES:
        config = {key: value for key, value in original.items() if not key.startswith("rope_")}
        stated = {"rope_parameters": parameters, "rope_scaling": scaling, "rope_theta": theta}
        config |= {key: value for key, value in stated.items() if value is not None}
        config["max_position_embeddings"] = 256
        (tmp_path / "config.json").write_text(json.dumps(config))
        try:
            rope = meant(tmp_path)
        except Exception:  # what transformers refuses has no meaning
            continue
        known = find_family(config)
        try:
            settings = text_config(known, config)
            known.limits(settings)
            keys = known.metadata(settings)
        except QconvertError:
            continue
        compared += 1
        said = (parameters, scaling, theta)
        prefix = f"{known.name}.rope."
        assert keys[prefix + "freq_base"].value == pytest.approx(rope["rope_theta"]), said
        kind = keys.get(prefix + "scaling.type")
        assert (kind.value if kind else "default") == rope["rope_type"], said
        if kind:
            assert keys[prefix + "scaling.factor"].value == pytest.approx(rope["factor"]), said
    assert compared >= 15
