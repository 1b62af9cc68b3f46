"""It is said that kernels are compiled when they are, and not when they are loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import Llama, write_llama

SLOW = """
import sys, time
from pathlib import Path
from qconvert.machine.watcher import Silent
from qconvert.checkpoint import open_checkpoint
from qconvert.plan.recipe import Recipe
from qconvert.run import stream
from qconvert.run.outputs import write_outputs
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run

class Printing(Silent):
    def note(self, message):
        print(message)

run = stream._run_kernels
def slowly(tensors):  # as on a machine that is busy
    time.sleep(1.5)
    run(tensors)
stream._run_kernels = slowly
source, out = sys.argv[1:]
recipe = Recipe("q8_0", output=Path(out), vocabulary=False)
plans = plan_outputs(open_checkpoint(source), [recipe], Run(1, Silent()))
write_outputs(plans, 1, Printing())
"""


@pytest.fixture
def quantized(tmp_path):
    """What is said while a model is quantized."""
    model = write_llama(tmp_path / "model", Llama(64, 1, 128, 4, 2, 400))

    def run(name: str, **settings: str) -> str:
        command = [sys.executable, "-c", SLOW, str(model), str(tmp_path / name)]
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_it_is_said_of_the_first_run_alone(quantized, tmp_path: Path) -> None:
    place = {"NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    assert quantized("one.gguf", **place) == "compiling the kernels (once on this machine) ...\n"
    assert quantized("two.gguf", **place) == ""


def test_it_is_said_of_each_run_where_nothing_can_be_kept(quantized, tmp_path: Path) -> None:
    said = quantized("one.gguf", NUMBA_CACHE_DIR=str(tmp_path / "qconvert-kernels-1"))
    assert said == "compiling the kernels (in each run: there is no place to keep them) ...\n"
