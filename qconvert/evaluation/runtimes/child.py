"""A runtime in a process of its own.

What a runtime does to memory is then its own, and where it crashes, as C++ does on a bad file, an
error is told and the other files go on. One line of JSON goes in; lines of JSON come out: events
while it works, at last a result or an error. Whatever the runtime prints goes elsewhere.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from queue import Empty, Queue
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any

from qconvert import errors
from qconvert.errors import QconvertError

PATIENCE = 1800.0
"""Seconds without a word after which a process counts as stuck."""

TAIL = 4096
"""Bytes of what a crashed process printed that are looked at."""

Work = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], dict[str, Any]]


def ask(
    module: str,
    request: dict[str, Any],
    what: str,
    heard: Callable[[dict[str, Any]], None] = lambda event: None,
    *,
    patience: float = PATIENCE,
    offline: bool = True,
) -> dict[str, Any]:
    """Have a module's process answer a request. The process ends before this returns.

    Args:
        module: with `serve` in it: "qconvert.evaluation.speed.worker".
        request: anything that JSON holds; "threads" limits what computes.
        what: for error messages, "llama.cpp cannot run model.gguf".
        heard: told of events.
        patience: seconds without a word that are waited.
        offline: whether the process is kept from the hub.

    Raises:
        QconvertError: what the process says, or how it died.
    """
    with TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=_environment(int(request.get("threads") or 0), offline),
        )
        try:
            return _talk(process, request, what, heard, patience, printed)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _environment(threads: int, offline: bool) -> dict[str, str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def _talk(
    process: "subprocess.Popen[bytes]",
    request: dict[str, Any],
    what: str,
    heard: Callable[[dict[str, Any]], None],
    patience: float,
    printed: IO[bytes],
) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()  # and stays open: its end would tell the process to leave
    except BrokenPipeError:
        raise QconvertError(f"{what}: {_how_it_died(process, printed)}") from None
    lines: Queue[bytes] = Queue()
    Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=patience)
        except Empty:
            raise QconvertError(f"{what}: nothing happened for {patience:g} seconds") from None
        if not line:
            raise QconvertError(f"{what}: {_how_it_died(process, printed)}")
        event = json.loads(line)
        if "result" in event:
            result: dict[str, Any] = event["result"]
            return result
        if "error" in event:
            raise _as_error(event["error"], what)
        heard(event)


def _read(stream: IO[bytes], lines: "Queue[bytes]") -> None:
    try:
        for line in stream:
            lines.put(line)
    except ValueError:
        pass  # closed by the other thread, which does not listen any more
    lines.put(b"")


def _as_error(told: dict[str, str], what: str) -> QconvertError:
    kind = getattr(errors, told["kind"], None)
    if isinstance(kind, type) and issubclass(kind, QconvertError):
        return kind(told["message"], told["hint"])
    return QconvertError(f"{what}: {told['kind']}: {told['message']}")


def _how_it_died(process: "subprocess.Popen[bytes]", printed: IO[bytes]) -> str:
    code = process.wait()
    try:
        how = f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        how = f"its process ended with code {code}"
    printed.seek(max(printed.seek(0, os.SEEK_END) - TAIL, 0))
    lines = [line.strip() for line in printed.read().decode(errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "")
    return f"{how}: {said:.300}" if said else how


def serve(work: Work) -> None:
    """Be such a process: read a request, do the work, tell the result, leave.

    Args:
        work: gets the request and what tells events.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: dict[str, Any]) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    request = json.loads(_first_line())
    Thread(target=_leave_with_parent, daemon=True).start()
    try:
        tell({"result": work(request, tell)})
    except QconvertError as error:
        tell({"error": _told(type(error).__name__, error.message, error.hint)})
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        tell({"error": _told(type(error).__name__, lines[0][:300], "")})
    os._exit(0)  # destructors of runtimes take time, and some crash


def _told(kind: str, message: str, hint: str) -> dict[str, str]:
    return {"kind": kind, "message": message, "hint": hint}


def _first_line() -> bytes:
    """Without a buffer, whose lock the waiting thread would hold when the process ends."""
    parts = []
    while part := os.read(0, 1 << 16):
        parts.append(part)
        if part.endswith(b"\n"):
            break
    return b"".join(parts)


def _leave_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)
