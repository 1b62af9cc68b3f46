"""Sizes as people write them: 5G, 500M, in decimal units as llama.cpp's tools have them."""

from qconvert.errors import UsageError

UNITS = {"K": 1000, "M": 1000**2, "G": 1000**3}


def parse_size(value: str | None) -> int | None:
    """Bytes of '5G' or '500M'.

    Raises:
        UsageError: it is not a number with K, M or G behind it.
    """
    if value is None:
        return None
    number, unit = value[:-1], value[-1:].upper()
    if unit not in UNITS or not (number.isascii() and number.isdigit()) or int(number) == 0:
        raise UsageError(f"{value!r} is not a size", "write a number and K, M or G: 5G")
    return int(number) * UNITS[unit]


def write_size(nbytes: int) -> str:
    """The shortest way to write a size that `parse_size` returned."""
    unit = next(unit for unit in "GMK" if nbytes % UNITS[unit] == 0)
    return f"{nbytes // UNITS[unit]}{unit}"
