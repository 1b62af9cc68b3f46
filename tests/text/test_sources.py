from pathlib import Path

import numpy as np
import pytest

from qconvert.errors import CheckpointError, QconvertError, UsageError
from qconvert.text.sources import Item, parse_items, read_item


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "B.MD", "rows.parquet", "talk.jsonl", "odd#name:2.csv"):
        (tmp_path / name).write_text("some text")
    return tmp_path


def parse(text: str) -> Item:
    (item,) = parse_items([text])
    return item


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("a.txt", Item("text", "a.txt", Path("a.txt"))),
        ("a.txt:3", Item("text", "a.txt", Path("a.txt"), weight=3)),
        ("a.txt:.5", Item("text", "a.txt", Path("a.txt"), weight=0.5)),
        ("B.MD", Item("text", "B.MD", Path("B.MD"))),
        ("./talk.jsonl#body:2", Item("jsonl", "talk.jsonl", Path("talk.jsonl"), "body", 2)),
        ("rows.parquet#a b", Item("parquet", "rows.parquet", Path("rows.parquet"), "a b")),
        ("odd#name:2.csv", Item("csv", "odd#name:2.csv", Path("odd#name:2.csv"))),
        ("odd#name:2.csv#c:4", Item("csv", "odd#name:2.csv", Path("odd#name:2.csv"), "c", 4)),
        ("-", Item("text", "standard input")),
        ("-:2", Item("text", "standard input", weight=2)),
        ("self", Item("self", "self")),
        ("self:2", Item("self", "self", weight=2)),
        ("org/name", Item("dataset", "org/name")),
        ("org/name@test", Item("dataset", "org/name", split="test")),
        ("org/na.me-1#body:3", Item("dataset", "org/na.me-1", column="body", weight=3)),
        (
            "org/name/v1.0-raw@train#text",
            Item("dataset", "org/name", column="text", config="v1.0-raw", split="train"),
        ),
    ],
)
def test_every_form_is_understood(here, text, item):
    assert parse(text) == item


def test_a_path_that_exists_goes_before_every_other_meaning(here):
    (here / "a.txt:3").mkdir()
    with pytest.raises(CheckpointError, match=r"'a\.txt:3' is a directory"):
        parse("a.txt:3")
    (here / "b.txt:3.txt").write_text("text")
    assert parse("b.txt:3.txt").name == "b.txt:3.txt"
    assert parse("b.txt:3.txt:2").weight == 2
    (here / "org").mkdir()
    (here / "org/name.csv").write_text("text")
    assert parse("org/name.csv").kind == "csv"


def test_no_data_means_the_model_writes():
    assert parse_items([]) == [Item("self", "self")]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("", UsageError, "--data is empty"),
        ("  ", UsageError, "--data is empty"),
        ("a.txt:0", UsageError, "a weight must be above zero"),
        ("a.txt:" + "9" * 400, UsageError, "a weight must be above zero"),
        ("a.txt#column", UsageError, "a text has no columns"),
        ("none.txt", CheckpointError, "no such file"),
        ("folder/none.parquet#text", CheckpointError, "no such file"),
        ("/none/name", CheckpointError, "no such file"),
        ("none", CheckpointError, "no such file"),
        ("a.txt:-1", CheckpointError, "no such file"),
        ("nul\0.txt", CheckpointError, "no such file"),
        (".", CheckpointError, "is a directory"),
    ],
)
def test_what_makes_no_sense_is_refused(here, text, kind, said):
    with pytest.raises(kind, match=said):
        parse(text)


def test_a_kind_of_file_that_is_not_read_is_refused_with_those_that_are(here):
    (here / "notes.docx").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="no kind of file") as caught:
        parse("notes.docx")
    assert ".parquet" in caught.value.hint


def test_a_source_named_twice_is_refused(here):
    with pytest.raises(UsageError, match=r"a\.txt is named twice") as caught:
        parse_items(["a.txt", "./a.txt:2"])
    assert "a.txt:2" in caught.value.hint
    assert len(parse_items(["rows.parquet#a", "rows.parquet#b"])) == 2


def test_a_short_text_is_read_whole(here):
    text = read_item(parse("a.txt"), 100, 4, 0)
    assert [d.text for d in text.documents] == ["some text"]
    assert text.complete


def test_a_long_text_is_read_in_pieces_from_all_over_it(here):
    lines = [f"line {n:06}\n" for n in range(100_000)]
    (here / "long.txt").write_text("".join(lines))
    text = read_item(parse("long.txt"), 50_000, 50, 7)
    numbers = [int(line.split()[1]) for d in text.documents for line in d.text.splitlines()]
    assert not text.complete
    assert len(text.documents) == 50
    assert numbers == sorted(set(numbers))
    assert np.histogram(numbers, 10, (0, 100_000))[0].min() > 300
    assert text == read_item(parse("long.txt"), 50_000, 50, 7)
    assert text != read_item(parse("long.txt"), 50_000, 50, 8)


def test_a_wrong_byte_far_into_a_long_text_is_named_with_its_place(here):
    (here / "long.txt").write_bytes(b"\xe9 line\n" * 100_000)
    with pytest.raises(CheckpointError, match=r"long\.txt is not UTF-8: 0xe9 at byte \d+"):
        read_item(parse("long.txt"), 5000, 5, 7)


def test_a_text_of_blanks_has_no_documents(here):
    (here / "blank.txt").write_text(" \n\n")
    assert read_item(parse("blank.txt"), 100, 4, 0).documents == ()


def test_names_hold_no_directories(here):
    (here / "private").mkdir()
    (here / "private/notes.txt").write_text("text")
    assert parse(str(here / "private/notes.txt")).name == "notes.txt"


@pytest.mark.parametrize("text", ["a.txt", "talk.jsonl", "rows.parquet"])
def test_what_cannot_be_read_is_an_error_of_ours(here, text):
    Path(text).unlink()
    Path(text).symlink_to("nowhere")
    with pytest.raises(QconvertError):
        read_item(parse(text), 100, 1, 0)
