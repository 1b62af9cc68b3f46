"""A plot of matplotlib's as a part of a page: its colours are the page's, its text the page's
font, and its names are its own.
"""

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from qconvert.report.drawing import COLOURS

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
_FONT = re.compile(r"font-family: [^;]*;?\s*")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_SHORTHAND = re.compile(r"font: (?:(bold|[0-9]+) )?([0-9.]+)px [^;]*")


def inline(data: bytes, prefix: str, label: str, notes: Mapping[str, str] | None = None) -> str:
    """The `svg` element of a page.

    Args:
        data: as `drawing.render` made it.
        prefix: put before each identifier, different for each plot of a page.
        label: says what it shows, to those who do not see it.
        notes: by identifier of a group, what is shown when one points at it.
    """
    root = ElementTree.fromstring(data)
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata":
            root.remove(child)
    for style in root.iter(f"{{{SVG}}}defs"):
        for child in list(style):
            if child.tag == f"{{{SVG}}}style":
                style.remove(child)
    used = {element.attrib[LINK][1:] for element in root.iter() if LINK in element.attrib}
    used |= {name.decode() for name in re.findall(rb"url\(#([^)]+)\)", data)}
    for element in root.iter():
        _note(element, notes or {})
        _own(element, prefix, used)
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "aria-label": label, "class": "plot"}
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)
    text = re.sub(r"<(/?)ns\d+:", r"<\1", text)
    text = re.sub(r'\sxmlns:?\w*="[^"]*"', "", text)
    return re.sub(r">\s+<", "><", text)


def _note(element: ElementTree.Element, notes: Mapping[str, str]) -> None:
    note = notes.get(element.attrib.get("id", ""))
    if note is not None:
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = note
        element.insert(0, title)


def _own(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Names, colours and fonts of the page."""
    name = element.attrib.pop("id", None)
    if name in used:
        element.attrib["id"] = f"{prefix}-{name}"
    if LINK in element.attrib:
        element.attrib["href"] = f"#{prefix}-{element.attrib.pop(LINK)[1:]}"
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    for key, value in element.attrib.items():
        if key == "style":
            element.attrib[key] = _style(value, prefix)
        elif key in ("d", "x", "y", "transform", "points"):
            short = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
            element.attrib[key] = " ".join(short.split())
        elif key == "clip-path":
            element.attrib[key] = value.replace("url(#", f"url(#{prefix}-")


def _style(value: str, prefix: str) -> str:
    value = _SHORTHAND.sub(
        lambda match: f"font-size: {match[2]}px; font-weight: {match[1] or 'normal'}", value
    )
    value = _FONT.sub("", value)
    for name, colour in COLOURS.items():
        value = value.replace(colour, f"var(--{name})")
    return value.strip()
