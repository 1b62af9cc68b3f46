"""The page as a reader has it: in a browser, on a desk and on a phone, light and dark."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from report_data import make_conversations, make_report, make_row

from qconvert.report.choosing import choose
from qconvert.report.page import write_page
from qconvert.report.types import Wish

PHONE, DESK = 360, 1280

HOSTILE = '</script><img src="http://example.com/x.png" onerror="document.title=1"><b>{{ 7*7 }}'


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(write_page(make_report()), encoding="utf-8")
    return path


def requests_of(browser) -> list[str]:
    """Every address that was asked for since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def names(browser) -> list[str]:
    script = "return [...document.querySelectorAll('table.files tbody:last-child th')]"
    return browser.execute_script(script + ".map(cell => cell.textContent)")


def sort_by(browser, label: str) -> None:
    script = """
        const heads = [...document.querySelectorAll("table.files thead th button")];
        heads.find(head => head.textContent.startsWith(arguments[0])).click();"""
    browser.execute_script(script, label)


def test_the_page_asks_for_nothing_and_complains_of_nothing(show, page):
    browser = show(page)
    assert [url for url in requests_of(browser) if not url.startswith("data:")] == [page.as_uri()]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [320, PHONE, 600, 768, DESK])
def test_the_page_is_never_wider_than_the_window(show, page, width):
    browser = show(page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return innerWidth") == width


def test_a_long_name_does_not_widen_a_phones_page(show, tmp_path):
    rows = (make_row("Q8_0", 145, 0.001, 1.001), make_row("Q4_K_M", 105, 0.01, 1.01))
    report = make_report()
    long = "a" * 300
    rows = tuple(
        replace(row, path=long, command=f"qconvert quantize {long} -t q8_0", notices=(long,))
        for row in rows
    )
    report = replace(
        report,
        original=replace(report.original, name=long),
        rows=rows,
        choice=choose(rows, Wish()),
        made=(("Text", long),),
    )
    path = tmp_path / "long.html"
    path.write_text(write_page(report), encoding="utf-8")
    browser = show(path, PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


@pytest.mark.parametrize(("width", "shown"), [(PHONE, ".narrow"), (DESK, ".wide")])
def test_each_curve_is_shown_once_at_a_size_that_can_be_read(show, page, width, shown):
    browser = show(page, width)
    script = """
        return [...document.querySelectorAll("#divergence svg")]
          .filter(svg => svg.getBoundingClientRect().width > 0)
          .map(svg => [svg.parentElement.className, Math.min(...[...svg.querySelectorAll("text")]
            .map(text => text.getBoundingClientRect().height))])"""
    (found,) = browser.execute_script(script)
    assert f".{found[0]}" == shown
    assert found[1] >= 9, "pixels that a line of text is high"


def test_labels_of_a_curve_do_not_cover_each_other(show, page):
    for width in (PHONE, DESK):
        browser = show(page, width)
        script = """
            const boxes = [];
            for (const svg of document.querySelectorAll("svg")) {
              if (svg.getBoundingClientRect().width === 0) continue;
              boxes.push([...svg.querySelectorAll("text")].map(text => {
                const box = text.getBoundingClientRect();
                return [text.textContent, box.left, box.top, box.right, box.bottom];
              }));
            }
            return boxes;"""
        for boxes in browser.execute_script(script):
            for number, one in enumerate(boxes):
                for other in boxes[number + 1 :]:
                    across = min(one[3], other[3]) - max(one[1], other[1])
                    down = min(one[4], other[4]) - max(one[2], other[2])
                    assert across <= 1 or down <= 3, (width, one, other)


def test_without_javascript_the_table_and_the_plots_are_there(show, page):
    browser = show(page, scripts=False)
    assert browser.execute_script("return document.querySelectorAll('thead button').length") == 0
    assert names(browser)[:2] == ["w8a8", "Q8_0"]
    script = "return [...document.querySelectorAll('svg')].map(s => s.clientWidth)"
    assert sum(width > 200 for width in browser.execute_script(script)) == 4
    script = "return document.querySelector('.answers').getBoundingClientRect().height"
    assert browser.execute_script(script) > 50


def test_a_click_on_a_head_sorts_by_its_numbers_and_another_turns_it_round(show, page):
    browser = show(page)
    before = names(browser)
    sort_by(browser, "KL")
    order = [row.name for row in sorted(make_report().rows, key=lambda row: row.divergence.mean)]
    assert names(browser) == order != before
    sort_by(browser, "KL")
    assert names(browser) == order[::-1]
    sort_by(browser, "size")
    sizes = [row.name for row in sorted(make_report().rows, key=lambda row: row.nbytes)]
    assert names(browser) == sizes
    script = "return [...document.querySelectorAll('[aria-sort]')].map(h => h.textContent)"
    assert browser.execute_script(script) == ["size"]
    first = browser.execute_script("return document.querySelector('.files tbody th').textContent")
    assert first == "original"


def luminance(colour: str) -> float:
    """As WCAG 2 defines it, of 'rgb(r, g, b)'."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


COLOURS = """
    const behind = element => {
      for (let one = element; one; one = one.parentElement) {
        const colour = getComputedStyle(one).backgroundColor;
        if (!colour.endsWith(", 0)")) return colour;
      }
    };
    return [...document.querySelectorAll("body *")]
      .filter(one => [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
      .filter(one => one.getBoundingClientRect().width > 0 && !one.closest("title"))
      .map(one => [one.textContent.slice(0, 40), one.closest("svg")
        ? getComputedStyle(one).fill : getComputedStyle(one).color, behind(one)]);"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_what_is_behind_it(show, page, dark):
    found = show(page, dark=dark).execute_script(COLOURS)
    assert len(found) > 100
    weak = [one for one in found if contrast(one[1], one[2]) < 4.5]
    assert not weak, "WCAG AA asks for 4.5"


def test_dark_is_dark_for_text_and_plots(show, page):
    seen = {}
    script = """return [getComputedStyle(document.body).backgroundColor,
        ...[...document.querySelectorAll("#divergence path")]
          .map(path => getComputedStyle(path).stroke)]"""
    for dark in (False, True):
        seen[dark] = show(page, dark=dark).execute_script(script)
    assert luminance(seen[False][0]) > 0.9
    assert luminance(seen[True][0]) < 0.02
    pairs = zip(seen[False][1:], seen[True][1:], strict=True)
    coloured = [pair for pair in pairs if "rgb" in pair[0]]
    assert len(coloured) > 10
    assert all(light != dark for light, dark in coloured)


def test_print_is_dark_on_white_and_fits_the_paper(show, page):
    browser = show(page, 760, dark=True, media="print")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 760
    script = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(script) == "rgb(255, 255, 255)"


def test_text_from_strangers_stays_text(show, tmp_path):
    report = make_report()
    row = replace(report.rows[-1], path=HOSTILE, command=HOSTILE, notices=(HOSTILE,))
    first, *rest = make_conversations()
    answers = [replace(one, text=HOSTILE, departs=9) for one in first.answers]
    report = replace(
        report,
        original=replace(report.original, name=HOSTILE),
        rows=(*report.rows[:-1], row),
        data=HOSTILE,
        made=((HOSTILE, HOSTILE),),
        notices=(HOSTILE,),
        conversations=(replace(first, prompt=HOSTILE, answers=tuple(answers)), *rest),
        sensitivity_of=HOSTILE,
    )
    path = tmp_path / "hostile.html"
    path.write_text(write_page(report), encoding="utf-8")
    browser = show(path)
    assert browser.title.startswith("</script>")
    assert browser.execute_script("return document.images.length") == 0
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.querySelector('h1').textContent").startswith(
        HOSTILE
    )
    assert [url for url in requests_of(browser) if url.startswith("http")] == []


def test_no_script_runs_but_the_pages_own(show, page, tmp_path):
    path = tmp_path / "more.html"
    text = page.read_text().replace("<footer>", "<script>document.title = 'taken'</script><footer>")
    path.write_text(text)
    browser = show(path)
    assert browser.title != "taken"
    assert browser.execute_script("return document.querySelectorAll('thead button').length") > 5


def test_everything_has_a_name_for_those_who_do_not_see_it(show, page):
    browser = show(page)
    script = """return [...document.querySelectorAll("svg")]
        .map(svg => [svg.getAttribute("role"), svg.getAttribute("aria-label")])"""
    for role, label in browser.execute_script(script):
        assert role == "img"
        assert len(label) > 20
    script = "return [...document.querySelectorAll('th')].map(th => th.scope)"
    assert set(browser.execute_script(script)) == {"col", "row"}
    script = "return [...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))"
    levels = browser.execute_script(script)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert browser.execute_script("return document.documentElement.lang") == "en"
