"""What a file cannot keep of a model is said."""

from typing import Any

import pytest

from qconvert.model.caveats import caveats
from qconvert.model.families import find_family
from qconvert.model.families.parts.common import text_config

MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "sliding_window": 4096,
    "max_position_embeddings": 32768,
}
QWEN2 = MISTRAL | {"architectures": ["Qwen2ForCausalLM"]}


def said(config: dict[str, Any]) -> tuple[str, ...]:
    family = find_family(config)
    return caveats(family, text_config(family, config))


@pytest.mark.parametrize(
    "config",
    [
        MISTRAL,
        QWEN2 | {"use_sliding_window": True},
        {"architectures": ["MistralForCausalLM"]},  # transformers' default
    ],
)
def test_a_window_that_llama_cpp_ignores_is_said(config):
    assert "4096" in said(config)[0]


@pytest.mark.parametrize(
    "config",
    [
        QWEN2,
        MISTRAL | {"sliding_window": None},
        MISTRAL | {"max_position_embeddings": 4096},
        {"architectures": ["LlamaForCausalLM"]},
    ],
)
def test_where_no_window_counts_nothing_is_said(config):
    assert said(config) == ()


def test_a_window_that_is_kept_needs_no_word():
    assert said({"architectures": ["Gemma3ForCausalLM"]}) == ()
