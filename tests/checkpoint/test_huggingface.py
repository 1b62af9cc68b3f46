import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from qconvert.checkpoint import open_checkpoint, read_rows
from qconvert.errors import CheckpointError, UnsupportedError

Make = Callable[..., Path]
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def shards(**changes: Any) -> dict[str, Any]:
    files = {
        INDEX: {"metadata": {"total_size": 64}, "weight_map": {"a": FIRST, "b": SECOND}},
        FIRST: save({"a": torch.full((2, 4), 1.0)}),
        SECOND: save({"b": torch.full((2, 4), 2.0)}),
    }
    return {**files, **changes}


def refused(path: Path | str, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(str(path))
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message
    return f"{caught.value.message} | {caught.value.hint}"


def test_shards_are_one_checkpoint_in_the_order_of_its_files(make_directory: Make) -> None:
    opened = open_checkpoint(str(make_directory(shards(), "tiny")))
    assert (opened.container, opened.source, opened.path.name) == ("huggingface", "tiny", "tiny")
    assert opened.config["architectures"] == ["LlamaForCausalLM"]
    assert list(opened.tensors) == ["a", "b"]
    assert [file.name for file in opened.files] == [FIRST, SECOND]
    assert (opened.parameters, opened.nbytes) == (16, 64)
    assert read_rows(opened.tensors["b"], 0, 2).tolist() == [[2.0] * 4] * 2


def test_one_file_with_a_config_beside_it_opens_under_any_name(make_directory: Make) -> None:
    path = make_directory({"mine.safetensors": save({"a": torch.ones(2)})})
    opened = open_checkpoint(str(path / "mine.safetensors"))
    assert (opened.source, opened.path, list(opened.tensors)) == ("mine.safetensors", path, ["a"])
    assert "mine.safetensors" in refused(path)


def test_the_source_is_the_name_of_a_link_or_of_the_directory(
    make_directory: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_directory(shards(), "tiny")
    (tmp_path / "link").symlink_to(path)
    assert open_checkpoint(str(tmp_path / "link")).source == "link"
    monkeypatch.chdir(path)
    assert open_checkpoint(".").source == "tiny"


def test_tied_and_untied_outputs_are_listed_as_they_are_stored(make_directory: Make) -> None:
    embedding = torch.randn(4, 8)
    for names in [("model.embed_tokens.weight",), ("model.embed_tokens.weight", "lm_head.weight")]:
        data = save({name: embedding.clone() for name in names})
        assert set(open_checkpoint(str(make_directory({"model.safetensors": data}))).tensors) == {
            *names
        }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({INDEX: "[]"}, "expected a JSON object"),
        ({INDEX: "{}"}, "no weight_map"),
        ({INDEX: {"weight_map": {}}}, "no weight_map"),
        ({INDEX: {"weight_map": {"a": 3}}}, "not a file name"),
        ({INDEX: {"weight_map": {"a": ""}}}, "not a file name"),
        ({INDEX: {"weight_map": {"a": ".."}}}, "not a file name"),
        ({INDEX: {"weight_map": {"a": "x" * 300}}}, "not a file name"),
        ({INDEX: {"weight_map": {"a": "../other.safetensors"}}}, "points outside"),
        ({INDEX: {"weight_map": {"a": "/etc/passwd"}}}, "points outside"),
        ({INDEX: {"weight_map": {"a": "deep/other.safetensors"}}}, "points outside"),
        ({INDEX: {"weight_map": {"a": "..\\other.safetensors"}}}, "points outside"),
        ({INDEX: {"weight_map": {"a": "a\0b"}}}, "points outside"),
        ({INDEX: {"weight_map": {"a": FIRST, "b": FIRST}}}, "'b' is missing"),
        ({INDEX: {"weight_map": {"a": FIRST, "b": SECOND, "c": SECOND}}}, "'c' is missing"),
        ({INDEX: {"weight_map": {"a": FIRST, "c": SECOND}}}, "'b' is not what"),
        ({FIRST: save({"a": torch.ones(1), "z": torch.ones(1)})}, "'z' is not what"),
        ({FIRST: save({"a": torch.ones(1), "b": torch.ones(1)})}, "'b' is not what"),
        ({INDEX: {"weight_map": {"a": FIRST, "b": "absent.safetensors"}}}, "absent.safetensors"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(
    make_directory: Make, changes: dict[str, Any], words: str
) -> None:
    assert words in refused(make_directory(shards(**changes)))


def test_missing_shards_are_counted_and_named(make_directory: Make) -> None:
    path = make_directory(shards())
    (path / SECOND).unlink()
    assert f"1 of 2 shards missing: {SECOND}" in refused(path)
    (path / INDEX).unlink()
    assert "index" in refused(path)


@pytest.mark.parametrize("name", [SECOND, "config.json", INDEX])
def test_weights_and_configuration_may_lie_elsewhere(
    name: str, make_directory: Make, tmp_path: Path
) -> None:
    path = make_directory(shards())
    (path / name).rename(tmp_path / "elsewhere.safetensors")
    (path / name).symlink_to(tmp_path / "elsewhere.safetensors")
    assert len(open_checkpoint(str(path)).tensors) == 2
    (path / name).unlink()
    (path / name).symlink_to("/dev/zero")
    assert "not a regular file" in refused(path)


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "README.md"])
def test_a_link_to_what_would_be_handed_on_is_refused(
    name: str, make_directory: Make, tmp_path: Path
) -> None:
    path = make_directory(shards())
    (tmp_path / "secret").write_text("{}")
    (path / name).symlink_to(tmp_path / "secret")
    assert "link to a file outside" in refused(path)


def test_a_snapshot_may_link_to_the_blobs_of_its_own_repository(
    make_directory: Make, tmp_path: Path
) -> None:
    plain = make_directory(shards())
    for target, ok in [("models--a--b", True), ("models--c--d", False)]:
        snapshot = tmp_path / "models--a--b" / "snapshots" / f"commit-{ok}"
        blobs = tmp_path / target / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir(parents=True)
        for file in plain.iterdir():
            (blobs / file.name).write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(f"../../../{target}/blobs/{file.name}")
        (blobs / "card").write_text("a card")
        (snapshot / "README.md").symlink_to(f"../../../{target}/blobs/card")
        if ok:
            assert len(open_checkpoint(str(snapshot)).tensors) == 2
            assert open_checkpoint(str(snapshot)).source == "a/b@commit-True"
        else:
            assert "link to a file outside" in refused(snapshot)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", "not valid JSON"),
        ("[1]", "expected a JSON object"),
        ("{}", "does not name its architectures"),
        ('{"architectures": []}', "does not name its architectures"),
        ('{"architectures": "LlamaForCausalLM"}', "does not name its architectures"),
        ('{"architectures": [3]}', "does not name its architectures"),
        ('{"architectures": ["X"], "architectures": ["Y"]}', "appears twice"),
        ('{"architectures": ["X"], "quantization_config": 4}', "not an object"),
        (
            '{"architectures": ["X"], "quantization_config": {"quant_method": "fp8", '
            '"weight_block_size": [0, 128]}}',
            "weight_block_size",
        ),
    ],
)
def test_a_config_that_says_nothing_is_refused(
    make_directory: Make, config: str, words: str
) -> None:
    assert words in refused(make_directory(shards(**{"config.json": config})))


