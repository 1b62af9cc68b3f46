"""Asking the system to read ahead what is needed next, so that the disk works while blocks do.

The bytes wait in the system's cache, which is not this process's memory.
"""

import os
from collections.abc import Sequence

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
