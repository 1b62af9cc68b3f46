import numpy as np
import pytest

from qconvert.checkpoint.metadata import i32s, text, u32
from qconvert.errors import CheckpointError
from qconvert.plan.gguf.facts import ModelFacts, facts_from_metadata

LLAMA = {
    "general.architecture": text("llama"),
    "llama.block_count": u32(32),
    "llama.attention.head_count": u32(32),
    "llama.attention.head_count_kv": u32(8),
}


def test_the_numbers_are_read_from_the_architectures_keys():
    assert facts_from_metadata(LLAMA) == ModelFacts("llama", 32, 32, 8, 0)
    experts = facts_from_metadata(LLAMA | {"llama.expert_count": u32(8)})
    assert experts.experts == 8
    assert experts.group == 4


def test_without_key_heads_every_head_has_its_own():
    metadata = {key: value for key, value in LLAMA.items() if not key.endswith("_kv")}
    assert facts_from_metadata(metadata).kv_heads == 32


@pytest.mark.parametrize("values", [[6, 4, 2], np.array([6, 4, 2])])
def test_of_heads_by_block_the_first_count(values):
    field = i32s([6, 4, 2])._replace(value=values)
    facts = facts_from_metadata(LLAMA | {"llama.attention.head_count": field})
    assert facts.heads == 6


def test_a_model_without_attention_has_no_groups():
    assert facts_from_metadata(LLAMA | {"llama.attention.head_count_kv": u32(0)}).group == 0


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("llama.block_count", text("many")),
        ("llama.block_count", i32s([])),
        ("llama.attention.head_count", u32(1)._replace(value=-1)),
        ("general.architecture", u32(3)),
    ],
)
def test_what_is_no_count_is_named(key, field):
    with pytest.raises(CheckpointError, match=key):
        facts_from_metadata(LLAMA | {key: field})


@pytest.mark.parametrize("key", ["llama.block_count", "general.architecture"])
def test_a_missing_key_is_named(key):
    with pytest.raises(CheckpointError, match=key):
        facts_from_metadata({k: v for k, v in LLAMA.items() if k != key})
