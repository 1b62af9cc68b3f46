"""What a model is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qconvert.api.types import Where

if TYPE_CHECKING:
    from qconvert.inspection import Inspection


def inspect(model: Where, types: Sequence[str] | None = None) -> "Inspection":
    """What a model is, and what each type of GGUF file would weigh. Reads headers and a few rows.

    Args:
        model: a directory, a hub id or a GGUF file.
        types: of GGUF files; None for all.

    Raises:
        CheckpointError: it cannot be read or trusted.
        HubError: the hub did not give it.
        UsageError: a type is not known.
    """
    from qconvert.checkpoint import open_checkpoint
    from qconvert.inspection import look_at

    checkpoint = open_checkpoint(str(model), progress=False, headers_only=True)
    return look_at(checkpoint) if types is None else look_at(checkpoint, types)
