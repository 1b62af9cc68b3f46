"""Work on what strangers made, with bounds on time and memory.

A template that never ends and a file that makes its reader abort are then an error, and no more:
they have a process of their own. What is quick for all but a few, and would be slow to set up
anew, has a thread.
"""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Any, TypeVar

Result = TypeVar("Result")

LOOK = 0.25
"""Seconds from one look at the clock to the next, while a thread is at work."""


class BrokenError(Exception):
    """The process died, or took more than it may."""


def ask(module: str, request: Mapping[str, Any], seconds: int) -> Any:
    """What a module, run as a program, makes of a request; both are JSON.

    Args:
        module: reads standard input, calls `limit`, and writes to standard output.
        seconds: that it may take.

    Raises:
        BrokenError: it gave no answer.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8:surrogatepass",
    }
    try:
        answer = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=environment,
            timeout=2 * seconds,
            check=True,
        )
        return json.loads(answer.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        raise BrokenError from error


def limit(seconds: int, memory: int) -> None:
    """Bound this process: seconds of computing from now on, and bytes of address space."""
    import resource

    used = math.ceil(time.process_time())
    for kind, value in ((resource.RLIMIT_CPU, used + seconds), (resource.RLIMIT_AS, memory)):
        try:
            resource.setrlimit(kind, (value, value))
        except (ValueError, OSError):
            continue  # macOS has no limit on address space; time is bounded all the same


def within(seconds: float, work: Callable[[], Result]) -> Result:
    """What a call gives that does its work outside of Python, where no signal reaches it.

    A thread that is given up goes on until the program ends: nothing can stop it.

    Args:
        seconds: of computing that it may take. A machine that is busy with other things does not
            count against it, nor does one that gives it many cores.
        work: lets other threads run meanwhile, as tokenizers does.

    Raises:
        BrokenError: it took longer.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # a panic in Rust is no `Exception`
            future.set_exception(error)

    computed, passed = time.process_time(), time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    while not wait([future], LOOK).done:
        if min(time.process_time() - computed, time.monotonic() - passed) > seconds:
            raise BrokenError
    return future.result()
