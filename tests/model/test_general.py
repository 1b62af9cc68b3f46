"""`general.*`: what the card and the generation settings say, whatever strangers wrote there."""

import json
import time
from pathlib import Path

import pytest
from checkpoints import TINY, write_llama
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qconvert.checkpoint import open_checkpoint
from qconvert.containers.gguf import header_bytes
from qconvert.model.general import card_notices, general_metadata
from qconvert.model.open import open_model
from qconvert.model.types import TensorMap

DENSE = (TensorMap("token_embd.weight", (1000, 64)), TensorMap("blk.0.ffn_up.weight", (256, 64)))
EXPERTS = (*DENSE, TensorMap("blk.0.ffn_up_exps.weight", (4, 1000, 500)))
CARD = """---
license: mit
language: [en, de]
tags: [small]
base_model: org/base-1B
---
# Words
"""


def general(path: Path, source: str = "org/Tiny-1B-Instruct@abc", tensors=DENSE) -> dict:
    fields = general_metadata(path, source, "llama", tensors)
    header_bytes(fields, [])
    return {key: field.value for key, field in fields.items()}


def test_the_card_is_read(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20}')
    keys = general(tmp_path)
    assert keys["general.architecture"] == "llama"
    assert keys["general.license"] == "mit"
    assert keys["general.languages"] == ["en", "de"]
    assert keys["general.tags"] == ["small"]
    assert keys["general.base_model.0.repo_url"] == "https://huggingface.co/org/base-1B"
    assert keys["general.sampling.temp"] == 0.6
    assert keys["general.sampling.top_k"] == 20


def test_names_come_from_the_source(tmp_path):
    keys = general(tmp_path)
    assert keys["general.name"] == "Tiny 1B Instruct"
    assert keys["general.finetune"].endswith("Instruct")
    assert "abc" not in str(keys)


@pytest.mark.parametrize(("tensors", "label"), [(DENSE, "80K"), (EXPERTS, "4x580K")])
def test_the_size_label_counts_weights_and_experts(tmp_path, tensors, label):
    assert general(tmp_path, tensors=tensors)["general.size_label"] == label


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["license", "language", "tags", "base_model", "datasets", "model_name", "quantized_by"]
)
SAMPLING = st.sampled_from(["temperature", "top_k", "top_p", "min_p", "repetition_penalty"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, ANYTHING), st.dictionaries(SAMPLING, ANYTHING))
def test_whatever_they_hold_a_header_can_be_written(tmp_path, card, recommended):
    text = json.dumps(card)  # JSON is YAML
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    (tmp_path / "generation_config.json").write_text(json.dumps(recommended))
    assert general(tmp_path)["general.architecture"] == "llama"


def matter(tmp_path: Path, text: str) -> Path:
    (tmp_path / "README.md").write_text(f"---\n{text}---\n# A model\n")
    return tmp_path


def test_a_card_with_results_beyond_measure_is_read_at_once(tmp_path: Path) -> None:
    results = "model-index:\n" + "".join(f"- name: r{n}\n  value: {n}\n" for n in range(40_000))
    path = matter(tmp_path, f"license: mit\n{results}tags:\n- one\n")
    start = time.monotonic()
    keys = general_metadata(path, "m", "llama", [])
    assert time.monotonic() - start < 2
    assert keys["general.license"].value == "mit"
    assert keys["general.tags"].value == ["one"]
    assert not card_notices(path)


def test_a_card_that_is_all_front_matter_is_left_out_and_said(tmp_path: Path) -> None:
    path = matter(tmp_path, "".join(f"k{n}: [a, {{b: {n}}}]\n" for n in range(40_000)))
    start = time.monotonic()
    assert "general.license" not in general_metadata(path, "m", "llama", [])
    assert time.monotonic() - start < 2
    assert "left out" in card_notices(path)[0]


@pytest.mark.parametrize("content", ["[1, 2]", "7", "null", '{"temperature": [1]}'])
def test_a_generation_config_that_is_none_does_not_stop_anything(
    content: str, tmp_path: Path
) -> None:
    model = write_llama(tmp_path / "model", TINY, tokenizer=True)
    plain = open_model(open_checkpoint(str(model))).metadata
    (model / "generation_config.json").write_text(content)
    assert open_model(open_checkpoint(str(model))).metadata == plain
