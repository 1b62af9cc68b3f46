"""Documents, and a choice among more of them than are needed.

A choice goes by the hash of each document's text with the seed: the lowest hashes are kept, as
many as the budget of characters holds (bottom-k sampling). So one pass is enough, memory is
bounded by the budget, every document has the same chance wherever it stands, and copies, which
have one hash, are found even when the first is long forgotten.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

import numpy as np

Kind = Literal["document", "excerpt", "chat"]


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        text: of a conversation, its messages as JSON.
        where: it stands in its source, "line 7".
        kind: a "document" ends where another begins; an "excerpt" is a part of one long text; a
            "chat" is still to be put through a chat template.
    """

    text: str
    where: str = ""
    kind: Kind = "document"


@dataclass(frozen=True)
class Text:
    """What was read of a source.

    Attributes:
        documents: in the source's order.
        complete: whether this is all of it.
        repeats: documents that were left out because they repeat others.
        detail: what a file's name does not tell: "column text".
    """

    documents: tuple[Document, ...]
    complete: bool = True
    repeats: int = 0
    detail: str = ""


def choose(documents: Iterable[Document], budget: int, seed: int) -> Text:
    """Documents of about `budget` characters in all, each but once; blank ones are left out."""
    kept: list[tuple[int, int, Document]] = []
    keys: set[int] = set()
    total = repeats = 0
    complete = True
    for number, document in enumerate(documents):
        if not document.text.strip():
            continue
        key = _key(document.text, seed)
        if key in keys:
            repeats += 1
            continue
        part = _excerpt(document, max(1 << 14, budget // 16), key)
        complete &= part is document
        heapq.heappush(kept, (-key, number, part))
        keys.add(key)
        total += len(part.text)
        while total - len(kept[0][2].text) >= budget:
            highest, _, dropped = heapq.heappop(kept)
            keys.discard(-highest)
            total -= len(dropped.text)
            complete = False
    ordered = sorted(kept, key=lambda entry: entry[1])
    return Text(tuple(document for _, _, document in ordered), complete, repeats)


def content_hash(documents: Iterable[Document]) -> str:
    """Twelve hexadecimal digits that tell one choice of documents from another."""
    digest = blake2b(digest_size=6)
    for document in documents:
        data = _bytes(document.text)
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def sound(text: str) -> str:
    """Half a surrogate pair, which JSON can spell, is no character: U+FFFD stands for it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _key(text: str, seed: int) -> int:
    salt = (seed % (1 << 64)).to_bytes(8, "little")
    return int.from_bytes(blake2b(_bytes(text.strip()), digest_size=16, key=salt).digest(), "big")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _excerpt(document: Document, length: int, key: int) -> Document:
    """A part of a long document, from a place that its key decides, between whole words."""
    if len(document.text) <= length or document.kind == "chat":
        return document
    draw = np.random.default_rng(key)
    start = int(draw.integers(0, len(document.text) - length + 1))
    text = document.text[start : start + length]
    first, last = text.find(" ", 0, length // 4), text.rfind(" ", length // 2)
    is_end = start + length == len(document.text)
    text = text[first + 1 if start else 0 : last if last >= 0 and not is_end else length]
    return replace(document, text=text)
