"""A container that the program does not know: one class, and nothing else has to hear of it."""

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from checkpoints import TINY, write_llama

import qconvert
from qconvert.checkpoint import open_checkpoint, read_bytes
from qconvert.containers.target import Slot
from qconvert.machine.watcher import Silent
from qconvert.model.open import open_model
from qconvert.plan.make import make_plan
from qconvert.plan.recipe import Recipe
from qconvert.run.outputs import write_outputs

KNOWN = ("Directory", "GgufFiles", "Shard")


@dataclass(frozen=True)
class Line:
    """A file: a line of JSON that says what is in it, and the tensors behind it."""

    path: Path
    slots: Sequence[Slot]

    def header(self) -> bytes:
        sizes = {slot.name: [slot.dtype, slot.nbytes] for slot in self.slots}
        return json.dumps(sizes).encode() + b"\n"

    @property
    def nbytes(self) -> int:
        return len(self.header()) + sum(slot.padded for slot in self.slots)


@dataclass(frozen=True)
class Toy:
    """A `Target` of one file and a text that says how many tensors it has."""

    path: Path
    slots: Sequence[Slot]

    @property
    def weight_files(self) -> Sequence[Line]:
        return (Line(self.path, self.slots),)

    @property
    def small_files(self) -> Mapping[Path, bytes]:
        return {self.path.with_suffix(".count"): str(len(self.slots)).encode()}

    @contextmanager
    def making(self) -> Iterator[Sequence[Line]]:
        yield self.weight_files
        for path, data in self.small_files.items():
            path.write_bytes(data)

    @property
    def occupied(self) -> bool:
        return self.path.exists()

    def elsewhere(self, path: Path, made_by: Mapping[str, str]) -> "Toy":
        return replace(self, path=path)

    def clear(self) -> None:
        """Files are replaced."""


def test_a_new_container_is_written_like_any_other(tmp_path: Path):
    checkpoint = open_checkpoint(str(write_llama(tmp_path / "m", TINY)))
    plan = make_plan(open_model(checkpoint), Recipe("q8_0", output=tmp_path / "m.gguf"))
    slots = [slot for tensor in plan.tensors for slot in tensor.slots]
    toy = replace(plan, target=Toy(tmp_path / "m.toy", slots))
    gguf, result = write_outputs([plan, toy], 2, Silent())
    assert gguf.paths == (tmp_path / "m.gguf",)
    assert result.paths == (tmp_path / "m.toy", tmp_path / "m.count")
    assert result.nbytes == sum(path.stat().st_size for path in result.paths)
    with (tmp_path / "m.toy").open("rb") as file:
        listed = json.loads(file.readline())
        for name, info in open_checkpoint(str(tmp_path / "m.gguf")).tensors.items():
            assert listed[name] == [info.dtype, info.nbytes]
            slot = next(slot for slot in slots if slot.name == name)
            found = np.frombuffer(file.read(slot.padded), np.uint8)[: slot.nbytes]
            np.testing.assert_array_equal(found, read_bytes(info, 0, info.rows).reshape(-1))
    assert (tmp_path / "m.count").read_text() == str(len(slots))


def test_nothing_asks_which_container_it_has():
    asked = [
        f"{path.name}:{node.lineno}"
        for path in Path(qconvert.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and any(name in ast.dump(node.args[1]) for name in (f"'{known}'" for known in KNOWN))
    ]
    assert not asked
