"""Room on a disk."""

import errno
import os
from pathlib import Path

import pytest
from full_disk import small_disk

from qconvert.containers.room import FULL, PIECE, check_free, take_room
from qconvert.errors import OutputError


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture(params=["asked for", "written"])
def way(request, monkeypatch):
    """Both ways to have blocks: the system gives them, or they are written."""
    if request.param == "written":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("nbytes", [0, 1, 4097, PIECE, PIECE + 5])
def test_a_file_has_its_size_and_its_blocks(nbytes: int, tmp_path: Path):
    take_room(tmp_path / "a", nbytes)
    assert (tmp_path / "a").stat().st_size == nbytes
    assert blocks(tmp_path / "a") >= nbytes


@pytest.mark.usefixtures("way")
def test_what_is_there_stays(tmp_path: Path):
    path = tmp_path / "a"
    path.write_bytes(b"kept" * 1000)
    take_room(path, 10000)
    assert path.read_bytes() == b"kept" * 1000 + bytes(6000)
    take_room(path, 10000)
    assert path.read_bytes() == b"kept" * 1000 + bytes(6000)


def test_a_file_system_that_gives_no_blocks_is_written_to(tmp_path: Path, monkeypatch):
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    take_room(tmp_path / "a", 4097)
    assert (tmp_path / "a").stat().st_size == 4097
    assert blocks(tmp_path / "a") >= 4097


def test_more_than_is_free_is_refused(tmp_path: Path):
    check_free(tmp_path, 1, "buy a disk")
    with pytest.raises(OutputError, match=r"100 TB are needed in .* for films, and") as caught:
        check_free(tmp_path, 10**14, "buy a disk", "films")
    assert caught.value.hint == "buy a disk"


@pytest.mark.usefixtures("way")
def test_a_full_disk_says_so_before_anything_is_mapped(tmp_path: Path):
    with (
        small_disk(tmp_path / "disk", 1 << 20) as disk,
        pytest.raises(OSError, match="No space left") as caught,
    ):
        take_room(disk / "a", 2 << 20)
    assert caught.value.errno in FULL
