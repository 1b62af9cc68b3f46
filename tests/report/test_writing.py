"""A report's files, whatever the names of models and files are."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_data import make_report

from qconvert.report.types import Report, Wish
from qconvert.report.writing import PAGE, SHEET, TABLE, write_report

BAD = "=a\x1b[31m\x00\x9b$x^2$\ud800<i>"


def hostile(what: str) -> Report:
    report = make_report()
    if what == "original":
        return replace(report, original=replace(report.original, name=BAD))
    if what == "rows":
        rows = tuple(replace(row, name=BAD + row.name, path=BAD) for row in report.rows)
        return replace(report, rows=rows)
    return replace(report, data=BAD, notices=(BAD,), made=((BAD, BAD),), sensitivity_of=BAD)


@pytest.mark.parametrize("what", ["original", "rows", "words"])
def test_strangers_names_reach_no_file_as_they_are(what: str, tmp_path: Path) -> None:
    write_report(hostile(what), tmp_path, Wish())
    for name in (PAGE, TABLE, SHEET):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        assert "<i>" not in text or name != PAGE
    assert json.loads((tmp_path / TABLE).read_bytes())
    for row in csv.reader(io.StringIO((tmp_path / SHEET).read_text(encoding="utf-8"))):
        assert not any(cell.startswith(("=", "@")) for cell in row)


def test_the_file_to_take_is_marked_on_the_page(tmp_path: Path) -> None:
    page = write_report(make_report(), tmp_path, Wish()).read_text(encoding="utf-8")
    assert page.count('class="taken"') == 1
    taken = page[page.index('class="taken"') :]
    assert taken.startswith('class="taken"><th scope="row">Q4_K_M</th>')
