"""Conversations through a model's own chat template.

A template comes with the model and is a program: it runs in jinja2's sandbox, as transformers runs
it, and in a process of its own with bounds on time and memory. What differs from run to run is
pinned there, the date that templates may ask for first of all.
"""

import json
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from qconvert.errors import CheckpointError, UnsupportedError, first_line
from qconvert.text.bounded import BrokenError, ask, limit
from qconvert.text.tokenizer import Tokenizer

SECONDS = 60
MOST = 200
"""Characters of an error that are told."""
MEMORY = 4 << 30
DATE = (2026, 1, 1)
"""What templates are told when they ask for the date."""


def render(tokenizer: Tokenizer, conversations: Sequence[str]) -> list[tuple[str, str]]:
    """Conversations as the model reads them.

    Args:
        tokenizer: its template is used.
        conversations: each a list of messages, as JSON.

    Returns:
        Of each, its text and no error, or no text and what the template says against it.

    Raises:
        UnsupportedError: the model has no chat template.
        CheckpointError: the template is broken, or takes too much time or memory.
    """
    try:
        template = tokenizer.inner.get_chat_template()
    except ValueError as error:
        raise UnsupportedError(
            "the data holds conversations, and the model has no chat template",
            "name a column with plain text, or a model that was made for chats",
        ) from error
    return render_template(template, tokenizer.inner.special_tokens_map, conversations)


def render_template(
    template: str,
    special: Mapping[str, Any],
    conversations: Sequence[str],
    *,
    answering: bool = False,
    hint: str = "name a column with plain text",
) -> list[tuple[str, str]]:
    """Conversations through a template that is not trusted.

    Args:
        template: the program, in jinja2.
        special: texts of special tokens by name, "bos_token" and so on.
        conversations: each a list of messages, as JSON.
        answering: end each text where the model's answer begins.
        hint: what the user can do where a template fails.

    Returns:
        Of each, its text and no error, or no text and what the template says against it.

    Raises:
        CheckpointError: the template is broken, or takes too much time or memory.
    """
    request = {
        "template": template,
        "special": dict(special),
        "conversations": list(conversations),
        "answering": answering,
        "seconds": SECONDS,
    }
    results: list[tuple[str, str]] = [tuple(pair) for pair in _ask(request, hint)]
    return results


def _ask(request: dict[str, Any], hint: str) -> list[Any]:
    try:
        results = ask("qconvert.text.chat", request, SECONDS)
    except BrokenError as error:
        raise CheckpointError(
            f"the model's chat template takes more than {SECONDS} seconds or "
            f"{MEMORY >> 30} GiB, or breaks its process",
            hint,
        ) from error
    if "error" in results:
        raise CheckpointError(
            f"the model's chat template is broken: {results['error']}",
            hint,
        )
    found: list[Any] = results["texts"]
    return found


def main() -> None:
    """The process that runs a template: a request as JSON comes in, the texts go out."""
    request = json.load(sys.stdin)
    # Before the limits: a library may reserve more address space than it uses.
    from transformers.utils import chat_template_utils

    limit(request["seconds"], MEMORY)
    random.seed(0)
    chat_template_utils.datetime = _Clock
    answer: dict[str, Any]
    try:
        answer = {"texts": _render_all(chat_template_utils.render_jinja_template, request)}
    except _syntax_error() as error:
        answer = {"error": first_line(error, MOST)}
    json.dump(answer, sys.stdout)


class _Clock:
    """The part of `datetime` that templates reach."""

    @staticmethod
    def now() -> Any:
        from datetime import datetime

        return datetime(*DATE)


def _render_all(render_template: Any, request: dict[str, Any]) -> list[tuple[str, str]]:
    room = 16 * sum(map(len, request["conversations"])) + (1 << 24)
    found = []
    for conversation in request["conversations"]:
        messages = [
            {key: value for key, value in message.items() if value is not None}
            for message in json.loads(conversation)
        ]
        try:
            texts, _ = render_template(
                [messages],
                chat_template=request["template"],
                add_generation_prompt=request["answering"],
                **request["special"],
            )
        except (MemoryError, _syntax_error()):
            raise
        except Exception as error:
            found.append(("", first_line(error, MOST)))
            continue
        room -= len(texts[0])
        if room < 0:
            raise MemoryError
        found.append((texts[0], ""))
    return found


def _syntax_error() -> type[Exception]:
    from jinja2 import TemplateSyntaxError

    return TemplateSyntaxError


if __name__ == "__main__":
    main()
