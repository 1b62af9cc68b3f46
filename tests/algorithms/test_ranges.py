"""The estimators that a user may name."""

import pytest

from qconvert.algorithms.ranges import ESTIMATORS, Estimator, estimator
from qconvert.errors import UsageError


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_a_name(name):
    assert estimator(name) == Estimator(name)


def test_a_percentile_can_be_chosen():
    assert estimator("percentile", 99.9) == Estimator("percentile", 99.9)
    assert estimator("percentile").percentile == 99.99


@pytest.mark.parametrize("value", [50, 0, -1, 100.1, float("nan")])
def test_a_percentile_that_leaves_no_range_is_refused(value):
    with pytest.raises(UsageError, match="percentile"):
        estimator("percentile", value)


def test_a_percentile_for_another_estimator_is_refused():
    with pytest.raises(UsageError, match="mse"):
        estimator("mse", 99)


def test_unknown_estimators_are_refused_with_the_known_ones():
    with pytest.raises(UsageError) as caught:
        estimator("median")
    assert all(name in caught.value.hint for name in ESTIMATORS)
