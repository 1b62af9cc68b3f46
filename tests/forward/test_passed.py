"""Blocks that need more of each other than hidden states, beside what transformers computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from captures import run_capture
from common import random_tokens, torch_logits
from large_models import Converted, save_large

from qconvert.calibration.capture import capture
from qconvert.calibration.file import read_calibration
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import UnsupportedError
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.forward.gradients import walk_through
from qconvert.forward.walk import Place, Walk
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.text.perplexity_windows import make_windows

Large = Callable[[str], Converted]
WINDOW = 40
TOKENS = np.array([random_tokens(WINDOW, seed=seed) for seed in range(3)], np.int32)


def test_layers_attend_to_the_tokens_that_others_choose(tmp_path: Path) -> None:
    """Fewer than there are, and others in each window."""
    kinds = ["full", "shared", "full"]
    model = save_large("glm_moe_dsa", tmp_path / "m", indexer_types=kinds, index_topk=16)
    runtime = TorchRuntime(open_checkpoint(str(tmp_path / "m")), Settings(device="cpu"))
    found = np.stack([one.copy() for one in runtime.logits(make_windows(TOKENS, "random"))])
    expected = [torch_logits(model, window)[WINDOW // 2 : -1] for window in TOKENS.tolist()]
    assert np.abs(found - np.stack(expected)).max() <= 1e-5 * np.abs(expected).max()


class Interrupted(Silent):
    """Somebody stops a calibration when some blocks are done."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def advance(self, weights: int, tensor: str) -> None:
        if tensor.startswith(f"block {self.blocks + 1} "):
            raise KeyboardInterrupt


def test_what_is_passed_is_there_when_a_run_is_taken_up(large: Large, tmp_path: Path) -> None:
    """Behind the blocks whose keys and values later ones take."""
    path = large("gemma4").path
    whole = run_capture(path, tmp_path / "whole.safetensors")
    again = tmp_path / "again.safetensors"
    source, sample = open_checkpoint(str(path)), whole.calibration.sample
    with pytest.raises(KeyboardInterrupt):
        capture(source, sample, again, device="cpu", dtype="f32", batch=3, watcher=Interrupted(5))
    taken = run_capture(path, again)
    assert taken.resumed >= 4
    expected = read_calibration(tmp_path / "whole.safetensors").inputs
    found = read_calibration(again).inputs
    assert found.keys() == expected.keys()
    for name, one in found.items():
        assert np.array_equal(one.sum_squares, expected[name].sum_squares), name


def test_what_derives_them_says_that_it_cannot(large: Large, tmp_path: Path) -> None:
    model = open_model(open_checkpoint(str(large("gemma4").path)))
    walk = Walk(model, TOKENS, Place(tmp_path, "cpu", kept=True))
    with pytest.raises(UnsupportedError, match="keys and values of others, and cannot be derived"):
        walk_through(walk, lambda windows: None)
