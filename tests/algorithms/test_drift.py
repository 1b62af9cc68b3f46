"""The correction for drift: against least squares over the tokens themselves."""

import numpy as np
import pytest
import torch

from qconvert.algorithms.damping import factored
from qconvert.algorithms.drift import (
    Strength,
    besides,
    best_strength,
    corrections,
    retargeted,
)
from qconvert.algorithms.guard import output_error
from qconvert.calibration.moments import Moments

ROWS, COLUMNS, TOKENS, FACTOR = 20, 48, 4000, 0.5


@pytest.fixture(scope="module")
def case() -> dict[str, np.ndarray]:
    """The original's inputs y and stream s, the quantized model's x and r, and a weight."""
    random = np.random.default_rng(4)
    y = random.normal(size=(TOKENS, COLUMNS)) * np.exp(random.normal(size=COLUMNS))
    x = y @ (np.eye(COLUMNS) + 0.1 * random.normal(size=(COLUMNS, COLUMNS)))
    s = random.normal(size=(TOKENS, ROWS))
    r = s - 0.2 * x @ random.normal(size=(COLUMNS, ROWS)) + 0.5 * random.normal(size=s.shape)
    w = random.normal(size=(ROWS, COLUMNS))
    return {"y": y, "x": x, "s": s, "r": r, "w": w.astype(np.float32)}


def moments(case: dict[str, np.ndarray], part: slice) -> Moments:
    y, x, s, r = (torch.from_numpy(case[name][part]).float() for name in "yxsr")
    seen = Moments()
    for start in range(0, len(x), 700):
        some = slice(start, start + 700)
        seen.observe(("a", "b"), x[some], 0, (y - x)[some], (s - r)[some])
    return seen


def test_moments_are_those_of_the_tokens(case: dict[str, np.ndarray]):
    seen = moments(case, slice(None))
    y, x, s, r = (case[name] for name in "yxsr")
    own, drift = seen.of("b"), seen.drift_of("b")
    assert own.tokens == TOKENS
    np.testing.assert_allclose(own.hessian, x.T @ x / TOKENS, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(own.mean, x.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drift.cross, (y - x).T @ x / TOKENS, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(drift.stream, (s - r).T @ x / TOKENS, rtol=1e-3, atol=1e-3)
    assert seen.of("c") is None
    assert seen.drift_of("c") is None


def test_at_full_strength_it_is_least_squares(case: dict[str, np.ndarray]):
    seen = moments(case, slice(None))
    y, x, s, r, w = (case[name] for name in "yxsrw")
    made = corrections(w, factored(seen.of("a"), 1e-7), seen.drift_of("a"), FACTOR)
    found = retargeted(w, made, Strength(1, 1))
    wanted = np.linalg.lstsq(x, y @ w.T + (s - r) / FACTOR, rcond=None)[0].T
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


def test_the_error_is_that_of_the_stream(case: dict[str, np.ndarray]):
    """Up to what is the same for all weights."""
    seen = moments(case, slice(None))
    y, x, s, r, w = (case[name] for name in "yxsrw")
    other = [w + np.float32(0.1) * np.sign(w), w * np.float32(0.9)]
    wanted = besides(w, seen.drift_of("a"), FACTOR)
    errors = [output_error(one - w, seen.of("a"), wanted) for one in other]
    plain = [np.square(y @ w.T + (s - r) / FACTOR - x @ one.T).sum(axis=1).mean() for one in other]
    assert errors[1] - errors[0] == pytest.approx(plain[1] - plain[0], rel=1e-3)


def test_strengths_are_best_for_other_tokens(case: dict[str, np.ndarray]):
    shown, kept = moments(case, slice(0, 120)), moments(case, slice(120, None))
    w, seen = case["w"], factored(shown.of("a"))
    made = corrections(w, seen, shown.drift_of("a"), FACTOR)
    wanted = besides(w, kept.drift_of("a"), FACTOR)
    best = best_strength(made, kept.of("a"), wanted)

    def error(strength: Strength) -> float:
        return output_error(retargeted(w, made, strength) - w, kept.of("a"), wanted)

    errors = {(a, b): error(Strength(a, b)) for a in (0, 0.25, 0.5, 0.75, 1) for b in (0, 0.5, 1)}
    assert error(best) <= min(errors.values()) + 1e-6 * abs(min(errors.values()))
    assert error(best) < errors[0, 0]


def test_experts_that_few_tokens_reached_have_what_their_layer_saw():
    random = np.random.default_rng(1)
    x = torch.from_numpy(random.normal(size=(100, 8))).float()
    seen = Moments()
    seen.observe(("experts",), x[:90], 0)
    seen.observe(("experts",), x[90:93], 1)
    np.testing.assert_allclose(
        seen.of("experts", 0).hessian, (x[:90].T @ x[:90]) / 90, rtol=1e-4, atol=1e-5
    )
    for matrix in (1, 2):
        few = seen.of("experts", matrix)
        assert few.tokens == 93
        np.testing.assert_allclose(few.hessian, (x[:93].T @ x[:93]) / 93, rtol=1e-4, atol=1e-5)
