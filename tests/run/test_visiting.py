"""Walks whose batches travel give what walks in one process give, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from captures import Slow, make_sample
from checkpoints import TINY, write_llama
from common import save_model
from travelling import Travelling

from qconvert.calibration.capture import capture, visit_here
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import WeightError
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.run.outputs import write_outputs
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run
from qconvert.run.visiting import go_through, visits_over
from qconvert.text.types import Windows

SAMPLE = make_sample(13, 32)
"""Of batches of three the last has one window."""


def calibrated(model: Path, path: Path, visits, watcher=None, sample=SAMPLE) -> bytes:
    checkpoint = open_checkpoint(str(model))
    capture(
        checkpoint,
        sample,
        path,
        device="cpu",
        dtype="f32",
        batch=3,
        visits=visits,
        watcher=watcher or Silent(),
    )
    return path.read_bytes()


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_a_calibration_is_the_same(family, tmp_path):
    save_model(family, tmp_path / "m")
    here = calibrated(tmp_path / "m", tmp_path / "a" / "c", visit_here)
    there = calibrated(tmp_path / "m", tmp_path / "b" / "c", visits_over(Travelling(), 1))
    assert there == here


def test_fewer_batches_than_an_executor_would_take_wait_for_their_block(tmp_path):
    save_model("llama", tmp_path / "m")
    one = make_sample(2, 32)
    here = calibrated(tmp_path / "m", tmp_path / "a" / "c", visit_here, sample=one)
    over = visits_over(Travelling(), 1)
    assert calibrated(tmp_path / "m", tmp_path / "b" / "c", over, sample=one) == here


def test_an_interrupted_calibration_is_taken_up_by_either(tmp_path):
    class Stopping(Slow):
        left = 8

        def advance(self, weights: int, tensor: str) -> None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    save_model("llama", tmp_path / "m")
    here = calibrated(tmp_path / "m", tmp_path / "a" / "c", visit_here)
    over = visits_over(Travelling(), 1)
    for first, second in ((over, visit_here), (visit_here, over)):
        path = tmp_path / second.__name__ / "c"
        with pytest.raises(KeyboardInterrupt):
            calibrated(tmp_path / "m", path, first, Stopping(0))
        assert calibrated(tmp_path / "m", path, second) == here


def test_logits_are_the_same(tmp_path):
    write_llama(tmp_path / "m", TINY)
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    windows = Windows(SAMPLE.tokens % TINY.vocabulary, "drawn", "0")
    here = TorchRuntime(checkpoint, Settings("cpu"))
    told = []

    def over(*arguments):
        go_through(Travelling(), 1, *arguments)

    there = TorchRuntime(
        checkpoint, Settings("cpu", through=over, progress=lambda *both: told.append(both))
    )
    for one, other in zip(here.logits(windows), there.logits(windows), strict=True):
        np.testing.assert_array_equal(one, other)
    assert told == [(number + 1, TINY.layers) for number in range(TINY.layers)]


def test_an_error_of_a_worker_is_the_users(tmp_path):
    model = save_model("llama", tmp_path / "m")
    model.model.layers[1].mlp.down_proj.weight.data[3, 5] = float("inf")
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(WeightError, match="block 1 gives values"):
        calibrated(tmp_path / "m", tmp_path / "c", visits_over(Travelling(), 1))


def test_feedback_and_streamed_rows_are_the_same(made, tmp_path):
    _, model, calibration = made("llama")
    for folder, workers in (("a", 1), ("b", Travelling())):
        recipes = [
            Recipe(kind, output=tmp_path / folder / name, calibration=calibration, vocabulary=False)
            for kind, name in (("q4_k_m", "m.gguf"), ("w4a16", "m"))
        ]
        plans = plan_outputs(open_checkpoint(str(model)), recipes, Run(1, Silent(), "cpu"))
        write_outputs(plans, workers, Silent(), "cpu")
    for name in ("m.gguf", "m/model.safetensors"):
        one, other = (tmp_path / folder / name for folder in "ab")
        assert one.read_bytes() == other.read_bytes()
