"""What a report says beside its figures: answers, what to beware of, and how it was made."""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from qconvert import __version__
from qconvert.evaluation.answers.answer import Responses, departure
from qconvert.machine.limits import read_cores, read_limits, read_memory
from qconvert.machine.processor import read_processor
from qconvert.report.figures import percent, size
from qconvert.report.overlap import seen_in_calibration
from qconvert.report.request import Asked, Made
from qconvert.report.types import Answer, Conversation, Report, Row
from qconvert.text.prompts import Prompt

FEW_TOKENS = 10_000
"""With fewer scored tokens it is said that near files cannot be told apart."""

PACKAGES = ("torch", "transformers", "llama-cpp-python", "xllamacpp", "compressed-tensors")


def told_once(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Names and messages, each message once: "a, b and c: message"."""
    names: dict[str, list[str]] = {}
    for name, message in pairs:
        names.setdefault(message, []).append(name)
    return [f"{_listed(found)}: {message}" for message, found in names.items()]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def shared(notices: Sequence[Sequence[str]]) -> list[str]:
    """What is noticed of more than one file."""
    every = [line for lines in notices for line in dict.fromkeys(lines)]
    return [line for line in dict.fromkeys(every) if every.count(line) > 1]


def conversations(
    prompts: Sequence[Prompt],
    said: Sequence[Responses],
    rows: Sequence[Row],
    order: Sequence[int],
) -> tuple[Conversation, ...]:
    if not said:
        return ()
    first, *others = said
    found = []
    for number, prompt in enumerate(prompts):
        base = first.greedy[number]
        answers = [Answer("original", base.text)]
        for n in order:
            if others[n].problem:  # the report's notices say why
                continue
            own = others[n].greedy[number]
            turn = departure(base, own)
            answers.append(Answer(rows[n].name, own.text, turn.character if turn else None))
        found.append(Conversation(prompt.text, prompt.topic, tuple(answers)))
    return tuple(found)


def about_answers(asked: Asked) -> str:
    return (
        f"Each file in its own runtime and through its own chat template, always the likeliest "
        f"token, {asked.answer_tokens} tokens at most."
    )


def notices(asked: Asked, made: Made) -> list[str]:
    found = []
    if asked.data == "self":
        found.append(
            "No text was given, and the model wrote its own. What it is used for is a better one: "
            "--data TEXT."
        )
    if made.windows.scored < FEW_TOKENS:
        found.append(
            f"Only {made.windows.scored:,} tokens were scored, which is too few to tell apart "
            "files that are near each other."
        )
    if asked.calibration is None:
        found.append(
            "No calibration was given; files of few bits are better with one: qconvert calibrate."
        )
    else:
        seen = seen_in_calibration(made.windows, asked.calibration)
        if seen > 0:
            found.append(
                f"{percent(seen)} of the text was calibrated on too, which flatters the files: "
                "take another text for one of the two."
            )
    return found


def _made_of(made: Made) -> list[tuple[str, str]]:
    """Where the files are not made of the model that they are held against."""
    if made.made_of == made.fingerprint:
        return []
    return [("Files made of", f"{made.checkpoint.source}, SHA-256 {made.made_of}")]


def how(asked: Asked, made: Made, report: Report) -> tuple[tuple[str, str], ...]:
    """Labels and values."""
    windows = made.windows.tokens.shape
    bound = (
        f"{report.bound:.1g} nats of a mean, three standard errors"
        if report.bound
        else "none: exact"
    )
    backends = ", ".join(dict.fromkeys(row.backend for row in report.rows))
    found = [
        ("Model", f"{made.reference.source}, {report.original.dtype}"),
        ("Fingerprint", f"SHA-256 {made.fingerprint}"),
        *_made_of(made),
        ("Calibration", str(asked.calibration.name) if asked.calibration else "none"),
        ("Text", made.windows.data),
        ("Tokens", f"{windows[0] * windows[1]:,}, of which {made.windows.scored:,} are scored"),
        (
            "Protocol",
            f"that of llama-perplexity: {windows[0]} windows of {windows[1]} tokens, of each the "
            "second half scored",
        ),
        ("Digest of the tokens", made.windows.digest),
        ("Computed by", backends),
        ("Error of the kept reference", bound),
        ("Versions", _versions()),
        ("Machine", _machine(asked.threads)),
    ]
    return tuple(found)


def _versions() -> str:
    found = [f"qconvert {__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found) + f", numpy {np.__version__}"


def _machine(threads: int) -> str:
    limits = read_limits()
    processor, cores, memory = read_processor(), read_cores(limits), read_memory(limits)
    return (
        f"{processor.name or processor.architecture}, {threads} of {cores.usable} cores used, "
        f"{size(memory.total)} of memory, {platform.system()}"
    )


def this_machine() -> str:
    """Whose speeds these are."""
    return f"{platform.node()} {read_processor().name}"
