import csv
import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qconvert.errors import CheckpointError, UsageError
from qconvert.text import bounded, parquet, records
from qconvert.text.parquet import read_parquet
from qconvert.text.records import pick_column, read_csv, read_jsonl

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
MANY = 10**6


@pytest.fixture
def jsonl(tmp_path: Path):
    def make(*values) -> Path:
        path = tmp_path / "data.jsonl"
        lines = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return make


def texts(text) -> list[str]:
    return [document.text for document in text.documents]


def test_json_lines_give_their_texts_and_conversations(jsonl):
    path = jsonl({"text": "eins"}, "", {"messages": CHAT, "id": 3}, {"text": "zwei", "n": [1]})
    text = read_jsonl(path, "data.jsonl", "", MANY, 0)
    assert [d.kind for d in text.documents] == ["document", "chat", "document"]
    assert json.loads(text.documents[1].text) == CHAT
    assert [d.where for d in text.documents] == ["line 1", "line 3", "line 4"]
    assert text.complete


def test_another_key_may_be_named(jsonl):
    path = jsonl({"text": "no", "body": "yes"}, {"body": CHAT}, {"body": None})
    assert len(read_jsonl(path, "d", "body", MANY, 0).documents) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "cut', "line 2 is not valid JSON"),
        ("[" * 100_000, "line 2 is not valid JSON: nested too deeply"),
        ('{"messages": ' + "[" * 100 + "]" * 100 + "}", "line 2 is not valid JSON: it is nested"),
        ('["text"]', "line 2 holds no JSON object"),
        ('{"body": "x", "id": 1}', "line 2 has no 'text' or 'messages'; it has: body, id"),
        ('{"text": 5}', "line 2: 'text' is neither a text nor a list of messages"),
        ('{"messages": [{"content": "no role"}]}', "line 2: 'messages' is neither"),
        ('{"messages": []}', "line 2: 'messages' is neither"),
    ],
)
def test_a_bad_line_is_named(jsonl, line, said):
    with pytest.raises(CheckpointError, match=said.replace("[", r"\[")):
        read_jsonl(jsonl({"text": "good"}, line), "data.jsonl", "", MANY, 0)


def test_rows_whose_text_is_null_are_passed_over(jsonl):
    path = jsonl({"text": None}, {"text": "a"}, {"messages": None})
    assert [d.text for d in read_jsonl(path, "d", "", MANY, 0).documents] == ["a"]


def test_a_key_that_a_line_lacks_is_named(jsonl):
    with pytest.raises(CheckpointError, match="line 1 has no 'body'; it has: text"):
        read_jsonl(jsonl({"text": "x"}), "data.jsonl", "body", MANY, 0)


def test_large_json_lines_are_read_in_places_all_over_the_file(jsonl, monkeypatch):
    monkeypatch.setattr(records, "WHOLE", 1000)
    path = jsonl(*({"text": f"document {n:06} {'word ' * 50}"} for n in range(20_000)))
    budget = path.stat().st_size // 100
    text = read_jsonl(path, "d", "", budget, 0)
    places = [int(t.split()[1]) for t in texts(text)]
    assert not text.complete
    assert sum(map(len, texts(text))) >= budget
    assert {place // 2000 for place in places} == set(range(10))
    assert texts(text) == texts(read_jsonl(path, "d", "", budget, 0))


CELLS = st.text(st.sampled_from('ab", \n;é'), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1))
def test_csv_gives_what_was_written_whatever_the_quotes(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    first: dict[str, str] = {}
    for _, text in rows:
        first.setdefault(text.strip(), text)
    expected = [text for key, text in first.items() if key]
    assert texts(read_csv(path, "rows.csv", "text", MANY, 0)) == expected


def write_csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_only_column_with_text_is_found(tmp_path):
    path = write_csv(tmp_path, 'id,body,score\n1,"one, two",0.5\n2,three,\n')
    text = read_csv(path, "rows.csv", "", MANY, 0)
    assert texts(text) == ["one, two", "three"]
    assert text.detail == "column body"


def test_fields_may_be_long(tmp_path):
    before = csv.field_size_limit()
    path = write_csv(tmp_path, f'text\n"{"long " * 100_000}"\n')
    assert len(read_csv(path, "rows.csv", "", MANY, 0).documents[0].text) > 60_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('text\ngood\n"open\n', "line 3: unexpected end of data"),
        ('text\n"a"b\n', "line 2: ',' expected after '\"'"),
        ("id,text\n1,a\n2\n", "line 3: the row has 1 fields and the header 2"),
        ("id;text\n1;a\n", "not separated by commas"),
    ],
)
def test_broken_csv_is_named_with_its_line(tmp_path, text, said):
    with pytest.raises(CheckpointError, match=said):
        read_csv(write_csv(tmp_path, text), "rows.csv", "", MANY, 0)


