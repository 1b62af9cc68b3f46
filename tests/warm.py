"""The program in a process that starts at once: a fork of one that has imported torch.

A cold process imports for seconds what hundreds of tests need. Here a server imports it once and
does nothing else; what a test starts is a fork of it: a process all the same, with streams, an
environment, signals and an exit code of its own. What modules read while they are imported (the
settings of huggingface_hub, or of OpenMP) is the server's, so who sets `IMPORTED` or asks how the
program starts takes a cold process.
"""

import atexit
import functools
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess

HEAVY = [
    "gguf",
    "matplotlib.pyplot",
    "numba",
    "scipy.special",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "qconvert.cli.app",
]
IMPORTED = ("HF_", "NUMBA_", "OMP_", "PYTHON", "TORCH_", "TRANSFORMERS_")
"""How settings begin that are read when modules are imported."""

PATIENCE = 600.0
"""Seconds after which a process is ended."""


@functools.cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    return context


def can_be_warm(settings: Mapping[str, str]) -> bool:
    return not any(name.startswith(IMPORTED) for name in settings)


def run_warm(
    arguments: Sequence[str],
    environment: Mapping[str, str],
) -> CompletedProcess:
    """`qconvert` with arguments, as `subprocess.run` would have it.

    Args:
        environment: all of the process's.

    Returns:
        The exit code (minus the signal of one that was killed) and what both streams hold.
    """
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams, "out"), Path(streams, "err")
        given = (list(arguments), dict(environment), str(Path.cwd()), str(out), str(err))
        process = _server().Process(target=_main, args=given)
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [path.read_text() if path.exists() else "" for path in (out, err)]
        return CompletedProcess(["qconvert", *arguments], process.exitcode, *texts)


def _main(
    arguments: list[str], environment: dict[str, str], folder: str, out: str, err: str
) -> None:
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        flags = os.O_RDWR if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another
    os.chdir(folder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    sys.argv = ["qconvert", *arguments]
    from qconvert.cli.app import main

    try:
        main()
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()
