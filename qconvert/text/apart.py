"""Texts that are read in a process of their own.

Libraries that read what strangers made trust it, and abort where it is damaged: pyarrow does, and
`datasets`, which reads Parquet with it.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from qconvert import errors
from qconvert.errors import CheckpointError, QconvertError
from qconvert.text.bounded import BrokenError, ask, limit
from qconvert.text.documents import Document, Text

SECONDS = 600
MEMORY = 16 << 30
"""Bytes of address space, of which pyarrow reserves more than it uses."""


def read_apart(module: str, name: str, **request: Any) -> Text:
    """What a module, run as a program that calls `serve`, reads.

    Args:
        name: of what is read, for errors; the program is told it, too.

    Raises:
        CheckpointError: the process died, or took more than it may.
        QconvertError: what the reader raised there.
    """
    try:
        answer = ask(module, {"name": name, **request}, SECONDS)
    except BrokenError as error:
        raise CheckpointError(f"{name} cannot be read: it breaks its reader") from error
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"], answer["hint"])
    documents = tuple(Document(*fields) for fields in answer["documents"])
    return Text(documents, answer["complete"], answer["repeats"], answer["detail"])


def serve(read: Callable[..., Text]) -> None:
    """The process that reads: a request as JSON comes in, documents go out."""
    request = json.load(sys.stdin)
    limit(SECONDS, MEMORY)
    try:
        text = read(**request)
        documents = [(one.text, one.where, one.kind) for one in text.documents]
        about = {"complete": text.complete, "repeats": text.repeats, "detail": text.detail}
        answer: dict[str, Any] = {"documents": documents, **about}
    except QconvertError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    json.dump(answer, sys.stdout)
