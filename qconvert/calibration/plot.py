"""A picture of a calibration: how large the channels of each kind of input are, layer by layer.

matplotlib draws it, without a display and without its global state; the same calibration gives the
same bytes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qconvert.calibration.overview import CHANNEL_RATIO, KINDS, RESIDUAL, InputOverview, Overview

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, ROW_HEIGHT, HEAD = 12.0, 3.4, 1.1
"""Inches."""

DPI = 120
COLOURS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a")
"""Of the channels that stand out most often: M. Okabe and K. Ito's, which the colour-blind can tell
apart, and a violet."""

BLUE, DARK, GREY, RED = "#0072b2", "#1b3a57", "#8a8a8a", "#c00000"

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qconvert",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
}


def draw(seen: Overview, form: Literal["png", "svg"]) -> bytes:
    """The picture as a file's bytes."""
    import matplotlib

    settings: Any = {**dict(matplotlib.rcParamsDefault), **SETTINGS, "backend": "agg"}
    with matplotlib.rc_context(rc=settings):
        figure = _figure(seen)
        buffer = BytesIO()
        # Neither dates nor versions, so that the bytes stay the same.
        metadata = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _figure(seen: Overview) -> "Figure":
    from matplotlib.figure import Figure

    panels = [kind for kind in KINDS if any(x.kind == kind and x.layer >= 0 for x in seen.inputs)]
    experts = bool(seen.experts)
    rows = max(1, -(-(len(panels) + experts) // 2))
    figure = Figure(figsize=(WIDTH, HEAD + ROW_HEIGHT * rows), layout="constrained")
    grid = figure.add_gridspec(rows, 2)
    axes = [figure.add_subplot(grid[number // 2, number % 2]) for number in range(len(panels))]
    colours = dict(zip(_often(seen), COLOURS, strict=False))
    for axis, kind in zip(axes, panels, strict=False):
        _draw_kind(axis, [one for one in seen.inputs if one.kind == kind], colours)
    if experts:
        # Beside the last panel, or across a row of its own.
        place = grid[-1, 1] if len(panels) % 2 else grid[-1, :]
        _draw_experts(figure, figure.add_subplot(place), seen)
    sizes = [axis.get_ylim() for axis in axes]
    for axis in axes:
        axis.set_ylim(min(low for low, _ in sizes), max(high for _, high in sizes))
    figure.suptitle(_title(seen), x=0.01, ha="left", fontsize=11, parse_math=False)
    if panels:
        figure.legend(
            *_legend(), loc="outside lower left", ncols=6, frameon=False, handletextpad=0.5
        )
    return figure


def _often(seen: Overview) -> list[int]:
    """The channels of the residual stream that stand out in most inputs."""
    total: Counter[int] = Counter()
    for layers in seen.recurring.values():
        total.update(layers)
    return sorted(total, key=lambda channel: (-total[channel], channel))[: len(COLOURS)]


def _draw_kind(axis: "Axes", inputs: Sequence[InputOverview], colours: Mapping[int, str]) -> None:
    inputs = [one for one in inputs if one.layer >= 0]
    kind = inputs[0].kind
    layers = sorted({one.layer for one in inputs})
    rms = [np.concatenate([one.rms for one in inputs if one.layer == n]) for n in layers]
    spread = np.array([_spread(values) for values in rms]).T
    axis.set_yscale("log")
    axis.fill_between(layers, spread[0], spread[2], color=BLUE, alpha=0.18, linewidth=0)
    marker = "_" if len(layers) == 1 else ""
    axis.plot(layers, spread[1], marker=marker, color=BLUE, linewidth=1.6)
    axis.plot(layers, spread[3], marker=marker, color=DARK, linewidth=0.9)
    _draw_tokens(axis, inputs)
    _draw_channels(axis, inputs, colours if kind in RESIDUAL else {})
    columns = sorted({one.statistics.columns for one in inputs})
    names = "-".join(dict.fromkeys((str(columns[0]), str(columns[-1]))))
    axis.set_title(f"{kind}, {names} channels", loc="left", fontsize=10)
    axis.set_ylabel("RMS of a channel")
    _number_layers(axis, layers)
    axis.grid(axis="y", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)


def _spread(rms: np.ndarray) -> np.ndarray:
    """1%, median, 99% and the largest; what no token reached is left out."""
    alive = rms[rms > 0]
    if not alive.size:
        return np.full(4, np.nan)
    spread: np.ndarray = np.quantile(alive, (0.01, 0.5, 0.99, 1.0))
    return spread


def _draw_channels(
    axis: "Axes", inputs: Sequence[InputOverview], colours: Mapping[int, str]
) -> None:
    """Those that recur have colours of their own; of the others there are dots only."""
    found = [(one.layer, channel) for one in inputs for channel in one.channels]
    dots = [(layer, one.rms) for layer, one in found if one.channel not in colours]
    _dots(axis, dots, s=9, color=GREY, linewidths=0, zorder=3)
    for number, colour in colours.items():
        dots = [(layer, one.rms) for layer, one in found if one.channel == number]
        _dots(axis, dots, s=16, color=colour, linewidths=0, zorder=4, label=f"channel {number}")
    if axis.get_legend_handles_labels()[1]:
        spaces = {"handletextpad": 0.0, "columnspacing": 0.8, "borderpad": 0.1}
        axis.legend(loc="lower right", ncols=3, fontsize=7.5, frameon=False, **spaces)


def _draw_tokens(axis: "Axes", inputs: Sequence[InputOverview]) -> None:
    dots = [(one.layer, one.tokens.peak) for one in inputs if one.tokens]
    hollow = {"facecolors": "none", "edgecolors": RED, "linewidths": 1.1}
    _dots(axis, dots, marker="^", s=30, zorder=5, **hollow)


def _dots(axis: "Axes", dots: Sequence[tuple[int, float]], **style: Any) -> None:
    if dots:
        axis.scatter([layer for layer, _ in dots], [value for _, value in dots], **style)


def _draw_experts(figure: "Figure", axis: "Axes", seen: Overview) -> None:
    """Tokens of each expert in each layer."""
    from matplotlib.colors import LogNorm

    inputs = {one.layer: one.statistics.count for one in reversed(seen.experts)}
    layers = sorted(inputs)
    most = max(len(count) for count in inputs.values())
    table = np.full((most, layers[-1] - layers[0] + 1), np.nan)
    for layer, count in inputs.items():
        table[: len(count), layer - layers[0]] = count
    shown = np.ma.masked_where(~(table > 0), table)
    axis.set_facecolor(RED)
    image = axis.imshow(
        shown,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="viridis",
        norm=LogNorm(max(float(shown.min()), 1.0), max(float(shown.max()), 2.0)),
        extent=(layers[0] - 0.5, layers[-1] + 0.5, -0.5, most - 0.5),
    )
    figure.colorbar(image, ax=axis, label="tokens", pad=0.01)
    unseen = sum(int((count == 0).sum()) for count in inputs.values())
    axis.set_title(f"tokens by expert; red: unseen ({unseen})", loc="left", fontsize=10)
    axis.set_ylabel("expert")
    axis.spines[["top", "right"]].set_visible(True)
    _number_layers(axis, layers)
    axis.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)


def _number_layers(axis: "Axes", layers: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("layer")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    axis.set_xlim(min(layers) - 0.6, max(layers) + 0.6)


def _legend() -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def dot(**style: Any) -> Line2D:
        return Line2D([], [], linestyle="none", **style)

    entries = {
        "median channel": Line2D([], [], color=BLUE, linewidth=1.6),
        "1% to 99%": Patch(color=BLUE, alpha=0.18, linewidth=0),
        "largest": Line2D([], [], color=DARK, linewidth=0.9),
        f"{CHANNEL_RATIO**0.5:g} times the median and more": dot(
            marker="o", markersize=3, color=GREY, markeredgewidth=0
        ),
        "the same, in several layers": dot(
            marker="o", markersize=4, color=COLOURS[0], markeredgewidth=0
        ),
        "largest value of tokens that stand out": dot(
            marker="^", markersize=5.5, markerfacecolor="none", markeredgecolor=RED
        ),
    }
    return list(entries.values()), list(entries)


def _title(seen: Overview) -> str:
    calibration = seen.calibration
    windows, window = calibration.sample.tokens.shape
    name = "".join(c if c.isprintable() else " " for c in calibration.model)
    source = "".join(c if c.isprintable() else " " for c in calibration.sample.source)
    return f"{name[:60]}: {windows * window} tokens, {source[:80]}"
