"""The picture of the trade-off in characters: divergence against size, a label for each file."""

import math
from collections.abc import Sequence

from qconvert.report.choosing import front, is_sound
from qconvert.report.figures import nats, scale_of
from qconvert.report.types import Report, Row

WIDTH, HEIGHT = 78, 15
LEFT = 10
"""Columns for the numbers of the upright axis."""

WALL, TICK = "\N{BOX DRAWINGS LIGHT VERTICAL}", "\N{BOX DRAWINGS LIGHT VERTICAL AND LEFT}"

DOT, RING, CIRCLE = "\N{BLACK CIRCLE}", "\N{FISHEYE}", "\N{WHITE CIRCLE}"
"""A file of the front, the one to take, and one that another beats in both."""


def text_plot(report: Report, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """Lines of at most `width` characters; none where fewer than two files can be placed."""
    rows = [row for row in report.rows if is_sound(row) and row.divergence.mean > 0]
    if len(rows) < 2:
        return []
    columns = width - LEFT - 1
    levels = [math.log10(row.divergence.mean) for row in rows]
    low, high = min(levels), max(levels)
    small, large = min(r.nbytes for r in rows), max(r.nbytes for r in rows)
    grid = [[" "] * columns for _ in range(height)]
    room = columns - 3 - max(len(row.name) for row in rows)
    spots = {}
    for row, level in zip(rows, levels, strict=True):
        across = round(room * (row.nbytes - small) / max(large - small, 1)) + 1
        down = round((height - 1) * (high - level) / max(high - low, 1e-9))
        spots[row.name] = (down, across)
    best = front(report.rows)
    for row in rows:
        down, across = spots[row.name]
        grid[down][across] = _mark(report, row, best)
    ordered = sorted(rows, key=lambda row: (not report.takes(row), row not in best))
    for row in ordered:
        _write(grid, spots[row.name], row.name)
    lines = ["mean KL divergence from the original, nats"]
    for number, cells in enumerate(grid):
        level = high - (high - low) * number / (height - 1)
        shown = nats(10**level, 2) if number % 7 == 0 else ""
        edge = TICK if shown else WALL
        lines.append(f"{shown:>{LEFT - 1}} {edge}{''.join(cells)}".rstrip())
    lines.append(" " * LEFT + "\N{BOX DRAWINGS LIGHT UP AND RIGHT}" + _floor(columns))
    lines.append(_sizes(small, large, room, columns))
    legend = f"{RING} the file to take   {DOT} best at its size"
    if any(row not in best for row in rows):
        legend += f"   {CIRCLE} another beats it in both"
    lines.append(" " * LEFT + legend)
    return lines


def _mark(report: Report, row: Row, best: Sequence[Row]) -> str:
    if report.takes(row):
        return RING
    return DOT if row in best else CIRCLE


def _write(grid: list[list[str]], spot: tuple[int, int], name: str) -> None:
    """A name beside its mark, on the first side that is free; nowhere if none is."""
    down, across = spot
    for line, start in (
        (down, across + 2),
        (down, across - 1 - len(name)),
        (down - 1, across + 1),
        (down + 1, across - len(name)),
        (down - 1, across - len(name)),
        (down + 1, across + 1),
    ):
        stop = start + len(name)
        if not (0 <= line < len(grid) and start >= 0 and stop <= len(grid[line])):
            continue
        if all(cell == " " for cell in grid[line][max(0, start - 1) : stop + 1]) or (
            line == down and all(cell == " " for cell in grid[line][start:stop])
        ):
            grid[line][start:stop] = name
            return


def _floor(columns: int) -> str:
    return "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * columns


def _sizes(small: int, large: int, room: int, columns: int) -> str:
    """The ends and the middle of the axis of sizes."""
    unit, name = scale_of(large)
    line = [" "] * (LEFT + 1 + columns)
    for share in (0.0, 0.5, 1.0):
        text = f"{(small + share * (large - small)) / unit:.3g} {name}"
        centre = LEFT + 2 + round(share * room)
        start = min(max(LEFT, centre - len(text) // 2), len(line) - len(text))
        line[start : start + len(text)] = text
    return "".join(line).rstrip()
