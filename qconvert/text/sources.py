"""What `--data` names, and how it is read.

    notes.txt, notes.md        text
    talk.jsonl, rows.csv, rows.parquet    one document in each record
    rows.parquet#body          its column `body`
    org/name                   a data set of the Hugging Face hub
    org/name/config@split#column    of which any part may be left out
    -                          text from standard input
    self                       the model writes its own text
    notes.txt:3                thrice the share of the tokens; any of these may have a weight

A path that exists goes before everything else that the words might mean: a file that is really
called `notes.txt:3` is read whole, and `notes.txt:3:2` gives it a weight. `./self` and `./-` name
files.
"""

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from qconvert.checkpoint.files import read_bytes_at
from qconvert.errors import CheckpointError, UsageError
from qconvert.text.documents import Document, Text
from qconvert.text.hub_data import read_dataset
from qconvert.text.lines import BOM, check_text, decode, read_parts
from qconvert.text.parquet import read_parquet
from qconvert.text.records import read_csv, read_jsonl

Kind = Literal["text", "jsonl", "csv", "parquet", "dataset", "self"]

SUFFIXES: dict[str, Kind] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
}

KNOWN = "known: .txt, .md, .jsonl, .parquet, .csv, a data set (org/name), - and self"
MOST_PARTS = 4096
_WEIGHT = re.compile(r":(\d+(?:\.\d*)?|\.\d+)$")
_DATASET = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/@#]+))?(?:@(?P<split>[^@#]+))?(?:#(?P<column>.+))?"
)


@dataclass(frozen=True)
class Item:
    """One thing that the user named.

    Attributes:
        kind: what it is.
        name: without directories: "notes.txt", "org/name".
        path: of a file.
        column: that the user chose; "" for none.
        weight: its part of the tokens, in proportion to the others'.
        config, split: of a data set; "" for none.
    """

    kind: Kind
    name: str
    path: Path = Path()
    column: str = ""
    weight: float = 1.0
    config: str = ""
    split: str = ""


def parse_items(data: Sequence[str]) -> list[Item]:
    """What the user named, checked as far as it goes without reading.

    Args:
        data: as given; nothing stands for "self".

    Raises:
        UsageError: a weight is not a number above zero, or one source is named twice.
        CheckpointError: there is no such file, or no such kind of file.
    """
    items = [_parse(text) for text in data] or [Item("self", "self")]
    seen: set[Item] = set()
    for item in items:
        same = replace(item, weight=1.0, path=item.path.resolve())
        if same in seen:
            raise UsageError(f"{item.name} is named twice", f"give it a weight: {item.name}:2")
        seen.add(same)
    return items


def read_item(item: Item, budget: int, parts: int, seed: int) -> Text:
    """About `budget` characters of text or more, from all over the source.

    Args:
        item: anything but "self".
        budget: characters.
        parts: of one long text, in how many places it is read.
        seed: of the choice.

    Raises:
        CheckpointError: it cannot be read; the message says where it is at fault.
        UsageError: the column cannot be told.
    """
    if item.kind == "text":
        return _read_text(item, budget, parts, seed)
    if item.kind == "dataset":
        return read_dataset(item.name, item.config, item.split, item.column, budget, seed)
    return READERS[item.kind](item.path, item.name, item.column, budget, seed)


READERS: dict[Kind, Callable[[Path, str, str, int, int], Text]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
}


def spool_input(path: Path) -> None:
    """Copies standard input to a file, because a text is read in several places.

    Raises:
        CheckpointError: there is nothing in it.
    """
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    if path.stat().st_size == 0:
        raise CheckpointError("standard input is empty", "pipe a text into it")


def _read_text(item: Item, budget: int, parts: int, seed: int) -> Text:
    """All of a text, or pieces from all over a long one."""
    size = check_text(item.path, item.name)
    if size <= 2 * budget:
        text = decode(read_bytes_at(item.path, 0, size), item.name).removeprefix(BOM)
        return Text((Document(text, kind="excerpt"),) if text.strip() else ())
    parts = max(1, min(parts, MOST_PARTS))
    draw = np.random.default_rng(seed)
    documents = []
    for start, data in read_parts(item.path, size, parts, -(-budget // parts), draw):
        text = decode(data, item.name, start).removeprefix(BOM)
        documents.append(Document(text, f"byte {start}", "excerpt"))
    return Text(tuple(documents), complete=False)


def _parse(text: str) -> Item:
    if not text.strip():
        raise UsageError("--data is empty", KNOWN)
    if _exists(text):
        return _file(text, text, "", 1.0)
    match = _WEIGHT.search(text)
    rest = text[: match.start()] if match else text
    weight = float(match[1]) if match else 1.0
    if not (math.isfinite(weight) and weight > 0):
        raise UsageError(f"{text!r:.200}: a weight must be above zero")
    if rest in ("self", "-"):
        kind: Kind = "self" if rest == "self" else "text"
        return Item(kind, "self" if rest == "self" else "standard input", weight=weight)
    if _exists(rest):
        return _file(text, rest, "", weight)
    path, mark, column = rest.rpartition("#")
    if mark and _exists(path):
        return _file(text, path, column, weight)
    return _dataset(text, rest, weight)


def _file(given: str, text: str, column: str, weight: float) -> Item:
    path = Path(text)
    kind = SUFFIXES.get(path.suffix.lower())
    if path.is_dir():
        raise CheckpointError(f"{given!r:.300} is a directory", "name the files in it")
    if kind is None:
        raise CheckpointError(f"{given!r:.300} is no kind of file that is read here", KNOWN)
    if column and kind == "text":
        raise UsageError(f"{given!r:.300}: a text has no columns")
    return Item(kind, path.name, path, column, weight)


def _dataset(given: str, text: str, weight: float) -> Item:
    match = _DATASET.fullmatch(text)
    is_path = text.startswith((".", "~", "/")) or text.count("/") > 2
    if match is None or is_path or _has_suffix(text):
        raise CheckpointError(f"{given!r:.300}: no such file", KNOWN)
    return Item(
        "dataset",
        match["id"],
        column=match["column"] or "",
        weight=weight,
        config=match["config"] or "",
        split=match["split"] or "",
    )


def _has_suffix(text: str) -> bool:
    return Path(text.partition("#")[0]).suffix.lower() in SUFFIXES


def _exists(text: str) -> bool:
    try:
        return bool(text) and os.path.lexists(text)
    except ValueError:
        return False
