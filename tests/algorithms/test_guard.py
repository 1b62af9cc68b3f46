"""Nothing is kept that does not help on what it has not seen."""

import numpy as np
import pytest

from qconvert.algorithms.balance import balanced
from qconvert.algorithms.guard import guarded, output_error
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
    return Seen(np.square(x).mean(axis=0), x.mean(axis=0), x.T @ x / len(x))


@pytest.fixture(scope="module")
def weight() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((24, 256)).astype(np.float32)


def test_the_error_is_that_of_outputs(inputs, weight):
    wanted = np.square(inputs.astype(np.float64) @ weight.T).mean(axis=0).sum()
    assert output_error(weight, seen_of(inputs)) == pytest.approx(wanted, rel=1e-5)


def test_the_better_one_is_kept(inputs, weight):
    format_, seen, unseen = FORMATS["Q4_K"], seen_of(inputs[::2]), seen_of(inputs[1::2])
    near, moved = (quantize(format_, weight, seen, None, each) for each in (nearest, balanced))
    assert guarded(format_, weight, moved, near, unseen) is moved
    assert guarded(format_, weight, near, moved, unseen) is moved
    assert guarded(format_, weight, near, near, unseen) is near


def test_what_cannot_be_judged_is_not_kept(inputs, weight):
    format_, seen = FORMATS["Q4_K"], seen_of(inputs)
    near, moved = (quantize(format_, weight, seen, None, each) for each in (nearest, balanced))
    assert guarded(format_, weight, moved, near, None) is near
    broken = seen._replace(hessian=np.full((256, 256), np.nan, np.float32))
    assert guarded(format_, weight, moved, near, broken) is near
