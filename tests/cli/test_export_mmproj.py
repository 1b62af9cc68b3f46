"""`qconvert export --mmproj` as its users run it."""

import json
import shutil
from pathlib import Path

import gguf
import pytest
from vision_models import seeing


@pytest.fixture(scope="module")
def qwen() -> Path:
    return seeing("Qwen3VL")[0]


def test_the_file_and_what_inspect_tells_of_it(qconvert, qwen, tmp_path):
    path = tmp_path / "mmproj-q.gguf"
    done = qconvert("export", qwen, "--mmproj", "--dtype", "q8_0", "-o", path, "--json")
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["outputs"]
    assert result["bytes"] == path.stat().st_size
    reader = gguf.GGUFReader(path)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    assert fields["general.type"] == "mmproj"
    assert fields["clip.projector_type"] == "qwen3vl_merger"
    assert fields["clip.vision.is_deepstack_layers"] == [True, False, True]
    assert not [key for key in fields if key.startswith("tokenizer.")]
    shown = json.loads(qconvert("inspect", path, "--json").stdout)
    assert (shown["architecture"], shown["problems"]) == ("clip", [])
    assert shown["vision"].startswith("qwen3vl_merger")
    assert shown["parameters"] == sum(int(tensor.n_elements) for tensor in reader.tensors)


def test_by_default_the_name_says_what_it_is_and_the_type_is_the_towers(qconvert, qwen):
    done = qconvert("export", qwen, "--mmproj", "--dry-run", "--json")
    (result,) = json.loads(done.stdout)["outputs"]
    assert result["path"] == f"mmproj-{qwen.name}.gguf"
    assert result["file_type"] == "f32"
    assert sum(tensor["bytes"] for tensor in result["plan"]) < result["bytes"]


def test_the_text_model_names_the_other_file(qconvert, qwen, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(qwen, copy, ignore=shutil.ignore_patterns("tokenizer.json"))
    done = qconvert("export", copy, "--no-vocabulary", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "--mmproj" in done.stderr


WRONG = {
    "q8_0 of a model": (["--dtype", "q8_0"], "quantize"),
    "few bits": (["--mmproj", "--dtype", "q4_0"], "q8_0"),
    "parts": (["--mmproj", "--split-max-size", "1G"], "one file"),
    "shards": (["--mmproj", "--max-shard-size", "1G"], "one file"),
    "no vocabulary": (["--mmproj", "--no-vocabulary"], "--no-vocabulary"),
    "a directory": (["--mmproj", "-o", "out"], ".gguf"),
}


@pytest.mark.parametrize("case", WRONG)
def test_options_of_no_meaning_are_refused(qconvert, qwen, tmp_path, case):
    options, words = WRONG[case]
    done = qconvert("export", qwen, *options)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_file_that_reads_images_is_not_exported_again(qconvert, qwen, tmp_path):
    path = tmp_path / "mmproj.gguf"
    assert qconvert("export", qwen, "--mmproj", "-o", path, "--quiet").returncode == 0
    for options in ([], ["--mmproj", "-o", tmp_path / "other.gguf"]):
        done = qconvert("export", path, *options)
        assert done.returncode == 1
        assert done.stderr.count("\n") <= 2


def test_what_is_not_known_of_the_tower_is_left_out_where_that_is_asked_for(
    qconvert, qwen, tmp_path
):
    from safetensors.numpy import load_file, save_file

    copy = tmp_path / "model"
    shutil.copytree(qwen, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["model.visual.more.weight"] = tensors["model.visual.pos_embed.weight"]
    save_file(tensors, copy / "model.safetensors")
    words = ["export", copy, "--mmproj", "-o", tmp_path / "out.gguf"]
    done = qconvert(*words)
    assert done.returncode == 1
    assert "model.visual.more.weight cannot be placed in a clip file" in done.stderr
    assert qconvert(*words, "--ignore", "*.more.weight").returncode == 0
