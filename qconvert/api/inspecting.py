"""What something is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qconvert.api.types import Where
from qconvert.errors import UsageError

if TYPE_CHECKING:
    from qconvert.calibration.importance import Importance
    from qconvert.calibration.overview import Overview
    from qconvert.inspection import Inspection
    from qconvert.inspection.quantized import Quantized
    from qconvert.inspection.tensors import Tensors


def inspect(
    model: Where, types: Sequence[str] | None = None, *, adapter: Where | None = None
) -> "Inspection | Quantized | Overview | Importance | Tensors":
    """What something is, told from its headers and a few rows: of a model also what each type of
    GGUF file would weigh. Quantized safetensors, a calibration, an importance matrix of llama.cpp
    and tensors of which nothing says what they are each have a dataclass of their own.

    Args:
        model: a directory, a hub id or a file.
        types: of a model's GGUF files, or schemes of safetensors; None for all types of GGUF.
        adapter: a directory of PEFT's, merged into a model.

    Raises:
        CheckpointError: it cannot be read or trusted.
        HubError: the hub did not give it.
        UsageError: a type is not known, or this is none that has types or takes an adapter.
    """
    from qconvert.checkpoint.open import locate, open_path
    from qconvert.inspection.identify import identify

    source, path = locate(str(model), headers_only=True)
    kind = identify(path)
    if types is not None and kind != "checkpoint":
        raise UsageError(f"--type is for models, and {model} is none to be quantized")
    if adapter is not None and kind != "checkpoint":
        raise UsageError(f"--adapter is for models, and {model} is none that takes one")
    if kind == "calibration":
        from qconvert.calibration.file import read_calibration
        from qconvert.calibration.overview import overview

        return overview(read_calibration(path))
    if kind == "importance":
        from qconvert.calibration.imatrix import read_importance

        return read_importance(path)
    if kind == "quantized":
        from qconvert.inspection.quantized import look_at_quantized

        return look_at_quantized(source, path)
    if kind == "tensors":
        from qconvert.inspection.tensors import look_at_tensors

        return look_at_tensors(source, path)
    from qconvert.inspection import look_at
    from qconvert.plan.safetensors.schemes import find_type

    checkpoint = open_path(source, path, Path(adapter) if adapter else None)
    if types is None:
        return look_at(checkpoint)
    return look_at(checkpoint, [find_type(name) for name in types])
