"""A GGUF file that could not read text is made for those alone who ask for it."""

import json
from pathlib import Path

import gguf
import pytest
from checkpoints import TINY, write_llama
from common import convert_model


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A model without a tokenizer, that knows what a text begins with."""
    folder = write_llama(tmp_path_factory.mktemp("bare") / "bare", TINY)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 1}))
    return folder


@pytest.fixture(scope="module")
def bare_file(bare) -> Path:
    convert_model(bare, bare.parent / "bare.gguf", "f16")
    return bare.parent / "bare.gguf"


COMMANDS = {
    "quantize": ("bare", ["quantize", "-t", "q8_0", "-o", "x.gguf"]),
    "quantize to several": ("bare", ["quantize", "-t", "q8_0", "-t", "w8a16", "-o", "out/"]),
    "quantize a file": ("bare_file", ["quantize", "-t", "q8_0", "-o", "x.gguf"]),
    "export": ("bare", ["export", "-o", "x.gguf"]),
    "report": (
        "bare",
        [
            *("report", "-t", "q8_0", "-o", "out", "--tokens", "64", "--window", "16"),
            *("--no-speed", "--no-answers", "--no-sensitivity", "--backend", "torch"),
        ],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_it_is_refused_unless_asked_for(qconvert, request, name, tmp_path):
    source, (command, *options) = COMMANDS[name]
    at = options.index("-o") + 1
    place = tmp_path / options[at]
    options[at] = f"{place}/" if options[at].endswith("/") else str(place)
    words = [command, request.getfixturevalue(source), *options, "--quiet"]
    refused = qconvert(*words)
    assert refused.returncode == 1
    assert "no tokenizer" in refused.stderr
    assert "--no-vocabulary" in refused.stderr
    assert not list(tmp_path.rglob("*.gguf"))
    done = qconvert(*words, "--no-vocabulary")
    assert (done.returncode, done.stderr) == (0, "")
    (made,) = tmp_path.rglob("*.gguf")
    assert "tokenizer.ggml.tokens" not in gguf.GGUFReader(made).fields


def test_it_is_told_before_and_after(qconvert, bare, bare_file, tmp_path):
    for source in (bare, bare_file):
        words = ["quantize", source, "-t", "q8_0", "-o", tmp_path / "x.gguf", "--dry-run"]
        assert qconvert(*words).returncode == 1
        done = qconvert(*words, "--no-vocabulary", "--json")
        assert "the source has no tokenizer: the output will have none" in done.stderr
        assert (
            "the source has no tokenizer: the output will have none"
            in json.loads(done.stdout)["outputs"][0]["notices"]
        )


def test_a_recipe_can_ask_for_it(qconvert, bare, tmp_path):
    saved = tmp_path / "recipe.yaml"
    words = ["quantize", bare, "-t", "q8_0", "--no-vocabulary", "--save-recipe", saved, "--dry-run"]
    assert qconvert(*words).returncode == 0
    assert "vocabulary: false" in saved.read_text()
    done = qconvert("quantize", bare, "--recipe", saved, "-o", tmp_path / "x.gguf")
    assert done.returncode == 0, done.stderr


def test_directories_can_do_without(qconvert, bare, bare_file, tmp_path):
    for source, place in ((bare, tmp_path / "one"), (bare_file, tmp_path / "other")):
        done = qconvert("quantize", source, "-t", "w8a16", "-o", place, "--json")
        assert done.returncode == 0, done.stderr
        notices = json.loads(done.stdout)["outputs"][0]["notices"]
        assert any("no tokenizer" in notice for notice in notices)
    exported = qconvert("export", bare_file, "-o", tmp_path / "exported", "--json")
    notices = json.loads(exported.stdout)["outputs"][0]["notices"]
    assert any("no tokenizer" in notice for notice in notices)
    for words in (["quantize", bare, "-t", "w8a16"], ["export", bare_file]):
        assert qconvert(*words, "--no-vocabulary", "-o", tmp_path / "no").returncode == 2


def test_what_only_looks_needs_no_tokenizer(qconvert, bare):
    data = json.loads(qconvert("inspect", bare, "--json").stdout)
    assert len(data["file_types"]) > 20
    assert any("no tokenizer" in problem for problem in data["problems"])
