"""Documents out of files with one in each record: JSON Lines and CSV; Parquet is read in
`qconvert.text.parquet`.

What is used of a record: the column that the user names, else `text`, else `messages` (a
conversation: a list of objects with `role` and `content`), else the only column with text.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qconvert.checkpoint.files import check_depth
from qconvert.errors import CheckpointError, UsageError
from qconvert.text.documents import Document, Text, choose
from qconvert.text.lines import (
    LONGEST_LINE,
    check_text,
    read_lines,
    read_lines_in_parts,
)

WHOLE = 1 << 26
"""Bytes up to which a file is read in full."""

PARTS = 256
"""From how many places a larger one is read."""


def read_jsonl(path: Path, name: str, column: str, budget: int, seed: int) -> Text:
    """One JSON object a line.

    Raises:
        CheckpointError: a line is no JSON object or lacks the column; the message says which.
    """
    size = check_text(path, name)
    if size <= max(WHOLE, 16 * budget):
        lines: Iterable[tuple[str, str]] = (
            (f"line {number}", line) for number, line in read_lines(path, name)
        )
        return choose(_objects(lines, name, column), budget, seed)
    draw = np.random.default_rng(seed)
    parts = read_lines_in_parts(path, name, size, PARTS, 4 * budget // PARTS, draw)
    lines = ((f"the line at byte {start}", line) for start, line in parts)
    return replace(choose(_objects(lines, name, column), budget, seed), complete=False)


def read_csv(path: Path, name: str, column: str, budget: int, seed: int) -> Text:
    """Comma-separated values with a header; quotes as in RFC 4180.

    Raises:
        CheckpointError: the quoting is broken or a row has another number of fields.
        UsageError: there is no such column, or several might be meant.
    """
    check_text(path, name)
    with _long_fields():
        rows = _rows(path, name)
        _, header = next(rows, ("", []))
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            raise CheckpointError(f"{name} is not separated by commas", "save it with commas")
        first = [row for _, row in islice(rows, 100)]
        kinds = dict.fromkeys(header, "document") if column else _kinds(header, first)
        chosen = header.index(pick_column(kinds, column, name)[0])
        rows = _rows(path, name)
        next(rows)
        text = choose((Document(row[chosen], where) for where, row in rows), budget, seed)
    return replace(text, detail=f"column {header[chosen]}")


def pick_column(kinds: Mapping[str, str], wanted: str, name: str) -> tuple[str, str]:
    """The column that is used, and its kind: "document" or "chat".

    Args:
        kinds: of all columns, by name; "" for what holds no text.
        wanted: by the user; "" leaves it open.
        name: of the source, for the message.

    Raises:
        UsageError: there is none; the message lists what is there.
    """
    usable = [column for column, kind in kinds.items() if kind]
    hint = f"name one: {name}#{usable[0]}" if usable else "name another source"
    listed = ", ".join(kinds) or "none"
    if wanted:
        if wanted not in kinds:
            raise UsageError(f"{name} has no column {wanted!r:.80}; its columns: {listed}", hint)
        if not kinds[wanted]:
            raise UsageError(f"{name}: the column {wanted} holds no text; columns: {listed}", hint)
        return wanted, kinds[wanted]
    for usual in ("text", "messages"):
        if kinds.get(usual):
            return usual, kinds[usual]
    if len(usable) != 1:
        found = "several columns with text" if usable else "no column with text"
        raise UsageError(f"{name} has {found}; its columns: {listed}", hint)
    return usable[0], kinds[usable[0]]


def to_document(value: Any, where: str) -> Document | None:
    """A value of a column; None for what is neither a text nor a conversation."""
    if isinstance(value, str):
        return Document(value, where)
    if is_conversation(value):
        return Document(json.dumps(value, ensure_ascii=False, default=str), where, "chat")
    return None


def is_conversation(value: Any) -> bool:
    """Whether it is a list of messages, each with a role."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
    )


def _objects(lines: Iterable[tuple[str, str]], name: str, column: str) -> Iterator[Document]:
    for where, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            check_depth(record)
        except (ValueError, RecursionError) as error:
            what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise CheckpointError(f"{name}: {where} is not valid JSON: {what:.200}") from error
        if not isinstance(record, dict):
            raise CheckpointError(f"{name}: {where} holds no JSON object")
        usual = next((key for key in ("text", "messages") if record.get(key) is not None), "")
        key = column or usual
        if not column and record.keys() & {"text", "messages"} and not usual:
            continue  # null, as in rows that were filtered
        if key not in record:
            keys = ", ".join(map(str, record))
            wanted = repr(column) if column else "'text' or 'messages'"
            raise CheckpointError(
                f"{name}: {where} has no {wanted:.80}; it has: {keys or 'nothing':.300}",
                "name a key that all lines have: file.jsonl#key",
            )
        if record[key] is None:
            continue
        document = to_document(record[key], where)
        if document is None:
            raise CheckpointError(
                f"{name}: {where}: {key!r:.80} is neither a text nor a list of messages",
                "a message is an object with 'role' and 'content'",
            )
        yield document


def _rows(path: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """The rows that are not blank, each with its place."""
    reader = csv.reader((line for _, line in read_lines(path, name)), strict=True)
    width = 0
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            if not row:
                continue
            width = width or len(row)
            if len(row) != width:
                raise CheckpointError(
                    f"{name}: {where}: the row has {len(row)} fields and the header {width}"
                )
            yield where, row
    except csv.Error as error:
        raise CheckpointError(f"{name}: line {reader.line_num}: {error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module's limit is the process's: lifted here, and put back."""
    before = csv.field_size_limit(LONGEST_LINE)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _kinds(header: list[str], rows: list[list[str]]) -> dict[str, str]:
    """A column with a value that is no number holds text."""
    found = {}
    for number, column in enumerate(header):
        values = [row[number] for row in rows]
        found[column] = "" if all(map(_is_number, values)) else "document"
    return found


def _is_number(value: str) -> bool:
    try:
        float(value or "0")
    except ValueError:
        return False
    return True
