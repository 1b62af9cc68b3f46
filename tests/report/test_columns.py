import csv
import io
import json
import math
from dataclasses import replace

from report_data import ROWS, make_divergence, make_report

from qconvert.report.choosing import front
from qconvert.report.columns import as_csv, as_data


def test_json_has_every_figure_of_every_file():
    report = make_report()
    data = json.loads(json.dumps(as_data(report)))
    assert data["choice"]["name"] == "Q4_K_M"
    assert [one["name"] for one in data["files"]] == [row.name for row in ROWS]
    for one, row in zip(data["files"], ROWS, strict=True):
        assert one["bytes"] == row.nbytes
        assert one["kl_divergence"]["mean"] == row.divergence.mean
        assert one["kl_divergence"]["p999"] == row.divergence.p999
        assert one["speed"]["generated_per_second"]["median"] > 0
        assert one["pareto"] == (row in front(ROWS))


def test_what_is_no_number_is_null():
    rows = (replace(ROWS[0], divergence=make_divergence(math.nan)), *ROWS[1:])
    text = json.dumps(as_data(make_report(rows=rows)), allow_nan=False)
    assert json.loads(text)["files"][0]["kl_divergence"]["mean"] is None


def test_csv_says_the_same_as_json():
    report = make_report()
    lines = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert len(lines) == len(ROWS)
    for line, one in zip(lines, as_data(report)["files"], strict=True):
        assert line["name"] == one["name"]
        assert float(line["kl_divergence_mean"]) == one["kl_divergence"]["mean"]
        assert float(line["speed_prompt_per_second_median"]) > 0
        assert line["command"] == one["command"]


def test_csv_has_a_column_of_speed_where_only_some_files_have_one():
    rows = (replace(ROWS[0], speed=None), *ROWS[1:])
    lines = list(csv.DictReader(io.StringIO(as_csv(make_report(rows=rows)))))
    assert lines[0]["speed_prompt_per_second_median"] == ""
    assert float(lines[1]["speed_prompt_per_second_median"]) > 0
