"""What generates text, against llama-cpp-python's and transformers' own ways to do it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import save_model, tiny_model, torch_logits
from compressed_models import quantize_model
from writing_models import END, write_gguf, write_model

from qconvert.errors import CheckpointError, UnsupportedError, UsageError
from qconvert.evaluation.answers.generators import Generator, load_generator, runtime_of

TEXT = "Der schnelle Fuchs, naïve café, 東京 \N{CAT FACE} <think>1 + 1 = 2</think>\n\tend"


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("writers")
    model = write_model(folder / "model")
    return {
        "transformers": model,
        "llama.cpp": write_gguf(model, folder / "f32.gguf"),
    }


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def generator(request, paths) -> Generator:
    return load_generator(paths[request.param], 1)


def test_a_file_runs_where_it_belongs(paths):
    assert {name: runtime_of(path) for name, path in paths.items()} == {
        "transformers": "transformers",
        "llama.cpp": "llama.cpp",
    }


def test_its_facts_are_those_of_the_model(generator):
    assert generator.vocabulary == 323
    assert generator.context == 512
    assert generator.ends == {1}


def test_both_runtimes_make_the_same_tokens_of_a_text(paths):
    made = [load_generator(path, 1) for path in paths.values()]
    for around in (False, True):
        one, other = (generator.tokenize(TEXT, around=around) for generator in made)
        assert one == other
        assert (one[0] == 0) == around


def test_text_comes_back_from_its_tokens(generator):
    tokens = generator.tokenize(TEXT, around=False)
    assert generator.detokenize([0], tokens) == TEXT
    end = generator.detokenize(tokens[:3], tokens[3:])
    assert len(end) > len(TEXT) / 2
    assert TEXT.endswith(end)


def test_control_tokens_are_not_shown_and_a_cut_character_is_left_out(generator):
    tokens = generator.tokenize(f"a{END}b\N{CAT FACE}", around=False)
    assert 1 in tokens
    assert generator.detokenize([0], tokens) == "ab\N{CAT FACE}"
    assert generator.detokenize([0], tokens[:-1]) == "ab"


def test_logits_are_the_models_however_tokens_are_fed(generator):
    tokens = generator.tokenize(TEXT, around=True)[:30]
    expected = torch_logits(tiny_model("llama"), tokens)[-1]
    generator.begin(64)
    whole = generator.feed(tokens).copy()
    generator.begin(64)
    for token in tokens:
        single = generator.feed([token])
    spread = expected.std()
    # llama.cpp keeps keys and values in float16.
    assert np.abs(whole - expected).max() < 0.02 * spread
    assert np.abs(single - expected).max() < 0.02 * spread


def test_llama_gives_the_logits_of_all_positions(paths):
    generator: Any = load_generator(paths["llama.cpp"], 1)
    tokens = generator.tokenize(TEXT, around=True)[:30]
    expected = torch_logits(tiny_model("llama"), tokens)[11:]
    generator.begin(256)
    found = generator.feed_for_all(tokens, 11)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.02 * expected.std()


@pytest.mark.parametrize("kind", ["gguf", "directory"])
def test_an_encoder_is_refused(tmp_path, kind):
    save_model("bert", tmp_path / "bert")
    path = tmp_path / "bert"
    if kind == "gguf":
        path = write_gguf(path, tmp_path / "bert.gguf")
    with pytest.raises(UnsupportedError, match="which writes no text"):
        load_generator(path, 1)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(CheckpointError, match="neither a GGUF file nor a directory"):
        runtime_of(tmp_path / "notes.txt")


def test_a_damaged_file_is_an_error_that_names_it(tmp_path, paths):
    data = paths["llama.cpp"].read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"llama\.cpp cannot load .*cut\.gguf: \w"):
        load_generator(tmp_path / "cut.gguf", 1)


def test_a_directory_without_all_weights_is_an_error_that_names_one(tmp_path):
    from safetensors.torch import load_file, save_file

    model = write_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"it lacks model\.norm\.weight"):
        load_generator(model, 1)


def test_without_llama_cpp_it_is_said_how_to_get_it(monkeypatch, paths):
    for module in ("llama_cpp", "xllamacpp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"llama\.cpp is not installed") as caught:
        runtime_of(paths["llama.cpp"])
    assert "pip install xllamacpp" in caught.value.hint


def test_what_transformers_would_answer_wrongly_is_refused(tmp_path):
    save_model("mixtral", tmp_path / "model", wide=True, num_hidden_layers=1, num_local_experts=2)
    quantize_model(tmp_path / "model", tmp_path / "out", "nvfp4a16")
    with pytest.raises(UnsupportedError, match="its answers are wrong"):
        load_generator(tmp_path / "out", 1)
