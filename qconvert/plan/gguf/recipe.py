"""What the user asks for: a recipe, made once from the command line's options."""

from collections.abc import Sequence
from dataclasses import dataclass

from qconvert.plan.gguf.file_types import FileType, find_file_type, find_format
from qconvert.plan.overrides import Override, make_override, matcher


@dataclass(frozen=True)
class Recipe:
    """How a model is to be quantized.

    Attributes:
        file_type: the base format and its mixture.
        pure: no mixture: every tensor that can be quantized gets the base format, the output and
            the embeddings too.
        output_type: the format of `output.weight`, or, where it is tied, of the token embeddings.
        embedding_type: the format of the token embeddings.
        overrides: formats by name pattern; the last that matches counts.
        keep: patterns of tensors that stay as the source has them.
        fallback: take another format where rows are not a multiple of the block; else refuse.
        allow_nan: go on where weights are NaN or infinite.

    Where several speak of one tensor: `keep`, then `output_type` and `embedding_type`, then
    `overrides`, then `pure`, then the mixture.
    """

    file_type: FileType
    pure: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    overrides: tuple[Override, ...] = ()
    keep: tuple[str, ...] = ()
    fallback: bool = True
    allow_nan: bool = False


def make_recipe(
    file_type: str,
    *,
    pure: bool = False,
    output_type: str | None = None,
    embedding_type: str | None = None,
    overrides: Sequence[tuple[str, str]] = (),
    keep: Sequence[str] = (),
    fallback: bool = True,
    allow_nan: bool = False,
) -> Recipe:
    """A recipe from the words of the command line.

    Args:
        overrides: patterns and names of types.

    Raises:
        UsageError: a type's name is not known, or an override or a pattern is not well formed.
    """
    for pattern in keep:
        matcher(pattern)
    return Recipe(
        find_file_type(file_type),
        pure=pure,
        output_type=find_format(output_type) if output_type else None,
        embedding_type=find_format(embedding_type) if embedding_type else None,
        overrides=tuple(make_override(*pair) for pair in overrides),
        keep=tuple(keep),
        fallback=fallback,
        allow_nan=allow_nan,
    )
