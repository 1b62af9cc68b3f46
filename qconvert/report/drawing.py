"""What the plots share: colours, settings and files whose bytes depend on nothing but the data.

matplotlib draws without a display and without its global state.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Form = Literal["png", "svg"]

COLOURS = {
    "ink": "#1b1f24",
    "muted": "#5b626b",
    "rule": "#d9dde2",
    "paper": "#ffffff",
    "accent": "#0a5ca8",
    "dim": "#99a1ab",
}
"""By name, as the page's style sheet calls them; no two alike, so that an inlined plot can have
the page's own in their place."""

PNG_DPI = 160
POINTS = 72
"""Of an inch: what SVG's units are here."""

TEXT, SMALL = 10.0, 9.0

SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qconvert",
    "font.family": "DejaVu Sans",
    "font.size": SMALL,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["dim"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": SMALL,
    "axes.titlecolor": COLOURS["muted"],
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.unicode_minus": False,
    "axes.formatter.use_mathtext": False,
    "axes.facecolor": "none",
    "figure.facecolor": COLOURS["paper"],
    "xtick.color": COLOURS["dim"],
    "ytick.color": COLOURS["dim"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
}


@dataclass(frozen=True)
class Sheet:
    """What a plot is drawn on.

    Attributes:
        width, height: inches.
    """

    width: float
    height: float

    @property
    def is_narrow(self) -> bool:
        """Whether it is for a phone or half a page."""
        return self.width < 6


WIDE = Sheet(9.4, 4.7)
NARROW = Sheet(3.9, 3.3)
"""Their widths in points are about the pixels that they get on a page, so that text keeps its
size."""

Draw = Callable[["Figure", "Axes", Sheet], None]


def render(draw: Draw, sheet: Sheet, form: Form, title: str = "") -> bytes:
    """A plot as a file's bytes.

    Args:
        draw: fills the axes.
        title: above the plot, for files that stand by themselves.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {**dict(matplotlib.rcParamsDefault), **SETTINGS, "backend": "agg"}
    with matplotlib.rc_context(rc=settings):
        figure = Figure(figsize=(sheet.width, sheet.height), dpi=POINTS, layout="constrained")
        FigureCanvasAgg(figure)  # knows how wide text is
        if title:
            style = {"fontsize": TEXT, "parse_math": False}
            figure.suptitle(title, x=0.01, ha="left", **style)
        draw(figure, figure.add_subplot(), sheet)
        buffer = BytesIO()
        # Neither dates nor versions, so that the bytes stay the same.
        metadata = {"Software": None} if form == "png" else {"Date": None, "Creator": None}
        dpi = PNG_DPI if form == "png" else POINTS
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return buffer.getvalue()
