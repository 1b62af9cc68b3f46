"""Tensors already made: whole or not there, of one identity, for one process."""

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest

from qconvert.checkpoint import read_rows
from qconvert.containers.store import open_store
from qconvert.errors import OutputError

ARRAYS = {
    "a.weight_packed": np.arange(15, dtype=np.uint8).reshape(3, 5),
    "a.weight_scale": np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2),
    "a.global": np.float64(3.5).reshape(()),
    "a.none": np.empty((0, 4), np.int32),
}


def test_what_is_put_is_there_after_a_restart(tmp_path):
    with open_store(tmp_path / "out", "one") as store:
        store.put("a", ARRAYS)
        store.put("b/../..\n%", {"b": np.ones((2, 2), np.float16)})
    with open_store(tmp_path / "out", "one") as store:
        assert sorted(store.names) == ["a", "b/../..\n%"]
        assert "a" in store
        for name, array in store.get("a").items():
            assert array.dtype == ARRAYS[name].dtype
            np.testing.assert_array_equal(array, ARRAYS[name])
        assert not store.get("a")["a.weight_scale"].flags.writeable
        scales = store.tensors["a.weight_scale"]
        np.testing.assert_array_equal(read_rows(scales, 1, 3), ARRAYS["a.weight_scale"][1:])
        store.delete()
    assert not list(tmp_path.iterdir())


def test_what_is_put_again_takes_the_old_ones_place(tmp_path):
    with open_store(tmp_path / "out", "one") as store:
        store.put("a", ARRAYS)
        store.put("a", {"a": np.zeros(3, np.float32)})
        assert list(store.get("a")) == ["a"]
    with open_store(tmp_path / "out", "one") as store:
        assert list(store.tensors) == ["a"]


def test_what_was_made_of_something_else_is_removed(tmp_path):
    with open_store(tmp_path / "out", "one") as store:
        store.put("a", ARRAYS)
        (store.folder / "states-0").write_bytes(b"others")
    with open_store(tmp_path / "out", "two") as store:
        assert store.names == ()
        assert sorted(path.name for path in store.folder.iterdir()) == ["identity", "lock"]
        store.put("a", ARRAYS)
        store.clear()
        assert "a" not in store
        with pytest.raises(KeyError):
            store.get("a")
    assert not list(tmp_path.iterdir())


def test_another_process_is_kept_out(tmp_path):
    with (
        open_store(tmp_path / "out", "one"),
        pytest.raises(OutputError, match="another run"),
        open_store(tmp_path / "out", "one"),
    ):
        pass


@pytest.mark.parametrize("length", [0, 7, 60, -1])
def test_a_torn_file_is_as_none(length, tmp_path):
    with open_store(tmp_path / "out", "one") as store:
        store.put("a", ARRAYS)
        store.put("b", {"b": np.ones(4, np.float32)})
        path = store.tensors["a.none"].path
    path.write_bytes(path.read_bytes()[:length])
    with open_store(tmp_path / "out", "one") as store:
        assert store.names == ("b",)
        assert not path.exists()


def put_many(path: Path) -> None:
    with open_store(path, "one") as store:
        for number in range(200):
            if str(number) not in store:
                store.put(str(number), {f"{number}.w": np.full((64, 64), number, np.float32)})


def test_kill_9_leaves_whole_tensors_and_all_that_were_put(tmp_path: Path):
    children = multiprocessing.get_context("fork")
    draw = random.Random(3)
    found = 0
    for _ in range(4):
        child = children.Process(target=put_many, args=(tmp_path / "out",))
        child.start()
        time.sleep(draw.uniform(0.05, 0.4))
        child.kill()
        child.join()
        with open_store(tmp_path / "out", "one") as store:
            assert len(store.names) >= found
            found = len(store.names)
            for name in store.names:
                assert (store.get(name)[f"{name}.w"] == int(name)).all()
    put_many(tmp_path / "out")
    with open_store(tmp_path / "out", "one") as store:
        assert len(store.names) == 200
