"""Nothing is kept that does not help on what it has not seen."""

import numpy as np
import pytest
import torch

from qconvert.algorithms.balance import balanced
from qconvert.algorithms.guard import helps, output_error
from qconvert.formats import FORMATS
from qconvert.formats.quantize import nearest, quantize
from qconvert.formats.types import Seen


@pytest.fixture(scope="module")
def inputs() -> np.ndarray:
    """float32 [tokens, columns], with a mean and columns that go together."""
    rng = np.random.default_rng(4)
    mixed = rng.standard_normal((512, 256)) @ rng.standard_normal((256, 256)) / 16
    return (mixed + rng.standard_normal(256)).astype(np.float32)


def seen_of(x: np.ndarray) -> Seen:
    hessian = torch.from_numpy(x.T @ x / len(x))
    return Seen(np.square(x).mean(axis=0), x.mean(axis=0), hessian)


@pytest.fixture(scope="module")
def weight() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((24, 256)).astype(np.float32)


def test_the_error_is_that_of_outputs(inputs, weight):
    wanted = np.square(inputs.astype(np.float64) @ weight.T).mean(axis=0).sum()
    assert output_error(weight, seen_of(inputs)) == pytest.approx(wanted, rel=1e-5)


def offs(weight, seen):
    """What two algorithms are off by."""
    format_ = FORMATS["Q4_K"]
    made = (quantize(format_, weight, seen, None, each) for each in (nearest, balanced))
    return [format_.dequantize(one) - weight for one in made]


def test_the_better_one_is_kept(inputs, weight):
    unseen = seen_of(inputs[1::2])
    near, moved = offs(weight, seen_of(inputs[::2]))
    assert helps(moved, near, unseen)
    assert not helps(near, moved, unseen)
    assert not helps(near, near, unseen)


def test_what_cannot_be_judged_is_not_kept(inputs, weight):
    seen = seen_of(inputs)
    near, moved = offs(weight, seen)
    assert not helps(moved, near, seen._replace(hessian=torch.full((256, 256), torch.nan)))
