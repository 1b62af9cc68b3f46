"""The directory as it lies on the disk."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from common import random_tokens, save_model
from compressed_models import (
    headers,
    load_model,
    outputs,
    plan_model,
    quantize_model,
    stored_arrays,
    write_plan,
)
from safetensors import safe_open

from qconvert.errors import CheckpointError, OutputError, WeightError

TYPES = ("w8a8", "w4a16", "fp8", "nvfp4a16")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense")
    save_model("qwen3", path, wide=True, num_hidden_layers=2)
    return path


@pytest.mark.parametrize("type_", TYPES)
def test_every_tensor_is_there_as_planned(dense: Path, type_: str, tmp_path: Path) -> None:
    plan = quantize_model(dense, tmp_path / "out", type_)
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert set(file.keys()) == {slot.name for slot in plan.target.slots}
        for slot in plan.target.slots:
            tensor = file.get_tensor(slot.name)
            assert tuple(tensor.shape) == slot.shape
            assert tensor.nbytes == slot.nbytes
            assert tensor.data_ptr() % tensor.element_size() == 0
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert size == plan.nbytes + 8 + _header_size(tmp_path / "out/model.safetensors")


def _header_size(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:8], "little")


def test_parts_of_a_weight_lie_side_by_side(dense: Path) -> None:
    names = [slot.name for slot in plan_model(dense, "w8a8").target.slots]
    for name in names:
        if name.endswith("_scale"):
            assert names[names.index(name) - 1] == name.removesuffix("_scale")


@pytest.mark.parametrize("type_", TYPES)
def test_bytes_do_not_depend_on_threads(dense: Path, type_: str, tmp_path: Path) -> None:
    for threads in (1, 3):
        write_plan(plan_model(dense, type_), tmp_path / str(threads), threads=threads)
    for file in (tmp_path / "1").iterdir():
        assert file.read_bytes() == (tmp_path / "3" / file.name).read_bytes(), file.name


def test_shards_hold_the_same_tensors(dense: Path, tmp_path: Path) -> None:
    plan = plan_model(dense, "w4a16")
    write_plan(plan, tmp_path / "one")
    write_plan(plan, tmp_path / "many", shard=200_000)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = stored_arrays(tmp_path / "one"), stored_arrays(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(np.array_equal(one[name], many[name]) for name in one)
    computed = [outputs(load_model(tmp_path / name), random_tokens()) for name in ("one", "many")]
    assert np.array_equal(*computed)


def test_kept_tensors_are_moved_byte_for_byte(dense: Path, tmp_path: Path) -> None:
    quantize_model(dense, tmp_path / "out", "w8a8")
    before, after = stored_arrays(dense), stored_arrays(tmp_path / "out")
    kept = [name for name in before if "_proj" not in name]
    assert len(kept) == 11
    assert all(np.array_equal(before[name], after[name]) for name in kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_have_the_dtype_of_the_model(dtype: torch.dtype, tmp_path: Path) -> None:
    model = save_model("qwen3", tmp_path / "model")
    model.to(dtype).save_pretrained(tmp_path / "model")
    quantize_model(tmp_path / "model", tmp_path / "out", "w8a8")
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118
            kind = file.get_tensor(name).dtype
            assert kind == (torch.int8 if name.endswith("_proj.weight") else dtype), name


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from compressed_models import plan_model, write_plan
import qconvert.run.stream as pipeline
from qconvert.containers.partial import PartialFile
marks, mark = [], PartialFile.mark
def counted(self):
    mark(self)
    marks.append(1)
    if len(marks) == 25:
        os.kill(os.getpid(), signal.SIGKILL)
PartialFile.mark = counted
write_plan(plan_model(Path(sys.argv[1]), "w8a8"), Path(sys.argv[2]))
"""


def test_a_killed_run_is_taken_up_again(dense: Path, tmp_path: Path) -> None:
    tests = str(Path(__file__).parents[2])
    out = tmp_path / "out"
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, dense, out, tests], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    assert (tmp_path / ".out.partial").is_dir()
    quantize_model(dense, out, "w8a8")
    quantize_model(dense, tmp_path / "whole", "w8a8")
    assert not (tmp_path / ".out.partial").exists()
    for file in out.iterdir():
        assert file.read_bytes() == (tmp_path / "whole" / file.name).read_bytes(), file.name


def test_an_output_is_not_written_over(dense: Path, tmp_path: Path) -> None:
    quantize_model(dense, tmp_path / "out", "w8a8")
    with pytest.raises(OutputError, match="not empty"):
        quantize_model(dense, tmp_path / "out", "w8a8")


def test_weights_that_are_nan(tmp_path: Path) -> None:
    model = save_model("qwen3", tmp_path / "model")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(WeightError, match=r"up_proj.weight holds weights that are NaN"):
        quantize_model(tmp_path / "model", tmp_path / "out", "w8a8")
    quantize_model(tmp_path / "model", tmp_path / "out", "w8a8", allow_nan=True)
    assert np.isfinite(outputs(load_model(tmp_path / "out"), random_tokens())).all()


def test_small_files_come_along(dense: Path, tmp_path: Path) -> None:
    source = tmp_path / "model"
    save_model("qwen3", source)
    kept = {
        "tokenizer_config.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "LICENSE": "all yours",
        "modules.json": json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "../secret"}]),
        "1_Pooling/config.json": "{}",
    }
    left = {
        "modeling_evil.py": "print()",
        "pytorch_model.bin.txt": "",
        "1_Pooling/run.py": "",
        "README.md": "---\nlicense: mit\n---\n",
    }
    (source / "1_Pooling").mkdir()
    for name, value in {**kept, **left}.items():
        (source / name).write_text(value)
    quantize_model(source, tmp_path / "out", "w8a8")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert found | {"LICENSE"} == {
        *kept,
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "README.md",
    }
    assert (tmp_path / "out/LICENSE").read_text() == "all yours"
    card = (tmp_path / "out/README.md").read_text()
    assert 'license: "mit"' in card
    assert "w8a8 dynamic inputs" in card
    assert "transformers loads it" in card


def test_links_out_of_the_checkpoint_are_not_followed(tmp_path: Path) -> None:
    save_model("qwen3", tmp_path / "model")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model/tokenizer_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="outside its directory"):
        plan_model(tmp_path / "model", "w8a8")


def test_the_header_says_what_made_it(dense: Path, tmp_path: Path) -> None:
    quantize_model(dense, tmp_path / "out", "w8a8")
    metadata = headers(tmp_path / "out")
    assert metadata["format"] == "pt"
    assert json.loads(metadata["qconvert.recipe"])["scheme"]["name"] == "w8a8"
    assert metadata["qconvert.source.fingerprint"]
    assert os.fspath(tmp_path) not in json.dumps(metadata)
