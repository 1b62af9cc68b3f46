"""The page: one file that opens without a network, and without JavaScript but for sorting.

Names, answers and notices are text from strangers. jinja2 escapes them, and the page's own policy
allows no script but the one that it came with.
"""

import base64
import math
import shlex
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from qconvert import __version__
from qconvert.report import figures
from qconvert.report.answers import show_conversation
from qconvert.report.choosing import by_container, front, is_gguf, why_none
from qconvert.report.columns import columns_of, has_speed, original_cells, row_cells
from qconvert.report.drawing import NARROW, WIDE, render
from qconvert.report.parts_plot import parts, parts_plot
from qconvert.report.plots import Plot, curves
from qconvert.report.svg import inline
from qconvert.report.types import Report, Row, Wish

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PARTS = 12
"""Rows of the table of parts."""

SURE = 0.95
"""From this share of bootstrap samples on, one file is called closer than another."""


@dataclass(frozen=True)
class Figure:
    """A plot on the page, drawn twice: for wide and for narrow screens."""

    name: str
    title: str
    caption: str
    wide: "Markup | None"
    narrow: "Markup"


@dataclass(frozen=True)
class Fact:
    """A figure of the file to take."""

    label: str
    value: str
    note: str


def write_page(report: Report, wish: Wish | None = None) -> str:
    """The page's text; the same for the same report.

    Args:
        wish: what the user asked for; said where no file is so.
    """
    script = _template("report.js").strip()
    choice = report.choice.row
    drawn = curves(report)
    figures = [_figure(plot, report, wide=number == 0) for number, plot in enumerate(drawn)]
    page = _environment().get_template("report.html")
    return (
        page.render(
            report=report,
            version=__version__,
            style=_trusted(_template("report.css").strip()),
            script=_trusted(script),
            script_hash="sha256-" + base64.b64encode(sha256(script.encode()).digest()).decode(),
            answer=_answer(report, choice) if choice else "",
            running=running(choice) if choice else (),
            facts=_facts(report, choice) if choice else [],
            refusal=why_none(report.rows, wish or Wish()) if choice is None else "",
            others=_others(report, wish or Wish()),
            unsure=_unsure(report),
            figures=figures,
            columns=columns_of(report),
            original_cells=original_cells(report.original, speed=has_speed(report)),
            rows=[_shown(report, row) for row in report.rows],
            conversations=[show_conversation(one) for one in report.conversations],
            **_parts(report),
        )
        + "\n"
    )


def _answer(report: Report, row: Row) -> str:
    share = row.nbytes / report.original.nbytes
    size, part = figures.size(row.nbytes), figures.percent(share)
    nats = figures.nats(row.divergence.mean)
    text = f"{size}, {part} of the original, at a mean divergence of {nats} nats"
    if row.speed is not None:
        written = figures.rate(row.speed.generated_per_second.median)
        text += f", writing {written} tokens per second on this machine"
    return text + "."


def _facts(report: Report, row: Row) -> list[Fact]:
    """The first screen's figures."""
    divergence = row.divergence
    error = f"{figures.error_of(divergence.standard_error)} nats".strip()
    found = [
        Fact("size", figures.size(row.nbytes), f"{row.bits_per_weight:.2f} bits per weight"),
        Fact("mean KL divergence", figures.nats(divergence.mean), error),
        Fact(
            "perplexity",
            figures.number(row.perplexity),
            f"{_signed(row.perplexity_ratio - 1)}, original {report.original.perplexity:.2f}",
        ),
        Fact("same top token", figures.fixed_percent(row.same_top, 1), "of the original's"),
    ]
    if row.speed is not None:
        note = f"{figures.rate(row.speed.prompt_per_second.median)} read, {row.speed.runtime}"
        written = figures.rate(row.speed.generated_per_second.median)
        found.append(Fact("tokens per second", written, note))
    return found


def running(row: Row) -> tuple[str, ...]:
    """Commands that run a file, in the report's folder."""
    path = shlex.quote(row.path)
    if not is_gguf(row):
        return (f"vllm serve {path}",)
    name = PurePosixPath(row.path).stem.lower()
    return (
        f"llama-server -m {path}",
        f"echo {shlex.quote(f'FROM ./{row.path}')} > Modelfile && "
        f"ollama create {shlex.quote(name)} -f Modelfile",
    )


