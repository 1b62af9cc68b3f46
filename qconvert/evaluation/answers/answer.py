"""What files answer to prompts, each in its own runtime and through its own chat template.

Every prompt is answered twice: greedily, and by sampling. A sampled token is the largest of
logits / temperature + noise, where the noise is Gumbel's, which draws from the softmax (the
"Gumbel-max trick"). The noise depends on the seed, the prompt and the position alone, so files that
think alike write alike, and where answers part it is the files that differ and not their luck.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from qconvert.checkpoint import Checkpoint
from qconvert.checkpoint.open import check_unchanged, locate
from qconvert.errors import QconvertError, UsageError
from qconvert.evaluation.answers.generators import Name, runtime_of
from qconvert.evaluation.runtimes.child import ask
from qconvert.evaluation.runtimes.subject import open_subject
from qconvert.text.prompts import Prompt


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are written.

    Attributes:
        threads: that compute.
        max_tokens: of an answer.
        temperature: of the sampled answers; 0 leaves these out.
        seed: of the noise.
    """

    threads: int
    max_tokens: int = 128
    temperature: float = 0.7
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """To one prompt.

    Attributes:
        text: without control tokens.
        tokens: ids.
        ended: whether the model ended it; else it was cut at the most tokens.
    """

    text: str
    tokens: tuple[int, ...]
    ended: bool


@dataclass(frozen=True)
class Departure:
    """Where an answer first differs from the original's.

    Attributes:
        character: of the text, from 0: the first that is another, or the end of the shorter text.
        token: of the answer, from 0, likewise.
    """

    character: int
    token: int


@dataclass(frozen=True)
class Responses:
    """Of one file, to all prompts.

    Attributes:
        path: as the user named it.
        kind: what it is stored as, for people.
        nbytes: of the files that hold weights.
        bits_per_weight: of its tensors.
        runtime: what ran it.
        templated: whether the prompts went through a chat template, or else were plain text.
        greedy: answers by prompt.
        sampled: the same; empty at temperature 0.
        problem: why there are no answers, or an empty text.
    """

    path: str
    kind: str
    nbytes: int
    bits_per_weight: float
    runtime: Name
    templated: bool = False
    greedy: tuple[Answer, ...] = ()
    sampled: tuple[Answer, ...] = ()
    problem: str = ""


Rendered = list[Any]
"""A chat template with its special tokens, as JSON, and the prompts as it makes them."""

Told = Callable[[int, str], None]
"""Called with how many more tokens have been written, and by which file."""


def answers(
    paths: Sequence[str | Path],
    prompts: Sequence[Prompt],
    settings: AnswerSettings,
    *,
    original: str | Path | None = None,
    told: Told = lambda tokens, path: None,
) -> tuple[Responses, ...]:
    """Have files answer prompts.

    Args:
        paths: GGUF files, directories or hub ids.
        original: one more; without it, the file with the most bits per weight is what the others
            are compared with.
        told: of progress; tokens of all files sum up to `work_of`.

    Returns:
        The original first, then by bits per weight, the most first. A file whose runtime fails has
        a `problem` in place of answers.

    Raises:
        UsageError: nothing to do.
        QconvertError: a file is no model that writes, its runtime is missing, or the original
            fails.
    """
    files = in_order(paths, original)
    if not prompts:
        raise UsageError("there are no prompts")
    found = []
    rendered: list[Rendered] = []
    for number, (file, checkpoint) in enumerate(files):
        try:
            found.append(_answered(file, checkpoint, prompts, settings, told, rendered))
        except QconvertError as error:
            if number == 0:
                raise
            found.append(replace(file, problem=error.message))
    return tuple(found)


def in_order(
    paths: Sequence[str | Path], original: str | Path | None = None
) -> list[tuple[Responses, Checkpoint]]:
    """The files, without answers, and what they are: the original first, then by bits per weight.

    Raises:
        UsageError: there are none.
        QconvertError: a file cannot be read, is an encoder, or its runtime is missing.
    """
    names = list(dict.fromkeys(str(path) for path in paths if path != original))
    files = sorted((_open(name) for name in names), key=lambda pair: -pair[0].bits_per_weight)
    first = [] if original is None else [_open(str(original))]
    if not first + files:
        raise UsageError("there are no files to compare")
    return first + files


def _open(name: str) -> tuple[Responses, Checkpoint]:
    _, place = locate(name)
    runtime = runtime_of(place)
    # Only its facts are asked for; logits are none of this module's business.
    subject = open_subject(name)
    file = Responses(name, subject.kind, subject.nbytes, subject.bits_per_weight, runtime)
    assert subject.checkpoint is not None
    return file, subject.checkpoint


def work_of(files: int, prompts: int, settings: AnswerSettings) -> int:
    """Tokens of which `told` is told in all, as if no answer ended early."""
    return files * prompts * settings.max_tokens * (2 if settings.temperature else 1)


def _answered(
    file: Responses,
    checkpoint: Checkpoint,
    prompts: Sequence[Prompt],
    settings: AnswerSettings,
    told: Told,
    rendered: list[Rendered],
) -> Responses:
    """With answers; `rendered` gets the prompts as its template makes them."""
    request = {
        "path": str(checkpoint.path),
        "threads": settings.threads,
        "prompts": [[message.as_data() for message in prompt.messages] for prompt in prompts],
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "rendered": rendered,
    }
    found = ask(
        "qconvert.evaluation.answers.worker",
        request,
        f"{file.runtime} cannot run {file.path}",
        lambda event: told(int(event["tokens"]), file.path),
    )
    check_unchanged(checkpoint)
    if found["rendered"] is not None:
        rendered.append(found["rendered"])
    return replace(
        file,
        templated=found["rendered"] is not None,
        greedy=tuple(map(_answer, found["greedy"])),
        sampled=tuple(map(_answer, found["sampled"])),
    )


def _answer(found: dict[str, Any]) -> Answer:
    return Answer(found["text"], tuple(found["tokens"]), found["ended"])


def departure(original: Answer, other: Answer) -> Departure | None:
    """Where an answer departs from the original's; None where both are the same to the end."""
    if original.text == other.text and original.ended == other.ended:
        return None
    return Departure(_common(original.text, other.text), _common(original.tokens, other.tokens))


def _common(one: Sequence[object], other: Sequence[object]) -> int:
    """How long the beginnings are that are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
