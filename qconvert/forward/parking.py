"""Tensors whose numbers wait on the disk while nobody needs them.

Whoever holds such a tensor, a local variable of a model's code that waits in a coroutine, goes on
to hold it; meanwhile it is empty.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.containers.room import TEMPORARY
from qconvert.errors import OutputError


@dataclass(frozen=True)
class Parked:
    """Tensors, and a file that has what was in them, one after the other."""

    path: Path
    tensors: tuple[tuple[Any, tuple[int, ...], Any], ...]
    """Each with its shape and its device."""


def park(path: Path, tensors: Iterable[Any]) -> Parked:
    """Write what is in some tensors to a file, and empty them.

    Raises:
        OutputError: no room.
    """
    import torch

    kept = []
    try:
        with path.open("wb") as file:
            for tensor in tensors:
                numbers = tensor.detach().contiguous().cpu()
                file.write(memoryview(numbers.view(-1).view(torch.uint8).numpy()))
                kept.append((tensor, tuple(tensor.shape), tensor.device))
                tensor.data = tensor.data.new_empty(0)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", TEMPORARY) from error
    return Parked(path, tuple(kept))


def unpark(parked: Parked) -> None:
    """Fill them again."""
    import torch

    with parked.path.open("rb") as file:
        for tensor, shape, device in parked.tensors:
            count = int(np.prod(shape)) * tensor.element_size()
            numbers = torch.from_numpy(np.fromfile(file, np.uint8, count))
            tensor.data = numbers.view(tensor.dtype).view(shape).to(device)
