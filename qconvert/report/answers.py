"""Answers side by side: what each has in common with the original's, and where it departs."""

import re
from dataclasses import dataclass

from qconvert.evaluation.answers.shown import folded
from qconvert.report.types import Answer, Conversation

_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True)
class ShownAnswer:
    """An answer in three pieces, without long gaps.

    Attributes:
        name: whose.
        remark: a few words on it.
        same: what it has in common with the original's.
        turn: the first word that is another.
        rest: what follows.
    """

    name: str
    remark: str
    same: str
    turn: str
    rest: str


@dataclass(frozen=True)
class ShownConversation:
    """A prompt with its answers."""

    prompt: str
    topic: str
    answers: tuple[ShownAnswer, ...]


def show_conversation(conversation: Conversation) -> ShownConversation:
    first, *others = conversation.answers
    shown = [ShownAnswer(first.name, first.note, "", "", first.text)]
    shown += [_show(one, bool(first.text)) for one in others]
    return ShownConversation(conversation.prompt, conversation.topic, tuple(map(_fold, shown)))


def _fold(shown: ShownAnswer) -> ShownAnswer:
    pieces = map(folded, (shown.same, shown.turn, shown.rest))
    return ShownAnswer(shown.name, shown.remark, *pieces)


def _show(answer: Answer, comparable: bool) -> ShownAnswer:
    if answer.note:
        return ShownAnswer(answer.name, answer.note, "", "", answer.text)
    if not comparable:
        return ShownAnswer(answer.name, "", "", "", answer.text)
    if answer.departs is None:
        return ShownAnswer(answer.name, "the same", answer.text, "", "")
    same, rest = answer.text[: answer.departs], answer.text[answer.departs :]
    match = _WORD.match(rest)
    turn = match[0] if match else rest
    if not rest:
        return ShownAnswer(answer.name, "stops early", same, "\N{END OF PROOF}", "")
    remark = "differs from the start" if answer.departs == 0 else "departs"
    return ShownAnswer(answer.name, remark, same, turn, rest[len(turn) :])
