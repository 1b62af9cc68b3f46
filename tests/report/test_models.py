"""Files that are up to date are left, and all others are made anew."""

import os
import shutil

import numpy as np
import pytest
from checkpoints import TINY, write_llama

from qconvert.calibration.capture import capture
from qconvert.checkpoint import open_checkpoint
from qconvert.errors import OutputError, UsageError
from qconvert.machine.watcher import Silent
from qconvert.report.models import LADDER, make_models, outputs_of
from qconvert.run.outputs import is_current
from qconvert.run.quantize import plan_outputs
from qconvert.run.types import Run
from qconvert.text.types import Sample

TYPES = ("q8_0", "w8a16")


@pytest.fixture
def source(tmp_path):
    return write_llama(tmp_path / "model", TINY, tokenizer=True)


def plan(source, folder, types=TYPES, calibration=None):
    folder.mkdir(exist_ok=True)
    checkpoint = open_checkpoint(str(source))
    return plan_outputs(checkpoint, outputs_of(types, folder, calibration), Run(1, Silent()))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_run_writes_nothing(source, tmp_path):
    folder = tmp_path / "out"
    assert make_models(plan(source, folder), 1, Silent()) == []
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    planned = plan(source, folder)
    assert make_models(planned, 1, Silent()) == [one.target.path for one in planned]
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before


def test_calibrated_files_are_left_too(source, tmp_path):
    folder, calibration = tmp_path / "out", tmp_path / "tiny.calib.safetensors"
    tokens = np.random.default_rng(7).integers(0, 64, (4, 32)).astype(np.int32)
    checkpoint = open_checkpoint(str(source))
    capture(checkpoint, Sample(tokens, "random tokens", 7), calibration, watcher=Silent())
    types = ("q4_0", "w4a16")
    first = plan(source, folder, ("q4_0",), calibration)
    assert make_models(first, 1, Silent()) == []
    both = plan(source, folder, types, calibration)
    assert make_models(both, 1, Silent()) == [first[0].target.path]
    assert len(make_models(plan(source, folder, types, calibration), 1, Silent())) == 2


def test_times_of_files_say_nothing(source, tmp_path):
    folder = tmp_path / "out"
    make_models(plan(source, folder), 1, Silent())
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
    assert all(is_current(one.target) for one in plan(source, folder))


def test_another_source_makes_everything_anew(source, tmp_path):
    folder, clean = tmp_path / "out", tmp_path / "clean"
    make_models(plan(source, folder), 1, Silent())
    before = contents(folder)
    shutil.rmtree(source)
    write_llama(source, TINY, tokenizer=True, seed=1)
    planned = plan(source, folder)
    assert not any(is_current(one.target) for one in planned)
    assert make_models(planned, 1, Silent()) == []
    make_models(plan(source, clean), 1, Silent())
    after = contents(folder)
    assert list(after.values()) == list(contents(clean).values())
    assert all(after[path] != data for path, data in before.items() if path.suffix == ".gguf")


def test_one_more_type_leaves_the_others(source, tmp_path):
    folder = tmp_path / "out"
    make_models(plan(source, folder), 1, Silent())
    kept = make_models(plan(source, folder, (*TYPES, "q4_0")), 1, Silent())
    assert len(kept) == 2
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize("harm", ["cut", "header", "small file", "gone"])
def test_what_is_damaged_is_not_up_to_date(source, tmp_path, harm):
    folder = tmp_path / "out"
    make_models(plan(source, folder), 1, Silent())
    gguf, directory = (one.target.path for one in plan(source, folder))
    if harm == "cut":
        gguf.write_bytes(gguf.read_bytes()[:-32])
        (directory / "model.safetensors").write_bytes(b"")
    elif harm == "header":
        for path in (gguf, directory / "model.safetensors"):
            path.write_bytes(path.read_bytes().replace(b"qconvert", b"qqonvert", 1))
    elif harm == "small file":
        (directory / "config.json").write_text("{}")
    else:
        gguf.unlink()
        (directory / "config.json").unlink()
    planned = plan(source, folder)
    assert not is_current(planned[1].target)
    assert is_current(planned[0].target) == (harm == "small file")


def test_nothing_that_this_program_did_not_write_is_removed(source, tmp_path):
    folder = tmp_path / "out"
    planned = plan(source, folder)
    mine = planned[1].target.path / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(OutputError, match="in the way"):
        make_models(planned, 1, Silent())
    assert mine.read_text() == "mine"


def test_without_types_there_is_a_ladder_and_none_is_made_twice(tmp_path):
    assert [one.type for one in outputs_of((), tmp_path, None)] == list(LADDER)
    assert len(outputs_of(("q8_0", "Q8_0", "q4_k", "q4_k_m"), tmp_path, None)) == 2
    with pytest.raises(UsageError):
        outputs_of(("q9_9",), tmp_path, None)
