"""Sizes as people write them: 5G, 500M, in decimal units as llama.cpp's tools have them."""

import re

from qconvert.errors import UsageError

UNITS = {"K": 1000, "M": 1000**2, "G": 1000**3}
SIZE = re.compile(r"(?P<number>[1-9][0-9]{0,11})(?P<unit>[KMG])", re.IGNORECASE)


def parse_size(value: str | None) -> int | None:
    """Bytes of '5G' or '500M'.

    Raises:
        UsageError: it is not a number with K, M or G behind it.
    """
    if value is None:
        return None
    match = SIZE.fullmatch(value)
    if match is None:
        raise UsageError(f"{value!r:.60} is not a size", "write a number and K, M or G: 5G")
    return int(match["number"]) * UNITS[match["unit"].upper()]


def write_size(nbytes: int) -> str:
    """The shortest way to write a size that `parse_size` returned."""
    unit = next(unit for unit in "GMK" if nbytes % UNITS[unit] == 0)
    return f"{nbytes // UNITS[unit]}{unit}"
