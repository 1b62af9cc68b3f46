from dataclasses import replace

import pytest
from report_data import ROWS, make_report

from qconvert.report.choosing import choose
from qconvert.report.terminal import text_plot
from qconvert.report.types import Wish


@pytest.mark.parametrize("width", [60, 78, 120])
def test_the_plot_fits_and_names_the_files(width):
    lines = text_plot(make_report(), width)
    assert max(map(len, lines[:-1])) <= width
    assert len(lines[-1]) <= 80
    text = "\n".join(lines)
    for row in ROWS:
        assert row.name in text
    assert "◉ Q4_K_M" in text


def test_what_is_closer_is_lower_and_what_is_larger_is_further_right():
    lines = text_plot(make_report())
    places = {
        name: next((n, line.index(name)) for n, line in enumerate(lines) if name in line)
        for name in ("Q2_K", "Q6_K", "Q8_0")
    }
    assert places["Q2_K"][0] < places["Q6_K"][0] < places["Q8_0"][0]
    assert places["Q2_K"][1] < places["Q6_K"][1] < places["Q8_0"][1]


def test_marks_are_never_written_over():
    rows = tuple(
        replace(row, nbytes=ROWS[0].nbytes + n, name=f"{row.name}_LONG_NAME")
        for n, row in enumerate(ROWS)
    )
    text = "".join(text_plot(make_report(rows=rows, choice=choose(rows, Wish())))[:-1])
    assert sum(text.count(mark) for mark in "◉●○") == len(ROWS)


def test_one_file_makes_no_plot():
    assert text_plot(make_report(rows=ROWS[:1])) == []
