"""The README and the pages beside it say what the program does."""

import re
import shlex

import pytest
import readme
import typer

from qconvert.cli.app import app

README, *_ = readme.PAGES
LONGEST = 350
"""Lines of the README: what is longer is not read."""


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.name)
def test_generated_parts_are_up_to_date(page):
    text = page.read_text()
    assert readme.refresh(text) == text, "run `make readme`"


def test_every_part_is_shown_once():
    texts = [page.read_text() for page in readme.PAGES]
    shown = [match["name"] for text in texts for match in readme.BLOCK.finditer(text)]
    assert sorted(shown) == sorted(readme.PARTS)


def test_it_is_short():
    assert len(README.read_text().splitlines()) <= LONGEST


def test_what_is_linked_is_there():
    for page in readme.PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def commands() -> list[str]:
    """What the README types, without what follows a pipe."""
    text = "\n".join(page.read_text() for page in readme.PAGES).replace("\\\n", " ")
    lines = re.findall(r"^(?:\$| {2,4}|\t)\s*(qconvert [a-z]+ .*)$", text, re.MULTILINE)
    return [re.split(r" [|#>] | #", line)[0].strip() for line in lines]


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_commands_have_these_options(line):
    _, name, *words = shlex.split(re.sub(r"\$[<@]", "x", line))
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, ["cpu" if word == "cuda" else word for word in words])


def test_there_are_commands():
    assert len(commands()) > 40
