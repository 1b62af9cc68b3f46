"""The curves: divergence, perplexity and speed against size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qconvert.plan.safetensors.schemes import is_scheme
from qconvert.report.choosing import front
from qconvert.report.drawing import COLOURS, SMALL, Draw, Sheet
from qconvert.report.figures import nats, rate, scale_of
from qconvert.report.labels import Label, place_labels
from qconvert.report.types import Report, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RING: dict[str, Any] = {"markerfacecolor": "none", "color": COLOURS["accent"]}

FAR = 3.0
"""From this ratio of the largest to the smallest perplexity on, its axis is logarithmic."""


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        name: of its files.
        title: a few words.
        says: what it shows, in a sentence or two, for those who do not see it.
        draw: draws it.
        caption: what to beware of.
    """

    name: str
    title: str
    says: str
    draw: Draw
    caption: str = ""


SLOW = (
    "GGUF files run in llama.cpp; directories run in transformers, on this machine, which says "
    "nothing of serving engines."
)


def curves(report: Report) -> list[Plot]:
    """The plots that the measured figures allow."""
    rows = [row for row in report.rows if math.isfinite(row.divergence.mean)]
    found = []
    if rows:
        found.append(_divergence(report, rows))
    rows = [row for row in report.rows if 0 < row.perplexity < math.inf]
    if rows:
        found.append(_perplexity(report, rows))
    rows = [row for row in report.rows if row.speed is not None]
    if rows:
        found.append(_speed(report, rows))
    return found


def _divergence(report: Report, rows: Sequence[Row]) -> Plot:
    # A file that equals the original has no place on a logarithmic axis.
    seen = [row for row in rows if row.divergence.mean > 0]
    best = [row for row in front(report.rows) if row.divergence.mean > 0]

    def draw(figure: "Figure", axes: "Axes", sheet: Sheet) -> None:
        axes.set_title("mean KL divergence from the original, nats")
        if seen:
            _logarithmic(axes, [row.divergence.mean for row in seen])
        _draw(figure, axes, report, seen, best, lambda row: row.divergence.mean, error=_error)

    listed = "; ".join(f"{row.name} {nats(row.divergence.mean)}" for row in seen)
    says = f"Mean KL divergence from the original against size, in nats: {listed}."
    return Plot("divergence", "Divergence against size", says, draw)


def _perplexity(report: Report, rows: Sequence[Row]) -> Plot:
    base = report.original.perplexity
    values = [row.perplexity for row in rows] + [base]
    best = [row for row in front(report.rows) if row in rows]

    def draw(figure: "Figure", axes: "Axes", sheet: Sheet) -> None:
        axes.set_title("perplexity of the text")
        if max(values) > FAR * min(values):
            _logarithmic(axes, values)
        else:
            spread = max(max(values) - min(values), 0.02 * base)
            axes.set_ylim(min(values) - 0.12 * spread, max(values) + 0.12 * spread)
        style: dict[str, Any] = {
            "color": COLOURS["muted"],
            "linewidth": 0.9,
            "linestyle": (0, (4, 3)),
        }
        axes.axhline(base, zorder=1, **style)
        _draw(figure, axes, report, rows, best, lambda row: row.perplexity, base=base)

    listed = "; ".join(f"{row.name} {row.perplexity:.2f}" for row in rows)
    says = f"Perplexity against size; the original has {base:.2f}: {listed}."
    return Plot("perplexity", "Perplexity against size", says, draw)


def _speed(report: Report, rows: Sequence[Row]) -> Plot:
    def generated(row: Row) -> float:
        return row.speed.generated_per_second.median if row.speed is not None else math.nan

    def draw(figure: "Figure", axes: "Axes", sheet: Sheet) -> None:
        axes.set_title("tokens generated per second")
        top = max(map(generated, rows))
        axes.set_ylim(0, 1.15 * top)
        _draw(figure, axes, report, rows, (), generated)

    listed = "; ".join(f"{row.name} {rate(generated(row))}" for row in rows)
    says = f"Tokens generated per second against size: {listed}."
    runtimes = {row.speed.runtime for row in rows if row.speed is not None}
    return Plot("speed", "Speed against size", says, draw, SLOW if len(runtimes) > 1 else "")


def _error(row: Row) -> float:
    return row.divergence.standard_error


