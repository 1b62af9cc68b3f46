"""The folder of kept references."""

import io
import json
import os
import time
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from qconvert.errors import OutputError
from qconvert.evaluation.divergence import reference_file as module
from qconvert.evaluation.divergence.reference_file import (
    cache_folder,
    open_archive,
    writable_folder,
    write_archive,
)

ABOUT = {"key": "k", "vocabulary": 7}


def arrays(count=3):
    for number in range(count):
        yield {"loss": np.arange(4.0) + number, "ids": np.arange(100 * number, dtype=np.uint16)}


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "k.zip"
    write_archive(path, ABOUT, arrays())
    found = open_archive(path, "k")
    assert found.about == ABOUT
    assert np.array_equal(found.read(2, "loss"), np.arange(4.0) + 2)
    assert found.read(1, "ids").dtype == np.uint16
    assert len(found.read(0, "ids")) == 0
    found.close()
    assert [one.name for one in tmp_path.iterdir()] == ["k.zip"]


def test_there_is_none_before_it_is_complete(tmp_path):
    path = tmp_path / "k.zip"

    def broken():
        yield from arrays(1)
        assert not path.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_archive(path, ABOUT, broken())
    assert list(tmp_path.iterdir()) == []
    assert open_archive(path, "k") is None


def test_damage_anywhere_is_found(tmp_path):
    path = tmp_path / "k.zip"
    write_archive(path, ABOUT, arrays())
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = open_archive(path, "k")
        except ValueError:
            continue
        # A byte that means nothing (a date, a reserved field) may change.
        for number, expected in enumerate(arrays()):
            assert np.array_equal(found.read(number, "ids"), expected["ids"])
        found.close()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r".+"):
            open_archive(path, "k")


def test_anothers_file_is_refused(tmp_path):
    path = tmp_path / "k.zip"
    write_archive(path, ABOUT, arrays())
    with pytest.raises(ValueError, match="something else"):
        open_archive(path, "other")


def test_the_oldest_go_where_all_would_be_too_large(tmp_path, monkeypatch):
    for number in range(4):
        path = tmp_path / f"{number}.zip"
        write_archive(path, ABOUT, arrays())
        os.utime(path, (1000 + number, 1000 + number))
    limit = 3 * path.stat().st_size
    monkeypatch.setattr(module, "LIMIT", limit)
    open_archive(tmp_path / "1.zip", "k").close()  # used just now
    write_archive(tmp_path / "new.zip", ABOUT, arrays())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"1.zip", "3.zip", "new.zip"}
    monkeypatch.setattr(module, "LIMIT", 10)
    write_archive(tmp_path / "huge.zip", ABOUT, arrays())
    assert [path.name for path in tmp_path.iterdir()] == ["huge.zip"]


def test_what_interrupted_runs_left_goes_after_a_day(tmp_path):
    old, young = tmp_path / ".new-a.zip", tmp_path / ".new-b.zip"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    yesterday = time.time() - 2 * module.STALE
    os.utime(old, (yesterday, yesterday))
    write_archive(tmp_path / "k.zip", ABOUT, arrays())
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_add", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write_archive(tmp_path / "k.zip", ABOUT, arrays())
    assert "QCONVERT_CACHE" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "references"
    monkeypatch.delenv("QCONVERT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "qconvert" / "references"
    with writable_folder() as (folder, why):
        assert folder.is_dir()
        assert not why


def test_where_nothing_can_be_kept_the_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QCONVERT_CACHE", str(tmp_path / "file"))
    with writable_folder() as (folder, why):
        assert "cannot be written" in why
        assert folder.is_dir()
    assert not folder.exists()


def damaged(path, kind: str) -> None:
    """The same archive with sound checksums, and something in it that no run has written."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith(".npy"))
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    objects = io.BytesIO()
    np.save(objects, np.array([{}], object), allow_pickle=True)
    change = {
        "nested": ("about.json", b"[" * 100_000),
        "list": ("about.json", b"[]"),
        "number": ("about.json", b"7"),
        "poor": ("about.json", json.dumps({"key": ABOUT["key"]}).encode()),
        "huge": (name, huge.getvalue()),
        "objects": (name, objects.getvalue()),
        "no array": (name, b"\x93NUMPY\x01\x00\xff\xff{"),
        "compressed": (name, entries[name]),
    }[kind]
    method = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for one, data in (entries | dict([change])).items():
            archive.writestr(one, data)


KINDS = ("nested", "list", "number", "poor", "huge", "objects", "no array", "compressed")


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_is_said_and_nothing_else(tmp_path, kind: str) -> None:
    path = tmp_path / "k.zip"
    write_archive(path, ABOUT, arrays())
    open_archive(path, ABOUT["key"]).close()
    damaged(path, kind)
    with pytest.raises(ValueError):  # noqa: PT011
        open_archive(path, ABOUT["key"])


def test_no_byte_that_changes_is_another_error(tmp_path) -> None:
    path = tmp_path / "k.zip"
    write_archive(path, ABOUT, arrays())
    whole = path.read_bytes()
    draw = np.random.default_rng(5)
    for _ in range(400):
        at, value = int(draw.integers(len(whole))), int(draw.integers(256))
        path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        with suppress(ValueError):
            open_archive(path, ABOUT["key"]).close()
