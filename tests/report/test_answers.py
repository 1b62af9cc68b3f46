"""Answers in pieces, as the page shows them."""

from qconvert.report.answers import show_conversation
from qconvert.report.types import Answer, Conversation


def pieces(text: str, departs: int | None, original: str = "The sky is blue.") -> tuple[str, ...]:
    answers = (Answer("original", original), Answer("Q2_K", text, departs))
    shown = show_conversation(Conversation("Why?", "", answers)).answers[1]
    return shown.remark, shown.same, shown.turn, shown.rest


def test_an_answer_is_cut_at_the_word_that_is_another():
    assert pieces("The sky is blue.", None) == ("the same", "The sky is blue.", "", "")
    assert pieces("The sky was red.", 8) == ("departs", "The sky ", "was", " red.")
    assert pieces("A sky", 0) == ("differs from the start", "", "A", " sky")
    assert pieces("The sky", 7) == ("stops early", "The sky", "\N{END OF PROOF}", "")


def test_many_empty_lines_are_counted_and_not_shown():
    remark, same, turn, rest = pieces("The Moon" + " \n" * 24, 4)
    assert (remark, same, turn) == ("departs", "The ", "Moon")
    assert "\n" not in rest
    assert "24" in rest
