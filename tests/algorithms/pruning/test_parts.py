"""Scores and sizes of parts."""

import numpy as np
import pytest
import torch

from qconvert.algorithms.pruning.parts import by_column, fitting, grouped, largest, rescaling


def test_a_columns_score_is_what_its_leaving_costs():
    """Of independent inputs exactly: the squared error of the output, by torch."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 6, generator=random) * torch.tensor([1.0, 3, 0.2, 1, 2, 0.5])
    w = torch.randn(5, 6, generator=random)
    scores = by_column((x**2).mean(0).numpy(), (w**2).sum(0).numpy())
    for column in range(6):
        cost = (x[:, [column]] @ w[:, [column]].T).square().sum(1).mean()
        assert scores[column] == pytest.approx(float(cost), rel=0.02)
    np.testing.assert_allclose(grouped(scores, 3), scores[::2] + scores[1::2])


def test_the_largest_stay_and_of_equal_ones_the_first():
    assert largest(np.array([2.0, 5, 2, 9, 2]), 3).tolist() == [True, True, False, True, False]


def test_a_norm_over_some_channels_gives_on_the_mean_what_it_gave():
    random = np.random.default_rng(0)
    x = random.standard_normal((5000, 64)) * np.exp(random.standard_normal(64))
    weight = random.standard_normal(64) + 2
    given = x / np.sqrt((x**2).mean(1, keepdims=True)) * weight
    square = (given**2).mean(0)
    kept = largest(square, 24)
    factor = rescaling(square, weight, kept)
    own = x[:, kept] / np.sqrt((x[:, kept] ** 2).mean(1, keepdims=True)) * weight[kept] * factor
    wanted = given[:, kept]
    assert np.sqrt((own**2).mean() / (wanted**2).mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("wanted", "whole", "unit", "size"),
    [
        (1000, 1536, 1, 1024),
        (1024, 1536, 1, 1024),
        (3, 8, 128, 4),
        (2, 9, 64, 2),
        (700, 1500, 1, 700),
    ],
)
def test_sizes_stay_multiples_where_they_are(wanted: int, whole: int, unit: int, size: int):
    assert fitting(wanted, whole, unit, 256) == size
