"""The compact form of a reference against exact divergences."""

import numpy as np
import pytest

from qconvert.evaluation.divergence import compact as module
from qconvert.evaluation.divergence.compact import (
    TARGET,
    choose_share,
    compare,
    conclude,
    condense,
)
from qconvert.evaluation.divergence.scores import divergences, log_sums, losses, tops

VOCABULARY = 5000


def make_logits(rows: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Distributions as flat and as peaked as language models', and others near them."""
    rng = np.random.default_rng(seed)
    order = -1.1 * np.log(np.arange(1, VOCABULARY + 1))
    sharp = rng.uniform(0.7, 3, (rows, 1))
    base = rng.permuted(np.broadcast_to(order, (rows, VOCABULARY)), axis=1) * sharp
    base = base + 0.5 * rng.standard_normal(base.shape)
    other = base + noise * rng.standard_normal(base.shape)
    return base.astype(np.float32), other.astype(np.float32)


def estimate(base: np.ndarray, other: np.ndarray, share: float, seed: int):
    targets = np.zeros(len(base), np.int64)
    kept = condense(base, targets, share, np.random.default_rng(seed))
    return conclude([compare(kept, other, log_sums(other))])


@pytest.fixture(scope="module")
def draws():
    """The same reference, kept thirty times."""
    base, _ = make_logits(200, 0)
    targets = np.zeros(200, np.int64)
    return [condense(base, targets, 1 / 512, np.random.default_rng(seed)) for seed in range(30)]


@pytest.mark.parametrize("noise", [0.02, 0.1, 1.0])
def test_means_are_unbiased_and_within_their_bounds(noise, draws):
    base, other = make_logits(200, noise)
    sums = log_sums(other)
    exact = divergences(base, other).mean()
    found = [conclude([compare(kept, other, sums)]) for kept in draws]
    errors = np.array([values.mean() - exact for values, _ in found])
    bounds = np.array([bound for _, bound in found])
    assert 0 < bounds.max() < 0.02 * exact
    assert (np.abs(errors) <= bounds).mean() >= 0.95
    # The bound is three standard errors, no more and no less.
    assert errors.std() * 3 == pytest.approx(bounds.mean(), rel=0.35)
    # If no draw leans to one side, the mean of thirty is five times as near as one.
    assert abs(errors.mean()) < 3.5 * errors.std() / np.sqrt(30)


def test_the_lump_of_the_rest_alone_would_not_do():
    """What the draws are there for: the mass of the rest without them is far off."""
    base, other = make_logits(200, 1.0)
    kept = condense(base, np.zeros(200, np.int64), 1 / 512, np.random.default_rng(0))
    one = compare(kept, other, log_sums(other))
    lumped = one.known + kept.mass * np.log(kept.mass / one.missing)
    exact = divergences(base, other).mean()
    drawn = conclude([one])[0].mean()
    assert exact - lumped.mean() > 20 * abs(drawn - exact)


def test_a_file_that_is_its_original_gives_zero():
    base, _ = make_logits(100, 0)
    values, bound = estimate(base, base, 1 / 512, 0)
    assert abs(values.mean()) < 1e-7
    assert np.abs(values).max() < 1e-6
    assert bound < 1e-7


def test_small_divergences_are_sharp_for_every_token():
    base, other = make_logits(200, 0.03)
    exact = divergences(base, other)
    values, _ = estimate(base, other, 1 / 512, 0)
    assert np.quantile(np.abs(values - exact), 0.9) < 0.2 * exact.mean()


def test_losses_and_tops_are_the_exact_ones():
    base, _ = make_logits(30, 0)
    targets = np.random.default_rng(0).integers(0, VOCABULARY, 30)
    kept = condense(base, targets, 1 / 64, np.random.default_rng(0))
    assert np.array_equal(kept.loss, losses(base, log_sums(base), targets))
    assert np.array_equal(kept.top, tops(base))


@pytest.mark.parametrize("at_once", [VOCABULARY, 3 * VOCABULARY, 1 << 22])
def test_what_is_kept_is_bounded_and_does_not_depend_on_the_chunks(at_once, monkeypatch):
    base, _ = make_logits(50, 0)
    p = np.exp(base - log_sums(base)[:, None])
    monkeypatch.setattr("qconvert.evaluation.divergence.scores.AT_ONCE", at_once)
    kept = condense(base, np.zeros(50, np.int64), 1 / 256, np.random.default_rng(0))
    assert (kept.kept + 2 * kept.drawn).max() <= min(256 + 2, 2 * VOCABULARY)
    assert np.array_equal(kept.kept, (p >= 1 / 256).sum(1))
    row = np.repeat(np.arange(50), kept.kept)
    assert (p[row, kept.kept_ids] >= 1 / 256).all()
    assert np.allclose(np.exp(kept.kept_log_p), p[row, kept.kept_ids], rtol=1e-5)
    row = np.repeat(np.arange(50), 2 * kept.drawn)
    assert (p[row, kept.drawn_ids] < 1 / 256).all()
    assert np.allclose(kept.mass, np.where(p < 1 / 256, p, 0).sum(1), atol=1e-6)
    assert kept.kept_ids.dtype == kept.drawn_ids.dtype == np.uint16


def test_draws_are_proportional_to_probabilities():
    base, _ = make_logits(1, 0)
    share = 1 / 256
    p = np.exp(base[0] - log_sums(base)[0])
    seen = np.zeros(VOCABULARY)
    for seed in range(200):
        kept = condense(base, np.zeros(1, np.int64), share, np.random.default_rng(seed))
        seen += np.bincount(kept.drawn_ids, minlength=VOCABULARY) / (2 * kept.drawn[0]) / 200
    rest = np.where(p < share, p, 0)
    # Tokens by probability in ten groups of equal mass.
    order = np.argsort(rest)
    groups = np.minimum(np.cumsum(rest[order]) / rest.sum() * 10, 9).astype(int)
    shares = np.bincount(groups, seen[order])
    expected = np.bincount(groups, rest[order]) / rest.sum()
    error = np.sqrt(expected * (1 - expected) / (200 * 2 * kept.drawn[0]))
    assert (np.abs(shares - expected) < 4 * error).all()


def test_large_vocabularies_have_wider_ids():
    base = np.zeros((1, 70000), np.float32)
    base[0, 69999] = 30
    kept = condense(base, np.zeros(1, np.int64), 0.5, np.random.default_rng(0))
    assert kept.kept_ids.dtype == np.uint32
    assert kept.kept_ids.tolist() == [69999]


def test_a_share_of_zero_keeps_everything_and_is_exact():
    base, other = make_logits(20, 1.0)
    values, bound = estimate(base, other, 0.0, 0)
    assert bound == 0
    assert np.allclose(values, divergences(base, other), atol=1e-5)
    certain = np.zeros((1, 300), np.float32)
    certain[0, 0] = 500  # all other probabilities are 0 in float32
    values, _ = estimate(certain, np.zeros((1, 300), np.float32), 0.0, 0)
    assert values == pytest.approx(np.log(300), abs=1e-6)


@pytest.mark.parametrize("scored", [2000, 30000])
def test_the_share_keeps_the_bound_below_the_target(scored):
    """At a mean divergence of 0.6, as of two bits per weight, with as many tokens."""
    base, other = make_logits(250, 1.4)
    share = choose_share(base, scored)
    assert share > 0
    exact = divergences(base, other).mean()
    assert 0.5 < exact < 0.7
    _, bound = estimate(base, other, share, 0)
    expected = bound * np.sqrt(250 / scored)
    assert TARGET / 5 < expected < TARGET


def test_more_tokens_need_fewer_entries_each():
    base, _ = make_logits(100, 0)
    assert choose_share(base, 1000) < choose_share(base, 10_000) < choose_share(base, 100_000)
    tiny = make_logits(100, 0)[0][:, :50]
    assert choose_share(tiny, 1000) == 0


def test_the_known_mass_is_used_only_where_it_helps():
    near, far = make_logits(200, 0.03), make_logits(200, 2.5)
    for (base, other), helps in ((near, True), (far, False)):
        kept = condense(base, np.zeros(200, np.int64), 1 / 512, np.random.default_rng(0))
        one = compare(kept, other, log_sums(other))
        plain = module.ERRORS * module._error(one.drawn[None])
        _, bound = conclude([one])
        assert (bound < plain / 3) == helps
        assert bound <= plain
