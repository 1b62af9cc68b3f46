"""Where a file's divergence comes from: block by block, with the embedding and the output."""

from typing import TYPE_CHECKING

from qconvert.evaluation.sensitivity.measure import Cost, Sensitivity
from qconvert.report.drawing import COLOURS, Sheet
from qconvert.report.figures import nats
from qconvert.report.plots import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHORT = {"token_embd.weight": "embd", "output.weight": "out"}
MARKED = 3
"""So many of the tallest bars stand out."""


def parts_plot(sensitivity: Sensitivity, name: str) -> Plot:
    """Bars: the divergence that each block costs by itself.

    Args:
        name: of the file that was measured.
    """
    bars = _bars(sensitivity)
    tall = sorted(bars, key=lambda bar: -bar[1])[:MARKED]

    def draw(figure: "Figure", axes: "Axes", sheet: Sheet) -> None:
        axes.set_title("divergence with only this part quantized, nats")
        colours = [COLOURS["accent"] if bar in tall else COLOURS["dim"] for bar in bars]
        places = range(len(bars))
        values, errors = [value for _, value, _ in bars], [error for _, _, error in bars]
        axes.bar(places, values, color=colours, width=0.72)
        for place, value, error in zip(places, values, errors, strict=True):
            if error > 0:
                span = [max(value - error, 0), value + error]
                axes.plot([place, place], span, color=COLOURS["ink"], linewidth=0.7)
        _axes(axes, [label for label, _, _ in bars], sheet)

    worst = ", ".join(f"{label} {nats(value)}" for label, value, _ in tall)
    says = f"What each part of {name} costs by itself; the most: {worst}."
    return Plot("sensitivity", f"What each block costs, {name}", says, draw)


def parts(sensitivity: Sensitivity, count: int) -> list[Cost]:
    """The tensors that cost most, or the blocks where no tensors were measured."""
    tensors = [cost for cost in sensitivity.worst if not cost.is_block]
    inside = [cost for cost in tensors if cost.block >= 0]
    return (tensors if inside else list(sensitivity.worst))[:count]


def _bars(sensitivity: Sensitivity) -> list[tuple[str, float, float]]:
    """Labels, divergences and their errors; a block whose tensors were measured alone is their
    sum, which has no error of its own."""
    whole = {cost.block for cost in sensitivity.rows if cost.is_block}
    found: dict[str, tuple[float, float]] = {}
    for cost in sensitivity.rows:
        if cost.block < 0:
            found[SHORT.get(cost.name, cost.name)] = (cost.divergence, cost.standard_error)
        elif cost.is_block:
            found[str(cost.block)] = (cost.divergence, cost.standard_error)
        elif cost.block not in whole:
            before, _ = found.get(str(cost.block), (0.0, 0.0))
            found[str(cost.block)] = (before + cost.divergence, 0.0)
    return [(label, *values) for label, values in found.items()]


def _axes(axes: "Axes", labels: list[str], sheet: Sheet) -> None:
    """As many of the bars' names as there is room for, with those that are no number."""
    from matplotlib.ticker import MaxNLocator

    room = 14 if sheet.is_narrow else 32
    step = -(-len(labels) // room)
    shown = [
        place for place, label in enumerate(labels) if not label.isdigit() or int(label) % step == 0
    ]
    kept = [
        place
        for place in shown
        if not (labels[place].isdigit() and _beside_name(place, labels, step))
    ]
    axes.set_xticks(kept, [labels[place] for place in kept])
    axes.set_xlim(-0.8, len(labels) - 0.2)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("block", loc="right")
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.6)
    axes.set_axisbelow(True)


def _beside_name(place: int, labels: list[str], step: int) -> bool:
    """Whether a long name next to a number would run into it."""
    near = labels[max(0, place - step) : place + step + 1]
    return step > 1 and any(not label.isdigit() for label in near)
