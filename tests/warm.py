"""The program in a process that starts at once: a fork of one that has imported all.

A cold process imports for seconds what hundreds of tests need. Here a server (`warm_server`)
imports it once; what a test starts is a fork of it: a process all the same, with streams, an
environment, signals and an exit code of its own. What modules read while they are imported (the
settings of huggingface_hub, or of OpenMP) is the server's, so who sets `IMPORTED` or asks how the
program starts takes a cold process.

Scripts that call `qconvert` find it warm where `write_command` has put one on their PATH.
"""

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IMPORTED = ("HF_", "NUMBA_", "OMP_", "PYTHON", "TORCH_", "TRANSFORMERS_")
"""How settings begin that are read when modules are imported."""

PATIENCE = 600.0
"""Seconds after which a process is ended."""


@functools.cache
def _server() -> tuple[str, subprocess.Popen]:
    """Where to ask, and the process; its standard input ends with this process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        script = Path(__file__).with_name("warm_server.py")
        command = [sys.executable, str(script), str(listener.fileno())]
        handed = (listener.fileno(),)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=handed)
    return f"{folder}/s", process


def can_be_warm(settings: Mapping[str, str]) -> bool:
    return not any(name.startswith(IMPORTED) for name in settings)


@dataclass
class Warm:
    """A process that was begun.

    Attributes:
        pid: its number.
        returncode: its exit code, minus the signal of one that was killed; None until it is known.
    """

    pid: int
    connection: socket.socket
    returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; TimeoutError."""
        if self.returncode is None:
            self.connection.settimeout(timeout)
            (self.returncode,) = _receive(self.connection)
            self.connection.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except (BlockingIOError, TimeoutError):
            return None

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _receive(connection: socket.socket) -> tuple[int]:
    told = connection.recv(4)
    if len(told) != 4:
        raise ConnectionError("the warm server has ended")
    return struct.unpack("i", told)


def begin_at(
    address: str, arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int]
) -> Warm:
    """Begin `qconvert` in this folder, with three streams, which stay open here."""
    request = json.dumps([list(arguments), dict(environment), str(Path.cwd())]).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    socket.send_fds(connection, [struct.pack("i", len(request))], list(streams))
    connection.sendall(request)
    return Warm(*_receive(connection), connection)


def begin_warm(
    arguments: Sequence[str], environment: Mapping[str, str], out: Path, err: Path
) -> Warm:
    """Begin `qconvert` with both streams into files, and nothing to read."""
    with Path(os.devnull).open("rb") as none, out.open("ab") as one, err.open("ab") as two:
        streams = [file.fileno() for file in (none, one, two)]
        return begin_at(_server()[0], arguments, environment, streams)


def run_warm(
    arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess:
    """`qconvert` with arguments, as `subprocess.run` would have it.

    Args:
        environment: all of the process's.

    Returns:
        The exit code (minus the signal of one that was killed) and what both streams hold.
    """
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        process = begin_warm(arguments, environment, out, err)
        try:
            code = process.wait(PATIENCE)
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        texts = [path.read_text() for path in (out, err)]
        return subprocess.CompletedProcess(["qconvert", *arguments], code, *texts)


COMMAND = """#!{python} -SE
import os, sys
sys.path.insert(0, {tests!r})
import warm
sys.exit(warm.begin_at({address!r}, sys.argv[1:], os.environ, (0, 1, 2)).wait())
"""


def write_command(folder: Path) -> Path:
    """A `qconvert` in a folder for PATH, which scripts call as the installed one."""
    path = folder / "qconvert"
    tests, (address, _) = str(Path(__file__).parent), _server()
    path.write_text(COMMAND.format(python=sys.executable, tests=tests, address=address))
    path.chmod(0o755)
    return folder