def _signed(share: float) -> str:
    return ("+" if share >= 0 else "") + figures.percent(share)


def _others(report: Report, wish: Wish) -> list[dict[str, Any]]:
    """The other container's file to take, and the front's ends, for those to whom the file to take
    is too large or too far off."""
    best = front(report.rows)
    taken = report.choice.row
    found: list[dict[str, Any]] = [
        {"when": name, "row": row}
        for name, row in by_container(report.rows, wish).items()
        if taken is not None and is_gguf(row) != is_gguf(taken)
    ]
    if best and not report.takes(best[-1]):
        found.append({"when": "Closest to the original", "row": best[-1]})
    if len(best) > 1 and not report.takes(best[0]):
        found.append({"when": "Smallest", "row": best[0]})
    return found


def _unsure(report: Report) -> str:
    """The pairs of files whose order of divergence the text does not settle."""
    pairs = [
        f"{one} and {other}" for (one, other), share in report.surer.items() if _is_open(share)
    ]
    if not pairs:
        return ""
    return f"This text is too short to tell which is closer to the original: {'; '.join(pairs)}."


def _is_open(share: float) -> bool:
    return 1 - SURE < share < SURE


def _shown(report: Report, row: Row) -> dict[str, Any]:
    """A row of the table."""
    taken = report.takes(row)
    dominated = row not in front(report.rows)
    css = " ".join(["taken"] * taken + ["dominated"] * dominated)
    return {"name": row.name, "css": css, "cells": row_cells(row, speed=has_speed(report))}


def _figure(plot: Plot, report: Report, *, wide: bool, notes: bool = True) -> Figure:
    said = {f"file-{n}": _note(row) for n, row in enumerate(report.rows)} if notes else {}
    narrow = inline(render(plot.draw, NARROW, "svg"), f"{plot.name}-n", plot.says, said)
    broad = None
    if wide:
        drawn = inline(render(plot.draw, WIDE, "svg"), f"{plot.name}-w", plot.says, said)
        broad = _trusted(drawn)
    return Figure(plot.name, plot.title, plot.caption, broad, _trusted(narrow))


def _note(row: Row) -> str:
    """What is shown when one points at a file."""
    return (
        f"{row.name}: {figures.size(row.nbytes)}, divergence {figures.nats(row.divergence.mean)}, "
        f"perplexity {figures.number(row.perplexity)}"
    )


def _parts(report: Report) -> dict[str, Any]:
    """The section of parts."""
    seen = report.sensitivity
    if seen is None:
        return {}
    shown = parts(seen, PARTS)
    most = max((cost.divergence for cost in shown), default=0.0)
    about = (
        f"Each part of {report.sensitivity_of} by itself in place of the original's, all else "
        f"left as it is: its weights alone, over {seen.scored:,} tokens. The parts add up to "
        f"{figures.nats(seen.total)}; all of them together, on these tokens and without the "
        f"rounding of inputs that runtimes add, cost {figures.nats(seen.whole)}."
    )
    return {
        "about_parts": about,
        "parts_figure": _figure(
            parts_plot(seen, report.sensitivity_of), report, wide=True, notes=False
        ),
        "parts": [{"cost": cost, "share": _share(cost.divergence, most)} for cost in shown],
    }


def _share(value: float, most: float) -> str:
    share = 100 * value / most if most > 0 and math.isfinite(value) else 0.0
    return f"{max(0.0, share):.1f}"


def _template(name: str) -> str:
    return files("qconvert.report").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("qconvert.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=False,
    )
    environment.filters |= {
        "size": figures.size,
        "nats": figures.nats,
        "breakable": _breakable,
        "quoted": quote,
    }
    return environment


def _breakable(command: str) -> "Markup":
    """A command whose lines break between words, and inside one only where it is too long."""
    from markupsafe import Markup

    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in command.split(" "))


def _trusted(text: str) -> "Markup":
    """What this program wrote itself."""
    from markupsafe import Markup

    return Markup(text)
