"""Massive activations are told from ordinary ones."""

import numpy as np
import pytest
from observed_inputs import gelu, heavy, massive, normal, observed

from qconvert.algorithms.activation_ranges import static_bounds
from qconvert.algorithms.massive import losses
from qconvert.formats.safetensors.types import ActivationFormat, Estimator

INT8 = ActivationFormat("int", 8, "tensor", False)
FP8 = ActivationFormat("float", 8, "tensor", False)
ESTIMATORS = [Estimator(name) for name in ("minmax", "percentile", "mse", "entropy")]


def lost(x, form, estimator):
    statistics = observed(x)
    return losses(statistics, 0, form, static_bounds(statistics, 0, form, estimator))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: one.name)
def test_one_token_of_a_window_that_is_a_thousand_times_larger_is_massive(estimator):
    loss = lost(massive(), INT8, estimator)
    assert loss.is_massive
    assert loss.static > 0.5


@pytest.mark.parametrize("estimator", ESTIMATORS[:3], ids=lambda one: one.name)
def test_ordinary_inputs_are_not(estimator):
    rng = np.random.default_rng(4)
    louder = normal() * np.exp(0.4 * rng.standard_normal((1024, 1)))
    outliers = normal() * np.where(np.arange(96) % 40 == 3, 8, 1)
    for x in (normal(), gelu(), louder, outliers):
        assert not lost(x, INT8, estimator).is_massive


def test_floats_reach_far():
    assert not lost(massive(), FP8, Estimator("minmax")).is_massive


def test_the_loss_is_that_of_rounded_inputs():
    for x in (normal(), heavy(), massive()):
        statistics = observed(x)
        for estimator in ESTIMATORS[:3]:
            range_ = static_bounds(statistics, 0, INT8, estimator)
            codes = np.clip(np.rint(x / range_.scale), -128, 127)
            share = ((codes * range_.scale - x) ** 2).sum(1) / (x**2).sum(1)
            energy = (x**2).sum(1)
            true = max(share.mean(), np.average(share, weights=energy))
            assert losses(statistics, 0, INT8, range_).static == pytest.approx(true, rel=0.5)


def test_a_range_for_each_token_loses_what_it_should():
    x = normal()
    scale = np.abs(x).max(1, keepdims=True) / 127.5
    share = ((np.rint(x / scale) * scale - x) ** 2).sum(1) / (x**2).sum(1)
    assert lost(x, INT8, Estimator("minmax")).token == pytest.approx(share.mean(), rel=0.1)


def test_nothing_is_lost_of_zeros():
    loss = lost(np.zeros((8, 16)), INT8, Estimator("minmax"))
    assert (loss.static, loss.token, loss.is_massive) == (0, 0, False)