def _draw(
    figure: "Figure",
    axes: "Axes",
    report: Report,
    rows: Sequence[Row],
    best: Sequence[Row],
    value: Callable[[Row], float],
    error: Callable[[Row], float] | None = None,
    base: float | None = None,
) -> None:
    """Points with their labels, and the front's line where there is one."""
    unit, name = _sizes(axes, report)
    shown = front(report.rows)
    line = [(row.nbytes / unit, value(row)) for row in best]
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color=COLOURS["accent"], linewidth=1.2, zorder=2)
    for number, row in enumerate(rows):
        _mark(axes, row, value(row), unit, row in shown, report.takes(row), error, number)
    if base is not None:
        line += [(axes.get_xlim()[0], base), (axes.get_xlim()[1], base)]
        axes.annotate(
            "original",
            (1, base),
            xycoords=axes.get_yaxis_transform(),
            xytext=(0, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            color=COLOURS["muted"],
            fontsize=SMALL - 0.5,
        )
    axes.set_xlabel(f"size, {name}", loc="right")
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)
    _legend(figure, rows, shown)
    ordered = sorted(rows, key=lambda row: (not report.takes(row), row not in shown))
    labels = [
        Label(row.nbytes / unit, value(row), row.name, _style(row, report, on), needed=on)
        for row, on in ((row, row in shown) for row in ordered)
    ]
    place_labels(axes, labels, line)


def _mark(
    axes: "Axes",
    row: Row,
    value: float,
    unit: float,
    on_front: bool,
    taken: bool,
    error: Callable[[Row], float] | None,
    number: int,
) -> None:
    colour = COLOURS["accent"] if on_front else COLOURS["dim"]
    face = colour if on_front else COLOURS["paper"]
    x = row.nbytes / unit
    if error is not None and 0 < error(row) < value:
        axes.plot([x, x], [value - error(row), value + error(row)], color=colour, linewidth=0.9)
    shape: dict[str, Any] = {
        "marker": "D" if is_scheme(row.name) else "o",
        "linestyle": "none",
        "color": colour,
    }
    size = 4.6 if is_scheme(row.name) else 5.4
    outline: dict[str, Any] = {
        "markerfacecolor": face,
        "markeredgecolor": colour,
        "markeredgewidth": 1.1,
    }
    (drawn,) = axes.plot([x], [value], markersize=size, zorder=4, **shape, **outline)
    drawn.set_gid(f"file-{number}")
    if taken:
        axes.plot([x], [value], marker="o", markersize=11.5, zorder=3, **{**outline, **RING})


def _style(row: Row, report: Report, on_front: bool) -> dict[str, object]:
    taken = report.takes(row)
    return {
        "color": COLOURS["ink"] if on_front else COLOURS["muted"],
        "fontsize": SMALL,
        "fontweight": "bold" if taken else "normal",
    }


def _legend(figure: "Figure", rows: Sequence[Row], best: Sequence[Row]) -> None:
    """Only what is there to be told apart."""
    from matplotlib.lines import Line2D

    def mark(marker: str, filled: bool) -> Line2D:
        colour = COLOURS["accent"] if filled else COLOURS["dim"]
        face = colour if filled else COLOURS["paper"]
        style: dict[str, Any] = {
            "markerfacecolor": face,
            "markeredgecolor": colour,
            "markersize": 5,
        }
        return Line2D([], [], linestyle="none", marker=marker, **style)

    entries: list[tuple[str, Line2D]] = []
    kinds = {is_scheme(row.name) for row in rows}
    if len(kinds) == 2:
        entries += [("GGUF", mark("o", True)), ("safetensors", mark("D", True))]
    if any(row not in best for row in rows):
        entries.append(("another is smaller and closer", mark("o", False)))
    if entries:
        names, marks = zip(*entries, strict=True)
        figure.legend(
            marks,
            names,
            loc="outside lower left",
            ncols=len(entries),
            frameon=False,
            fontsize=SMALL - 0.5,
            labelcolor=COLOURS["muted"],
            handletextpad=0.1,
            columnspacing=1.2,
            borderpad=0.1,
        )


def _sizes(axes: "Axes", report: Report) -> tuple[float, str]:
    """Set the axis of sizes: alike in all plots."""
    from matplotlib.ticker import MaxNLocator

    sizes = [row.nbytes for row in report.rows]
    unit, name = scale_of(max(sizes))
    spread = max(max(sizes) - min(sizes), 0.1 * max(sizes))
    axes.set_xlim((min(sizes) - 0.08 * spread) / unit, (max(sizes) + 0.12 * spread) / unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    return unit, name


def _logarithmic(axes: "Axes", values: Sequence[float]) -> None:
    """A logarithmic axis around values above zero, with a few plain numbers on it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_yscale("log")
    low, high = min(values), max(values)
    room = max((high / low) ** 0.1, 1.15)
    low, high = low / room, high * room
    axes.set_ylim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(range(10, 100)), ()):
        ticks = [step * 10.0**n for n in decades for step in steps if low <= step * 10.0**n <= high]
        if len(ticks) >= 3:
            break
    axes.yaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 9]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.12g}"))
