"""What several commands understand alike."""

import pytest

from qconvert.cli.options import parse_share
from qconvert.errors import UsageError


@pytest.mark.parametrize(
    ("text", "share"), [("2%", 0.02), ("0.02", 0.02), ("0", 0), ("0.5%", 0.005), ("150%", 1.5)]
)
def test_shares_are_percent_or_parts_of_one(text, share):
    assert parse_share("--within", text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["2", "-1%", "x", "", "%", "nan", "nan%", "inf%", "1e400"])
def test_limits_that_may_mean_two_things_or_none_are_refused(text):
    with pytest.raises(UsageError, match="is no share"):
        parse_share("--within", text)
