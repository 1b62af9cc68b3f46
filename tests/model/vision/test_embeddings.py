"""llama.cpp sees in an image what transformers sees, with the files that are written here."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from common import convert_model, correlation, worst_difference
from mtmd import add_vocabulary, llama_answers, llama_sees, write_vocabulary
from vision_models import MODELS, random_image, seeing, torch_answers, torch_sees

from qconvert.checkpoint import open_checkpoint
from qconvert.machine.watcher import Silent
from qconvert.plan.recipe import Recipe
from qconvert.run.mmproj import plan_mmproj
from qconvert.run.outputs import write_outputs


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocabulary.gguf")


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_sees_what_transformers_sees(name: str, vocabulary: Path, tmp_path: Path) -> None:
    directory, model = seeing(name)
    image = random_image(name)
    expected = torch_sees(name, model, image)
    checkpoint = open_checkpoint(str(directory))
    found: dict[str, np.ndarray] = {}
    for kind in ("f32", "f16", "q8_0"):
        plan = plan_mmproj(checkpoint, Recipe(kind, output=tmp_path / f"{kind}.gguf"))
        write_outputs([plan], 1, Silent())
        found[kind] = llama_sees(tmp_path / f"{kind}.gguf", vocabulary, image, expected.shape[1])
    # Of what Idefics cuts an image into, each piece is the whole of this one.
    pieces = len(found["f32"]) // len(expected)
    assert pieces == (2 if name in ("Idefics3", "SmolVLM") else 1)
    expected = np.tile(expected, (pieces, 1))
    assert worst_difference(expected, found["f32"]) <= 5e-4
    assert worst_difference(expected, found["f16"]) <= 1e-3
    assert correlation(expected, found["q8_0"]) > 0.999


@pytest.mark.parametrize("name", ["Qwen3VL", "Qwen2_5_VL", "Gemma3", "Gemma4", "Mistral3"])
def test_both_files_together_answer_as_transformers_does(name: str, tmp_path: Path) -> None:
    directory, model = seeing(name)
    image = random_image(name)
    plan = plan_mmproj(
        open_checkpoint(str(directory)), Recipe("f32", output=tmp_path / "mmproj.gguf")
    )
    write_outputs([plan], 1, Silent())
    bare = tmp_path / "model"
    shutil.copytree(directory, bare, ignore=shutil.ignore_patterns("tokenizer.json"))
    convert_model(bare, tmp_path / "bare.gguf", "f32")
    size = model.config.text_config.vocab_size
    text = add_vocabulary(tmp_path / "bare.gguf", tmp_path / "model.gguf", size)
    words = "Look: IMAGE What is there?"
    tokens, seen, found = llama_answers(text, tmp_path / "mmproj.gguf", image, words, size)
    expected = torch_answers(name, model, image, tokens, seen)
    assert worst_difference(expected, found) <= 1e-3
