"""What `warm` asks: a process that has imported the program, and is forked for each run of it.

It does nothing else, so that a fork finds no thread and no lock of somebody else. A request is its
length (4 bytes) with the run's three streams, and then JSON: arguments, environment, folder. The
answers are the number of the run's process and, at its end, its exit code, 4 bytes each.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import sys
import tempfile
import threading
import traceback
from pathlib import Path

HEAVY = [
    "gguf",
    "matplotlib.pyplot",
    "numba",
    "scipy.special",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
]


def main(listening: int) -> None:
    """Serve until the standard input ends: so does whoever started this."""
    sys.path.pop(0)  # the tests' own modules
    _import_all()
    bell, rope = os.pipe()
    os.set_blocking(rope, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(rope, warn_on_full_buffer=False)
    # Ctrl-C in a terminal reaches all; whoever started this ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting: dict[int, socket.socket] = {}
    with (
        socket.socket(fileno=listening) as listener,
        selectors.DefaultSelector() as selector,
    ):
        for source in (0, bell, listener):
            selector.register(source, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj == 0:
                    return
                if key.fileobj == bell:
                    os.read(bell, 4096)
                    _tell(waiting)
                else:
                    _begin(listener, waiting)


def _import_all() -> None:
    gc.disable()  # there is nothing to be found among what stays
    import qconvert

    folder = Path(qconvert.__file__).parent
    own = [path.relative_to(folder.parent).with_suffix("") for path in folder.rglob("*.py")]
    modules = [".".join(path.parts) for path in own if not path.name.startswith("__")]
    for name in (*HEAVY, *sorted(modules)):
        with contextlib.suppress(ImportError):  # of what is not installed
            importlib.import_module(name)
    from numba.core.registry import cpu_target

    # What the first call of any kernel does before it loads it.
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
    gc.freeze()
    gc.enable()


def _begin(listener: socket.socket, waiting: dict[int, socket.socket]) -> None:
    connection, _ = listener.accept()
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as file:
        request = json.loads(file.read(*struct.unpack("i", head)))
    process = os.fork()
    if not process:
        _run(streams, *request)
    for stream in streams:
        os.close(stream)
    waiting[process] = connection
    with contextlib.suppress(OSError):
        connection.sendall(struct.pack("i", process))


def _tell(waiting: dict[int, socket.socket]) -> None:
    while waiting:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        with waiting.pop(process) as connection, contextlib.suppress(OSError):
            connection.sendall(struct.pack("i", os.waitstatus_to_exitcode(status)))


def _run(
    streams: list[int], arguments: list[str], environment: dict[str, str], folder: str
) -> None:
    """The program, to its end."""
    signal.set_wakeup_fd(-1)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, max(256, *streams) + 1)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = ["qconvert", *arguments]
    code: object = 1
    try:
        os.chdir(folder)
        from qconvert.cli.app import main as program

        program()
        code = 0
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
        except OSError:
            code = code or 120  # as Python says it
        finally:
            os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
