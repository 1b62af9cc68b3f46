"""A checkpoint with other values in the place of some of its tensors'."""

from collections.abc import Mapping
from dataclasses import replace

from qconvert.checkpoint.types import Checkpoint, TensorInfo


def overlay(checkpoint: Checkpoint, changed: Mapping[str, TensorInfo]) -> Checkpoint:
    """The checkpoint as if it held other values, which are read where they are; of any dtype.

    Args:
        changed: by the checkpoint's names; in whatever file, a `Store`'s `tensors` say.

    Raises:
        ValueError: it has no such tensor, or one of another shape.
    """
    for name, info in changed.items():
        own = checkpoint.tensors.get(name)
        if own is None or own.shape != info.shape:
            shape = None if own is None else list(own.shape)
            raise ValueError(f"{name} of shape {list(info.shape)} in the place of {shape}")
    return replace(checkpoint, tensors={**checkpoint.tensors, **changed})
