"""The README says what the program does."""

import re
import shlex
from pathlib import Path

import pytest
import readme
import typer

from qconvert.cli.app import app

README = Path(__file__).parent.parent / "README.md"


def test_generated_parts_are_up_to_date():
    text = README.read_text()
    assert readme.refresh(text) == text, "run `make readme`"


def test_every_part_is_shown():
    shown = {match["name"] for match in readme.BLOCK.finditer(README.read_text())}
    assert shown == set(readme.PARTS)


def commands() -> list[str]:
    """What the README types, without what follows a pipe."""
    text = README.read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:\$| {2,4}|\t)\s*(qconvert [a-z]+ .*)$", text, re.MULTILINE)
    return [re.split(r" [|#>] | #", line)[0].strip() for line in lines]


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_commands_have_these_options(line):
    _, name, *words = shlex.split(re.sub(r"\$[<@]", "x", line))
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, ["cpu" if word == "cuda" else word for word in words])


def test_there_are_commands():
    assert len(commands()) > 40
