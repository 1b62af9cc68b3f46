"""What a walk shows of mixed layers, beside what llama.cpp multiplies and transformers computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import random_tokens, torch_logits
from large_models import LARGE, Converted, large_model
from llama_inputs import gather
from observed_inputs import calibrate

from qconvert.checkpoint import open_checkpoint
from qconvert.evaluation.runtimes.settings import Settings
from qconvert.evaluation.runtimes.torch_blocks import TorchRuntime
from qconvert.forward.linears import rows_of, with_rows
from qconvert.forward.walk import Place, Walk
from qconvert.model.open import open_model
from qconvert.text.perplexity_windows import make_windows

pytest.importorskip("llama_cpp")

Large = Callable[[str], Converted]
WINDOW = 40
SCALED = ("falcon_h1", "mimo_v2")
"""transformers multiplies inputs with what llama.cpp has in weights, or behind them."""

LEFT_ALONE = ("altup_proj", "altup_unembd_proj")
"""Before and behind all blocks, and never quantized."""

NEAR = {"gemma4": 1e-3, "gemma4_moe": 1e-3, "gemma3n": 1e-2}
"""GELU from a table of 16 bits; deviations by one number less than there are."""

TOKENS = np.array([random_tokens(WINDOW, seed=seed) for seed in range(3)], np.int32)


@pytest.mark.parametrize("family", LARGE)
def test_inputs_are_those_that_llama_cpp_multiplies(
    family: str, large: Large, tmp_path: Path
) -> None:
    """Of absorbed matrices, in llama.cpp's order of columns, and of each expert."""
    made = large(family)
    _, calibration = calibrate(made.path, tmp_path, TOKENS)
    own = {name: one for one in calibration.inputs.values() for name in one.weights}
    theirs = gather(made.file("f32"), TOKENS.tolist())
    theirs = {name: seen for name, seen in theirs.items() if not name.startswith(LEFT_ALONE)}
    assert own.keys() == theirs.keys()
    for name, one in own.items():
        squares, counts = theirs[name]
        assert np.array_equal(one.count, counts), name
        near = NEAR.get(family, 1e-4)
        seen = one.sum_squares
        if family in SCALED:
            seen = seen * (squares.sum() / seen.sum())
        assert np.abs(seen - squares).max() <= near * squares.max(), name


@pytest.mark.parametrize("family", LARGE)
def test_logits_block_by_block_are_those_of_the_whole_model(family: str, large: Large) -> None:
    runtime = TorchRuntime(open_checkpoint(str(large(family).path)), Settings(device="cpu"))
    windows = make_windows(TOKENS, "random")
    found = np.stack([logits.copy() for logits in runtime.logits(windows)])
    model = large_model(family)
    expected = [torch_logits(model, window)[WINDOW // 2 : -1] for window in TOKENS.tolist()]
    assert np.abs(found - np.stack(expected)).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("family", LARGE)
def test_rows_are_put_where_they_were_taken(family: str, large: Large, tmp_path: Path) -> None:
    walk = Walk(
        open_model(open_checkpoint(str(large(family).path))), TOKENS, Place(tmp_path, "cpu")
    )
    for block in walk:
        for name, line in block.linears.items():
            before: Any = getattr(line.module, line.parameter)
            rows = rows_of(line, before)
            changed = with_rows(line, before, rows + 1)
            assert changed.shape == before.shape, name
            assert (rows_of(line, changed) == rows + 1).all(), name
            assert int((changed != before).sum()) == rows.numel(), name
        block.is_done = True
