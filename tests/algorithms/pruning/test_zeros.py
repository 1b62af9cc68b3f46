"""Zeros held against dense references: masks spelled out row by row, and weights that are made up
for by solving for them."""

import numpy as np
import pytest
import torch

from qconvert.algorithms.damping import factored
from qconvert.algorithms.guard import output_error
from qconvert.algorithms.pruning.zeros import (
    Pattern,
    made_up_for,
    read_pattern,
    without_smallest,
)
from qconvert.errors import UsageError
from qconvert.formats.types import Seen

ROWS, COLUMNS = 24, 272


def inputs(seed: int = 0, tokens: int = 4000) -> np.ndarray:
    """Some channels much larger, all of them related: float64 [tokens, columns]."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((COLUMNS, COLUMNS)) * 0.15 + np.eye(COLUMNS)
    sizes = np.exp(random.standard_normal(COLUMNS))
    return (random.standard_normal((tokens, COLUMNS)) @ mixed) * sizes


def seen_of(x: np.ndarray) -> Seen:
    hessian = torch.from_numpy((x.T @ x / len(x)).astype(np.float32))
    return Seen(hessian.diagonal().numpy().copy(), None, hessian, len(x))


def weights(seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    )


@pytest.mark.parametrize(
    ("text", "share", "of"), [("0.5", 0.5, 0), ("25%", 0.25, 0), ("2:4", 0.5, 4), ("1:4", 0.75, 4)]
)
def test_patterns_are_read(text: str, share: float, of: int):
    assert read_pattern(text) == Pattern(share, of)


@pytest.mark.parametrize("text", ["", "0", "1", "4:4", "0:4", "5:4", "2:", "half", "nan", "-1"])
def test_what_is_no_pattern_is_refused(text: str):
    with pytest.raises(UsageError, match="neither a share nor a pattern"):
        read_pattern(text)


@pytest.mark.parametrize("text", ["0.5", "2:4", "1:8", "0.3"])
def test_the_smallest_products_of_weight_and_input_go(text: str):
    w, seen = weights(), seen_of(inputs())
    made = without_smallest(w, seen, read_pattern(text)).numpy()
    size = np.abs(w.numpy()) * np.sqrt(seen.square)
    for row in range(ROWS):
        of = int(text[-1]) if ":" in text else COLUMNS
        for start in range(0, COLUMNS, of):
            own = slice(start, start + of)
            gone = of - int(text[0]) if ":" in text else round(float(text) * COLUMNS)
            expected = set(np.argsort(size[row, own])[:gone])
            assert set(np.flatnonzero(made[row, own] == 0)) == expected
            rest = made[row, own] != 0
            assert (made[row, own][rest] == w.numpy()[row, own][rest]).all()


def test_others_make_up_as_by_solving_for_them():
    """Weights behind the first zero are those of least squares, with that zero given."""
    x = inputs()[:, :8]
    seen = factored(seen_of(x)._replace(tokens=0), share=1e-6)
    w = weights()[:, :8].clone()
    w[:, 0] = 1e-4  # goes first, with the least to make up for
    w[:, 1:] += 3.0
    w[:, 0] += 0.3
    made = made_up_for(w, seen, Pattern(1 / 8)).double().numpy()
    hessian = x.T @ x / len(x)
    for row in range(ROWS):
        (gone,) = np.flatnonzero(made[row] == 0)
        behind = np.arange(gone + 1, 8)
        change = np.zeros(8)
        change[gone] = -float(w[row, gone])
        right = -hessian[np.ix_(behind, [gone])][:, 0] * change[gone]
        change[behind] = np.linalg.solve(hessian[np.ix_(behind, behind)], right)
        np.testing.assert_allclose(made[row], w[row].double().numpy() + change, atol=2e-4)


@pytest.mark.parametrize("text", ["0.5", "2:4", "1:4"])
def test_making_up_keeps_the_pattern_and_comes_nearer(text: str):
    w, pattern = weights(), read_pattern(text)
    unseen = seen_of(inputs(seed=0, tokens=3000))
    seen = seen_of(inputs(seed=0))
    plain = without_smallest(w, seen, pattern)
    moved = made_up_for(w, factored(seen_of(inputs(seed=0))), pattern)
    zeros = (moved == 0).numpy()
    if pattern.of:
        assert (zeros.reshape(ROWS, -1, pattern.of).sum(-1) == pattern.share * pattern.of).all()
    assert zeros.mean() == pytest.approx(pattern.share, abs=0.01)
    errors = [output_error((one - w).numpy(), unseen) for one in (moved, plain)]
    assert errors[0] < 0.8 * errors[1]
