"""Output files appear complete or not at all, and are taken up where they stopped."""

import os

import pytest

from qconvert.containers.partial import PartialFile, journal_path, partial_path
from qconvert.errors import OutputError


def write(path, pieces, identity="one", commit=True):
    with PartialFile(path, identity) as out:
        start = out.marked
        for piece in pieces:
            out.append(piece)
            out.mark()
        if commit:
            out.commit()
    return start


def test_nothing_is_at_the_path_before_the_commit(tmp_path):
    path = tmp_path / "x"
    write(path, [b"abc"], commit=False)
    assert not path.exists()
    write(path, [b"def"])
    assert path.read_bytes() == b"abcdef"
    assert list(tmp_path.iterdir()) == [path]


def test_the_previous_file_stays_until_the_commit(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    write(path, [b"new"], commit=False)
    assert path.read_bytes() == b"old"


def test_another_identity_begins_anew(tmp_path):
    path = tmp_path / "x"
    write(path, [b"abc"], commit=False)
    assert write(path, [b"xyz"], identity="two") == 0
    assert path.read_bytes() == b"xyz"


def test_what_is_not_marked_is_dropped(tmp_path):
    path = tmp_path / "x"
    with PartialFile(path, "one") as out:
        out.append(b"abc")
        out.mark()
        out.append(b"lost")
    assert write(path, [b"def"]) == 3
    assert path.read_bytes() == b"abcdef"


@pytest.mark.parametrize("byte", range(9))
def test_a_damaged_piece_and_all_behind_it_are_written_again(tmp_path, byte):
    path = tmp_path / "x"
    write(path, [b"abc", b"def", b"ghi"], commit=False)
    with partial_path(path).open("r+b") as file:
        file.seek(byte)
        file.write(b"!")
    with PartialFile(path, "one") as out:
        assert out.marked == byte // 3 * 3


@pytest.mark.parametrize("length", range(70))
def test_any_torn_journal_is_understood(tmp_path, length):
    path = tmp_path / "x"
    write(path, [b"abc", b"def", b"ghi"], commit=False)
    os.truncate(journal_path(path), min(length, journal_path(path).stat().st_size))
    with PartialFile(path, "one") as out:
        rest = b"abcdefghi"[out.marked :]
        out.append(rest)
        out.mark()
        out.commit()
    assert path.read_bytes() == b"abcdefghi"


def test_two_writers_do_not_mix(tmp_path):
    with PartialFile(tmp_path / "x", "one"), pytest.raises(OutputError, match="another run"):
        PartialFile(tmp_path / "x", "one").__enter__()


def test_no_directory_is_a_clear_error(tmp_path):
    (tmp_path / "no").touch()
    with pytest.raises(OutputError, match="no directory"):
        PartialFile(tmp_path / "no" / "x", "one").__enter__()


def test_a_full_disk_is_a_clear_error_and_keeps_what_is_marked(tmp_path, monkeypatch):
    path = tmp_path / "x"
    with PartialFile(path, "one") as out:
        out.append(b"abc")
        out.mark()
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OutputError, match="full"):
            out.append(b"def")
        monkeypatch.undo()
    assert write(path, [b"def"]) == 3


def test_discard_leaves_nothing(tmp_path):
    with PartialFile(tmp_path / "x", "one") as out:
        out.append(b"abc")
        out.discard()
    assert list(tmp_path.iterdir()) == []
