import io
import random
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest
from PIL import Image
from report_data import ROWS, make_divergence, make_report, make_row

from qconvert.report.choosing import choose
from qconvert.report.drawing import NARROW, WIDE, render
from qconvert.report.parts_plot import parts_plot
from qconvert.report.plots import curves
from qconvert.report.svg import inline
from qconvert.report.types import Wish

SVG = "{http://www.w3.org/2000/svg}"


def plots(report):
    return [*curves(report), parts_plot(report.sensitivity, report.sensitivity_of)]


def texts(data: bytes) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(data).iter(f"{SVG}text")]


def test_the_same_figures_give_the_same_bytes():
    for plot in plots(make_report()):
        assert render(plot.draw, NARROW, "svg") == render(plot.draw, NARROW, "svg")
    assert render(plot.draw, NARROW, "png") == render(plot.draw, NARROW, "png")


def test_pictures_open_and_have_their_size():
    for plot in plots(make_report()):
        image = Image.open(io.BytesIO(render(plot.draw, WIDE, "png", plot.title)))
        assert image.width == round(WIDE.width * 160)


def test_every_file_of_the_front_is_named_and_so_is_the_original():
    divergence, perplexity, speed, costs = plots(make_report())
    for sheet in (WIDE, NARROW):
        names = texts(render(divergence.draw, sheet, "svg"))
        assert {row.name for row in ROWS} <= set(names)
        names = texts(render(perplexity.draw, sheet, "svg"))
        assert "original" in names
        assert {"Q2_K", "Q4_K_M", "Q8_0"} <= set(names)
        assert "104" not in texts(render(speed.draw, sheet, "svg"))
        assert "embd" in texts(render(costs.draw, sheet, "svg"))


def test_plots_need_only_what_was_measured():
    rows = tuple(replace(row, speed=None) for row in ROWS)
    report = make_report(rows=rows, choice=choose(rows, Wish()))
    assert [plot.name for plot in curves(report)] == ["divergence", "perplexity"]


@pytest.mark.parametrize("count", [1, 2, 24])
def test_one_file_and_many_files_can_be_drawn(count):
    draw = random.Random(count)
    rows = tuple(
        make_row(f"TYPE_{n}", draw.uniform(60, 160), 10 ** draw.uniform(-4, 1), 1.1, draw.random())
        for n in range(count)
    )
    report = make_report(rows=rows, choice=choose(rows, Wish()))
    for plot in curves(report):
        for sheet in (WIDE, NARROW):
            assert render(plot.draw, sheet, "svg")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), 1e-12, 50.0])
def test_strange_figures_can_be_drawn(value):
    odd = replace(ROWS[0], divergence=make_divergence(value), perplexity=value)
    rows = (odd, *ROWS[1:3])
    report = make_report(rows=rows, choice=choose(rows, Wish()))
    for plot in curves(report):
        assert render(plot.draw, NARROW, "png")
    alone = make_report(rows=(odd,), choice=choose((odd,), Wish()))
    for plot in curves(alone):
        assert render(plot.draw, NARROW, "png")


def test_names_are_no_mathematics_and_no_markup():
    rows = (replace(ROWS[0], name="$x^2$<b>&"), ROWS[1])
    report = make_report(rows=rows, choice=choose(rows, Wish()))
    (plot, *_) = curves(report)
    drawn = render(plot.draw, WIDE, "svg")
    assert "$x^2$<b>&" in texts(drawn)
    assert "<b>" not in inline(drawn, "a", plot.says)


def test_inlined_plots_have_the_pages_colours_and_names_of_their_own():
    drawn = [
        inline(render(plot.draw, sheet, "svg"), f"{plot.name}-{n}", plot.says)
        for plot in plots(make_report())
        for n, sheet in enumerate((WIDE, NARROW))
    ]
    ids = []
    for text in drawn:
        assert "#" not in text.replace('href="#', "").replace("url(#", "")
        assert "font-family" not in text
        assert "http" not in text
        assert "<!--" not in text
        root = ElementTree.fromstring(text)
        own = {one.attrib["id"] for one in root.iter() if "id" in one.attrib}
        linked = {one.attrib["href"][1:] for one in root.iter() if "href" in one.attrib}
        assert linked <= own
        ids.append(own)
    assert all(not one & other for one, other in combinations(ids, 2))


def test_what_one_points_at_is_told():
    (plot, *_) = curves(make_report())
    text = inline(render(plot.draw, WIDE, "svg"), "a", plot.says, {"file-1": "Q8_0 <is> here"})
    assert "<title>Q8_0 &lt;is&gt; here</title>" in text
