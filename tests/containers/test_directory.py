"""Directories that appear complete or not at all."""

import pytest

from qconvert.containers.directory import PartialDirectory
from qconvert.errors import OutputError


def test_nothing_is_there_before_the_commit(tmp_path):
    with PartialDirectory(tmp_path / "out") as directory:
        directory.write("a.json", b"{}")
        directory.write("more/b.txt", b"b")
        assert not (tmp_path / "out").exists()
        directory.commit()
    assert (tmp_path / "out/more/b.txt").read_bytes() == b"b"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_not_committed_is_left_for_the_next_run(tmp_path):
    with PartialDirectory(tmp_path / "out") as directory:
        directory.write("a.json", b"{}")
    assert not (tmp_path / "out").exists()
    with PartialDirectory(tmp_path / "out") as directory:
        assert (directory.folder / "a.json").read_bytes() == b"{}"
        directory.keep_only({"b.json"})
        directory.write("b.json", b"{}")
        directory.commit()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.json"]


def test_an_early_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), PartialDirectory(tmp_path / "out"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_two_runs_do_not_write_one_directory(tmp_path):
    with PartialDirectory(tmp_path / "out") as directory:
        directory.write("a", b"a")
        with pytest.raises(OutputError, match="another run"), PartialDirectory(tmp_path / "out"):
            pass
        directory.commit()
    assert (tmp_path / "out/a").is_file()


def test_a_link_in_place_of_the_partial_directory_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError), PartialDirectory(tmp_path / "out"):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())
