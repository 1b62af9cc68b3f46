"""Answers side by side, for people and programs: what a comparison shows, as data and Markdown.

Answers are text from strangers: whatever they hold is shown as text.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from qconvert.evaluation.answers.answer import (
    Answer,
    AnswerSettings,
    Departure,
    Responses,
    departure,
)
from qconvert.text.prompts import Prompt

MARK = "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}"
"""Stands where an answer departs from the original's."""

BREAK = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
KINDS = ("greedy", "sampled")
GAP = re.compile(r"[^\S\n]*(?:\n[^\S\n]*){4,}")
"""Four line breaks or more with nothing between them, as a broken model writes them to the end."""

ESCAPED = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>()#+-.!|~&$^=:@"})


@dataclass(frozen=True)
class Shown:
    """One answer beside the original's.

    Attributes:
        answer: it.
        departure: where it departs, or None; of the original always None.
        same: the text up to there, or all of it; `folded`, as the rest is.
        rest: the text from there on.
        remark: for people.
    """

    answer: Answer
    departure: Departure | None
    same: str
    rest: str
    remark: str


@dataclass(frozen=True)
class Agreement:
    """How far a file's answers agree with the original's.

    Attributes:
        same: answers that are the same to the end.
        of: answers.
        tokens: the median of tokens before an answer departs; one that does not counts whole.
    """

    same: int
    of: int
    tokens: float


def show(responses: Sequence[Responses], kind: str, prompt: int) -> list[Shown | None]:
    """Every file's answer to a prompt; None where a file did not answer.

    Args:
        kind: "greedy" or "sampled".
    """
    original = getattr(responses[0], kind)
    found: list[Shown | None] = []
    for number, one in enumerate(responses):
        given = getattr(one, kind)
        if prompt >= len(given):
            found.append(None)
        else:
            found.append(_beside(original[prompt] if number else None, given[prompt]))
    return found


def _beside(original: Answer | None, answer: Answer) -> Shown:
    found = departure(original, answer) if original is not None else None
    at = len(answer.text) if found is None else found.character
    return Shown(
        answer,
        found,
        folded(answer.text[:at]),
        folded(answer.text[at:]),
        _remark(original, answer, found),
    )


def folded(text: str) -> str:
    """With a sign and a count in place of many empty lines."""
    return GAP.sub(lambda gap: f" {BREAK} x {gap[0].count(chr(10))} ", text)


def _remark(original: Answer | None, answer: Answer, found: Departure | None) -> str:
    if original is None:
        return count(len(answer.tokens)) + ("" if answer.ended else ", cut")
    if found is None:
        return "the same"
    place = f"at token {found.token}, character {found.character}"
    if found.character == len(answer.text):
        return f"ends {place}"
    return f"goes on {place}" if found.character == len(original.text) else f"departs {place}"


def agreement(responses: Sequence[Responses], number: int, kind: str) -> Agreement:
    """Of one file, over all prompts."""
    pairs = list(zip(getattr(responses[0], kind), getattr(responses[number], kind), strict=False))
    found = [departure(one, other) for one, other in pairs]
    lengths = [
        len(other.tokens) if gap is None else gap.token
        for (_, other), gap in zip(pairs, found, strict=True)
    ]
    return Agreement(found.count(None), len(found), median(lengths) if lengths else 0)


def kinds(responses: Sequence[Responses]) -> tuple[str, ...]:
    """The kinds of answers that there are."""
    return tuple(kind for kind in KINDS if getattr(responses[0], kind))


def as_data(
    prompts: Sequence[Prompt], responses: Sequence[Responses], settings: AnswerSettings
) -> dict[str, Any]:
    """The JSON form."""
    return {
        "settings": {
            "max_tokens": settings.max_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
            "threads": settings.threads,
        },
        "prompts": [
            {"topic": prompt.topic, "messages": [message.as_data() for message in prompt.messages]}
            for prompt in prompts
        ],
        "files": [
            {
                "path": one.path,
                "original": number == 0,
                "type": one.kind,
                "bytes": one.nbytes,
                "bits_per_weight": round(one.bits_per_weight, 4),
                "runtime": one.runtime,
                "chat_template": one.templated,
                "problem": one.problem or None,
                "agreement": {
                    kind: asdict(agreement(responses, number, kind)) for kind in kinds(responses)
                },
                "answers": list(_answers(prompts, responses, number)),
            }
            for number, one in enumerate(responses)
        ],
    }


