"""Labels beside points, none over another, over a point or, if it can be had, over a line.

Each label takes the best of a few places around its point, those of greater weight first; one for
which there is no room is left out if it may be.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ANGLES = (45, 0, 90, 315, 135, 180, 270, 225)
"""Degrees, the best first: the curves fall to the right."""

DISTANCES = (7.0, 12.0, 19.0, 28.0, 40.0)
"""Points. A label that is further off than the second gets a thin line to its point."""

POINT = 4.5
"""Points that a marker reaches around its centre."""


@dataclass(frozen=True)
class Label:
    """A text for a point.

    Attributes:
        x, y: of the point, in the axes' data.
        text: what it says.
        style: matplotlib's settings of the text.
        needed: whether it has to be there.
    """

    x: float
    y: float
    text: str
    style: dict[str, Any]
    needed: bool = True


@dataclass(frozen=True)
class _Place:
    """Where a label may go, with its box in pixels: left, bottom, right, top."""

    offset: tuple[float, float]
    horizontal: str
    vertical: str
    box: tuple[float, float, float, float]
    far: bool


def place_labels(
    axes: "Axes", labels: Sequence[Label], line: Sequence[tuple[float, float]] = ()
) -> None:
    """Draw labels.

    Args:
        axes: with their limits set; what else is drawn does not move any more.
        labels: the most important first.
        line: corners of a line that labels should stay clear of, in the axes' data.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]
    points = [_pixel(axes, label.x, label.y) for label in labels]
    room = _inner(axes)
    marks = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y in points]
    path = _sampled([_pixel(axes, x, y) for x, y in line])
    taken: list[tuple[float, float, float, float]] = []
    for number, label in enumerate(labels):
        own = marks[:number] + marks[number + 1 :]
        width, height = _extent(axes, label)
        best, cost = None, math.inf
        for rank, place in enumerate(_places(points[number], width, height)):
            hidden = sum(_overlap(place.box, box) for box in taken)
            hidden += sum(_overlap(place.box, box) for box in own)
            outside = width * height - _overlap(place.box, room)
            price = 10 * hidden + 20 * outside + 6 * _inside(place.box, path) + rank
            if price < cost:
                best, cost, covered = place, price, hidden + outside
        if best is None or (covered > 1 and not label.needed):
            continue
        taken.append(best.box)
        _draw(axes, label, best)


def _draw(axes: "Axes", label: Label, place: _Place) -> None:
    arrow = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4}
    axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=place.offset,
        textcoords="offset points",
        ha=place.horizontal,
        va=place.vertical,
        arrowprops={**arrow, "color": label.style.get("color")} if place.far else None,
        parse_math=False,
        annotation_clip=False,
        **label.style,
    )


def _places(point: tuple[float, float], width: float, height: float) -> list[_Place]:
    found = []
    for distance in DISTANCES:
        for angle in ANGLES:
            radians = math.radians(angle)
            right, up = math.cos(radians), math.sin(radians)
            dx, dy = distance * right, distance * up
            side = 1 if right > 0.1 else -1 if right < -0.1 else 0
            level = 1 if up > 0.1 else -1 if up < -0.1 else 0
            left = point[0] + dx - width * (1 - side) / 2
            bottom = point[1] + dy - height * (1 - level) / 2
            found.append(
                _Place(
                    (dx, dy),
                    {1: "left", 0: "center", -1: "right"}[side],
                    {1: "bottom", 0: "center", -1: "top"}[level],
                    (left, bottom, left + width, bottom + height),
                    far=distance > DISTANCES[1],
                )
            )
    return found


def _extent(axes: "Axes", label: Label) -> tuple[float, float]:
    """Width and height in pixels, which are points at the resolution of drawing."""
    text = axes.text(0, 0, label.text, parse_math=False, **label.style)
    box = text.get_window_extent()
    text.remove()
    return box.width + 2, box.height


def _inner(axes: "Axes") -> tuple[float, float, float, float]:
    box = axes.get_window_extent()
    return box.x0 + 2, box.y0 + 2, box.x1, box.y1 + 6


def _pixel(axes: "Axes", x: float, y: float) -> tuple[float, float]:
    place = axes.transData.transform((x, y))
    return float(place[0]), float(place[1])


def _sampled(corners: Sequence[tuple[float, float]]) -> np.ndarray:
    """Points along a line, a few pixels apart, float64 [points, 2]."""
    parts = [np.empty((0, 2))]
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(2, int(math.hypot(x1 - x0, y1 - y0) / 3))
        parts.append(np.linspace((x0, y0), (x1, y1), steps))
    return np.concatenate(parts)


def _inside(box: tuple[float, float, float, float], points: np.ndarray) -> int:
    left, bottom, right, top = box
    x, y = points[:, 0], points[:, 1]
    return int(((x > left) & (x < right) & (y > bottom) & (y < top)).sum())


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> float:
    """The area that two boxes have in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0
