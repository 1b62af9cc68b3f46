"""An evaluation as a table in markdown, for the page of a CI job."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from qconvert.errors import OutputError
from qconvert.evaluation.divergence.types import Evaluation, FileScores
from qconvert.evaluation.gates.gates import Verdict

COLUMNS = (
    "file",
    "type",
    "size",
    "bits per weight",
    "perplexity",
    "KL divergence",
    "99%",
    "same top",
    "backend",
)


def to_markdown(evaluation: Evaluation, verdicts: Sequence[Verdict] = ()) -> str:
    """A heading, the table, and how each file did at the gates."""
    gated = ("gates",) if verdicts else ()
    lines = [
        f"### {_cell(evaluation.reference)}: what quantizing it changed",
        "",
        f"{evaluation.scored} tokens of {_cell(evaluation.data)} scored in windows of "
        f"{evaluation.window}; the original's perplexity is {evaluation.reference_perplexity:.4f}.",
        "",
        _row([*COLUMNS, *gated]),
        _row(["---", "---", *["---:"] * 6, "---", *["---" for _ in gated]]),
    ]
    for file in evaluation.files:
        own = [verdict for verdict in verdicts if verdict.path == file.path]
        state = "passed" if all(verdict.passed for verdict in own) else "**failed**"
        lines.append(_row([*cells(file), *[state for _ in gated]]))
    missed = [verdict for verdict in verdicts if not verdict.passed]
    if missed:
        lines += ["", *(f"- {_cell(str(one.path))}: {one.message}" for one in missed)]
    return "\n".join(lines) + "\n\n"


def cells(file: FileScores) -> list[str]:
    """A file's row, as people read it."""
    divergence = file.divergence
    return [
        str(file.path),
        file.kind,
        f"{file.nbytes / 1e6:.1f} MB",
        f"{file.bits_per_weight:.2f}",
        with_error(file.perplexity, file.perplexity_error, 4),
        with_error(divergence.mean, divergence.standard_error, 5),
        f"{divergence.p99:.4f}",
        f"{file.same_top:.2%}",
        file.backend,
    ]


def with_error(value: float, error: float, digits: int) -> str:
    """'18.4021 ± 0.3100'; without the error where there is none."""
    shown = f"{value:.{digits}f}"
    return f"{shown} ± {error:.{digits}f}" if isfinite(error) else shown


def append(path: Path, text: str) -> None:
    """Add to a file that other steps write too.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _row(values: Sequence[str]) -> str:
    return "| " + " | ".join(_cell(value) for value in values) + " |"


def _cell(text: str) -> str:
    """Names come from strangers: nothing in them may end a cell or begin markup."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    for character in "\\|<>`[]":
        plain = plain.replace(character, "\\" + character)
    return plain