def json_text(
    prompts: Sequence[Prompt], responses: Sequence[Responses], settings: AnswerSettings
) -> str:
    """The JSON form, as a file's text."""
    data = as_data(prompts, responses, settings)
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _answers(
    prompts: Sequence[Prompt], responses: Sequence[Responses], number: int
) -> Iterator[dict[str, Any]]:
    for prompt in range(len(prompts)):
        found = {kind: show(responses, kind, prompt)[number] for kind in kinds(responses)}
        yield {
            kind: {
                "text": shown.answer.text,
                "tokens": list(shown.answer.tokens),
                "ended": shown.answer.ended,
                "departure": asdict(shown.departure) if shown.departure else None,
            }
            for kind, shown in found.items()
            if shown is not None
        }


def how(settings: AnswerSettings, responses: Sequence[Responses]) -> str:
    """How the answers came to be, a sentence or two."""
    found = f"At most {settings.max_tokens} tokens of each answer; greedily"
    if settings.temperature:
        found += f", and sampled at temperature {settings.temperature:g} with seed {settings.seed}"
        found += " (all files draw with the same noise)"
    templates = {one.templated for one in responses if not one.problem}
    if templates == {True}:
        return found + ". Prompts went through each file's own chat template."
    if templates == {False}:
        return found + ". No file has a chat template: prompts were plain text."
    return found + ". Prompts went through the chat template of each file that has one."


def markdown(
    prompts: Sequence[Prompt], responses: Sequence[Responses], settings: AnswerSettings
) -> str:
    """A page of Markdown: a table of the files, and one for each prompt."""
    shown = kinds(responses)
    lines = ["# Answers side by side", "", how(settings, responses)]
    lines += [f"{MARK} stands where an answer first departs from the original's.", ""]
    lines += _table(
        ["file", "type", "bits per weight", "runtime", *(f"same, {kind}" for kind in shown)],
        [
            [
                escaped(one.path) + (" (original)" if number == 0 else ""),
                escaped(one.kind),
                f"{one.bits_per_weight:.2f}",
                one.runtime,
                *(_agreement_cell(responses, number, kind) for kind in shown),
            ]
            for number, one in enumerate(responses)
        ],
    )
    for number, prompt in enumerate(prompts):
        lines += ["", f"## {number + 1}. {escaped(prompt.topic)}".rstrip(), ""]
        lines += [f"> {escaped(line)}".rstrip() for line in prompt.text.splitlines()]
        by_kind = [show(responses, kind, number) for kind in shown]
        rows = [
            [f"{escaped(one.path)}<br>{escaped(one.kind)}", *map(_cell, cells)]
            for one, *cells in zip(responses, *by_kind, strict=True)
        ]
        lines += ["", *_table(["file", *shown], rows)]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def agreement_text(responses: Sequence[Responses], number: int, kind: str) -> str:
    """For people: "3 of 8; 17 tokens in common", the median."""
    if number == 0:
        return ""
    if responses[number].problem:
        return "fails"
    found = agreement(responses, number, kind)
    text = f"{found.same} of {found.of}"
    return text if found.same == found.of else f"{text}; {count(found.tokens)} in common"


def count(tokens: float) -> str:
    """For people."""
    return f"{tokens:g} token{'' if tokens == 1 else 's'}"


def _agreement_cell(responses: Sequence[Responses], number: int, kind: str) -> str:
    if responses[number].problem:
        return f"fails: {escaped(responses[number].problem)}"
    return agreement_text(responses, number, kind)


def _cell(shown: Shown | None) -> str:
    if shown is None:
        return "no answer"
    mark = MARK if shown.departure else ""
    return f"{_lines(shown.same)}{mark}{_lines(shown.rest)}<br>*({shown.remark})*"


def _lines(text: str) -> str:
    return "<br>".join(escaped(line) for line in text.split("\n"))


def escaped(text: str) -> str:
    """Text as it is, in a line of Markdown."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain.translate(ESCAPED)
