import pytest

from qconvert.errors import UsageError
from qconvert.plan.gguf.file_types import FILE_TYPES
from qconvert.plan.gguf.recipe import Recipe, make_recipe
from qconvert.plan.overrides import Override


def test_a_file_type_alone_is_a_recipe():
    assert make_recipe("Q4_K") == Recipe(FILE_TYPES["q4_k_m"])
    assert Recipe(FILE_TYPES["q8_0"]).fallback


def test_the_words_of_the_command_line_become_types():
    recipe = make_recipe(
        "q4_k_m",
        pure=True,
        output_type="q8_0",
        embedding_type="F16",
        overrides=[("*attn_v*", "q6_k")],
        keep=["blk.0.*"],
        fallback=False,
        allow_nan=True,
    )
    assert recipe.output_type == "Q8_0"
    assert recipe.embedding_type == "F16"
    assert recipe.overrides == (Override("*attn_v*", "Q6_K"),)
    assert recipe.keep == ("blk.0.*",)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"output_type": "q4_k_m"}, UsageError),
        ({"embedding_type": "int8"}, UsageError),
        ({"overrides": [("blk.0", "q6k")]}, UsageError),
        ({"overrides": [("/(/", "q6_k")]}, UsageError),
        ({"keep": ["/(/"]}, UsageError),
        ({"keep": [""]}, UsageError),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_read(options, error):
    with pytest.raises(error):
        make_recipe("q4_k_m", **options)
