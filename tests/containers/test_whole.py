"""Small files that appear whole or not at all."""

import stat

import pytest

from qconvert.containers.whole import write_whole
from qconvert.errors import OutputError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "gates.xml"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert list(tmp_path.iterdir()) == [path]
    write_whole(tmp_path / "new" / "folder" / "gates.xml", b"three")
    assert (tmp_path / "new" / "folder" / "gates.xml").read_bytes() == b"three"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "report.html"
    write_whole(path, b"old")
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OutputError):
        write_whole(path / "report.html", b"new")
