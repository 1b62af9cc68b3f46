"""No reader waits for a pipe."""

import os
import signal
from pathlib import Path

import pytest

from qconvert.calibration.file import read_calibration
from qconvert.calibration.imatrix import read_importance
from qconvert.errors import QconvertError
from qconvert.plan.document import read_document
from qconvert.text.prompts import read_prompts

READERS = {
    "c.safetensors": read_calibration,
    "i.dat": read_importance,
    "i.gguf": read_importance,
    "p.md": read_prompts,
    "r.yaml": read_document,
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(10)
    try:
        with pytest.raises(QconvertError):
            READERS[name](tmp_path / name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
