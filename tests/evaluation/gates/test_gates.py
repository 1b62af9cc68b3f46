"""Limits, and what is said where a file misses one."""

import pytest
from evaluations import evaluation, file_scores

from qconvert.errors import UsageError
from qconvert.evaluation.gates.gates import Gates, failures, judge, make_gates

NAN = float("nan")


def test_files_within_the_limits_pass():
    made = evaluation(file_scores("a", 0.05, 1.02), file_scores("b", 0.01, 0.98))
    verdicts = judge(made, make_gates(0.05, 0.0201))
    assert [(str(one.path), one.gate) for one in verdicts] == [
        ("a", "max-kld"),
        ("a", "max-perplexity-increase"),
        ("b", "max-kld"),
        ("b", "max-perplexity-increase"),
    ]
    assert failures(verdicts) == []
    assert verdicts[3].message == "perplexity -2.00% is within 2.01%"


def test_a_miss_says_by_how_much():
    made = evaluation(file_scores("a", 0.0825, 1.05))
    verdicts = judge(made, make_gates(0.05, 0.02))
    assert [one.message for one in failures(verdicts)] == [
        "mean KL divergence 0.0825 is above 0.05 by 0.0325",
        "perplexity +5.00% is above 2.00% by 3.00%",
    ]


def test_what_is_no_number_never_passes():
    made = evaluation(file_scores("a", NAN, NAN))
    verdicts = judge(made, Gates(1e9, 1e9))
    assert len(failures(verdicts)) == 2
    assert "is no number" in verdicts[0].message


def test_no_gate_asks_nothing():
    assert judge(evaluation(file_scores("a", NAN)), make_gates(None, None)) == ()


@pytest.mark.parametrize("value", [NAN, -0.1, float("inf")])
def test_divergences_that_are_no_limit_are_refused(value):
    with pytest.raises(UsageError, match="--max-kld"):
        make_gates(value, None)
