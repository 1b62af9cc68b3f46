"""Paired samples of windows."""

import numpy as np
import pytest

from qconvert.evaluation.divergence.bootstrap import DRAWS, LEAST_WINDOWS, compare, draw


def windows(means, spread=0.5, tokens=6, seed=0):
    noise = spread * np.random.default_rng(seed).standard_normal((len(means), tokens))
    return np.asarray(means)[:, None] + noise - noise.mean(axis=1, keepdims=True)


def test_pairs_are_compared_on_the_same_windows():
    """A small difference in each window is sure, however much windows differ from each other."""
    means = np.random.default_rng(0).uniform(0.1, 2, 20)
    assert compare([windows(means), windows(means + 0.001)]) == {(0, 1): 1.0}


def test_the_share_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(3)
    differences = rng.standard_normal(100)
    differences += 1.2 * differences.std() / 10 - differences.mean()  # 1.2 standard errors
    share = compare([windows(np.zeros(100)), windows(differences)])[0, 1]
    assert share == pytest.approx(0.885, abs=0.02)  # Phi(1.2)
    other_way = compare([windows(differences), windows(np.zeros(100))])[0, 1]
    assert share + other_way == pytest.approx(1, abs=1e-9)


def test_equal_files_are_a_coin_toss():
    values = windows(np.arange(10.0))
    assert compare([values, values]) == {(0, 1): 0.5}


def test_every_pair_is_there_and_the_same_seed_gives_the_same():
    files = [windows(np.random.default_rng(i).uniform(0, 1, 12)) for i in range(4)]
    found = compare(files, seed=5)
    assert set(found) == {(i, j) for i in range(4) for j in range(4) if i < j}
    assert found == compare(files, seed=5) != compare(files, seed=6)


def test_few_windows_cannot_tell():
    few = [windows(np.arange(LEAST_WINDOWS - 1.0)), windows(np.arange(LEAST_WINDOWS - 1.0) + 9)]
    assert compare(few) == {}
    assert compare(few[:1]) == {}


def test_samples_have_the_means_and_errors_of_the_windows():
    means = np.random.default_rng(0).uniform(0, 1, (50, 2))
    drawn = draw(means, np.random.default_rng(1), DRAWS)
    assert drawn.shape == (DRAWS, 2)
    assert drawn.mean(axis=0) == pytest.approx(means.mean(axis=0), abs=2e-3)
    assert drawn.std(axis=0) == pytest.approx(means.std(axis=0) / np.sqrt(50), rel=0.05)
