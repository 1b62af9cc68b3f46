"""Prompts: every form that a file of them may have, and what is said of one that has none."""

import json
from collections import Counter
from pathlib import Path

import pytest

from qconvert.errors import CheckpointError, UsageError
from qconvert.text.prompts import (
    Message,
    Prompt,
    default_prompts,
    read_prompts,
)


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def texts(path: Path) -> list[tuple[str, str]]:
    return [(prompt.topic, prompt.text) for prompt in read_prompts(path)]


def test_two_prompts_on_each_of_four_subjects_ship():
    prompts = default_prompts()
    subjects = Counter(prompt.topic for prompt in prompts)
    assert subjects == {"Science": 2, "Coding": 2, "Ethics": 2, "Common sense": 2}
    assert all(len(prompt.text) > 40 for prompt in prompts)
    assert any("range(1, 10)" in prompt.text for prompt in prompts)


def test_a_text_has_one_on_each_line(tmp_path):
    path = written(tmp_path, "p.txt", "\ufeff What is ice?\n\n# no heading \r\n\n")
    assert texts(path) == [("", "What is ice?"), ("", "# no heading")]


def test_markdown_has_one_under_each_heading(tmp_path):
    text = (
        "# Mine\n\n## Code ##\nWhat does\n\n```python\n# not a heading\nprint(1)\n```\nprint?\n"
        "## Nothing under it\n### Ice\nWhat is ice?\n#no heading\n"
    )
    assert texts(written(tmp_path, "p.md", text)) == [
        ("Code", "What does\n\n```python\n# not a heading\nprint(1)\n```\nprint?"),
        ("Ice", "What is ice?\n#no heading"),
    ]


def test_markdown_without_headings_is_one_prompt(tmp_path):
    assert texts(written(tmp_path, "p.md", "What is\n\nice?\n")) == [("", "What is\n\nice?")]
    open_fence = "# Code\n~~~~\n# a\n~~~\n```\n"
    assert texts(written(tmp_path, "q.md", open_fence)) == [("Code", "~~~~\n# a\n~~~\n```")]


def test_json_lines_have_prompts_or_conversations(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ice?"}]
    lines = [{"prompt": "a\nb", "topic": "T"}, {"messages": turns, "topic": 3, "id": 1}]
    path = written(tmp_path, "p.jsonl", "\n\n".join(map(json.dumps, lines)) + "\n")
    assert read_prompts(path) == (
        Prompt((Message("user", "a\nb"),), "T"),
        Prompt((Message("system", "Be brief."), Message("user", "Ice?"))),
    )
    assert read_prompts(path)[1].text == "system: Be brief.\n\nuser: Ice?"


def test_half_a_character_becomes_a_whole_one(tmp_path):
    path = written(tmp_path, "p.jsonl", '{"prompt": "a\\ud800b", "topic": "\\udc00"}')
    assert texts(path) == [("\ufffd", "a\ufffdb")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is no JSON"),
        ("[" * 100000, "is no JSON"),
        ("[1]", "is no JSON object"),
        ("{}", "neither a prompt nor messages"),
        ('{"prompt": " "}', "neither a prompt nor messages"),
        ('{"messages": []}', "neither a prompt nor messages"),
        ('{"messages": [{"role": "root", "content": "x"}]}', "neither a prompt nor messages"),
        ('{"messages": [{"role": "user", "content": 3}]}', "neither a prompt nor messages"),
        ('{"messages": [{"role": ["user"], "content": "x"}]}', "neither a prompt nor messages"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "the model's own"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = written(tmp_path, "p.jsonl", '{"prompt": "x"}\n' + line)
    with pytest.raises(CheckpointError, match=f"line 2.*{said}"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["p.txt", "p.md", "p.jsonl"])
def test_a_file_without_prompts_is_refused(tmp_path, name):
    text = "# Heading\n## Another\n" if name == "p.md" else " \n\n"
    with pytest.raises(UsageError, match="holds no prompts"):
        read_prompts(written(tmp_path, name, text))


def test_what_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no file of prompts"):
        read_prompts(written(tmp_path, "p.csv", "x"))
    with pytest.raises(CheckpointError, match=r"none\.txt: no such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_prompts(tmp_path / "folder.txt")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(CheckpointError, match="no UTF-8"):
        read_prompts(tmp_path / "latin.txt")
    with pytest.raises(UsageError, match="more than 1 MiB"):
        read_prompts(written(tmp_path, "long.txt", "x\n" * (1 << 20)))
    with pytest.raises(UsageError, match="1000 are the most"):
        read_prompts(written(tmp_path, "many.txt", "x\n" * 1001))
