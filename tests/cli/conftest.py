"""The program as its users run it: a process, its two streams and its exit code."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoints import TINY, write_llama

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def qconvert() -> Run:
    program = str(Path(sys.executable).with_name("qconvert"))

    def run(*arguments: object, **settings: str) -> subprocess.CompletedProcess:
        quiet = {key: value for key, value in os.environ.items() if key != "CI"}
        return subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env=quiet | settings,
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_llama(tmp_path_factory.mktemp("models") / "tiny-llama", TINY)
