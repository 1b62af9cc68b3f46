import pytest

from qconvert.errors import UsageError
from qconvert.formats.types import block_sizes
from qconvert.plan.gguf.file_types import (
    ALIASES,
    FILE_TYPES,
    FORMAT_NAMES,
    find_file_type,
    find_format,
)

UNIQUE = tuple(dict.fromkeys(FILE_TYPES.values()))


@pytest.mark.parametrize("kind", UNIQUE, ids=lambda kind: kind.name)
def test_the_number_of_a_file_type_is_the_one_that_llama_cpp_uses(kind):
    llama_cpp = pytest.importorskip("llama_cpp")
    prefix = "ALL" if kind.name == "f32" else "MOSTLY"
    assert kind.ftype == getattr(llama_cpp, f"LLAMA_FTYPE_{prefix}_{kind.name.upper()}")


def test_every_format_is_the_base_of_some_file_type():
    assert {kind.base for kind in UNIQUE} == set(FORMAT_NAMES)


def test_names_are_found_in_any_case():
    assert find_file_type("Q4_K_M") is find_file_type("q4_k_m") is FILE_TYPES["q4_k_m"]
    assert find_format("iq4_nl") == find_format("IQ4_NL") == "IQ4_NL"


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_the_medium_mixture(alias, name):
    assert name == f"{alias}_m"
    assert find_file_type(alias) is FILE_TYPES[name]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("q4km", "q4_k_m"), ("Q5_K_L", "q5_k_m"), ("iq4xs", "iq4_xs"), ("q8", "q8_0")],
)
def test_a_wrong_file_type_is_answered_with_the_nearest_names(wrong, meant):
    with pytest.raises(UsageError, match=wrong) as caught:
        find_file_type(wrong)
    assert meant in caught.value.hint


def test_a_name_like_nothing_is_answered_with_all_names():
    with pytest.raises(UsageError) as caught:
        find_file_type("zzzz")
    assert all(name in caught.value.hint for name in FILE_TYPES)


def test_a_file_type_is_no_tensor_type():
    with pytest.raises(UsageError, match="q4_k_m") as caught:
        find_format("q4_k_m")
    assert "q4_k" in caught.value.hint


def test_blocks_are_those_of_the_format():
    assert [block_sizes(name)[0] for name in ("BF16", "Q8_0", "MXFP4", "Q6_K", "TQ1_0")] == [
        1,
        32,
        32,
        256,
        256,
    ]
