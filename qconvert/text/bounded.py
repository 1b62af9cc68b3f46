"""Work on what strangers made, in a process of its own with bounds on time and memory.

A template that never ends and a file that makes its reader abort are then an error, and no more.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any


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
