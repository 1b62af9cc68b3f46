"""Calibration files: what is written comes back, and what is wrong is refused."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from qconvert.calibration.file import check_calibration, read_calibration, write_calibration
from qconvert.calibration.statistics import Collector
from qconvert.calibration.types import Calibration, InputStatistics
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import CheckpointError, PlanError, QconvertError
from qconvert.text.types import Sample

DENSE = ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight")
EXPERTS = ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight")


def make(path: Path) -> Calibration:
    """Three windows of four tokens; two of three experts saw some."""
    import torch

    draw = torch.Generator().manual_seed(0)
    with Collector(1) as collector:
        collector.observe(DENSE, torch.randn(12, 20, generator=draw), 0)
        collector.observe(EXPERTS, torch.randn(12, 24, generator=draw), 0)
        collector.observe(EXPERTS, torch.randn(5, 24, generator=draw), 2)
        inputs = collector.take({EXPERTS[0]: 3})
    sample = Sample(np.arange(12, dtype=np.int32).reshape(3, 4), "text.txt \u00e4", 7)
    by_name = {one.weights[0]: one for one in inputs}
    return Calibration(path, sample, by_name, "model", "f" * 64, "t" * 64, "1.0", "float32")


def write(path: Path) -> Calibration:
    calibration = make(path)
    write_calibration(calibration, path)
    return calibration


def test_what_is_written_comes_back(tmp_path: Path):
    written = write(tmp_path / "c.safetensors")
    found = read_calibration(tmp_path / "c.safetensors")
    assert np.array_equal(found.sample.tokens, written.sample.tokens)
    for name in ("path", "model", "fingerprint", "tokenizer", "version", "dtype"):
        assert getattr(found, name) == getattr(written, name)
    assert (found.sample.source, found.sample.seed) == ("text.txt \u00e4", 7)
    assert list(found.inputs) == list(written.inputs)
    for key, one in written.inputs.items():
        for field in fields(InputStatistics):
            mine, theirs = getattr(found.inputs[key], field.name), getattr(one, field.name)
            assert np.array_equal(mine, theirs), field.name
    assert found.by_weight[DENSE[2]] is found.inputs[DENSE[0]]


def test_the_file_is_safetensors_to_safetensors_itself(tmp_path: Path):
    written = write(tmp_path / "c.safetensors")
    arrays = load_file(tmp_path / "c.safetensors")
    assert np.array_equal(arrays["tokens"], written.sample.tokens)
    one = written.inputs[DENSE[0]]
    assert np.array_equal(arrays[f"{DENSE[0]}.absmax"], one.absmax)
    assert np.array_equal(arrays[f"{DENSE[0]}.energies"], one.energies)
    with safe_open(tmp_path / "c.safetensors", "np") as file:
        assert json.loads(file.metadata()["calibration"])["model"] == "model"


def test_the_same_calibration_gives_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def altered(path: Path, change: Callable[[dict, dict], None]) -> None:
    """Write the file anew with other arrays or another description."""
    write(path)
    arrays = load_file(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    described = json.loads(metadata["calibration"])
    change(arrays, described)
    metadata["calibration"] = json.dumps(described)
    save_file(arrays, path, metadata)


def put(name: str, value: Any) -> Callable[[dict, dict], None]:
    def change(arrays: dict, described: dict) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[0] = value

    return change


def drop(name: str) -> Callable[[dict, dict], None]:
    return lambda arrays, described: arrays.pop(name)


def cast(name: str, kind: str) -> Callable[[dict, dict], None]:
    return lambda arrays, described: arrays.update({name: arrays[name].astype(kind)})


def cut(name: str) -> Callable[[dict, dict], None]:
    return lambda arrays, described: arrays.update({name: arrays[name][..., :-1].copy()})


def say(key: str, value: Any) -> Callable[[dict, dict], None]:
    return lambda arrays, described: described.update({key: value})


Q = DENSE[0]
WRONG = {
    "a missing array": (drop(f"{Q}.mean"), "mean is missing"),
    "no tokens": (drop("tokens"), "tokens is missing"),
    "another dtype": (cast(f"{Q}.sum_squares", "float64"), "is F64, not F32"),
    "another shape": (cut(f"{Q}.maximum"), "has shape"),
    "other bins": (cut(f"{Q}.histogram"), "has shape"),
    "a count of two dimensions": (
        lambda arrays, described: arrays.update({f"{Q}.count": arrays[f"{Q}.count"][None]}),
        "has shape",
    ),
    "NaN": (put(f"{Q}.sum_squares", np.nan), "NaN or infinity"),
    "infinity": (put(f"{Q}.energies", np.inf), "NaN or infinity"),
    "a negative square": (put(f"{Q}.sum_squares", -1), "below zero"),
    "a negative count": (put(f"{EXPERTS[0]}.count", -1), "below zero"),
    "a range upside down": (put(f"{Q}.minimum", 1e9), "above its maximum"),
    "another absmax": (put(f"{Q}.absmax", 1e9), "absmax"),
    "counts that disagree": (put(f"{EXPERTS[0]}.count", 11), "disagree"),
    "a histogram that disagrees": (put(f"{Q}.histogram", 10**6), "disagree"),
    "too many negatives": (put(f"{Q}.negatives", 10**6), "more negative"),
    "peaks that disagree": (put(f"{Q}.peaks", 10**6), "disagree"),
    "squares of nothing": (
        lambda arrays, described: arrays[f"{EXPERTS[0]}.sum_squares"].__setitem__((1, 0), 1),
        "not counted",
    ),
    "a token below zero": (put("tokens", -1), "token ids"),
    "fewer tokens": (
        lambda arrays, described: arrays.update(tokens=arrays["tokens"][:2].copy()),
        "the sample has 8",
    ),
    "no inputs": (say("inputs", []), "no input"),
    "an input twice": (say("inputs", [[Q], [Q]]), "twice"),
    "inputs that are no names": (say("inputs", [[1]]), "no inputs"),
    "a newer format": (say("format_version", 2), "format 2"),
    "another histogram": (say("histogram", {}), "other bins"),
    "no model": (say("model", None), "no model"),
    "no seed": (say("seed", "x"), "no seed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, what: str):
    change, message = WRONG[what]
    path = tmp_path / "c.safetensors"
    altered(path, change)
    with pytest.raises(CheckpointError, match=message) as error:
        read_calibration(path)
    assert str(path) in error.value.message
    assert "\n" not in error.value.message
    assert error.value.hint


def test_a_file_that_was_changed_in_nothing_is_read(tmp_path: Path):
    altered(tmp_path / "c.safetensors", lambda arrays, described: None)
    read_calibration(tmp_path / "c.safetensors")


def test_other_files_are_told_apart(tmp_path: Path):
    path = tmp_path / "x"
    save_file({"weight": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(CheckpointError, match="another safetensors file"):
        read_calibration(path)
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CheckpointError, match="GGUF"):
        read_calibration(path)
    for content in (b"", b"hello", b"\x00" * 64, b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_calibration(path)
    with pytest.raises(CheckpointError):
        read_calibration(tmp_path)
    with pytest.raises(CheckpointError):
        read_calibration(tmp_path / "missing")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path):
    path = tmp_path / "c.safetensors"
    write(path)
    data = path.read_bytes()
    for size in {*range(0, len(data), 997), len(data) - 1}:
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError):
            read_calibration(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_gives_an_error_of_ours_or_a_calibration(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    path = tmp_path_factory.mktemp("damage") / "c.safetensors"
    write(path)
    raw = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    with contextlib.suppress(QconvertError):
        read_calibration(path)


def test_another_model_is_refused_with_both_names(tmp_path: Path):
    from common import save_model

    save_model("qwen2", tmp_path / "this")
    checkpoint = open_checkpoint(str(tmp_path / "this"))
    calibration = make(tmp_path / "c.safetensors")
    with pytest.raises(PlanError, match="made from model, and this is another"):
        check_calibration(calibration, checkpoint)
    from qconvert.checkpoint import fingerprint

    check_calibration(replace(calibration, fingerprint=fingerprint(checkpoint)), checkpoint)