@pytest.mark.parametrize("method", ["hqq", "aqlm", "quanto", "compressed-tensors", None])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_are_integer_codes_are_refused(
    make_directory: Make, method: str | None, nested: bool
) -> None:
    config: dict[str, Any] = {"quantization_config": {"quant_method": method, "format": "x"}}
    config = {"architectures": ["X"], **({"text_config": config} if nested else config)}
    text = refused(make_directory(shards(**{"config.json": config})), UnsupportedError)
    assert repr(method) in text
    assert "original checkpoint" in text


def test_packed_weights_without_a_config_are_refused(make_directory: Make) -> None:
    data = save({"q.qweight": torch.ones(2, dtype=torch.int32)})
    refused(make_directory({"model.safetensors": data}), UnsupportedError)


def test_fp8_without_its_scales_is_refused(make_directory: Make) -> None:
    weight = torch.ones(4, 4).to(torch.float8_e4m3fn)
    config = {"architectures": ["X"], "quantization_config": {"quant_method": "fp8"}}
    data = {"config.json": config, "model.safetensors": save({"q.weight": weight})}
    assert "'q.weight' has no scale" in refused(make_directory(data))
    both = {"q.weight": weight, "q.weight_scale_inv": torch.ones(3, 3)}
    assert "does not fit" in refused(make_directory({**data, "model.safetensors": save(both)}))


def test_paths_that_are_no_checkpoint_are_told_apart(make_directory: Make, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty directory" in refused(empty)
    (empty / "notes.txt").write_text("x")
    assert "no config.json" in refused(empty)
    assert "no kind of checkpoint" in refused(empty / "notes.txt")
    assert "no such file or directory" in refused(tmp_path / "absent")
    assert "no such file or directory" in refused("")
    assert "no such file or directory" in refused("a\0b")
    path = make_directory(shards())
    assert "name the directory" in refused(path / FIRST)
    assert "name its directory" in refused(path / INDEX)
    assert "name its directory" in refused(path / "config.json")
    (path / SECOND).unlink()
    (path / SECOND).mkdir()
    assert "not a regular file" in refused(path)


def test_a_pipe_in_place_of_a_file_does_not_block(make_directory: Make) -> None:
    import os

    path = make_directory({})
    os.mkfifo(path / "model.safetensors")
    assert "not a regular file" in refused(path)
    (path / "config.json").unlink()
    os.mkfifo(path / "config.json")
    assert "not a regular file" in refused(path)


def test_700_tensors_are_indexed_fast_and_without_torch(make_directory: Make) -> None:
    names = [f"model.layers.{i}.part.{j}.weight" for i in range(100) for j in range(7)]
    weight_map = {
        name: f"model-{i % 4 + 1:05}-of-00004.safetensors" for i, name in enumerate(names)
    }
    files: dict[str, Any] = {INDEX: {"weight_map": weight_map}}
    for shard in set(weight_map.values()):
        mine = [name for name in names if weight_map[name] == shard]
        files[shard] = save({name: torch.zeros(64, 64) for name in mine})
    path = make_directory(files)
    program = """
import sys, time
from qconvert.checkpoint import fingerprint, open_checkpoint
start = time.perf_counter()
opened = open_checkpoint(sys.argv[1])
middle = time.perf_counter()
fingerprint(opened)
end = time.perf_counter()
heavy = sorted({"torch", "transformers", "numba", "huggingface_hub"} & sys.modules.keys())
print(len(opened.tensors), middle - start, end - middle, heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    count, opening, digest, heavy = done.stdout.split(maxsplit=3)
    assert (count, heavy.strip()) == ("700", "[]")
    # Ten times what it takes: a busy machine passes, a reader of weights does not.
    assert float(opening) < 0.2
    assert float(digest) < 0.3


def test_a_config_may_be_that_of_a_wrapper(make_directory: Make) -> None:
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"a": 1}}
    opened = open_checkpoint(str(make_directory(shards(**{"config.json": config}))))
    assert json.loads(json.dumps(opened.config)) == config
