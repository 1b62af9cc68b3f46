"""What people see: tables, progress. Results go to standard output, the rest to error."""

import json
import logging
import os
import re
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qconvert.machine.watcher import GOES_ON

if TYPE_CHECKING:
    from rich.progress import Progress

    from qconvert.machine.watcher import Silent

LONGEST, LONGEST_ERROR = 20_000, 1000
"""Characters of a message, and of an error."""

UNSHOWN = re.compile(r"[^\n -~]")

RED, DIM, PLAIN = "\x1b[1;31m", "\x1b[2m", "\x1b[0m"

PLAIN_INTERVAL = 10.0
"""Seconds between two lines of progress in a log."""


def human_count(count: float) -> str:
    """'135M', '8.03B'."""
    for unit in ("", "k", "M"):
        if count < 999.5:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}B"


def print_json(value: Any) -> None:
    print(UNSHOWN.sub(_json_escape, json.dumps(value, indent=2, ensure_ascii=False)))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, prose: bool = False
) -> None:
    """To standard output, as wide as it needs when that is no terminal.

    Args:
        columns: their heads; those that begin with '>' are right-aligned.
        rows: cells, shown as they are, for names come from strangers, and brackets in them are no
            markup; rich's `Text` keeps its colours.
        prose: the first column names, the others hold running text between lines.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=prose)
    for number, column in enumerate(columns):
        table.add_column(
            printable(column.lstrip(">")),
            justify="right" if column.startswith(">") else "left",
            ratio=(3 if number else 1) if prose else None,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(c if isinstance(c, Text) else Text(printable(str(c))) for c in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def printable(value: str) -> str:
    """With what a terminal would obey, or hide, spelled out: "\\x1b"."""
    if value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)


def show(text: str) -> None:
    """To standard output; no line without end."""
    print(printable("\n".join(capped(line, LONGEST_ERROR) for line in text.split("\n"))))


def show_path(path: object) -> None:
    """A path that a program may read: exactly as it is where that is no terminal."""
    print(printable(str(path)) if sys.stdout.isatty() else path)


def say(message: str, *, colour: str = "") -> None:
    """To standard error; what strangers' files put into it may have any length.

    Args:
        colour: how a terminal shows the first word.
    """
    text = printable(capped(message, LONGEST))
    if sys.stderr.isatty():
        text = _wrapped(text)
        if colour and "NO_COLOR" not in os.environ:
            first, space, rest = text.partition(" ")
            text = f"{colour}{first}{PLAIN}{space}{rest}"
    print(text, file=sys.stderr)


def _wrapped(text: str) -> str:
    """Lines of a terminal that break between words, and go on as far in as they begin."""
    width = max(20, shutil.get_terminal_size().columns)
    return "\n".join(
        textwrap.fill(
            line,
            width,
            subsequent_indent=" " * (len(line) - len(line.lstrip())),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.split("\n")
    )


def say_error(message: str, hint: str = "") -> None:
    """An error and its hint, each in one line."""
    for kind, text in (("error", message), ("hint", hint)):
        if text:
            said = capped(f"{kind}: " + " ".join(text.split("\n")), LONGEST_ERROR)
            say(said, colour=RED if kind == "error" else DIM)


def capped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def clean_foreign_messages() -> None:
    """Libraries' warnings and logs quote configurations, too."""
    make, form = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*args: Any, **options: Any) -> logging.LogRecord:
        made = make(*args, **options)
        made.msg, made.args = printable(capped(made.getMessage(), LONGEST)), ()
        return made

    def warning(*args: Any, **options: Any) -> str:
        return printable(capped(form(*args, **options), LONGEST))

    logging.setLogRecordFactory(record)
    warnings.formatwarning = warning


def _json_escape(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says on a terminal what is being waited for, where nothing can be counted."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


@contextmanager
def watching(
    quiet: bool, unit: str = "weights", again: str = GOES_ON
) -> "Iterator[Silent | BarWatcher | PlainWatcher]":
    """A watcher for as long as the work takes; says what becomes of it when that is interrupted.

    Args:
        unit: what is counted.
        again: what the same command does then, unless the interruption says it.
    """
    watcher = make_watcher(quiet, unit)
    try:
        yield watcher
    except KeyboardInterrupt as interruption:
        watcher.note(f"interrupted: {interruption.args[0] if interruption.args else again}")
        raise
    finally:
        watcher.close()


def make_watcher(quiet: bool, unit: str = "weights") -> "Silent | BarWatcher | PlainWatcher":
    """A bar on a terminal, lines in a CI log, nothing in a pipe or when asked to be quiet."""
    if quiet:
        from qconvert.machine.watcher import Silent

        return Silent()
    if sys.stderr.isatty():
        return BarWatcher(unit)
    return PlainWatcher(lines=bool(os.environ.get("CI")))


@dataclass
class PlainWatcher:
    """Notes always; a line of progress every few seconds if `lines`."""

    lines: bool = True
    total: int = 0
    done: int = 0
    resumed: int = 0
    started: float = field(default_factory=time.monotonic)
    spoke: float = field(default_factory=time.monotonic)

    def begin(self, total: int, done: int) -> None:
        self.total, self.done, self.resumed = total, done, done
        self.started = time.monotonic()
        if done:
            self.note(f"going on where an earlier run stopped, {done / total:.0%} are done")

    def advance(self, weights: int, tensor: str) -> None:
        self.done += weights
        now = time.monotonic()
        if self.lines and now - self.spoke >= PLAIN_INTERVAL:
            self.spoke = now
            speed = (self.done - self.resumed) / (now - self.started)
            left = (self.total - self.done) / speed
            self.note(f"{self.done / self.total:4.0%}  {tensor}  {left:.0f} s left")

    def note(self, message: str) -> None:
        say(message)

    def close(self) -> None:
        pass


@dataclass
class BarWatcher:
    """A bar with speed and time left."""

    unit: str = "weights"
    progress: "Progress | None" = None
    task: Any = None

    def begin(self, total: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.close()  # of a step before
        self.progress = Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        if done:
            self.note(f"going on where an earlier run stopped, {done / total:.0%} are done")
        self.task = self.progress.add_task("", total=total, completed=done, speed="")
        self.progress.start()

    def advance(self, weights: int, tensor: str) -> None:
        assert self.progress is not None
        speed = self.progress.tasks[0].speed
        shown = f"{human_count(speed)} {self.unit}/s" if speed else ""
        self.progress.update(self.task, advance=weights, description=printable(tensor), speed=shown)

    def note(self, message: str) -> None:
        if self.progress is not None and self.progress.live.is_started:
            self.progress.console.print(printable(message), markup=False, highlight=False)
        else:
            say(message)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
