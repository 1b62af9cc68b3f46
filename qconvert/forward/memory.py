"""Giving memory back to the system.

Between two blocks the C library keeps the pages of freed activations, in pieces that later ones
do not fit into; over many blocks that grows to much more than a block needs.
"""

import ctypes
import sys


def release_freed_memory() -> None:
    """Return the free pages of the heap, where the C library can (glibc)."""
    if not sys.platform.startswith("linux"):
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
