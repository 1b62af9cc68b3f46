"""Sizes as people write them, 5G and 105 MB, in decimal units as llama.cpp's tools have them."""

import re
from decimal import Decimal

from qconvert.errors import UsageError

UNITS = {"K": 1000, "M": 1000**2, "G": 1000**3}
SIZE = re.compile(r"(?P<number>[0-9]{1,12}(\.[0-9]{1,6})?)(?P<unit>[KMG])B?", re.IGNORECASE)


def parse_size(value: str | None, option: str = "") -> int | None:
    """Bytes of '5G', '500M' or '3.5GB', in whole kilobytes.

    Args:
        option: whose value it is, for the message.

    Raises:
        UsageError: it is not a number with K, M or G behind it, or less than one K.
    """
    if value is None:
        return None
    match = SIZE.fullmatch(value.strip())
    kilobytes = 0
    if match is not None:
        kilobytes = int(Decimal(match["number"]) * UNITS[match["unit"].upper()]) // 1000
    if kilobytes == 0:
        raise UsageError(
            f"{option} {value!r:.60} is not a size".lstrip(), "write a number and K, M or G: 5G"
        )
    return kilobytes * 1000


def write_size(nbytes: int) -> str:
    """The shortest way to write a size that `parse_size` returned."""
    unit = next(unit for unit in "GMK" if nbytes % UNITS[unit] == 0)
    return f"{nbytes // UNITS[unit]}{unit}"


def human_bytes(count: float) -> str:
    """Decimal units, three digits: '105 MB'."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.3g} GB" if abs(count) < 999.5 else f"{count / 1000:.3g} TB"
