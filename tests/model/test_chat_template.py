"""Chat templates are found wherever a checkpoint keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest

from qconvert.errors import CheckpointError
from qconvert.model.tokenizers.chat_template import chat_templates
from qconvert.model.tokenizers.files import read_files


def written(path: Path, files: dict[str, Any]) -> dict[str, Any]:
    """The keys that come of these files; texts are written as they are, the rest as JSON."""
    for name, value in files.items():
        file = path / name
        file.parent.mkdir(exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value)
        file.write_text(text, encoding="utf-8")
    metadata = chat_templates(read_files(path, {}))
    return {key.removeprefix("tokenizer."): field.value for key, field in metadata.items()}


MAIN = "{% for m in messages %}\u2728{{ m.content }}\n{% endfor %}\n"
NAMED = [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]


def test_a_text_in_the_tokenizer_s_configuration(tmp_path: Path) -> None:
    found = written(tmp_path, {"tokenizer_config.json": {"chat_template": MAIN}})
    assert found == {"chat_template": MAIN}


def test_a_list_of_named_templates_in_the_tokenizer_s_configuration(tmp_path: Path) -> None:
    found = written(tmp_path, {"tokenizer_config.json": {"chat_template": NAMED}})
    assert found == {
        "chat_template": "A",
        "chat_template.tool_use": "B",
        "chat_templates": ["tool_use"],
    }


def test_a_file_of_its_own_comes_before_the_configurations(tmp_path: Path) -> None:
    files = {
        "chat_template.jinja": MAIN,
        "tokenizer_config.json": {"chat_template": "old"},
        "chat_template.json": {"chat_template": "older"},
    }
    assert written(tmp_path, files) == {"chat_template": MAIN}


def test_additional_templates_are_named_after_their_files(tmp_path: Path) -> None:
    files = {
        "chat_template.jinja": MAIN,
        "additional_chat_templates/tool_use.jinja": "B",
        "additional_chat_templates/rag.jinja": "C",
    }
    assert written(tmp_path, files) == {
        "chat_template": MAIN,
        "chat_template.rag": "C",
        "chat_template.tool_use": "B",
        "chat_templates": ["rag", "tool_use"],
    }


def test_the_file_of_processors_is_the_last_to_be_asked(tmp_path: Path) -> None:
    files: dict[str, Any] = {"chat_template.json": {"chat_template": "P"}}
    assert written(tmp_path, files) == {"chat_template": "P"}
    files["tokenizer_config.json"] = {"chat_template": "T"}
    assert written(tmp_path, files) == {"chat_template": "T"}


def test_a_checkpoint_without_templates_gives_no_keys(tmp_path: Path) -> None:
    assert written(tmp_path, {"tokenizer_config.json": {}}) == {}


@pytest.mark.parametrize("value", [3, [1], [{"name": "x"}], [{"name": 3, "template": "y"}]])
def test_what_is_no_template_is_refused(value: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        written(tmp_path, {"tokenizer_config.json": {"chat_template": value}})


def test_the_template_is_the_one_that_transformers_reads(tmp_path: Path) -> None:
    from tokenizer_oracles import auto_tokenizer, save
    from tokenizers import Tokenizer, models

    tokenizer = json.loads(Tokenizer(models.BPE({"a": 0}, [])).to_str())
    save(tmp_path, tokenizer, {"chat_template": "old"})
    assert auto_tokenizer(tmp_path).chat_template == "old"
    files = {"chat_template.jinja": MAIN, "additional_chat_templates/rag.jinja": "C"}
    found = written(tmp_path, files)
    expected = auto_tokenizer(tmp_path).chat_template
    assert expected == {"default": found["chat_template"], "rag": found["chat_template.rag"]}
