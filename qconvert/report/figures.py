"""Figures as a reader wants them."""

import math

from qconvert.containers.sizes import human_bytes

MISSING = "\N{EN DASH}"


def size(nbytes: float) -> str:
    """Of a file, with a space that does not break."""
    return human_bytes(nbytes).replace(" ", "\N{NO-BREAK SPACE}")


def scale_of(nbytes: float) -> tuple[float, str]:
    """What an axis up to so many bytes is divided by, and the unit."""
    return (1e9, "GB") if nbytes >= 2e9 else (1e6, "MB") if nbytes >= 2e6 else (1e3, "kB")


def percent(share: float, digits: int = 2) -> str:
    """'1%', '0.35%', '-12%': so many significant digits, no zeros at the end."""
    if not math.isfinite(share):
        return MISSING
    shown = 100 * share
    if abs(shown) >= 10**digits:
        return f"{shown:,.0f}%"
    text = f"{shown:.{digits}g}"
    if "e" in text:
        text = f"{shown:.{max(0, digits - 1 - math.floor(math.log10(abs(shown))))}f}"
    return f"{text}%"


def nats(value: float, digits: int = 3) -> str:
    """A divergence: so many significant digits, as a plain number while that is short."""
    if not math.isfinite(value):
        return MISSING
    if abs(value) < 5e-8:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(places, 7)}f}"


def error_of(value: float) -> str:
    """A standard error behind its value; nothing where it is not known."""
    if not math.isfinite(value):
        return ""
    return f"\N{PLUS-MINUS SIGN}\N{NO-BREAK SPACE}{nats(value, 2)}"


def fixed_percent(share: float, places: int = 2, *, signed: bool = False) -> str:
    """A share with so many places, for columns."""
    return f"{100 * share:{'+' if signed else ''},.{places}f}%" if math.isfinite(share) else MISSING


def number(value: float, places: int = 2) -> str:
    """A fixed number of places, thousands with commas."""
    return f"{value:,.{places}f}" if math.isfinite(value) else MISSING


def rate(value: float) -> str:
    """Tokens per second."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plain(text: str) -> str:
    """On one line, without characters that a terminal or a reader would stumble over."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
