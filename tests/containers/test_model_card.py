"""Model cards that the hub accepts, whatever a file says of itself."""

import pytest
import yaml

from qconvert.checkpoint.metadata import Metadata, text, texts, u32
from qconvert.containers.model_card import front_matter, model_card

HOSTILE = "a\n---\nlicense: mit\n<script>alert(1)</script> | `x` [y](z) # \u202e"


def parse(card: str) -> tuple[dict, str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def test_known_facts_are_stated():
    keys: Metadata = {
        "general.name": text("Tiny Model"),
        "general.license": text("Apache-2.0"),
        "general.languages": texts(["en", "de"]),
        "general.base_model.0.repo_url": text("https://huggingface.co/org/name"),
    }
    front, body = parse(model_card(keys, {"Source": "x.gguf"}, ["take care"], "text-generation"))
    assert front == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "language": ["en", "de"],
        "base_model": "org/name",
        "tags": ["qconvert"],
    }
    assert "# Tiny Model" in body
    assert "| Source | x.gguf |" in body
    assert "- take care" in body


@pytest.mark.parametrize("key", ["name", "license", "languages", "base_model.0.repo_url"])
def test_hostile_texts_stay_text(key):
    value = texts([HOSTILE]) if key == "languages" else text(HOSTILE)
    front, body = parse(model_card({f"general.{key}": value}, {"Source": HOSTILE}, [HOSTILE], "x"))
    assert set(front) <= {"library_name", "pipeline_tag", "license", "license_name", "tags"}
    assert front.get("license", "other") == "other"
    assert "<script>" not in body.replace("\\<", "")
    assert "\u202e" not in body
    assert len([line for line in body.splitlines() if line.startswith("# ")]) == 1


def test_values_of_the_wrong_kind_are_left_out():
    keys = {f"general.{key}": u32(7) for key in ("name", "license", "languages")}
    assert set(front_matter(keys, "x")) == {"library_name", "pipeline_tag", "tags"}
