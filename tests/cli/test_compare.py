"""`qconvert compare` as its users run it."""

import json
from pathlib import Path

import pytest
from writing_models import TEMPLATE, write_gguf, write_model


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compared")
    model = write_model(folder / "model", wide=True)
    return tuple(write_gguf(model, folder / f"{t}.gguf", t) for t in ("q2_k", "q8_0"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("Which way does the wind blow?\nName [a] colour.\n")
    return path


@pytest.fixture(scope="module")
def short(prompts) -> list[str]:
    return ["--prompts", str(prompts), "--max-tokens", "12", "--threads", "1"]


def test_answers_stand_side_by_side_and_only_they_go_to_standard_output(qconvert, files, short):
    done = qconvert("compare", *files, *short)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Which way does the wind blow?" in done.stdout
    assert "Name [a] colour." in done.stdout
    assert done.stdout.index("q8_0.gguf") < done.stdout.index("q2_k.gguf")
    assert "the original" in done.stdout
    assert "\N{BLACK RIGHT-POINTING SMALL TRIANGLE}" in done.stdout
    assert "\x1b" not in done.stdout


def test_json_and_a_file_hold_the_same(qconvert, files, short, tmp_path):
    done = qconvert("compare", *files, *short, "--json", "-o", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data == json.loads((tmp_path / "out.json").read_text())
    assert [Path(one["path"]).name for one in data["files"]] == ["q8_0.gguf", "q2_k.gguf"]
    assert [one["original"] for one in data["files"]] == [True, False]
    assert len(data["files"][1]["answers"]) == 2
    assert data["files"][1]["agreement"]["greedy"]["of"] == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "out.json"]


@pytest.mark.parametrize(("name", "begins"), [("a.md", "# Answers"), ("a.html", "<!doctype html>")])
def test_documents_are_written_and_named(qconvert, files, short, tmp_path, name, begins):
    done = qconvert("compare", *files, *short, "--temperature", "0", "-o", tmp_path / name)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / name}\n"), done.stderr
    text = (tmp_path / name).read_text()
    assert text.startswith(begins)
    assert "greedy" in text
    assert "sampled" not in text


def test_a_file_that_fails_is_told_at_the_end_and_the_others_are_shown(
    qconvert, files, short, tmp_path
):
    template = "{{ raise_exception('not today') }}" + TEMPLATE
    model = write_model(tmp_path / "model", template=template)
    bad = write_gguf(model, tmp_path / "bad.gguf", "q8_0")
    done = qconvert("compare", bad, "--reference", files[0], *short, "--json")
    assert done.returncode == 1
    assert "not today" in done.stderr
    data = json.loads(done.stdout)
    assert data["files"][0]["answers"][0]["greedy"]["text"]
    assert "not today" in data["files"][1]["problem"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.gguf"], 1, "no such file"),
        (["{file}", "--prompts", "none.txt"], 1, "none.txt: no such file"),
        (["{file}", "--prompts", "{empty}"], 2, "holds no prompts"),
        (["{file}", "-o", "answers.pdf"], 2, "none of .md, .html, .json"),
        (["{file}", "-o", "empty.txt/answers.md"], 1, "empty.txt is no directory"),
        (["{file}", "--max-tokens", "0"], 2, "max-tokens"),
        (["{file}", "--temperature", "nan"], 2, "temperature"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    qconvert, files, tmp_path, monkeypatch, arguments, code, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    values = {"file": str(files[0]), "empty": "empty.txt"}
    done = qconvert("compare", *(word.format(**values) for word in arguments))
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == [tmp_path / "empty.txt"]
