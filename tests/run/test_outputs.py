"""Several tensors from the same rows, and several outputs side by side."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import TINY, write_llama
from interrupting import Interrupting
from safetensors import safe_open

from qconvert.checkpoint import Checkpoint, open_checkpoint, read_rows
from qconvert.containers.directory import Directory
from qconvert.containers.target import Slot
from qconvert.errors import CheckpointError, OutputError, WeightError
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.model.types import Rows, TensorMap
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.plan.types import Plan, TensorPlan
from qconvert.run.outputs import write_outputs


@dataclass(frozen=True)
class Split:
    """A tensor written as its rows less their largest value, the largest values, and the peak."""

    matrix_rows: int

    row_step = 3
    holds_nan = False
    moved = False
    kernel = "split"

    def prepare(self, rows: np.ndarray, start: int) -> np.ndarray:
        return rows * np.float32(2)

    def make(self, rows: np.ndarray, start: int, peak: float) -> tuple[np.ndarray, ...]:
        assert start % self.row_step == 0
        top = rows.max(axis=1)
        constant = np.array([peak] if start == 0 else [], np.float32)
        return rows - top[:, None], top, constant

    def read_back(self, rows: np.ndarray, start: int, peak: float) -> np.ndarray:
        return rows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Checkpoint:
    return open_checkpoint(str(write_llama(tmp_path_factory.mktemp("model"), TINY)))


def directory(checkpoint: Checkpoint, path: Path, *, late: bool) -> Plan:
    """A directory of the matrices; `late` puts all that is small to the end of the file."""
    infos = [info for info in checkpoint.tensors.values() if len(info.shape) == 2]
    maps = [TensorMap(info.name, info.shape, (Rows(info.name, 0, info.rows),)) for info in infos]
    alone = [planned(one) for one in maps]
    tensors = tuple(replace(one, peers=(alone[0], one)) for one in alone)
    slots = [slot for one in tensors for slot in one.slots]
    if late:
        slots.sort(key=lambda slot: len(slot.shape) == 1)
    target = Directory(path, slots, {"made": "so"}, {"a.json": b"{}"})
    return Plan(checkpoint, Recipe("split"), tensors, target, 0)


def planned(map_: TensorMap) -> TensorPlan:
    """A matrix that becomes three tensors."""
    names = (map_.name, map_.name + "_top", map_.name + "_peak")
    slots = tuple(
        Slot(name, shape, "F32", 4 * int(np.prod(shape)))
        for name, shape in zip(names, (map_.shape, map_.shape[:1], (1,)), strict=True)
    )
    return TensorPlan(map_.name, map_.shape, "F32", map_, slots, Split(map_.rows), "split", "split")


def gguf_file(checkpoint: Checkpoint, path: Path, kind: str) -> Plan:
    return make_plan(open_model(checkpoint), Recipe(kind, output=path))


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("late", [False, True])
def test_a_tensor_becomes_several_and_knows_the_peak_of_its_peers(checkpoint, tmp_path, late):
    write_outputs([directory(checkpoint, tmp_path / "out", late=late)], 2, Silent())
    infos = [info for info in checkpoint.tensors.values() if len(info.shape) == 2]
    first = np.abs(read_rows(infos[0], 0, infos[0].rows)).max()
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        for info in infos:
            rows = read_rows(info, 0, info.rows) * np.float32(2)
            top = file.get_tensor(info.name + "_top")
            np.testing.assert_array_equal(top, rows.max(axis=1))
            np.testing.assert_array_equal(file.get_tensor(info.name), rows - top[:, None])
            peak = file.get_tensor(info.name + "_peak")
            assert peak == max(2 * first, np.abs(rows).max())


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("stop", [1, 5, 14, 22])
def test_an_interrupted_directory_goes_on_with_what_it_had_not_kept(
    checkpoint, tmp_path, late, stop
):
    write_outputs([directory(checkpoint, tmp_path / "whole", late=late)], 1, Silent())
    output = directory(checkpoint, tmp_path / "out", late=late)
    with pytest.raises(KeyboardInterrupt):
        write_outputs([output], 2, Interrupting(stop))
    assert not output.target.path.exists()
    result = write_outputs([output], 2, Silent())[0]
    assert (result.resumed > 0) == (stop > 1)
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def several(checkpoint: Checkpoint, folder: Path) -> list[Plan]:
    folder.mkdir(exist_ok=True)
    return [
        gguf_file(checkpoint, folder / "a.gguf", "q4_k_m"),
        directory(checkpoint, folder / "b", late=True),
        gguf_file(checkpoint, folder / "c.gguf", "q8_0"),
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_outputs_side_by_side_have_the_bytes_of_each_alone(checkpoint, tmp_path, threads):
    for one in several(checkpoint, tmp_path / "alone"):
        write_outputs([one], 1, Silent())
    results = write_outputs(several(checkpoint, tmp_path / "together"), threads, Silent())
    assert written(tmp_path / "together") == written(tmp_path / "alone")
    sizes = [sum(path.stat().st_size for path in result.paths) for result in results]
    assert [result.nbytes for result in results] == sizes


def test_outputs_side_by_side_are_interrupted_and_taken_up_together(checkpoint, tmp_path):
    write_outputs(several(checkpoint, tmp_path / "whole"), 1, Silent())
    with pytest.raises(KeyboardInterrupt):
        write_outputs(several(checkpoint, tmp_path / "out"), 2, Interrupting(40))
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
    results = write_outputs(several(checkpoint, tmp_path / "out"), 2, Silent())
    assert all(result.resumed > 0 for result in results)
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_several_outputs_pass_over_the_source_together(checkpoint, tmp_path, monkeypatch):
    seen: list[str] = []

    def watched(info, start, stop):
        seen.append(info.name)
        return read_rows(info, start, stop)

    monkeypatch.setattr("qconvert.model.assemble.read_rows", watched)
    outputs = several(checkpoint, tmp_path / "out")[::2]
    write_outputs(outputs, 1, Silent())
    # Each source is done with, in all outputs, before the one after the next is begun.
    last = {name: index for index, name in enumerate(seen)}
    first = {name: seen.index(name) for name in last}
    order = sorted(first, key=first.__getitem__)
    for name, later in zip(order, order[6:], strict=False):
        assert last[name] < first[later]


def test_a_spoiled_weight_leaves_none_of_the_outputs(checkpoint, tmp_path):
    outputs = several(checkpoint, tmp_path / "out")
    poisoned = replace(outputs[1].tensors[-1].map, add=float("nan"))
    tensors = (*outputs[1].tensors[:-1], replace(outputs[1].tensors[-1], map=poisoned))
    with pytest.raises(WeightError):
        write_outputs([outputs[0], replace(outputs[1], tensors=tensors)], 2, Silent())
    assert not list((tmp_path / "out").iterdir())


def test_a_directory_that_is_there_already_is_refused_before_the_work(checkpoint, tmp_path):
    outputs = several(checkpoint, tmp_path / "out")
    outputs[1].target.path.mkdir()
    (outputs[1].target.path / "mine").touch()
    with pytest.raises(OutputError, match="not empty"):
        write_outputs(outputs, 1, Silent())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b"]


class Meddling(Silent):
    """Somebody writes to the source while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def advance(self, weights: int, tensor: str) -> None:
        with self.path.open("r+b") as file:
            file.seek(-2, 2)
            file.write(b"\x01\x3f")


def test_a_source_that_changes_meanwhile_gives_no_output(tmp_path):
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "m", TINY)))
    one = gguf_file(checkpoint, tmp_path / "a.gguf", "q8_0")
    with pytest.raises(CheckpointError, match="changed while"):
        write_outputs([one], 1, Meddling(checkpoint.files[0]))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_source_that_changed_since_it_was_planned_gives_no_output(tmp_path):
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "m", TINY)))
    one = gguf_file(checkpoint, tmp_path / "a.gguf", "q8_0")
    checkpoint.files[0].touch()
    with pytest.raises(CheckpointError, match="changed while"):
        write_outputs([one], 1, Silent())
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