def write_parquet(tmp_path: Path, rows: int = 1000, **columns) -> Path:
    path = tmp_path / "rows.parquet"
    table = pa.table(columns or {"text": [f"row {n:05}" for n in range(rows)]})
    pq.write_table(table, path, row_group_size=50)
    return path


def test_parquet_gives_texts_of_every_arrow_kind(tmp_path):
    plain = pa.array(["a", None, "b", "b"])
    for kind in (plain, plain.cast(pa.large_string()), plain.dictionary_encode()):
        path = write_parquet(tmp_path, id=pa.array([1, 2, 3, 4]), body=kind)
        text = read_parquet(path, "rows.parquet", "", MANY, 0)
        assert texts(text) == ["a", "b"]
        assert (text.repeats, text.complete, text.detail) == (1, True, "column body")


def test_parquet_gives_conversations(tmp_path):
    path = write_parquet(tmp_path, prompt=pa.array(["x"]), messages=pa.array([CHAT]))
    text = read_parquet(path, "rows.parquet", "", MANY, 0)
    assert json.loads(text.documents[0].text) == CHAT


def test_large_parquet_is_read_in_row_groups_all_over_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "WHOLE", 100)
    path = write_parquet(tmp_path, 20_000)
    text = read_parquet(path, "rows.parquet", "", 1000, 0)
    places = [int(t.split()[1]) for t in texts(text)]
    assert not text.complete
    assert len({place // 50 for place in places}) > 10
    assert max(places) - min(places) > 10_000
    assert text == read_parquet(path, "rows.parquet", "", 1000, 0)


def test_damaged_parquet_is_refused(tmp_path):
    whole = write_parquet(tmp_path).read_bytes()
    path = tmp_path / "rows.parquet"
    for data in (b"text", whole[:-200], whole[:4], b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"rows\.parquet"):
            read_parquet(path, "rows.parquet", "", MANY, 0)
    page = bytearray(whole)
    page[4:200] = b"\xff" * 196
    path.write_bytes(page)
    with pytest.raises(CheckpointError, match=r"rows\.parquet cannot be read"):
        read_parquet(path, "rows.parquet", "", MANY, 0)


KINDS = {"id": "", "text": "document", "messages": "chat", "note": "document"}


@pytest.mark.parametrize(
    ("columns", "wanted", "chosen"),
    [
        (["id", "note", "messages", "text"], "", "text"),
        (["id", "note", "messages"], "", "messages"),
        (["id", "note"], "", "note"),
        (["id", "note", "text"], "note", "note"),
    ],
)
def test_the_column_is_the_named_one_else_the_usual_one_else_the_only_one(columns, wanted, chosen):
    kinds = {column: KINDS[column] for column in columns}
    assert pick_column(kinds, wanted, "f")[0] == chosen


@pytest.mark.parametrize(
    ("kinds", "wanted", "said"),
    [
        ({"a": "document", "b": "document"}, "", "several columns with text; its columns: a, b"),
        ({"a": ""}, "", "no column with text; its columns: a"),
        ({"a": "document", "b": ""}, "c", "no column 'c'; its columns: a, b"),
        ({"a": "document", "b": ""}, "b", "the column b holds no text; columns: a, b"),
    ],
)
def test_a_column_that_cannot_be_told_is_an_error_that_lists_them(kinds, wanted, said):
    with pytest.raises(UsageError, match=said):
        pick_column(kinds, wanted, "rows.csv")


def test_a_parquet_file_that_aborts_its_reader_is_an_error(tmp_path):
    path = write_parquet(tmp_path, 50)
    whole = path.read_bytes()
    for at in range(4, 700, 97):
        path.write_bytes(whole[:at] + b"\xff\x7f\x93" + whole[at + 3 :])
        with suppress(CheckpointError):
            read_parquet(path, "rows.parquet", "", MANY, 0)


def test_parquet_text_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    offsets = pa.py_buffer(np.array([0, 2], np.int32))
    text = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"text": text}), path)
    with pytest.raises(CheckpointError, match="column text is not UTF-8"):
        read_parquet(path, "rows.parquet", "", MANY, 0)


def test_parquet_that_kills_its_reader_says_so(tmp_path, monkeypatch):
    path = write_parquet(tmp_path)
    monkeypatch.setattr(bounded.sys, "executable", shutil.which("false"))
    with pytest.raises(CheckpointError, match="breaks its reader"):
        read_parquet(path, "rows.parquet", "", MANY, 0)
