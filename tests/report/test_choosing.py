from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_data import MB, ROWS, make_divergence, make_row

from qconvert.report.choosing import by_container, choose, front, why_none
from qconvert.report.types import Choice, Wish

ROW = make_row("Q8_0", 100, 0.1, 1.01)
NUMBERS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(0, 30), st.integers(-20, 20)), min_size=1, max_size=12
)


def rows_of(numbers):
    return [
        replace(
            ROW,
            name=f"f{place}",
            nbytes=size,
            divergence=make_divergence(divergence / 10),
            perplexity_ratio=1 + ratio / 1000,
        )
        for place, (size, divergence, ratio) in enumerate(numbers)
    ]


def beats(one, other) -> bool:
    better = one.nbytes <= other.nbytes and one.divergence.mean <= other.divergence.mean
    return better and (one.nbytes, one.divergence.mean) != (other.nbytes, other.divergence.mean)


@given(NUMBERS)
def test_the_front_is_what_nothing_beats(numbers):
    rows = rows_of(numbers)
    best = front(rows)
    unbeaten = {
        (row.nbytes, row.divergence.mean)
        for row in rows
        if not any(beats(other, row) for other in rows)
    }
    assert [(row.nbytes, row.divergence.mean) for row in best] == sorted(unbeaten)


@given(NUMBERS, st.integers(1, 30), st.integers(0, 20))
def test_wishes_are_kept_and_nothing_better_is_left(numbers, under, within):
    rows = rows_of(numbers)
    share = within / 1000
    small = [row for row in rows if row.nbytes <= under]
    near = [row for row in rows if abs(row.perplexity_ratio - 1) <= share]
    both = [row for row in small if row in near]

    found = choose(rows, Wish(under=under)).row
    assert (found is None) == (not small)
    assert found is None or (
        found in small and found.divergence.mean == min(row.divergence.mean for row in small)
    )
    found = choose(rows, Wish(within=share)).row
    assert (found is None) == (not near)
    assert found is None or (found in near and found.nbytes == min(row.nbytes for row in near))
    found = choose(rows, Wish(under, share)).row
    assert (found is None) == (not both)
    assert found is None or found.divergence.mean == min(row.divergence.mean for row in both)
    if found is None:
        assert why_none(rows, Wish(under, share))


@given(NUMBERS)
def test_without_a_wish_the_choice_is_on_the_front(numbers):
    rows = rows_of(numbers)
    assert choose(rows, Wish()).row in front(rows)


@pytest.mark.parametrize(
    ("wish", "name"),
    [
        (Wish(), "Q4_K_M"),
        (Wish(within=0.005), "Q5_K_M"),
        (Wish(within=0.5), "Q2_K"),
        (Wish(under=140 * MB), "Q6_K"),
        (Wish(under=100 * MB), "IQ4_NL"),
        (Wish(under=140 * MB, within=0.05), "Q6_K"),
        (Wish(under=88 * MB), None),
        (Wish(within=0.0001), None),
        (Wish(under=100 * MB, within=0.02), None),
    ],
)
def test_the_file_to_take(wish, name):
    row = choose(ROWS, wish).row
    assert (row.name if row else None) == name


def test_the_error_of_a_measurement_counts():
    near, unsure, bad = (
        make_row("Q5_K_M", 112, 0.0048, 1.0049),
        make_row("Q4_K_M", 105, 0.0105, 1.0094),
        make_row("Q3_K_M", 93, 0.049, 1.052),
    )
    assert choose([near, unsure, bad], Wish()).row is unsure
    wide = replace(unsure.divergence, standard_error=0.006)
    assert choose([near, replace(unsure, divergence=wide), bad], Wish()).row is near
    assert choose([bad], Wish()) == Choice(
        bad, "the closest to the original; no file is surely within 0.02 nats of it", "closest"
    )


def test_each_container_has_a_file_to_take():
    found = by_container(ROWS, Wish())
    assert {name: row.name for name, row in found.items()} == {
        "For llama.cpp": "Q4_K_M",
        "For transformers and vLLM": "w8a8",
    }


def test_why_there_is_none_says_how_far_the_nearest_is():
    said = why_none(ROWS, Wish(under=88 * MB))
    assert "Q2_K" in said
    assert "88.2" in said
    assert "0.06%" in why_none(ROWS, Wish(within=0.0001))
    assert "106" in why_none(ROWS, Wish(under=100 * MB, within=0.02)).replace("105.5", "106")


def test_a_file_without_numbers_is_neither_chosen_nor_on_the_front():
    broken = replace(
        ROW, name="broken", nbytes=1, perplexity=float("nan"), perplexity_ratio=float("nan")
    )
    rows = [broken, ROW]
    assert front(rows) == (ROW,)
    for wish in (Wish(), Wish(under=10**9), Wish(within=1.0), Wish(10**9, 1.0)):
        assert choose(rows, wish).row is ROW
    assert choose([broken], Wish()).row is None


def test_the_closest_is_taken_where_none_is_near():
    rows = [make_row("Q4_0", 50, 0.4, 1.3), make_row("Q2_K", 30, 0.9, 1.9)]
    choice = choose(rows, Wish())
    assert choice.row is rows[0]
    assert choice.kind == "closest"


def test_a_perplexity_below_the_originals_is_off_as_much_as_one_above():
    rows = [make_row("Q8_0", 145, 0.001, 0.998), make_row("Q2_K", 80, 0.3, 0.93)]
    assert choose(rows, Wish()).row is rows[0]
    assert choose(rows, Wish(within=0.08)).row is rows[1]
    assert "below" in why_none(rows, Wish(within=0.001))
