"""Prompts, out of a file of the user's or our own few.

.txt     one a line; empty lines are skipped
.md      the text under each heading, which names its topic; without headings, the whole file
.jsonl   one JSON object a line: {"prompt": "..."} or {"messages": [{"role": "user",
         "content": "..."}, ...]}, and perhaps {"topic": "..."}
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qconvert.checkpoint.files import file_size, read_bytes_at
from qconvert.errors import CheckpointError, UsageError
from qconvert.text.documents import sound

DEFAULT = Path(__file__).with_name("prompts.md")
LARGEST = 1 << 20
MOST = 1000
ROLES = ("system", "user", "assistant")
HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(?P<topic>.*?)[ \t]*#*")
FENCE = re.compile(r" {0,3}(?P<marks>`{3,}|~{3,})")


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: "system", "user" or "assistant".
        content: what is said.
    """

    role: str
    content: str

    def as_data(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class Prompt:
    """What is asked.

    Attributes:
        messages: a conversation, whose next turn is the model's.
        topic: what it is about, or an empty text.
    """

    messages: tuple[Message, ...]
    topic: str = ""

    @property
    def text(self) -> str:
        """For people: what is asked, without who speaks where that is clear."""
        if len(self.messages) == 1:
            return self.messages[0].content
        return "\n\n".join(f"{message.role}: {message.content}" for message in self.messages)


def default_prompts() -> tuple[Prompt, ...]:
    """Eight over science, coding, ethics and common sense."""
    return read_prompts(DEFAULT)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Prompts of a file.

    Raises:
        UsageError: another kind of file, or no prompts in it.
        CheckpointError: it cannot be read, or a line is not as it should be; the message says
            which.
    """
    readers = {".txt": _of_text, ".md": _of_markdown, ".jsonl": _of_jsonl}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"{path} is no file of prompts", "name a .txt, .md or .jsonl file")
    prompts = tuple(reader(_read(path), path))
    if not prompts:
        raise UsageError(f"{path} holds no prompts")
    if len(prompts) > MOST:
        raise UsageError(f"{path} holds {len(prompts)} prompts, and {MOST} are the most")
    return prompts


def _read(path: Path) -> str:
    try:
        size = file_size(path)
    except CheckpointError as error:
        raise CheckpointError(error.message, "name another") from error
    if size > LARGEST:
        raise UsageError(f"{path} has more than {LARGEST >> 20} MiB, too much to be prompts")
    try:
        text = read_bytes_at(path, 0, size).decode("utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no UTF-8 text", "save it as UTF-8") from error


def _ask(text: str, topic: str = "") -> Prompt:
    return Prompt((Message("user", sound(text)),), sound(topic))


def _of_text(text: str, path: Path) -> Iterator[Prompt]:
    yield from (_ask(line.strip()) for line in text.splitlines() if line.strip())


def _of_markdown(text: str, path: Path) -> Iterator[Prompt]:
    topic, lines, fence = "", list[str](), ""
    for line in [*text.splitlines(), "# "]:
        heading = None if fence else HEADING.fullmatch(line)
        if heading is None:
            lines.append(line)
            fence = _fence_after(line, fence)
            continue
        if any(map(str.strip, lines)):
            yield _ask("\n".join(lines).strip(), topic)
        topic, lines = heading["topic"], []
    if any(map(str.strip, lines)):  # behind a fence that nothing closes
        yield _ask("\n".join(lines[:-1]).strip(), topic)


def _fence_after(line: str, fence: str) -> str:
    """The marks that close the block of code which a line is in or begins; "" outside of one."""
    match = FENCE.match(line)
    if match is None:
        return fence
    marks = match["marks"]
    if not fence:
        return marks
    return "" if marks.startswith(fence) and not line[match.end() :].strip() else fence


def _of_jsonl(text: str, path: Path) -> Iterator[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _of_record(line, f"{path}: line {number}")


def _of_record(line: str, where: str) -> Prompt:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is no JSON", "one object a line") from error
    hint = 'a line is {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'
    if not isinstance(record, dict):
        raise CheckpointError(f"{where} is no JSON object", hint)
    topic = record.get("topic", "")
    topic = topic if isinstance(topic, str) else ""
    if isinstance(record.get("prompt"), str) and record["prompt"].strip():
        return _ask(record["prompt"], topic)
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise CheckpointError(f"{where} has neither a prompt nor messages", hint)
    if messages[-1]["role"] == "assistant":
        raise CheckpointError(f"{where}: the last message is the model's own", "leave it out")
    turns = tuple(Message(one["role"], sound(one["content"])) for one in messages)
    return Prompt(turns, sound(topic))


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.get("role") in ROLES
        and isinstance(value.get("content"), str)
    )
