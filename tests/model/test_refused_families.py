"""Classes that one side lacks are refused by name."""

import pytest
import transformers

from qconvert.errors import UnsupportedError
from qconvert.model.families import BY_CLASS, find_family
from qconvert.model.families.refused import LLAMA_CPP_ALONE, OTHERWISE, TRANSFORMERS_ALONE


def test_the_lists_say_what_transformers_has() -> None:
    assert [name for name in sorted(LLAMA_CPP_ALONE) if hasattr(transformers, name)] == []
    assert [name for name in sorted(TRANSFORMERS_ALONE) if not hasattr(transformers, name)] == []
    assert not BY_CLASS.keys() & {*LLAMA_CPP_ALONE, *TRANSFORMERS_ALONE, *OTHERWISE}


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("MPNetModel", "llama.cpp does not run"),
        ("InternLM2ForCausalLM", "not in transformers"),
        ("PhimoeForCausalLM", "in another way"),
    ],
)
def test_the_refusal_says_which_side_lacks_it(name: str, lacks: str) -> None:
    with pytest.raises(UnsupportedError, match=lacks) as refused:
        find_family({"architectures": [name]})
    assert name in refused.value.message
