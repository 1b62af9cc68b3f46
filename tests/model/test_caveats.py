"""What a file cannot keep of a model is said."""

import pytest

from qconvert.checkpoint.metadata import u32
from qconvert.model.caveats import caveats
from qconvert.model.families import find_family

MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "sliding_window": 4096,
    "max_position_embeddings": 32768,
}
QWEN2 = MISTRAL | {"architectures": ["Qwen2ForCausalLM"]}


@pytest.mark.parametrize("config", [MISTRAL, QWEN2 | {"use_sliding_window": True}])
def test_a_window_that_llama_cpp_ignores_is_said(config):
    assert "4096" in caveats(find_family(config), config, {})[0]


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
    assert caveats(find_family(config), config, {}) == ()


def test_a_window_that_is_kept_needs_no_word():
    assert (
        caveats(find_family(MISTRAL), MISTRAL, {"gemma3.attention.sliding_window": u32(4096)}) == ()
    )
