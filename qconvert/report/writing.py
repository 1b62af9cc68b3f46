"""A report's files: each appears when it is complete, the page last."""

import json
from pathlib import Path

from qconvert.report.columns import as_csv, as_data
from qconvert.report.drawing import WIDE, render
from qconvert.report.keeping import write_bytes, write_text
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
    plots = curves(report)
    if report.sensitivity is not None:
        plots.append(parts_plot(report.sensitivity, report.sensitivity_of))
    for plot in plots:
        title = f"{report.original.name}: {plot.title[0].lower()}{plot.title[1:]}"
        for form in ("png", "svg"):
            picture = render(plot.draw, WIDE, form, title)
            write_bytes(folder / f"{plot.name}.{form}", picture)
    write_text(folder / TABLE, json.dumps(as_data(report), indent=2, ensure_ascii=False) + "\n")
    write_text(folder / SHEET, as_csv(report))
    page = folder / PAGE
    write_text(page, write_page(report, wish))
    return page
