import pytest

from qconvert.errors import UsageError
from qconvert.plan.gguf.recipe import in_formats
from qconvert.plan.recipe import Recipe


def test_the_words_of_the_command_line_become_types():
    recipe = in_formats(
        Recipe(
            "Q4_K",
            output_type="q8_0",
            embedding_type="F16",
            overrides=(("*attn_v*", "q6_k"),),
            keep=("blk.0.*",),
        )
    )
    assert recipe.file_type.name == "q4_k_m"
    assert recipe.output_type == "Q8_0"
    assert recipe.embedding_type == "F16"
    assert recipe.overrides == (("*attn_v*", "Q6_K"),)
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
        in_formats(Recipe("q4_k_m", **options))


def test_a_wrong_type_in_an_override_is_answered_with_the_nearest():
    with pytest.raises(UsageError) as caught:
        in_formats(Recipe("q4_k_m", overrides=(("blk.*", "q6k"),)))
    assert "q6_k" in caught.value.hint
