"""Scores of tokens against torch's own losses and against hand-made distributions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qconvert.errors import CheckpointError, WeightError
from qconvert.evaluation.divergence import scores as module
from qconvert.evaluation.divergence.scores import (
    assemble,
    check_scores,
    check_shape,
    divergences,
    log_sums,
    losses,
    tops,
)


@pytest.fixture
def logits():
    rng = np.random.default_rng(0)
    return (4 * rng.standard_normal((2, 40, 1000))).astype(np.float32)


@pytest.mark.parametrize("at_once", [1, 7000, 1 << 22])
def test_scores_are_those_of_torch(logits, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    base, other = logits
    targets = np.random.default_rng(1).integers(0, 1000, 40)
    exact = torch.from_numpy(other).double()
    sums = log_sums(other)
    assert np.allclose(sums, exact.logsumexp(1).numpy(), rtol=0, atol=1e-6)
    expected = torch.nn.functional.cross_entropy(exact, torch.tensor(targets), reduction="none")
    assert np.allclose(losses(other, sums, targets), expected.numpy(), rtol=0, atol=1e-6)
    p = torch.from_numpy(base).double().log_softmax(1)
    q = exact.log_softmax(1)
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
    assert np.allclose(divergences(base, other), expected.numpy(), rtol=0, atol=1e-6)


def test_divergences_of_distributions_made_by_hand():
    p, q = np.array([[0.5, 0.25, 0.25]]), np.array([[0.25, 0.25, 0.5]])
    base, other = np.log(p).astype(np.float32), np.log(q).astype(np.float32) + np.float32(3)
    expected = 0.5 * math.log(2) - 0.25 * math.log(2)
    assert divergences(base, other) == pytest.approx(expected, abs=1e-6)
    assert divergences(base, base + 5) == pytest.approx(0, abs=1e-6)
    assert (divergences(base, base) == 0).all()
    uniform, certain = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32)
    certain[0, 3] = 200
    assert divergences(certain, uniform) == pytest.approx(math.log(8), abs=1e-6)
    assert log_sums(uniform) == pytest.approx(math.log(8), abs=1e-7)


def test_of_equal_logits_the_lowest_token_is_the_top():
    assert tops(np.array([[1, 3, 3, 0], [2, 2, 2, 2]], np.float32)).tolist() == [1, 0]


def test_delta_p_is_the_files_probability_less_the_references():
    own, base = -np.log(np.array([[0.5, 0.2]])), -np.log(np.array([[0.3, 0.6]]))
    made = assemble(own, np.zeros((1, 2)), np.ones((1, 2)), base)
    assert made.delta_p == pytest.approx(np.array([[0.2, -0.4]]))


def test_other_vocabularies_are_refused_by_name():
    check_shape(np.zeros((3, 5), np.float32), (3, 5), "x.gguf")
    with pytest.raises(CheckpointError, match=r"x\.gguf gives 6 logits .* the reference 5"):
        check_shape(np.zeros((3, 6), np.float32), (3, 5), "x.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused_by_name(value):
    zeros = np.zeros((3, 4))
    good = assemble(zeros, zeros, zeros, zeros)
    check_scores(good, "x.gguf")
    bad = zeros.copy()
    bad[1, 2] = value
    with pytest.raises(WeightError, match=r"x\.gguf: .* window 2"):
        check_scores(replace(good, divergence=bad), "x.gguf")
