"""The table in markdown."""

import pytest
from evaluations import evaluation, file_scores

from qconvert.errors import OutputError
from qconvert.evaluation.gates.gates import judge, make_gates
from qconvert.evaluation.gates.step_summary import append, to_markdown


def rows(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]


def test_every_file_has_a_row_as_wide_as_the_heading():
    made = evaluation(file_scores("a.gguf", 0.01), file_scores("b.gguf", 0.2))
    verdicts = judge(made, make_gates(0.05, None))
    text = to_markdown(made, verdicts)
    table = rows(text)
    assert {len(row) for row in table} == {10}
    assert table[2][0] == "a.gguf"
    assert table[2][4:] == [
        "10.0000 ± 0.5000", "0.01000", "0.3000", "91.20%", "llama.cpp", "passed",
    ]  # fmt: skip
    assert table[3][-1] == "**failed**"
    assert "- b.gguf: mean KL divergence 0.2 is above 0.05 by 0.15" in text
    assert "perplexity is 10.0000" in text
    assert {len(row) for row in rows(to_markdown(made))} == {9}


def test_names_cannot_break_the_table():
    made = evaluation(file_scores("a|b\n<img src=x>`[x](y).gguf", 0.01))
    (row,) = rows(to_markdown(made).replace("\\|", "/"))[2:]
    assert len(row) == 9
    assert "\\<img src=x\\>" in row[0]
    assert "\n" not in row[0]


def test_other_steps_lines_stay(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("before\n")
    append(path, "after\n")
    assert path.read_text() == "before\nafter\n"
    with pytest.raises(OutputError, match="cannot write"):
        append(tmp_path, "")
