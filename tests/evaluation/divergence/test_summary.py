"""Figures of a file, against definitions taken from elsewhere."""

import statistics
from pathlib import Path

import numpy as np
import pytest

from qconvert.evaluation.divergence.scores import assemble
from qconvert.evaluation.divergence.summary import (
    correlation,
    divergence_of,
    perplexity_of,
    summarize,
)
from qconvert.evaluation.divergence.types import Subject


class Nothing:
    backend = "torch"

    def logits(self, windows):
        raise NotImplementedError


SUBJECT = Subject(Path("x.gguf"), 1000, 4.5, "Q4_K_M", Nothing(), ("a notice",))


@pytest.fixture
def made():
    rng = np.random.default_rng(0)
    base = rng.gamma(2, 1, (9, 31))
    own = np.abs(base + 0.2 * rng.standard_normal(base.shape))
    divergence = rng.gamma(0.3, 0.3, base.shape)
    return assemble(own, divergence, rng.random(base.shape) < 0.8, base), base


def test_perplexity_and_correlation_are_those_of_llama_perplexity(made):
    """Its sums and formulas: mean_and_uncertainty and covariance of tools/perplexity."""
    scores, base = made
    own, base = scores.loss.ravel(), base.ravel()
    count = len(own)

    def uncertainty(values):
        return (((values**2).sum() / count - (values.sum() / count) ** 2) / (count - 1)) ** 0.5

    row = summarize(SUBJECT, scores, base.reshape(9, 31), 0.0)
    assert row.perplexity == pytest.approx(np.exp(own.sum() / count))
    assert row.perplexity_error == pytest.approx(row.perplexity * uncertainty(own))
    covariance = (own * base).sum() / count - own.sum() / count * base.sum() / count
    expected = covariance / (count - 1) / (uncertainty(own) * uncertainty(base))
    assert row.correlation == pytest.approx(expected)
    assert row.perplexity_ratio == pytest.approx(np.exp(own.sum() / count - base.sum() / count))
    p_difference = np.exp(-own) - np.exp(-base)
    assert row.rms_delta_p == pytest.approx((p_difference**2).mean() ** 0.5)
    assert row.same_top == scores.same_top.mean()


def test_divergences_are_summed_up_over_windows_and_tokens(made):
    values = made[0].divergence
    found = divergence_of(values, 3e-5)
    assert found.mean == pytest.approx(statistics.fmean(values.ravel()))
    means = [statistics.fmean(row) for row in values]
    assert found.standard_error == pytest.approx(statistics.stdev(means) / 3)
    assert found.median == pytest.approx(statistics.median(values.ravel()))
    tenths = statistics.quantiles(values.ravel(), n=1000, method="inclusive")
    assert (found.p90, found.p99, found.p999) == pytest.approx(
        (tenths[899], tenths[989], tenths[998])
    )
    assert found.max == values.max()
    assert found.bound == 3e-5


def test_a_row_tells_what_the_file_is(made):
    row = summarize(SUBJECT, *made, 0.0)
    assert (row.path, row.nbytes, row.bits_per_weight) == (Path("x.gguf"), 1000, 4.5)
    assert (row.kind, row.backend, row.notices) == ("Q4_K_M", "torch", ("a notice",))


def test_one_window_has_no_error():
    assert np.isnan(divergence_of(np.ones((1, 5)), 0.0).standard_error)
    assert np.isnan(perplexity_of(np.ones((1, 1)))[1])
    assert np.isnan(correlation(np.ones(4), np.arange(4.0)))
    assert correlation(np.arange(4.0), 2 * np.arange(4.0)) == pytest.approx(1)
