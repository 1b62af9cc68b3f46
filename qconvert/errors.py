"""The errors that qconvert raises on purpose, at a glance.

    QconvertError            one line and a hint; exit code 1
    |-- CheckpointError      the source cannot be read or cannot be trusted
    |   `-- HubError         the hub did not give what was asked for
    |-- UnsupportedError     a family, tokenizer or layout that is not known
    |-- PlanError            the recipe and the checkpoint do not fit together
    |-- WeightError          a weight is NaN or infinite
    |-- OutputError          the output cannot be written
    |-- PartError            some of it failed; the result is printed and says what
    `-- UsageError           the command line is wrong; exit code 2

The command line's one handler prints `message` and `hint`; everything else is a bug.
"""

from collections.abc import Sequence


class QconvertError(Exception):
    """A failure that is explained to the user in one line.

    Args:
        message: what went wrong, one line, naming the file or tensor.
        hint: what the user can do about it, one line; by default what helps with most errors of
            the class.
    """

    exit_code = 1
    usual_hint = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.usual_hint


class CheckpointError(QconvertError):
    """The source cannot be read or cannot be trusted."""

    usual_hint = "the file may be damaged or incomplete: download or copy it again"


class HubError(CheckpointError):
    """The hub did not give what was asked for."""


class UnsupportedError(QconvertError):
    """A family, tokenizer or layout that is not known."""


class PlanError(QconvertError):
    """The recipe and the checkpoint do not fit together."""


class WeightError(QconvertError):
    """A weight is NaN or infinite."""


class OutputError(QconvertError):
    """The output cannot be written."""


class PartError(QconvertError):
    """Some of it failed; the result, which is printed already, says what."""


class UsageError(QconvertError):
    """The command line is wrong."""

    exit_code = 2


def shorten(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: BaseException, most: int = 300) -> str:
    """What a library's error says, in one line of at most so many characters: its first line, or
    its name where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:most]
