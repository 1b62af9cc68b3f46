"""The README says what the program does."""

from pathlib import Path

import readme

README = Path(__file__).parent.parent / "README.md"


def test_generated_parts_are_up_to_date():
    text = README.read_text()
    assert readme.refresh(text) == text, "run `make readme`"


def test_every_part_is_shown():
    shown = {match["name"] for match in readme.BLOCK.finditer(README.read_text())}
    assert shown == set(readme.PARTS)
