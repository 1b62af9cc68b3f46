"""The correction for drift: against least squares over the tokens themselves."""

import numpy as np
import pytest
import torch

from qconvert.algorithms.damping import factored
from qconvert.algorithms.drift import besides, best_strength, correction, retargeted
from qconvert.algorithms.guard import output_error
from qconvert.calibration.moments import Moments

KINDS = ["input", "output"]
"""Of layers: those that write into the stream are the second."""
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


def missing(case: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """What the layer should give besides, [tokens, rows]."""
    y, x, s, r, w = (case[name] for name in "yxsrw")
    return (y - x) @ w.T + ((s - r) / FACTOR if kind == "output" else 0)


def moments(case: dict[str, np.ndarray], kind: str, part: slice = slice(None)) -> Moments:
    y, x = (torch.from_numpy(case[name][part]).float() for name in "yx")
    behind = torch.from_numpy(missing(case, kind)[part]).float()
    seen = Moments()
    for start in range(0, len(x), 700):
        some = slice(start, start + 700)
        off = {"input": {"off": (y - x)[some]}, "output": {"behind": behind[some]}}[kind]
        seen.observe(("a", "b"), x[some], 0, **off)
    return seen


def test_moments_are_those_of_the_tokens(case: dict[str, np.ndarray]):
    y, x = (case[name] for name in "yx")
    seen = moments(case, "input")
    own, drift = seen.of("b"), seen.drift_of("b")
    assert own.tokens == TOKENS
    np.testing.assert_allclose(own.hessian, x.T @ x / TOKENS, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(own.mean, x.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drift.input, (y - x).T @ x / TOKENS, rtol=1e-3, atol=1e-3)
    found = moments(case, "output").drift_of("a").output
    wanted = missing(case, "output").T @ x / TOKENS
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    assert seen.of("c") is None
    assert seen.drift_of("c") is None


@pytest.mark.parametrize("kind", KINDS)
def test_at_full_strength_it_is_least_squares(kind: str, case: dict[str, np.ndarray]):
    seen = moments(case, kind)
    x, w = (case[name] for name in "xw")
    made = correction(w, factored(seen.of("a"), 1e-7), seen.drift_of("a"))
    found = retargeted(w, made, 1)
    wanted = np.linalg.lstsq(x, x @ w.T + missing(case, kind), rcond=None)[0].T
    assert np.abs(found - wanted).max() < 1e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_what_the_layer_gives(kind: str, case: dict[str, np.ndarray]):
    """Up to what is the same for all weights."""
    seen = moments(case, kind)
    x, w = (case[name] for name in "xw")
    other = [w + np.float32(0.1) * np.sign(w), w * np.float32(0.9)]
    wanted = besides(w, seen.drift_of("a"))
    errors = [output_error(one - w, seen.of("a"), wanted) for one in other]
    target = x @ w.T + missing(case, kind)
    plain = [np.square(target - x @ one.T).sum(axis=1).mean() for one in other]
    assert errors[1] - errors[0] == pytest.approx(plain[1] - plain[0], rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strength_is_best_for_other_tokens(kind: str, case: dict[str, np.ndarray]):
    shown, kept = moments(case, kind, slice(0, 120)), moments(case, kind, slice(120, None))
    w, seen = case["w"], factored(shown.of("a"))
    made = correction(w, seen, shown.drift_of("a"))
    wanted = besides(w, kept.drift_of("a"))
    best = best_strength(made, kept.of("a"), wanted)

    def error(strength: float) -> float:
        return output_error(retargeted(w, made, strength) - w, kept.of("a"), wanted)

    others = [error(strength) for strength in np.linspace(0, 1, 21)]
    assert error(best) <= min(others) + 1e-6 * abs(min(others))
    assert error(best) < others[0]


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
