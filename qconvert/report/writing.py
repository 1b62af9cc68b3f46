"""A report's files: each appears when it is complete, the page last."""

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from qconvert.containers.whole import write_whole
from qconvert.report.columns import as_csv, as_data
from qconvert.report.drawing import WIDE, render
from qconvert.report.page import write_page
from qconvert.report.parts_plot import parts_plot
from qconvert.report.plots import curves
from qconvert.report.types import Report, Wish

PAGE, TABLE, SHEET = "report.html", "report.json", "report.csv"


def write_report(report: Report, folder: Path, wish: Wish) -> Path:
    """Write everything; where the page is.

    Raises:
        OutputError: a file cannot be written.
    """
    report = cleaned(report)
    plots = curves(report)
    if report.sensitivity is not None:
        plots.append(parts_plot(report.sensitivity, report.sensitivity_of))
    for plot in plots:
        title = f"{report.original.name}: {plot.title[0].lower()}{plot.title[1:]}"
        for form in ("png", "svg"):
            picture = render(plot.draw, WIDE, form, title)
            write_whole(folder / f"{plot.name}.{form}", picture)
    table = json.dumps(as_data(report), indent=2, ensure_ascii=False)
    write_whole(folder / TABLE, f"{table}\n".encode())
    write_whole(folder / SHEET, as_csv(report).encode())
    page = folder / PAGE
    write_whole(page, write_page(report, wish).encode())
    return page


def cleaned(value: Any) -> Any:
    """A report, or a part of it, without the characters that neither XML nor a terminal can have:
    names and answers are strangers' text."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)
    if isinstance(value, Path):
        return Path(cleaned(str(value)))
    if isinstance(value, dict):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(cleaned, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: cleaned(getattr(value, f.name)) for f in fields(value)})
    return value
