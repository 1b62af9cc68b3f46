"""What a recipe asks of a GGUF file, in ggml's formats."""

from dataclasses import replace

from qconvert.plan.gguf.file_types import find_format
from qconvert.plan.overrides import matcher
from qconvert.plan.recipe import Recipe


def in_formats(recipe: Recipe) -> Recipe:
    """The recipe with the formats ("Q6_K") that its words stand for.

    Raises:
        UsageError: a type's name is not known, or a pattern is not well formed.
    """
    for pattern in (*recipe.keep, *(pattern for pattern, _ in recipe.overrides)):
        matcher(pattern)
    output, embedding = recipe.output_type, recipe.embedding_type
    return replace(
        recipe,
        output_type=find_format(output) if output else None,
        embedding_type=find_format(embedding) if embedding else None,
        overrides=tuple((pattern, find_format(name)) for pattern, name in recipe.overrides),
    )
