"""What a comparison shows: as data, in Markdown and as HTML, whatever the answers hold."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

from qconvert.evaluation.answers.answer import Answer, AnswerSettings, Responses
from qconvert.evaluation.answers.page import page
from qconvert.evaluation.answers.shown import (
    BREAK,
    MARK,
    Agreement,
    agreement,
    as_data,
    folded,
    json_text,
    markdown,
    show,
)
from qconvert.text.prompts import Message, Prompt

HOSTILE = (
    "</div><script>alert(1)</script> | **b** `c` [x](javascript:y) ![i](http://h/i.png) &lt; "
    "<img src=x onerror=y> \\ | --- |\n# head\n> q\n1. one\n\x1b[31m\x00 $x$ {{ 7 * 7 }} http://h.org"
)


def answered(path: str, bits: float, *texts: str, **rest: Any) -> Responses:
    found = tuple(Answer(text, tuple(map(ord, text)), True) for text in texts)
    return Responses(path, "Q", 10, bits, "llama.cpp", True, found, found[::-1], **rest)


PROMPTS = (
    Prompt((Message("user", "Say <b>this</b> | *that*\nnow"),), "Topic <i>"),
    Prompt((Message("user", "Then"),)),
)
SETTINGS = AnswerSettings(2, 9, 0.5, 3)
FILES = (
    answered("model", 16, "a cat sat", "one"),
    answered("q8.gguf", 8.5, "a cat sat", "one"),
    answered("q4.gguf", 4.5, "a cow sat", "one and two"),
    answered("q2 | <b>.gguf", 2.5, HOSTILE, "o"),
    Responses("x.gguf", "Q", 10, 2, "llama.cpp", problem="it fails <here>"),
)


def test_answers_are_cut_where_they_depart():
    _, same, cow, _, none = show(FILES, "greedy", 0)
    assert (same.same, same.rest, same.departure, same.remark) == (
        "a cat sat",
        "",
        None,
        "the same",
    )
    assert (cow.same, cow.rest) == ("a c", "ow sat")
    assert cow.remark == "departs at token 3, character 3"
    assert none is None
    _, _, longer, shorter, _ = show(FILES, "greedy", 1)
    assert longer.remark == "goes on at token 3, character 3"
    assert shorter.remark == "ends at token 1, character 1"


def test_agreement_is_counted():
    assert agreement(FILES, 1, "greedy") == Agreement(2, 2, 6)
    assert agreement(FILES, 2, "greedy") == Agreement(0, 2, 3)
    assert agreement(FILES, 4, "sampled") == Agreement(0, 0, 0)


def test_the_data_hold_everything_and_are_json():
    data = json.loads(json_text(PROMPTS, FILES, SETTINGS))
    assert data == json.loads(json.dumps(as_data(PROMPTS, FILES, SETTINGS)))
    assert data["settings"] == {"max_tokens": 9, "temperature": 0.5, "seed": 3, "threads": 2}
    assert data["prompts"][0]["topic"] == "Topic <i>"
    first, _, third, _, last = data["files"]
    assert (first["original"], third["original"]) == (True, False)
    assert third["answers"][0]["greedy"]["departure"] == {"character": 3, "token": 3}
    assert third["answers"][1]["sampled"]["text"] == "a cow sat"
    assert first["answers"][0]["greedy"]["tokens"] == list(map(ord, "a cat sat"))
    assert (last["problem"], last["answers"]) == ("it fails <here>", [{}, {}])


def rendered(text: str) -> tuple[list[str], list[Any]]:
    """What markdown-it makes of a page: the cells' texts, and all tokens."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
    cells = [
        "".join(
            "\n" if child.content == "<br>" else child.content
            for child in token.children
            if child.type in ("text", "html_inline", "softbreak")
        )
        for before, token in pairwise(tokens)
        if before.type in ("td_open", "th_open")
    ]
    return cells, tokens


def test_markdown_shows_answers_as_they_are():
    cells, tokens = rendered(markdown(PROMPTS, FILES, SETTINGS))
    shown = "".join(c if c.isprintable() or c == "\n" else " " for c in HOSTILE)
    assert any(cell.startswith(MARK + shown) for cell in cells)
    assert any(cell.startswith(f"a c{MARK}ow sat\n") for cell in cells)
    inline = [child for token in tokens for child in token.children or ()]
    raw = {child.content for child in inline if child.type == "html_inline"}
    assert raw == {"<br>"}
    assert not any(child.type in ("link_open", "image") for child in inline)
    assert not any(token.type == "html_block" for token in tokens)
    tables = [token for token in tokens if token.type == "table_open"]
    assert len(tables) == 1 + len(PROMPTS)


class Page(HTMLParser):
    """Tags, and the text inside of each answer."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.answers: list[str] = []
        self.marked: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(dict(attrs).get("class") or tag)
        if self.open[-1] == "text":
            self.answers.append("")
        if tag == "mark" and "text" in self.open:
            self.marked.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "text" in self.open:
            self.answers[-1] += data
            if self.open[-1] == "mark":
                self.marked[-1] += data


def parsed(text: str) -> Page:
    found = Page()
    void = re.sub(r"<(meta[^>]*)>", "", text.replace("<!doctype html>", ""))
    found.feed(void)
    found.close()
    assert found.open == []
    return found


def test_html_shows_answers_as_they_are_and_nothing_else():
    made = page(PROMPTS, FILES, SETTINGS)
    found = parsed(made)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "img", "a", "i", "b", "link", "iframe"}
    assert not any(
        name.startswith("on") or name in ("href", "src") for _, a in found.tags for name in a
    )
    assert re.sub(r"[\x00\x1b]", "\ufffd", HOSTILE) in found.answers
    assert "a cow sat" in found.answers
    assert "ow sat" in found.marked
    assert "{{ 7 * 7 }}" in made
    assert "it fails &lt;here&gt;" in made


def test_the_page_stands_alone_and_is_always_the_same():
    text = page(PROMPTS, FILES, SETTINGS)
    assert text == page(PROMPTS, FILES, SETTINGS)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert not re.search(r"url\(|@import|https?://(?!h)", text)


def test_it_is_said_how_the_answers_came_to_be():
    text = page(PROMPTS, FILES, SETTINGS)
    assert "temperature 0.5 with seed 3" in text
    greedy = tuple(Responses(f.path, f.kind, 1, 1, f.runtime, False, f.greedy) for f in FILES[:2])
    text = page(PROMPTS, greedy, AnswerSettings(2, temperature=0))
    assert "temperature" not in text
    assert "prompts were plain text" in text
    assert "sampled" not in text


def test_long_gaps_are_counted_and_not_shown():
    assert folded("a\n\n\nb") == "a\n\n\nb"
    assert folded("The Moon \n \n \n \n\n") == f"The Moon {BREAK} x 5 "
    assert folded("\n" * 4 + "a" + "\n" * 30) == f" {BREAK} x 4 a {BREAK} x 30 "
    files = [answered("model", 16, "one"), answered("q2", 2, "\n" * 32)]
    assert f"{BREAK} x 32" in markdown(PROMPTS[:1], files, SETTINGS)
    assert f"{BREAK} x 32" in page(PROMPTS[:1], files, SETTINGS)
    assert as_data(PROMPTS[:1], files, SETTINGS)["files"][1]["answers"][0]["greedy"]["text"] == (
        "\n" * 32
    )
