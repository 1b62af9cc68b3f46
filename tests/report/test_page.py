"""The page's text; how it looks is seen in test_browser.py."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_data import ROWS, make_report

from qconvert.report.choosing import choose
from qconvert.report.page import write_page
from qconvert.report.types import Wish

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Checks that tags close, and collects text and addresses."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action")]

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def text_of(page: str) -> str:
    return " ".join("".join(read(page).text).split())


def test_the_first_screen_answers_the_question():
    text = text_of(write_page(make_report()))
    assert "Take Q4_K_M: 106 MB, 39% of the original, at a mean divergence of 0.0105 nats" in text
    assert "writing 88 tokens per second on this machine" in text
    assert "the smallest file that is at most 0.02 nats from the original" in text
    assert "For transformers and vLLM: w8a8" in text
    assert "llama-server -m models/SmolLM2-Q4_K_M.gguf" in text
    assert "echo 'FROM ./models/SmolLM2-Q4_K_M.gguf' > Modelfile && ollama create" in text
    assert "Closest to the original: Q8_0" in text
    assert text.index("Take Q4_K_M") < text.index("What size buys") < text.index("All files")


def test_the_same_report_gives_the_same_page():
    assert write_page(make_report()) == write_page(make_report())


def test_nothing_on_the_page_is_elsewhere():
    addresses = read(write_page(make_report())).addresses
    assert addresses
    assert all(address.startswith(("#", "data:", "models/")) for address in addresses)


def test_a_wish_that_cannot_be_met_is_told_with_what_comes_nearest():
    wish = Wish(under=50_000_000)
    text = text_of(write_page(make_report(wish), wish))
    assert "No file is as you wished" in text
    assert "no file is under 50 MB: the smallest, Q2_K, has 88.2 MB" in text
    assert "All files" in text


def test_what_was_not_measured_is_not_there():
    rows = tuple(replace(row, speed=None) for row in ROWS)
    report = make_report(rows=rows, choice=choose(rows, Wish()), sensitivity=None, conversations=())
    report = replace(report, original=replace(report.original, speed=None))
    text = text_of(write_page(report))
    for absent in ("tokens/s", "tokens per second", "Which parts", "What they say", "nan", "None"):
        assert absent not in text


def test_files_that_the_text_does_not_tell_apart_are_named():
    text = text_of(write_page(make_report()))
    assert "too short to tell which is closer to the original: Q8_0 and Q6_K." in text
    sure = text_of(write_page(make_report(surer={("Q8_0", "Q6_K"): 0.99})))
    assert "too short" not in sure


def test_commands_are_written_as_they_are_typed():
    command = "qconvert quantize 'a model' -t q4_k_m -c 'a & b.safetensors'"
    rows = tuple(replace(row, command=command) for row in ROWS)
    page = write_page(make_report(rows=rows, choice=choose(rows, Wish())))
    assert read(page).text
    assert text_of(page).count(command) == len(ROWS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_figures_that_are_no_numbers_have_a_page_too(value):
    odd = replace(
        ROWS[0],
        perplexity=value,
        perplexity_ratio=value,
        divergence=replace(ROWS[0].divergence, mean=value, standard_error=value, p999=value),
    )
    rows = (odd, *ROWS[1:])
    read(write_page(make_report(rows=rows, choice=choose(rows, Wish()))))
