"""What is needed next is read ahead, so that the disk works while blocks do.

The system is asked to, whose cache the bytes wait in: that is not this process's memory. For a GPU
a thread reads them besides, since the processor has little else to do.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from qconvert.forward.weights import Parameters
from qconvert.model.names import bare_name


def advise(source: Parameters, parameters: Sequence[str]) -> None:
    """Announce that these parameters, by transformers' names, are read next."""
    if not hasattr(os, "posix_fadvise"):
        return
    for name in parameters:
        table = source.maps.get(bare_name(name))
        for part in table.parts if table else ():
            info = source.checkpoint.tensors[part.source]
            try:
                descriptor = os.open(info.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return  # the reader will say why
            try:
                os.posix_fadvise(descriptor, info.offset, info.nbytes, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)


@dataclass
class Ahead:
    """A block's parameters that a thread reads while others are computed."""

    _next: tuple[int, Future[dict[str, Any]]] | None = None
    _reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def begin(self, index: int, read: Callable[[int], dict[str, Any]]) -> None:
        """Have a block's be read."""
        self._next = index, self._reader.submit(read, index)

    def take(self, index: int, read: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        """A block's, which `begin` may have been called for."""
        begun, self._next = self._next, None
        if begun is not None and begun[0] == index:
            return begun[1].result()
        return read(index)
