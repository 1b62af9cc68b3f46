"""The command line: one file per subcommand, one handler for all errors.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (as shells expect).
"""

import gc
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import Annotated

import typer

from qconvert import __version__
from qconvert.cli import render
from qconvert.cli.calibrate import calibrate
from qconvert.cli.compare import compare
from qconvert.cli.distill import distill
from qconvert.cli.doctor import doctor
from qconvert.cli.evaluate import evaluate
from qconvert.cli.export import export
from qconvert.cli.habits import QuantizeCommand
from qconvert.cli.inspect import inspect
from qconvert.cli.prune import prune
from qconvert.cli.quantize import quantize
from qconvert.cli.report import report
from qconvert.cli.tune import tune
from qconvert.containers.room import FULL, TEMPORARY
from qconvert.errors import OutputError, PartError, QconvertError

COLLECT = (100_000, 50, 100)
"""What cycles wait for to be collected. Importing torch and transformers makes millions of objects
that stay; with Python's own numbers, looking through them again and again is a quarter of the time
until work begins."""

app = typer.Typer(
    name="qconvert",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="What MODEL is, and what each type would weigh.")(inspect)
app.command(short_help="Run MODEL on a sample of text, for better quantizing.")(calibrate)
app.command(cls=QuantizeCommand, short_help="MODEL in fewer bits: GGUF, safetensors, MLX.")(
    quantize
)
app.command(short_help="MODEL with fewer layers, neurons, heads or experts, or with zeros.")(prune)
app.command(short_help="MODEL in few bits, trained to be near to itself.")(tune)
app.command(short_help="Train a small model to say what a large one says.")(distill)
app.command(short_help="MODEL in another container, with the same weights.")(export)
app.command(short_help="How far each FILE is from the original, on a text.")(evaluate)
app.command(short_help="What each FILE answers to the same prompts.")(compare)
app.command(short_help="Quantize MODEL to several types, and show which to take.")(report)
app.command(short_help="What this machine can run, and which types suit it.")(doctor)


@dataclass
class Session:
    """What the handler has to know of the command line."""

    traceback: bool = False


def _print_version(asked: bool) -> None:
    if asked:
        print(f"qconvert {__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    show_traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from.")
    ] = False,
) -> None:
    """Turn Hugging Face checkpoints into small files that run elsewhere.

    MODEL is a directory, a hub id (org/name or org/name@revision) or a GGUF file.
    """
    context.obj.traceback = show_traceback


def main() -> None:
    """The entry point `qconvert`. Wrong usage and Ctrl-C are typer's to answer."""
    session = Session()
    _leave_in_order()
    gc.set_threshold(*COLLECT)
    render.clean_foreign_messages()
    try:
        app(obj=session)
    except QconvertError as error:
        _explain(error, session)
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            what = f"{error.strerror}: {error.filename or 'a temporary file'}"
            hint = TEMPORARY if error.errno in FULL else "name another file or folder"
            _explain(OutputError(what, hint), session)
        else:
            _confess(error, session)
        sys.exit(1)
    finally:
        gc.freeze()  # or leaving would look through all that was imported once more


def _leave_in_order() -> None:
    """To be ended by the system or with the terminal is what Ctrl-C is: temporary files go, and
    what the same command takes up stays. Who asked for deafness (nohup) is heard."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _explain(error: QconvertError, session: Session) -> None:
    if session.traceback:
        render.say(traceback.format_exc())
    printed = isinstance(error, PartError)
    _answer(error.message, error.hint, error.exit_code, printed=printed)


def _answer(message: str, hint: str, code: int, *, printed: bool = False) -> None:
    """What went wrong, for a person, and for a program that asked for JSON and has none yet."""
    render.say_error(message, hint)
    if "--json" in sys.argv and not printed:
        render.print_json({"error": {"message": message, "hint": hint, "exit_code": code}})


def _confess(error: Exception, session: Session) -> None:
    """A bug: one line all the same, and the way to the rest."""
    if session.traceback:
        render.say(traceback.format_exc())
        return
    hint = "this is a fault of qconvert; --traceback shows where"
    _answer(f"{type(error).__name__}: {error}", hint, 1)
