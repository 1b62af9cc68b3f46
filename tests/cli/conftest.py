"""The program as its users run it: a process, its two streams and its exit code."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import TINY, write_llama
from warm import PATIENCE, begin_warm, can_be_warm, run_warm

Run = Callable[..., subprocess.CompletedProcess]
PROGRAM = str(Path(sys.executable).with_name("qconvert"))
QUIET = {key: value for key, value in os.environ.items() if key != "CI"}


@pytest.fixture(scope="session")
def qconvert() -> Run:
    """Runs the program; in a fork of a warm server where its start is not what matters."""

    def run(*arguments: object, **settings: str) -> subprocess.CompletedProcess:
        words, environment = [*map(str, arguments)], QUIET | settings
        if can_be_warm(settings):
            return run_warm(words, environment)
        return run_cold(words, environment)

    return run


@pytest.fixture(scope="session")
def cold_qconvert() -> Run:
    """Runs the program as a shell starts it."""
    return lambda *arguments: run_cold([*map(str, arguments)], QUIET)


def run_cold(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="session")
def interrupt() -> Run:
    """Sends the program a signal once something is so."""

    def run(
        how: signal.Signals, when: Callable[[], object], *arguments: object, **settings: str
    ) -> subprocess.CompletedProcess:
        assert can_be_warm(settings)
        words = [*map(str, arguments)]
        with tempfile.TemporaryDirectory() as streams:
            out, err = Path(streams, "out"), Path(streams, "err")
            child = begin_warm(words, QUIET | settings, out, err)
            deadline = time.monotonic() + PATIENCE
            while not when() and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            child.send_signal(how)
            code = child.wait()
            texts = [path.read_text() for path in (out, err)]
            return subprocess.CompletedProcess(["qconvert", *words], code, *texts)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("models") / "tiny-llama", TINY, tokenizer=True)
