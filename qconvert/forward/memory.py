"""How the C library (glibc) treats the memory of activations.

By itself it gives large pieces back to the system when they are freed, and the system clears them
when they are asked for again, some hundred times per block. Kept, they are used again at once; but
over many blocks they end up in pieces that later ones do not fit into, so between two blocks all
that is free is given back.
"""

import ctypes
import sys
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""mallopt's numbers of these settings (malloc.h)."""

KEEP = 1 << 29
"""Bytes of free memory that stay with the process."""

LARGEST = 32 << 20
"""The largest pieces that can be kept; mallopt refuses more."""


def keep_freed_memory() -> None:
    """From now on, keep what is freed for the next one who asks."""
    mallopt = _function("mallopt")
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, KEEP)


def release_freed_memory() -> None:
    """Give all that is free back to the system."""
    trim = _function("malloc_trim")
    if trim:
        trim(0)


def _function(name: str) -> Any:
    """A function of the C library; None where there is no such library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
